import Engine
import Glibc

/// What the sampler's parameters mean, by sorting everything in double precision.
struct NaiveSampler {
    var parameters: SamplingParameters
    var prompt: [TokenID]
    var completion: [TokenID]

    /// The adjusted logits, before the temperature.
    func adjusted(_ raw: [Float]) -> [Float] {
        var logits = raw
        for (token, bias) in parameters.logitBias { logits[Int(token)] += bias }
        if completion.count < parameters.minTokens {
            for token in parameters.stopTokens { logits[Int(token)] = -.infinity }
        }
        for token in Set(prompt + completion) where parameters.repetitionPenalty != 1 {
            let value = logits[Int(token)]
            logits[Int(token)] = value > 0 ? value / parameters.repetitionPenalty : value * parameters.repetitionPenalty
        }
        for token in Set(completion) {
            let times = Float(completion.count { $0 == token })
            logits[Int(token)] -= parameters.frequencyPenalty * times + parameters.presencePenalty
        }
        return logits
    }

    /// The probability of each token that may be drawn, in order of ids.
    func distribution(_ raw: [Float]) -> [(token: TokenID, probability: Double)] {
        let logits = adjusted(raw)
        let greatest = logits.max() ?? 0
        if parameters.temperature == 0 {
            return [(TokenID(logits.firstIndex(of: greatest) ?? 0), 1)]
        }
        var entries = logits.enumerated().map { index, value in
            (token: TokenID(index), probability: exp(Double(value - greatest) / Double(parameters.temperature)))
        }
        entries.sort { $0.probability > $1.probability || ($0.probability == $1.probability && $0.token < $1.token) }
        entries.removeAll { $0.probability == 0 }
        let most = entries[0].probability
        entries.removeAll { $0.probability < Double(parameters.minP) * most }
        if parameters.topK > 0 { entries = Array(entries.prefix(parameters.topK)) }
        let mass = entries.reduce(0) { $0 + $1.probability }
        if parameters.topP < 1 {
            var passed = 0.0
            var kept = 0
            while kept < entries.count, passed < Double(parameters.topP) * mass {
                passed += entries[kept].probability
                kept += 1
            }
            entries = Array(entries.prefix(max(kept, 1)))
        }
        let total = entries.reduce(0) { $0 + $1.probability }
        return entries.sorted { $0.token < $1.token }.map { ($0.token, $0.probability / total) }
    }
}
