package import OrderedJSON

/// Why a choice ended, in OpenAI's words.
package enum FinishReason: String, Sendable {
    /// A stop string, a stop token or the model's end of sequence.
    case stop
    /// `max_tokens` or the context limit.
    case length
    /// The model called tools and waits for their results.
    case toolCalls = "tool_calls"
}

/// Tokens a request took, summed over its choices.
package struct Usage: Equatable, Sendable {
    /// Prompt tokens; counted once per prompt however many choices it has.
    package var prompt: Int
    package var completion: Int
    /// Prompt tokens whose KV came from the prefix cache.
    package var cached: Int
    /// Completion tokens that are reasoning; nil where the model's answers have none to tell apart.
    package var reasoning: Int?

    package init(prompt: Int = 0, completion: Int = 0, cached: Int = 0, reasoning: Int? = nil) {
        self.prompt = prompt
        self.completion = completion
        self.cached = cached
        self.reasoning = reasoning
    }

    package var json: JSON {
        var fields = JSONObject()
        fields["prompt_tokens"] = .int(Int64(prompt))
        fields["completion_tokens"] = .int(Int64(completion))
        fields["total_tokens"] = .int(Int64(prompt + completion))
        fields["prompt_tokens_details"] = .object(["cached_tokens": .int(Int64(cached))])
        if let reasoning {
            fields["completion_tokens_details"] = .object(["reasoning_tokens": .int(Int64(reasoning))])
        }
        return .object(fields)
    }
}

/// A token with its log probability and the alternatives of its position.
package struct TokenLogprobs: Equatable, Sendable {
    /// One candidate.
    package struct Candidate: Equatable, Sendable {
        /// The token's bytes; part of a character where a character spans tokens.
        package var bytes: [UInt8]
        /// Natural logarithm; impossible tokens are written as -9999, as OpenAI does.
        package var logprob: Double

        package init(bytes: [UInt8], logprob: Double) {
            self.bytes = bytes
            self.logprob = logprob
        }

        /// The bytes as text, with U+FFFD where they are no UTF-8.
        package var text: String { String(decoding: bytes, as: UTF8.self) }
        var written: JSON { .double(logprob.isFinite ? max(logprob, -9999) : -9999) }

        /// As legacy completions name a token: partial characters are spelt out, so that keys stay distinct.
        var key: String {
            let text = self.text
            guard text.unicodeScalars.contains("\u{FFFD}") else { return text }
            return "bytes:" + bytes.map { "\\x" + ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
        }
    }

    package var chosen: Candidate
    package var top: [Candidate]

    package init(chosen: Candidate, top: [Candidate]) {
        self.chosen = chosen
        self.top = top
    }

    /// An entry of a chat choice's `logprobs.content`.
    var chatEntry: JSON {
        var object = Self.fields(chosen)
        object["top_logprobs"] = .array(top.map { .object(Self.fields($0)) })
        return .object(object)
    }

    private static func fields(_ candidate: Candidate) -> JSONObject {
        JSONObject([
            ("token", .string(candidate.text)),
            ("logprob", candidate.written),
            ("bytes", .array(candidate.bytes.map { .int(Int64($0)) })),
        ])
    }
}

/// A part of a tool call as it becomes known.
package struct ToolCallPiece: Equatable, Sendable {
    /// The call's place among the calls of its choice, from 0.
    package var index: Int
    /// The tool's name; nil in every piece but a call's first.
    package var name: String?
    /// More of the arguments' JSON.
    package var arguments: String

    package init(index: Int, name: String?, arguments: String) {
        self.index = index
        self.name = name
        self.arguments = arguments
    }
}

/// What a choice says so far, or a piece of it: text, told apart from reasoning and tool calls where the model's format
/// has those, and, where asked for, the logprobs of its tokens, whatever they are part of.
package struct AnswerPiece: Equatable, Sendable {
    package var text: String
    package var reasoning = ""
    /// One per call that the piece says something of, by index.
    package private(set) var calls: [ToolCallPiece] = []
    package var logprobs: [TokenLogprobs]

    package init(text: String = "", logprobs: [TokenLogprobs] = []) {
        self.text = text
        self.logprobs = logprobs
    }

    package var isEmpty: Bool { text.isEmpty && reasoning.isEmpty && calls.isEmpty && logprobs.isEmpty }

    package mutating func append(_ piece: AnswerPiece) {
        text += piece.text
        reasoning += piece.reasoning
        for call in piece.calls { append(call) }
        logprobs += piece.logprobs
    }

    /// The piece as several that each say one thing, in order; logprobs go with the first.
    var parts: [AnswerPiece] {
        if reasoning.isEmpty && calls.isEmpty { return [self] }
        var parts: [AnswerPiece] = []
        if !reasoning.isEmpty {
            var part = AnswerPiece()
            part.reasoning = reasoning
            parts.append(part)
        }
        if !text.isEmpty { parts.append(AnswerPiece(text: text)) }
        if !calls.isEmpty {
            var part = AnswerPiece()
            part.calls = calls
            parts.append(part)
        }
        parts[0].logprobs = logprobs
        return parts
    }

    /// More of the last call, or the beginning of the next.
    package mutating func append(_ call: ToolCallPiece) {
        if let last = calls.indices.last, calls[last].index == call.index {
            calls[last].arguments += call.arguments
        } else {
            calls.append(call)
        }
    }
}

/// A finished choice.
package struct Answer: Equatable, Sendable {
    package var index: Int
    package var piece: AnswerPiece
    package var finish: FinishReason

    package init(index: Int, piece: AnswerPiece, finish: FinishReason) {
        self.index = index
        self.piece = piece
        self.finish = finish
    }
}
