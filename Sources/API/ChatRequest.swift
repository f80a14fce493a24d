package import OrderedJSON

/// The body of `POST /v1/chat/completions`.
package struct ChatRequest: Equatable, Sendable {
    package static let messagesMax = 16_384

    package var model: String
    /// As the chat template reads them: each an object with `role` and `content` (text, or null beside tool
    /// calls); text parts are joined with newlines, and tool call arguments are objects where they parse.
    package var messages: [JSON]
    /// For the chat template; nil when there are none or `tool_choice` is `none`.
    package var tools: JSON?
    package var options: GenerationOptions
    /// Extra variables for the chat template.
    package var templateArguments: JSONObject
    /// Ends the prompt where the assistant's answer begins.
    package var addsGenerationPrompt: Bool
    /// The last message is left open and the model goes on with it.
    package var continuesFinalMessage: Bool
    /// Fields nobody here knows; ignored, and named in the `x-baton-ignored-fields` response header.
    package var ignoredFields: [String]

    /// Throws a 400 that names the field.
    package init(_ body: JSON) throws(APIError) {
        var fields = RequestFields(try RequestFields.object(body, "body"))
        model = try RequestFields.string(try fields.required("model"), "model", maxBytes: 256)
        messages = try ChatMessages.read(try fields.required("messages"), maxCount: Self.messagesMax)
        tools = try Self.readTools(&fields)
        options = try GenerationOptions(&fields)
        options.logprobs = try fields.bool("logprobs") ?? false
        options.topLogprobs = try fields.int("top_logprobs", in: GenerationOptions.Limits.topLogprobs) ?? 0
        if options.topLogprobs > 0, !options.logprobs {
            throw .invalid("'top_logprobs' is only allowed when 'logprobs' is true.", param: "top_logprobs")
        }
        templateArguments = try fields.object("chat_template_kwargs") ?? JSONObject()
        continuesFinalMessage = try fields.bool("continue_final_message") ?? false
        addsGenerationPrompt = try fields.bool("add_generation_prompt") ?? !continuesFinalMessage
        if continuesFinalMessage, addsGenerationPrompt {
            throw .invalid(
                "'continue_final_message' and 'add_generation_prompt' cannot both be true.",
                param: "continue_final_message")
        }
        try Self.refuseUnsupported(&fields)
        for name in GenerationOptions.inertFields { _ = fields.value(name) }
        ignoredFields = fields.unknown
    }

    private static func readTools(_ fields: inout RequestFields) throws(APIError) -> JSON? {
        let tools = try fields.array("tools", maxCount: 1024)
        for (index, tool) in (tools ?? []).enumerated() {
            _ = try RequestFields.object(tool, "tools[\(index)]")
        }
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
        guard let tools, !tools.isEmpty else { return nil }
        return .array(tools)
    }

    private static func refuseUnsupported(_ fields: inout RequestFields) throws(APIError) {
        for (name, instead) in [
            ("functions", "use 'tools'"), ("function_call", "use 'tool_choice'"), ("audio", "text only"),
            ("prediction", "leave it out"), ("web_search_options", "leave it out"),
        ] where fields.value(name) != nil {
            throw .unsupported("'\(name)' is not supported: \(instead).", param: name)
        }
        if let modalities = fields.value("modalities"), modalities != .array([.string("text")]) {
            throw .unsupported("'modalities' other than [\"text\"] is not supported.", param: "modalities")
        }
    }
}

/// Checks messages and brings them into the shape chat templates are written for.
enum ChatMessages {
    static let roles: Set<String> = ["system", "developer", "user", "assistant", "tool", "function"]
    private static let textBytesMax = 32 << 20

    static func read(_ value: JSON, maxCount: Int) throws(APIError) -> [JSON] {
        let items = try RequestFields.array(value, "messages", maxCount: maxCount)
        guard !items.isEmpty else {
            throw .invalid("'messages' is empty; at least one message is needed.", param: "messages")
        }
        var messages: [JSON] = []
        messages.reserveCapacity(items.count)
        for (index, item) in items.enumerated() {
            messages.append(try read(item, name: "messages[\(index)]"))
        }
        return messages
    }

    private static func read(_ value: JSON, name: String) throws(APIError) -> JSON {
        var message = try RequestFields.object(value, name)
        var fields = RequestFields(message, path: name)
        let role = try RequestFields.string(try fields.required("role"), "\(name).role", maxBytes: 64)
        guard roles.contains(role) else {
            let known = roles.sorted().joined(separator: ", ")
            throw .invalid(
                "Invalid value for '\(name).role': \(APIError.quoted(role)) is none of \(known).",
                param: "\(name).role", code: "invalid_value")
        }
        let calls = try fields.array("tool_calls", maxCount: 1024)
        if let content = fields.value("content") {
            message["content"] = .string(try text(of: content, name: "\(name).content"))
        } else if role != "assistant" {
            throw .invalid("Missing required parameter: '\(name).content'.", param: "\(name).content")
        } else if calls == nil, fields.value("function_call") == nil {
            message["content"] = .string("")
        }
        if let calls {
            message["tool_calls"] = .array(try toolCalls(calls, name: "\(name).tool_calls"))
        }
        return .object(message)
    }

    /// The text of a message: a string, or text parts joined with newlines.
    private static func text(of content: JSON, name: String) throws(APIError) -> String {
        if case .string(let text) = content { return text }
        guard case .array = content else {
            throw .wrongType(name, expected: "a string or an array of text parts", got: content)
        }
        var texts: [String] = []
        for (index, part) in try RequestFields.array(content, name, maxCount: 4096).enumerated() {
            let partName = "\(name)[\(index)]"
            var fields = RequestFields(try RequestFields.object(part, partName), path: partName)
            let kind = try RequestFields.string(try fields.required("type"), "\(partName).type", maxBytes: 64)
            let key = kind == "refusal" ? "refusal" : "text"
            guard kind == "text" || kind == "refusal" else {
                throw .unsupported(
                    "'\(partName).type' is \(APIError.quoted(kind)); the model takes text only.",
                    param: "\(partName).type")
            }
            texts.append(
                try RequestFields.string(try fields.required(key), "\(partName).\(key)", maxBytes: textBytesMax))
        }
        return texts.joined(separator: "\n")
    }

    /// OpenAI sends a call's arguments as a string of JSON; templates want the object in it.
    private static func toolCalls(_ calls: [JSON], name: String) throws(APIError) -> [JSON] {
        var result: [JSON] = []
        for (index, call) in calls.enumerated() {
            let callName = "\(name)[\(index)]"
            var object = try RequestFields.object(call, callName)
            var function = try RequestFields.object(object["function"] ?? .null, "\(callName).function")
            guard case .string = function["name"] else {
                throw .invalid(
                    "Missing required parameter: '\(callName).function.name'.", param: "\(callName).function.name")
            }
            if case .string(let arguments)? = function["arguments"],
                let parsed = try? JSON.parse(Array(arguments.utf8)), case .object = parsed
            {
                function["arguments"] = parsed
            }
            object["function"] = .object(function)
            result.append(.object(object))
        }
        return result
    }
}
