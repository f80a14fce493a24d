/// A token of the model's vocabulary, from 0. Values from outside are checked against the vocabulary.
package typealias TokenID = Int32

/// How the next token of one request is chosen. The neutral value of each field is its default.
///
/// Order of application, as in vLLM: logit bias, bans below `minTokens`, repetition then frequency and presence
/// penalties, temperature, min-p, top-k, top-p, draw.
package struct SamplingParameters: Sendable, Equatable {
    /// 0 takes the most likely token; the lowest id wins a tie.
    package var temperature: Float = 1
    /// Only the k most likely tokens; 0 is off.
    package var topK = 0
    /// The smallest set of most likely tokens whose probabilities sum to this; 1 is off.
    package var topP: Float = 1
    /// Only tokens at least this fraction as likely as the most likely one; 0 is off.
    package var minP: Float = 0
    /// Divides positive and multiplies negative logits of tokens in prompt or completion; 1 is off.
    package var repetitionPenalty: Float = 1
    /// Subtracted from the logits of tokens that the completion holds; 0 is off.
    package var presencePenalty: Float = 0
    /// Subtracted once per occurrence in the completion; 0 is off.
    package var frequencyPenalty: Float = 0
    /// Added to the logits.
    package var logitBias: [TokenID: Float] = [:]
    /// The draw for completion token i is a function of (seed, i) alone.
    package var seed: UInt64 = 0
    /// Stop tokens, the model's own included, cannot be drawn before the completion has this many tokens.
    package var minTokens = 0
    /// Completion tokens at most, those delivered by earlier attempts included.
    package var maxTokens = 16
    /// These end the completion and are not delivered. The caller adds the model's own end tokens
    /// (`LoadedModel.endTokens`) unless the request asked to ignore them.
    package var stopTokens: [TokenID] = []
    /// nil: no log probabilities. n: those of the chosen token and of the n most likely ones.
    /// They are the log-softmax of the model's own logits, before any of the above.
    package var topLogprobs: Int?

    package init() {}

    package static let topLogprobsLimit = 20
    package static let stopTokensLimit = 256
    package static let logitBiasLimit = 1024

    /// Checks every field. Throws `EngineError.invalid` naming the first one out of its range.
    package func validate(vocabulary: Int) throws(EngineError) {
        func require(_ ok: Bool, _ field: String, _ reason: @autoclosure () -> String) throws(EngineError) {
            guard ok else { throw EngineError.invalid(field: field, reason: reason()) }
        }
        let token = "must be in 0..<\(vocabulary)"
        try require(temperature >= 0 && temperature <= 100, "temperature", "\(temperature) is not in 0...100")
        try require(topK >= 0, "top_k", "\(topK) is negative")
        try require(topP > 0 && topP <= 1, "top_p", "\(topP) is not in (0, 1]")
        try require(minP >= 0 && minP <= 1, "min_p", "\(minP) is not in 0...1")
        try require(
            repetitionPenalty > 0 && repetitionPenalty <= 100, "repetition_penalty",
            "\(repetitionPenalty) is not in (0, 100]")
        try require(abs(presencePenalty) <= 100, "presence_penalty", "\(presencePenalty) is not in -100...100")
        try require(abs(frequencyPenalty) <= 100, "frequency_penalty", "\(frequencyPenalty) is not in -100...100")
        try require(
            logitBias.count <= Self.logitBiasLimit, "logit_bias",
            "\(logitBias.count) entries, at most \(Self.logitBiasLimit)")
        try require(logitBias.keys.allSatisfy { $0 >= 0 && $0 < vocabulary }, "logit_bias", "token ids " + token)
        try require(logitBias.values.allSatisfy { abs($0) <= 1e6 }, "logit_bias", "values must be in -1e6...1e6")
        try require(maxTokens >= 0, "max_tokens", "\(maxTokens) is negative")
        try require(minTokens >= 0, "min_tokens", "\(minTokens) is negative")
        try require(
            stopTokens.count <= Self.stopTokensLimit, "stop_token_ids",
            "\(stopTokens.count) entries, at most \(Self.stopTokensLimit)")
        try require(stopTokens.allSatisfy { $0 >= 0 && $0 < vocabulary }, "stop_token_ids", "token ids " + token)
        let top = topLogprobs ?? 0
        try require(
            top >= 0 && top <= Self.topLogprobsLimit, "top_logprobs",
            "\(top) is not in 0...\(Self.topLogprobsLimit)")
    }
}
