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

/// A tensor a model needs.
package struct ExpectedTensor: Sendable, Equatable {
    package let name: String
    package let shape: [Int]
    /// May be missing; if there it must have the shape.
    package let isOptional: Bool

    package init(name: String, shape: [Int], isOptional: Bool = false) {
        self.name = name
        self.shape = shape
        self.isOptional = isOptional
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
        places[ByteString(name)].map { tensors[$0] }
    }

    /// What stands between these tensors and the expected ones: every missing, misshapen, unsupported or
    /// unexpected one by name.
    package func problems(expecting expected: [ExpectedTensor]) -> [String] {
        var problems: [String] = []
        var allComputable = true
        var known = Set<ByteString>(minimumCapacity: expected.count)
        for wanted in expected {
            known.insert(ByteString(wanted.name))
            guard let found = self[wanted.name] else {
                if !wanted.isOptional { problems.append("\(wanted.name) is missing (shape \(wanted.shape))") }
                continue
            }
            if found.shape != wanted.shape {
                problems.append("\(wanted.name) has shape \(found.shape), the config asks for \(wanted.shape)")
            }
            if found.type.elementType == nil {
                allComputable = false
                problems.append("\(wanted.name) has the unsupported type \(found.type)")
            }
        }
        if !allComputable { problems.append("supported types: \(TensorType.computableNames)") }
        for tensor in tensors where !known.contains(ByteString(tensor.name)) {
            problems.append("\(shown(tensor.name)) \(tensor.shape) is no tensor of this model")
        }
        return problems
    }
}
