package import OrderedJSON

/// Kinds of JSON values, as a JSON Schema names them; `integer` counts as a number.
struct JSONKinds: OptionSet, Sendable {
    let rawValue: UInt8

    static let string = JSONKinds(rawValue: 1)
    static let number = JSONKinds(rawValue: 2)
    static let boolean = JSONKinds(rawValue: 4)
    static let null = JSONKinds(rawValue: 8)
    static let array = JSONKinds(rawValue: 16)
    static let object = JSONKinds(rawValue: 32)

    init(rawValue: UInt8) { self.rawValue = rawValue }

    /// Nil for a name that JSON Schema does not know.
    init?(named name: String) {
        switch name {
        case "string": self = .string
        case "number", "integer": self = .number
        case "boolean": self = .boolean
        case "null": self = .null
        case "array": self = .array
        case "object": self = .object
        default: return nil
        }
    }

    init(of value: JSON) {
        switch value {
        case .null: self = .null
        case .bool: self = .boolean
        case .int, .double: self = .number
        case .string: self = .string
        case .array: self = .array
        case .object: self = .object
        }
    }
}

/// What a request's tools say of their parameters. Read only for the parameters that a call uses.
package struct ToolSchemas: Sendable {
    private let tools: [ByteString: JSON]

    /// - Parameter tools: OpenAI's `tools`; of tools with one name the first counts.
    package init(_ tools: JSON) {
        let named = (tools.array ?? []).compactMap { tool -> (ByteString, JSON)? in
            guard let function = tool["function"], let name = function["name"]?.string else { return nil }
            return (ByteString(name), function["parameters"] ?? .null)
        }
        self.tools = Dictionary(named, uniquingKeysWith: { first, _ in first })
    }

    /// The kinds a parameter's schema admits; nil where it does not say, or there is no such tool or parameter.
    func kinds(ofParameter parameter: String, tool: String) -> JSONKinds? {
        guard let parameters = tools[ByteString(tool)], let schema = parameters["properties"]?[parameter] else {
            return nil
        }
        var reader = SchemaReader(root: parameters)
        return reader.kinds(of: schema)
    }
}

/// Finds the kinds a schema admits through references and combinations. Schemas come from clients, and references may
/// go in circles: after `left` schemas it gives up, and the kinds are unknown.
private struct SchemaReader {
    let root: JSON
    private var left = 256

    init(root: JSON) { self.root = root }

    mutating func kinds(of value: JSON) -> JSONKinds? {
        guard left > 0, case .object(let schema) = value else { return nil }
        left -= 1
        var admitted: [JSONKinds?] = []
        if let target = schema["$ref"]?.string.flatMap(resolve) { admitted.append(kinds(of: target)) }
        switch schema["type"] {
        case .string(let name): admitted.append(JSONKinds(named: name))
        case .array(let names): admitted.append(union(names.map { $0.string.flatMap(JSONKinds.init(named:)) }))
        default: break
        }
        if let constant = schema["const"] {
            admitted.append(JSONKinds(of: constant))
        } else if let values = schema["enum"]?.array {
            admitted.append(union(values.map { JSONKinds(of: $0) }))
        }
        for key in ["anyOf", "oneOf"] {
            if let branches = schema[key]?.array { admitted.append(union(branches.map { kinds(of: $0) })) }
        }
        for branch in schema["allOf"]?.array ?? [] { admitted.append(kinds(of: branch)) }
        let known = admitted.compactMap { $0 }
        guard var result = known.first else { return nil }
        for other in known.dropFirst() { result.formIntersection(other) }
        if schema["nullable"] == .bool(true) { result.insert(.null) }
        return result.isEmpty ? nil : result
    }

    /// All kinds together; nil if one of them is unknown.
    private func union(_ kinds: [JSONKinds?]) -> JSONKinds? {
        var result: JSONKinds = []
        for kind in kinds {
            guard let kind else { return nil }
            result.formUnion(kind)
        }
        return result.isEmpty ? nil : result
    }

    /// What a reference within the tool's own schema, such as `#/$defs/Unit`, points to (RFC 6901).
    private func resolve(_ reference: String) -> JSON? {
        guard reference.hasPrefix("#/") else { return nil }
        var place = root
        for part in reference.dropFirst(2).split(separator: "/", omittingEmptySubsequences: false) {
            let name = String(part).replacing("~1", with: "/").replacing("~0", with: "~")
            guard let next = place[name] ?? Int(name).flatMap({ place[$0] }) else { return nil }
            place = next
        }
        return place
    }
}
