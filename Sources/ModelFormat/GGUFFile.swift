import OrderedJSON

/// A mapped GGUF file.
package final class GGUFFile: Sendable {
    /// Longest string in metadata: chat templates are the longest in use, by far below this.
    static let maxStringBytes = 16 << 20
    static let maxArrayCount = 1 << 26
    static let maxArrayDepth = 4
    /// Arrays up to this length may be config fields (per-layer values); longer ones are vocabularies.
    static let maxFieldElements = 4096

    package let file: MappedFile
    package let header: GGUFHeader
    package let table: TensorTable

    package convenience init(path: String) throws(ModelFormatError) {
        try self.init(try MappedFile(path: path))
    }

    package init(_ file: MappedFile) throws(ModelFormatError) {
        self.file = file
        header = try GGUFHeader.parse(file.bytes, subject: file.path)
        do {
            table = try TensorTable(header.tensors)
        } catch {
            throw ModelFormatError(.malformed, file.path, "tensor \(shown(error.name)) appears twice")
        }
    }

    /// The bytes of one of this file's tensors; valid while this object lives.
    package func bytes(of tensor: TensorInfo) -> UnsafeRawBufferPointer {
        file.slice(tensor.offset..<tensor.offset + (tensor.byteCount ?? 0))
    }

    // MARK: Metadata

    /// The text of a key, nil if there is none or it is no string.
    package func string(_ key: String) -> String? {
        if case .string(let value) = header.metadata[key] { value } else { nil }
    }

    /// The integer of a key, nil if there is none, it is no integer or too great.
    package func integer(_ key: String) -> Int? {
        switch header.metadata[key] {
        case .unsigned(let value): Int(exactly: value)
        case .signed(let value): Int(value)
        default: nil
        }
    }

    /// The truth value of a key, nil if there is none or it is no boolean.
    package func bool(_ key: String) -> Bool? {
        if case .bool(let value) = header.metadata[key] { value } else { nil }
    }

    /// The length of the array of a key, nil if there is none.
    package func count(_ key: String) -> Int? {
        if case .array(let array) = header.metadata[key] { array.count } else { nil }
    }

    /// All strings of an array; nil if there is no such key. Throws if it is no array of UTF-8 strings.
    package func strings(_ key: String) throws(ModelFormatError) -> [String]? {
        guard let array = try array(key, of: [.string]) else { return nil }
        var reader = ByteReader(UnsafeRawBufferPointer(rebasing: file.bytes[array.range]), subject: file.path)
        var strings: [String] = []
        strings.reserveCapacity(array.count)
        for index in 0..<array.count {
            let range = try reader.stringRange(limit: Self.maxStringBytes, "a string in an array")
            guard let string = utf8(reader.bytes, range) else {
                throw reader.malformed("\(key)[\(index)] is not UTF-8")
            }
            strings.append(string)
        }
        return strings
    }

    /// All integers of an array of 32-bit integers; nil if there is no such key.
    package func int32s(_ key: String) throws(ModelFormatError) -> [Int32]? {
        try array(key, of: [.int32, .uint32]).map { elements($0) { Int32(bitPattern: UInt32(littleEndian: $0)) } }
    }

    /// All numbers of an array of 32-bit floats; nil if there is no such key.
    package func floats(_ key: String) throws(ModelFormatError) -> [Float]? {
        try array(key, of: [.float32]).map { elements($0) { Float(bitPattern: UInt32(littleEndian: $0)) } }
    }

    /// The value of a key as config fields are read.
    func field(_ key: String) -> JSON? {
        header.metadata[key]?.json { array in
            guard array.count <= Self.maxFieldElements, array.elementType != .array else { return nil }
            var reader = ByteReader(UnsafeRawBufferPointer(rebasing: file.bytes[array.range]), subject: file.path)
            var values: [GGUFValue] = []
            for _ in 0..<array.count {
                guard let value = try? reader.value(array.elementType, depth: 0) else { return nil }
                values.append(value)
            }
            return values
        }
    }

    private func array(_ key: String, of types: [GGUFValueType]) throws(ModelFormatError) -> GGUFArray? {
        guard let value = header.metadata[key] else { return nil }
        guard case .array(let array) = value, types.contains(array.elementType) else {
            throw ModelFormatError(.malformed, file.path, "\(key) is no array of \(types[0])")
        }
        return array
    }

    private func elements<Element>(_ array: GGUFArray, _ convert: (UInt32) -> Element) -> [Element] {
        let bytes = file.slice(array.range)
        return (0..<array.count).map { convert(bytes.loadUnaligned(fromByteOffset: 4 * $0, as: UInt32.self)) }
    }
}
