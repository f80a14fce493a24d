import OrderedJSON

/// Reads what a chat request says of tools.
enum ChatTools {
    private static let toolsMax = 1024
    private static let nameBytesMax = 256

    /// The tools the model may use; nil when there are none or `tool_choice` is `none`.
    static func read(_ fields: inout RequestFields) throws(APIError) -> JSON? {
        let tools = try fields.array("tools", maxCount: toolsMax) ?? []
        for (index, tool) in tools.enumerated() { try check(tool, name: "tools[\(index)]") }
        if let choice = fields.value("tool_choice") {
            switch choice {
            case .string("none"): return nil
            case .string("auto"): break
            default:
                throw .unsupported(
                    "'tool_choice' must be 'auto' or 'none': this server cannot force a tool call.",
                    param: "tool_choice")
            }
        }
        return tools.isEmpty ? nil : .array(tools)
    }

    private static func check(_ tool: JSON, name: String) throws(APIError) {
        var fields = RequestFields(try RequestFields.object(tool, name), path: name)
        if let kind = try fields.string("type", maxBytes: 64), kind != "function" {
            throw .unsupported(
                "'\(name).type' is \(APIError.quoted(kind)); only 'function' is supported.", param: "\(name).type")
        }
        let function = try RequestFields.object(try fields.required("function"), "\(name).function")
        var nested = RequestFields(function, path: "\(name).function")
        let text = try RequestFields.string(
            try nested.required("name"), "\(name).function.name", maxBytes: nameBytesMax)
        guard !text.isEmpty else {
            throw .invalid("'\(name).function.name' is empty.", param: "\(name).function.name")
        }
        _ = try nested.object("parameters")
    }

    /// The calls of a past message as templates want them: OpenAI sends a call's arguments as a string of JSON,
    /// templates go through the object in it. A string that holds none stays one: some templates print it.
    static func readCalls(_ calls: [JSON], name: String) throws(APIError) -> [JSON] {
        var result: [JSON] = []
        for (index, call) in calls.enumerated() {
            let callName = "\(name)[\(index)]"
            var object = try RequestFields.object(call, callName)
            var function = try RequestFields.object(object["function"] ?? .null, "\(callName).function")
            guard case .string = function["name"] else {
                throw .invalid(
                    "Missing required parameter: '\(callName).function.name'.", param: "\(callName).function.name")
            }
            switch function["arguments"] ?? .null {
            case .string(""), .null:
                // What clients send for a tool without parameters.
                function["arguments"] = .object(JSONObject())
            case .string(let text):
                if let parsed = try? JSON.parse(text), case .object = parsed { function["arguments"] = parsed }
            default: break
            }
            object["function"] = .object(function)
            result.append(.object(object))
        }
        return result
    }
}
