package import OrderedJSON

/// Writes the answers to one request in OpenAI's shapes: a whole body, or chunks for a stream.
///
/// One per request. Complexity of every call is linear in what it writes.
package struct AnswerWriter: Sendable {
    /// Which endpoint the request came to.
    package enum Kind: Sendable {
        case chat
        case completion
    }

    package let kind: Kind
    /// `chatcmpl-…` or `cmpl-…`.
    package let id: String
    /// Seconds since 1970.
    package let created: Int64
    package let model: String
    package let fingerprint: String
    package let logprobs: Bool
    /// Chunks carry `"usage": null`, as OpenAI's do when a usage chunk will follow.
    package let announcesUsage: Bool
    /// Tells this request's tool calls from those of others.
    let unique: String
    /// The start of every plain content chunk up to the choice's index, written once.
    private let chunkStart: String
    private let chunkEnd: String

    package init(
        kind: Kind, unique: String, created: Int64, model: String, fingerprint: String, logprobs: Bool,
        announcesUsage: Bool
    ) {
        self.kind = kind
        self.unique = unique
        id = (kind == .chat ? "chatcmpl-" : "cmpl-") + unique
        self.created = created
        self.model = model
        self.fingerprint = fingerprint
        self.logprobs = logprobs
        self.announcesUsage = announcesUsage
        let object = kind == .chat ? "chat.completion.chunk" : "text_completion"
        chunkStart =
            "{\"id\":\(JSON.quoted(id)),\"object\":\"\(object)\",\"created\":\(created),"
            + "\"model\":\(JSON.quoted(model)),\"system_fingerprint\":\(JSON.quoted(fingerprint)),"
            + "\"choices\":[{\"index\":"
        chunkEnd = ",\"logprobs\":null,\"finish_reason\":null}]" + (announcesUsage ? ",\"usage\":null}" : "}")
    }

    /// The body of an answer that is not streamed. `extra` members come last.
    package func body(_ answers: [Answer], usage: Usage, extra: JSONObject = JSONObject()) -> JSON {
        var object = head(object: kind == .chat ? "chat.completion" : "text_completion")
        object["choices"] = .array(answers.map(choice))
        object["usage"] = usage.json
        for (key, value) in extra { object[key] = value }
        return .object(object)
    }

    /// A chat stream's first chunk of a choice: the role, no text. Nil for completions, which have none.
    package func roleChunk(index: Int) -> String? {
        guard kind == .chat else { return nil }
        let delta: JSON = ["role": "assistant", "content": ""]
        return chunk(choice: [
            "index": .int(Int64(index)), "delta": delta, "logprobs": .null, "finish_reason": .null,
        ])
    }

    /// A piece of a choice. `offset` is the length of the text before it, in characters (completions' logprobs
    /// count from there). Reasoning, text and calls get a chunk each: clients take what is in one delta in orders of
    /// their own.
    package func contentChunks(index: Int, piece: AnswerPiece, offset: Int) -> String {
        var text = ""
        for part in piece.parts { text += contentChunk(index: index, piece: part, offset: offset) }
        return text
    }

    private func contentChunk(index: Int, piece: AnswerPiece, offset: Int) -> String {
        guard logprobs else {
            let middle =
                switch kind {
                case .chat: ",\"delta\":" + deltaText(piece, choice: index)
                case .completion: ",\"text\":" + JSON.quoted(piece.text)
                }
            return Self.event(chunkStart + String(index) + middle + chunkEnd)
        }
        var fields: JSONObject = JSONObject([("index", .int(Int64(index)))])
        switch kind {
        case .chat: fields["delta"] = delta(piece, choice: index)
        case .completion: fields["text"] = .string(piece.text)
        }
        fields["logprobs"] = logprobsField(piece, offset: offset)
        fields["finish_reason"] = .null
        return chunk(choice: .object(fields))
    }

    /// The end of a choice.
    package func finishChunk(index: Int, reason: FinishReason) -> String {
        var fields: JSONObject = JSONObject([("index", .int(Int64(index)))])
        switch kind {
        case .chat: fields["delta"] = .object(JSONObject())
        case .completion: fields["text"] = ""
        }
        fields["logprobs"] = .null
        fields["finish_reason"] = .string(reason.rawValue)
        return chunk(choice: .object(fields))
    }

    /// A chunk without choices: the usage, or other members at the end of a stream.
    package func closingChunk(usage: Usage?, extra: JSONObject = JSONObject()) -> String {
        var object = head(object: kind == .chat ? "chat.completion.chunk" : "text_completion")
        object["choices"] = []
        object["usage"] = usage?.json ?? .null
        for (key, value) in extra { object[key] = value }
        return Self.event(JSON.object(object).text())
    }

    /// An error after the head of a stream has gone out. The stream ends with it, without `[DONE]`.
    package static func errorEvent(_ error: APIError) -> String { event(error.body.text()) }

    /// The end of a stream that went well.
    package static let done = "data: [DONE]\n\n"

    /// A server-sent event. JSON text holds no line break, so one `data:` line carries it.
    private static func event(_ data: String) -> String { "data: " + data + "\n\n" }

    private func head(object: String) -> JSONObject {
        JSONObject([
            ("id", .string(id)), ("object", .string(object)), ("created", .int(created)),
            ("model", .string(model)), ("system_fingerprint", .string(fingerprint)),
        ])
    }

    private func chunk(choice: JSON) -> String {
        var object = head(object: kind == .chat ? "chat.completion.chunk" : "text_completion")
        object["choices"] = [choice]
        if announcesUsage { object["usage"] = .null }
        return Self.event(JSON.object(object).text())
    }

    private func choice(_ answer: Answer) -> JSON {
        var fields = JSONObject([("index", .int(Int64(answer.index)))])
        switch kind {
        case .chat:
            fields["message"] = message(answer)
        case .completion:
            fields["text"] = .string(answer.piece.text)
        }
        fields["logprobs"] = logprobs ? logprobsField(answer.piece, offset: 0) : .null
        fields["finish_reason"] = .string(answer.finish.rawValue)
        return .object(fields)
    }

    private func logprobsField(_ piece: AnswerPiece, offset: Int) -> JSON {
        switch kind {
        case .chat:
            return ["content": .array(piece.logprobs.map(\.chatEntry)), "refusal": .null]
        case .completion:
            return completionLogprobs(piece.logprobs, offset: offset)
        }
    }

    private func completionLogprobs(_ entries: [TokenLogprobs], offset: Int) -> JSON {
        var offsets: [JSON] = []
        var next = offset
        for entry in entries {
            // Bytes are counted, not text: a character that spans tokens is one character, and its later tokens
            // have the offset of its first.
            let bytes = entry.chosen.bytes
            let isInside = bytes.first.map { $0 & 0xC0 == 0x80 } ?? false
            offsets.append(.int(Int64(isInside ? max(offset, next - 1) : next)))
            next += bytes.count { $0 & 0xC0 != 0x80 }
        }
        let tops = entries.map { entry -> JSON in
            // The chosen token is always among them, as in OpenAI's answers.
            .object(JSONObject((entry.top + [entry.chosen]).map { ($0.key, $0.written) }))
        }
        return [
            "tokens": .array(entries.map { .string($0.chosen.key) }),
            "token_logprobs": .array(entries.map(\.chosen.written)),
            "top_logprobs": .array(tops),
            "text_offset": .array(offsets),
        ]
    }
}
