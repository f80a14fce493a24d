import OrderedJSON

/// Reads the fields of one JSON object, with errors that name the field and the limit. It remembers which
/// fields were asked for, so that the ones nobody knows can be reported.
///
/// A field that is `null` counts as absent, as in OpenAI's servers.
struct RequestFields {
    /// Where this object stands in the request, e.g. `stream_options`; empty at the top.
    private let path: String
    private let object: JSONObject
    private(set) var asked: Set<String> = []

    init(_ object: JSONObject, path: String = "") {
        self.object = object
        self.path = path
    }

    /// Fields of the object nobody asked for, in their order.
    var unknown: [String] { object.map(\.key).filter { !asked.contains($0) } }

    func name(_ key: String) -> String { path.isEmpty ? key : "\(path).\(key)" }

    /// The field's value; nil when it is absent or null.
    mutating func value(_ key: String) -> JSON? {
        asked.insert(key)
        guard let value = object[key], value != .null else { return nil }
        return value
    }

    mutating func required(_ key: String) throws(APIError) -> JSON {
        guard let value = value(key) else {
            throw .invalid("Missing required parameter: '\(name(key))'.", param: name(key))
        }
        return value
    }

    mutating func string(_ key: String, maxBytes: Int) throws(APIError) -> String? {
        guard let value = value(key) else { return nil }
        return try Self.string(value, name(key), maxBytes: maxBytes)
    }

    mutating func bool(_ key: String) throws(APIError) -> Bool? {
        guard let value = value(key) else { return nil }
        guard case .bool(let flag) = value else { throw .wrongType(name(key), expected: "a boolean", got: value) }
        return flag
    }

    mutating func int(_ key: String, in range: ClosedRange<Int>) throws(APIError) -> Int? {
        guard let value = value(key) else { return nil }
        return try Self.int(value, name(key), in: range)
    }

    mutating func number(_ key: String, in range: ClosedRange<Double>) throws(APIError) -> Double? {
        guard let value = value(key) else { return nil }
        return try Self.number(value, name(key), in: range)
    }

    mutating func array(_ key: String, maxCount: Int) throws(APIError) -> [JSON]? {
        guard let value = value(key) else { return nil }
        return try Self.array(value, name(key), maxCount: maxCount)
    }

    mutating func object(_ key: String) throws(APIError) -> JSONObject? {
        guard let value = value(key) else { return nil }
        return try Self.object(value, name(key))
    }
}

extension RequestFields {
    static func string(_ value: JSON, _ name: String, maxBytes: Int) throws(APIError) -> String {
        guard case .string(let text) = value else { throw .wrongType(name, expected: "a string", got: value) }
        guard text.utf8.count <= maxBytes else {
            throw .invalid("'\(name)' has \(text.utf8.count) bytes; the limit is \(maxBytes).", param: name)
        }
        return text
    }

    /// An integer; a whole number written as a float (`1.0`) counts as one.
    static func int(_ value: JSON, _ name: String, in range: ClosedRange<Int>) throws(APIError) -> Int {
        let number: Int
        switch value {
        case .int(let exact):
            number = Int(exact)
        case .double(let float):
            guard float.isFinite, float.rounded() == float else {
                throw .wrongType(name, expected: "an integer", got: value)
            }
            guard let exact = Int(exactly: float) else { throw .outOfRange(name, "\(float)", range) }
            number = exact
        default:
            throw .wrongType(name, expected: "an integer", got: value)
        }
        guard range.contains(number) else { throw .outOfRange(name, "\(number)", range) }
        return number
    }

    static func number(_ value: JSON, _ name: String, in range: ClosedRange<Double>) throws(APIError) -> Double {
        let number: Double
        switch value {
        case .int(let exact): number = Double(exact)
        case .double(let float): number = float
        default: throw .wrongType(name, expected: "a number", got: value)
        }
        // A NaN is in no range, so this refuses it too.
        guard range.contains(number) else { throw .outOfRange(name, "\(number)", range) }
        return number
    }

    static func array(_ value: JSON, _ name: String, maxCount: Int) throws(APIError) -> [JSON] {
        guard case .array(let items) = value else { throw .wrongType(name, expected: "an array", got: value) }
        guard items.count <= maxCount else {
            throw .invalid("'\(name)' has \(items.count) items; the limit is \(maxCount).", param: name)
        }
        return items
    }

    static func object(_ value: JSON, _ name: String) throws(APIError) -> JSONObject {
        guard case .object(let object) = value else { throw .wrongType(name, expected: "an object", got: value) }
        return object
    }
}

extension APIError {
    static func wrongType(_ name: String, expected: String, got value: JSON) -> APIError {
        return .invalid(
            "Invalid type for '\(name)': expected \(expected), but got \(value.kindName) instead.", param: name,
            code: "invalid_type")
    }

    static func outOfRange<Bound: Comparable>(_ name: String, _ got: String, _ range: ClosedRange<Bound>) -> APIError {
        .invalid(
            "Invalid value for '\(name)': \(got) is not between \(range.lowerBound) and \(range.upperBound).",
            param: name, code: "invalid_value")
    }
}
