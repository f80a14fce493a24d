package import OrderedJSON

/// The body of `POST /v1/chat/completions`.
package struct ChatRequest: Equatable, Sendable {
    package static let messagesMax = 16_384

    package var model: String
    /// As the chat template reads them: each an object with `role` and `content` (text, or null beside tool
    /// calls); text parts are joined with newlines, tool call arguments are objects where they parse, and other
    /// members that are null are left out.
    package var messages: [JSON]
    /// For the chat template; nil when there are none or `tool_choice` is `none`.
    package var tools: JSON?
    /// The answer may call more than one tool.
    package var allowsParallelCalls: Bool
    /// One of OpenAI's words for how hard to think; for the chat template.
    package var reasoningEffort: String?
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
        tools = try ChatTools.read(&fields)
        allowsParallelCalls = try fields.bool("parallel_tool_calls") ?? true
        reasoningEffort = try Self.readEffort(&fields)
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

    /// Gives messages that have only tool calls an empty text instead of none, for templates that would print `None`.
    package mutating func fillContent() {
        for (index, message) in messages.enumerated() where message["content"]?.string == nil {
            guard case .object(var members) = message else { continue }
            members["content"] = ""
            messages[index] = .object(members)
        }
    }

    /// How hard a model should think, where its template knows of that; OpenAI's levels, and those of GLM.
    private static let efforts = ["none", "minimal", "low", "medium", "high", "xhigh", "max"]

    private static func readEffort(_ fields: inout RequestFields) throws(APIError) -> String? {
        guard let effort = try fields.string("reasoning_effort", maxBytes: 64) else { return nil }
        guard efforts.contains(effort) else {
            throw .invalid(
                "Invalid value for 'reasoning_effort': \(APIError.quoted(effort)) is none of "
                    + "\(efforts.joined(separator: ", ")).", param: "reasoning_effort", code: "invalid_value")
        }
        return effort
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
    private static let callsMax = 1024

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
        _ = try fields.string("reasoning_content", maxBytes: textBytesMax)
        let calls = try fields.array("tool_calls", maxCount: callsMax) ?? []
        if let content = fields.value("content") {
            message["content"] = .string(try text(of: content, name: "\(name).content"))
        } else if role != "assistant" {
            throw .invalid("Missing required parameter: '\(name).content'.", param: "\(name).content")
        } else if calls.isEmpty, fields.value("function_call") == nil {
            message["content"] = .string("")
        }
        message["tool_calls"] = calls.isEmpty ? nil : .array(try ChatTools.readCalls(calls, name: "\(name).tool_calls"))
        // Clients send what they were answered, nulls included; templates ask whether a member is there.
        for key in message.keys where key != "content" && message[key] == .null { message[key] = nil }
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
}
