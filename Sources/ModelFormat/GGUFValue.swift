import OrderedJSON

/// A metadata value of a GGUF file. Arrays stay in the file until someone asks for their elements.
package enum GGUFValue: Sendable, Equatable {
    case unsigned(UInt64)
    case signed(Int64)
    case float(Double)
    case bool(Bool)
    case string(String)
    case array(GGUFArray)

    /// The value as config fields are read: small arrays of scalars included, others nil.
    func json(_ elements: (GGUFArray) -> [GGUFValue]?) -> JSON? {
        switch self {
        case .unsigned(let value): Int64(exactly: value).map { .int($0) } ?? .double(Double(value))
        case .signed(let value): .int(value)
        case .float(let value): .double(value)
        case .bool(let value): .bool(value)
        case .string(let value): .string(value)
        case .array(let array): elements(array).map { .array($0.compactMap { $0.json { _ in nil } }) }
        }
    }
}

/// An array in the metadata: where it lies and what it holds.
package struct GGUFArray: Sendable, Equatable {
    package let elementType: GGUFValueType
    package let count: Int
    /// The elements' bytes in the file.
    let range: Range<Int>
}

/// `enum gguf_metadata_value_type` of the GGUF specification.
package enum GGUFValueType: UInt32, Sendable {
    case uint8, int8, uint16, int16, uint32, int32, float32, bool, string, array, uint64, int64, float64

    /// The least an element can take; exact but for strings and arrays.
    var minimumBytes: Int {
        switch self {
        case .uint8, .int8, .bool: 1
        case .uint16, .int16: 2
        case .uint32, .int32, .float32: 4
        case .uint64, .int64, .float64, .string: 8
        case .array: 12
        }
    }
}

extension ByteReader {
    mutating func valueType(_ field: StaticString) throws(ModelFormatError) -> GGUFValueType {
        let raw = try integer(UInt32.self, field)
        guard let type = GGUFValueType(rawValue: raw) else {
            throw malformed("\(field) is \(raw), which is no GGUF value type, before byte \(offset)")
        }
        return type
    }

    /// A scalar, string or array of the given type. Arrays are stepped over, nested ones at most `depth` deep.
    mutating func value(_ type: GGUFValueType, depth: Int) throws(ModelFormatError) -> GGUFValue {
        switch type {
        case .uint8: return .unsigned(UInt64(try integer(UInt8.self, "a metadata value")))
        case .int8: return .signed(Int64(try integer(Int8.self, "a metadata value")))
        case .uint16: return .unsigned(UInt64(try integer(UInt16.self, "a metadata value")))
        case .int16: return .signed(Int64(try integer(Int16.self, "a metadata value")))
        case .uint32: return .unsigned(UInt64(try integer(UInt32.self, "a metadata value")))
        case .int32: return .signed(Int64(try integer(Int32.self, "a metadata value")))
        case .uint64: return .unsigned(try integer(UInt64.self, "a metadata value"))
        case .int64: return .signed(try integer(Int64.self, "a metadata value"))
        case .float32:
            return .float(Double(Float(bitPattern: try integer(UInt32.self, "a metadata value"))))
        case .float64:
            return .float(Double(bitPattern: try integer(UInt64.self, "a metadata value")))
        case .bool:
            let raw = try integer(UInt8.self, "a metadata value")
            guard raw <= 1 else { throw malformed("a boolean is \(raw), before byte \(offset)") }
            return .bool(raw == 1)
        case .string:
            return .string(try string(limit: GGUFFile.maxStringBytes, "a metadata string"))
        case .array:
            return .array(try array(depth: depth))
        }
    }

    private mutating func array(depth: Int) throws(ModelFormatError) -> GGUFArray {
        guard depth > 0 else {
            throw malformed("arrays nest more than \(GGUFFile.maxArrayDepth) deep, at byte \(offset)")
        }
        let type = try valueType("an array's element type")
        let count = try count(elementBytes: type.minimumBytes, limit: GGUFFile.maxArrayCount, "an array's length")
        let start = offset
        switch type {
        case .string:
            for _ in 0..<count { _ = try stringRange(limit: GGUFFile.maxStringBytes, "a string in an array") }
        case .array:
            for _ in 0..<count { _ = try array(depth: depth - 1) }
        default:
            try skip(count, elementBytes: type.minimumBytes, "an array")
        }
        return GGUFArray(elementType: type, count: count, range: start..<offset)
    }
}
