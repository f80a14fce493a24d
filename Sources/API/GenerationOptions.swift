import OrderedJSON

/// What both endpoints ask of the decoder: sampling, ending, alternatives. Every value is inside the limits
/// of `Limits` once this exists.
package struct GenerationOptions: Equatable, Sendable {
    /// The ranges that requests are held to.
    package enum Limits {
        package static let temperature = 0.0...2.0
        package static let penalty = -2.0...2.0
        package static let repetitionPenalty = 0.01...10.0
        package static let logitBias = -100.0...100.0
        package static let logitBiasEntries = 1024
        package static let topK = -1...1_000_000
        package static let tokens = 1...Int(Int32.max)
        package static let choices = 1...128
        package static let stopStrings = 16
        package static let stopBytes = 1024
        package static let stopTokens = 128
        package static let topLogprobs = 0...20
        package static let tokenID = 0...Int(Int32.max)
    }

    /// 0 is greedy.
    package var temperature = 1.0
    /// 0 is off.
    package var topK = 0
    /// 1 is off.
    package var topP = 1.0
    /// 0 is off.
    package var minP = 0.0
    /// 1 is off.
    package var repetitionPenalty = 1.0
    package var presencePenalty = 0.0
    package var frequencyPenalty = 0.0
    package var logitBias: [TokenBias] = []
    /// Nil: the router draws one.
    package var seed: UInt64?
    package var stopStrings: [String] = []
    package var stopTokens: [UInt32] = []
    /// The model's own end-of-sequence tokens do not end the completion.
    package var ignoresEndOfSequence = false
    /// Nil: up to the context limit (chat) or 16 (completions), as OpenAI does.
    package var maxTokens: Int?
    package var minTokens = 0
    /// Choices to generate.
    package var choices = 1
    package var logprobs = false
    package var topLogprobs = 0
    package var streams = false
    /// A last chunk with the usage.
    package var includesUsage = false

    package init() {}
}

/// Added to one token's logit before sampling.
package struct TokenBias: Equatable, Sendable {
    package var token: UInt32
    package var bias: Double
}

extension GenerationOptions {
    /// Reads the fields both endpoints share.
    init(_ fields: inout RequestFields) throws(APIError) {
        try readSampling(&fields)
        try readEnding(&fields)
        streams = try fields.bool("stream") ?? false
        if let options = try fields.object("stream_options") {
            guard streams else {
                throw .invalid(
                    "'stream_options' is only allowed when 'stream' is true.", param: "stream_options")
            }
            var nested = RequestFields(options, path: "stream_options")
            includesUsage = try nested.bool("include_usage") ?? false
        }
        choices = try fields.int("n", in: Limits.choices) ?? 1
        if let best = try fields.int("best_of", in: Limits.choices), best != choices {
            throw .unsupported("'best_of' other than 'n' is not supported; leave it out.", param: "best_of")
        }
        try refuseResponseFormat(&fields)
    }

    private mutating func readSampling(_ fields: inout RequestFields) throws(APIError) {
        temperature = try fields.number("temperature", in: Limits.temperature) ?? 1
        topK = max(0, try fields.int("top_k", in: Limits.topK) ?? 0)
        topP = try fields.number("top_p", in: 0...1) ?? 1
        minP = try fields.number("min_p", in: 0...1) ?? 0
        repetitionPenalty = try fields.number("repetition_penalty", in: Limits.repetitionPenalty) ?? 1
        presencePenalty = try fields.number("presence_penalty", in: Limits.penalty) ?? 0
        frequencyPenalty = try fields.number("frequency_penalty", in: Limits.penalty) ?? 0
        logitBias = try Self.readLogitBias(&fields)
        seed = try fields.int("seed", in: Int.min...Int.max).map { UInt64(bitPattern: Int64($0)) }
    }

    private mutating func readEnding(_ fields: inout RequestFields) throws(APIError) {
        stopStrings = try Self.readStop(&fields)
        let tokens = try fields.array("stop_token_ids", maxCount: Limits.stopTokens) ?? []
        for (index, token) in tokens.enumerated() {
            let name = "stop_token_ids[\(index)]"
            stopTokens.append(UInt32(try RequestFields.int(token, name, in: Limits.tokenID)))
        }
        ignoresEndOfSequence = try fields.bool("ignore_eos") ?? false
        let older = try fields.int("max_tokens", in: Limits.tokens)
        maxTokens = try fields.int("max_completion_tokens", in: Limits.tokens) ?? older
        minTokens = try fields.int("min_tokens", in: 0...Int(Int32.max)) ?? 0
        if let maxTokens, minTokens > maxTokens {
            throw .invalid("'min_tokens' (\(minTokens)) exceeds 'max_tokens' (\(maxTokens)).", param: "min_tokens")
        }
    }

    private static func readStop(_ fields: inout RequestFields) throws(APIError) -> [String] {
        guard let value = fields.value("stop") else { return [] }
        let items: [JSON]
        if case .string = value {
            items = [value]
        } else {
            guard case .array = value else {
                throw .wrongType("stop", expected: "a string or an array of strings", got: value)
            }
            items = try RequestFields.array(value, "stop", maxCount: Limits.stopStrings)
        }
        var stops: [String] = []
        for (index, item) in items.enumerated() {
            let text = try RequestFields.string(item, "stop[\(index)]", maxBytes: Limits.stopBytes)
            guard !text.isEmpty else { throw .invalid("'stop[\(index)]' is empty.", param: "stop") }
            stops.append(text)
        }
        return stops
    }

    private static func readLogitBias(_ fields: inout RequestFields) throws(APIError) -> [TokenBias] {
        guard let object = try fields.object("logit_bias") else { return [] }
        guard object.count <= Limits.logitBiasEntries else {
            throw .invalid(
                "'logit_bias' has \(object.count) entries; the limit is \(Limits.logitBiasEntries).",
                param: "logit_bias")
        }
        var biases: [TokenBias] = []
        for (key, value) in object {
            guard let token = UInt32(key), Limits.tokenID.contains(Int(token)) else {
                throw .invalid("'logit_bias' has the key \(APIError.quoted(key)), no token id.", param: "logit_bias")
            }
            let bias = try RequestFields.number(value, "logit_bias[\(token)]", in: Limits.logitBias)
            biases.append(TokenBias(token: token, bias: bias))
        }
        return biases.sorted { $0.token < $1.token }
    }

    private func refuseResponseFormat(_ fields: inout RequestFields) throws(APIError) {
        guard let format = try fields.object("response_format") else { return }
        var nested = RequestFields(format, path: "response_format")
        let kind = try RequestFields.string(try nested.required("type"), "response_format.type", maxBytes: 64)
        guard kind == "text" else {
            throw .unsupported(
                "'response_format.type' \(APIError.quoted(kind)) is not supported; only 'text' is.",
                param: "response_format")
        }
    }

    /// Fields that are taken and have no effect here, so they are not reported as unknown.
    static let inertFields = [
        "user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
        "verbosity",
    ]
}
