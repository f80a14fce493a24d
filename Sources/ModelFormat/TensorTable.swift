import OrderedJSON

/// One tensor of a model file.
package struct TensorInfo: Sendable, Equatable {
    package let name: String
    package let type: TensorType
    /// Row-major, outermost dimension first, whatever the file's own order: a projection is `[out, in]`.
    package let shape: [Int]
    /// Which of the checkpoint's files holds it.
    package internal(set) var file: Int
    /// Where its bytes start in that file. Not necessarily aligned for its type.
    package let offset: Int
    /// Length in bytes; nil where the type is unknown.
    package let byteCount: Int?

    /// Product of the shape.
    package var elementCount: Int { shape.reduce(1, *) }

    init(name: String, type: TensorType, shape: [Int], file: Int = 0, offset: Int, byteCount: Int?) {
        self.name = name
        self.type = type
        self.shape = shape
        self.file = file
        self.offset = offset
        self.byteCount = byteCount
    }

    /// Bytes that a tensor of this shape takes, or why it can't be one.
    static func byteCount(_ type: TensorType, _ shape: [Int]) -> Result<Int?, Problem> {
        // Zero dimensions must not hide an overflow: [2^40, 2^40, 0] is refused too.
        var elements = 1
        var isEmpty = false
        for dimension in shape {
            guard dimension >= 0 else { return .failure(Problem("negative dimension \(dimension)")) }
            if dimension == 0 { isEmpty = true }
            let (product, overflow) = elements.multipliedReportingOverflow(by: max(dimension, 1))
            guard !overflow else { return .failure(Problem("the product of \(shape) overflows 64 bits")) }
            elements = product
        }
        guard type.blockElements > 0 else { return .success(nil) }
        let row = shape.last ?? 1
        guard row % type.blockElements == 0 else {
            return .failure(Problem("rows of \(row) are not a multiple of \(type.blockElements), the block of \(type)"))
        }
        let (bytes, overflow) = (elements / type.blockElements).multipliedReportingOverflow(by: type.blockBytes)
        guard !overflow else { return .failure(Problem("its bytes overflow 64 bits")) }
        return .success(isEmpty ? 0 : bytes)
    }

    struct Problem: Error {
        let text: String
        init(_ text: String) { self.text = text }
    }
}

/// The tensors of a checkpoint by name.
package struct TensorTable: Sendable {
    /// Sorted by name (by bytes).
    package let tensors: [TensorInfo]
    private let places: [ByteString: Int]

    /// Fails with the name of a tensor that appears twice.
    init(_ unsorted: [TensorInfo]) throws(DuplicateName) {
        tensors = unsorted.sorted { ByteString($0.name) < ByteString($1.name) }
        var places = [ByteString: Int](minimumCapacity: tensors.count)
        for (place, tensor) in tensors.enumerated() {
            guard places.updateValue(place, forKey: ByteString(tensor.name)) == nil else {
                throw DuplicateName(name: tensor.name)
            }
        }
        self.places = places
    }

    struct DuplicateName: Error {
        let name: String
    }

    /// The tensor of that name, in O(1).
    package subscript(name: String) -> TensorInfo? {
        place(of: name).map { tensors[$0] }
    }

    /// Where in `tensors` the one of that name is.
    func place(of name: String) -> Int? { places[ByteString(name)] }

    /// Whether any name starts so, in O(log n).
    func hasNames(startingWith prefix: String) -> Bool {
        let wanted = ByteString(prefix)
        var range = 0..<tensors.count
        while !range.isEmpty {
            let middle = (range.lowerBound + range.upperBound) / 2
            range =
                ByteString(tensors[middle].name) < wanted ? middle + 1..<range.upperBound : range.lowerBound..<middle
        }
        guard range.lowerBound < tensors.count else { return false }
        return tensors[range.lowerBound].name.utf8.starts(with: prefix.utf8)
    }
}
