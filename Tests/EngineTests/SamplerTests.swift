import Engine
import Glibc
import Kernels
import SeededRandom
import Testing

@Suite struct SamplerTests {
    private func logits(_ count: Int, spread: Float, _ random: inout SplitMix64) -> [Float] {
        (0..<count).map { _ in
            // A sum of uniforms: bell-shaped, with a few values far out.
            let sum = (0..<4).reduce(Float(0)) { total, _ in total + Float.random(in: -1...1, using: &random) }
            return sum * spread
        }
    }

    private func sample(_ sampler: Sampler, _ logits: [Float], _ scratch: SamplerScratch) -> SampledToken {
        var logits = logits
        return sampler.sample(&logits, scratch: scratch, table: .best)
    }

    private func random(_ vocabulary: Int, _ random: inout SplitMix64) -> SamplingParameters {
        var parameters = SamplingParameters()
        parameters.temperature = [0, 0.3, 1, 1.7].randomElement(using: &random)!
        parameters.topK = [0, 0, 1, 5, 40, vocabulary].randomElement(using: &random)!
        parameters.topP = [1, 1, 0.05, 0.5, 0.95].randomElement(using: &random)!
        parameters.minP = [0, 0, 0.01, 0.3].randomElement(using: &random)!
        parameters.repetitionPenalty = [1, 1, 1.3, 0.8].randomElement(using: &random)!
        parameters.presencePenalty = [0, 0, 0.7].randomElement(using: &random)!
        parameters.frequencyPenalty = [0, 0, -0.4].randomElement(using: &random)!
        if Bool.random(using: &random) { parameters.logitBias = [3: 2.5, 5: -100] }
        parameters.stopTokens = [1, 2]
        parameters.minTokens = [0, 10].randomElement(using: &random)!
        parameters.topLogprobs = [nil, 0, 3, 20].randomElement(using: &random)!
        parameters.seed = random.next()
        return parameters
    }

    /// The drawn token is the one at which the naive distribution, in order of ids, reaches the drawn number.
    @Test(arguments: UInt64(1)...300)
    func drawsWhatTheNaiveSamplerDraws(seed: UInt64) {
        var generator = SplitMix64(state: seed)
        let vocabulary = [33, 1000, 5003].randomElement(using: &generator)!
        let parameters = random(vocabulary, &generator)
        let length = Int.random(in: 1...12, using: &generator)
        let history = (0..<length).map { _ in TokenID.random(in: 0..<30, using: &generator) }
        let delivered = Int.random(in: 0..<history.count, using: &generator)
        let values = logits(vocabulary, spread: [0.5, 4].randomElement(using: &generator)!, &generator)
        let sampler = Sampler(parameters, tokens: history, delivered: delivered)
        let found = sample(sampler, values, SamplerScratch(vocabulary: vocabulary))

        let naive = NaiveSampler(
            parameters: parameters, prompt: Array(history.dropLast(delivered)), completion: history.suffix(delivered))
        let distribution = naive.distribution(values)
        let uniform = CounterRandom.uniform(key: parameters.seed, counter: UInt64(delivered))
        var passed = 0.0
        var accepted: [TokenID] = []
        for (token, probability) in distribution {
            // Float rounding may move a border by a little.
            if passed - 1e-4 <= uniform, uniform <= passed + probability + 1e-4 { accepted.append(token) }
            passed += probability
        }
        if parameters.temperature == 0 { accepted = distribution.map(\.token) }
        #expect(accepted.contains(found.token), "\(found.token) drawn, expected one of \(accepted)")
        checkLogprobs(found, values, parameters)
    }

    private func checkLogprobs(_ found: SampledToken, _ raw: [Float], _ parameters: SamplingParameters) {
        guard let wanted = parameters.topLogprobs else {
            #expect(found.logprobs.isEmpty)
            return
        }
        let greatest = Double(raw.max()!)
        let normaliser = greatest + log(raw.reduce(0) { $0 + exp(Double($1) - greatest) })
        let order = raw.indices.sorted { raw[$0] > raw[$1] || (raw[$0] == raw[$1] && $0 < $1) }
        #expect(found.logprobs.count == wanted + 1)
        #expect(found.logprobs.first?.token == found.token)
        #expect(found.logprobs.dropFirst().map(\.token) == order.prefix(wanted).map { TokenID($0) })
        for entry in found.logprobs {
            #expect(abs(Double(entry.logprob) - (Double(raw[Int(entry.token)]) - normaliser)) < 1e-4)
        }
    }

    /// Draws follow the distribution: chi-square over 20 000 seeded draws, below the 99.99 % quantile.
    @Test(arguments: [(0, Float(1), Float(0)), (8, 1, 0), (0, 0.8, 0), (0, 1, 0.1)])
    func drawsFollowTheDistribution(topK: Int, topP: Float, minP: Float) {
        var generator = SplitMix64(state: 7)
        let values = logits(24, spread: 1.2, &generator)
        var parameters = SamplingParameters()
        (parameters.topK, parameters.topP, parameters.minP) = (topK, topP, minP)
        parameters.temperature = 0.9
        let expected = NaiveSampler(parameters: parameters, prompt: [0], completion: []).distribution(values)
        let scratch = SamplerScratch(vocabulary: values.count)
        var counts: [TokenID: Int] = [:]
        let draws = 20_000
        for draw in 0..<draws {
            parameters.seed = UInt64(draw) &* 0x2545_F491_4F6C_DD1D
            counts[sample(Sampler(parameters, tokens: [0], delivered: 0), values, scratch).token, default: 0] += 1
        }
        #expect(Set(counts.keys).isSubset(of: expected.map(\.token)))
        var statistic = 0.0
        for (token, probability) in expected {
            let mean = probability * Double(draws)
            statistic += pow(Double(counts[token, default: 0]) - mean, 2) / max(mean, 1e-9)
        }
        // Wilson-Hilferty approximation of the quantile, z = 3.72.
        let freedom = Double(expected.count - 1)
        let limit = freedom * pow(1 - 2 / (9 * freedom) + 3.72 * (2 / (9 * freedom)).squareRoot(), 3)
        #expect(statistic < limit, "chi-square \(statistic), limit \(limit)")
    }

    @Test func aDrawDependsOnSeedAndIndexAlone() {
        var generator = SplitMix64(state: 3)
        let values = logits(500, spread: 1, &generator)
        let scratch = SamplerScratch(vocabulary: 500)
        var parameters = SamplingParameters()
        parameters.seed = 42
        var sampler = Sampler(parameters, tokens: [1, 2, 3], delivered: 0)
        var drawn: [TokenID] = []
        for _ in 0..<20 {
            let token = sample(sampler, values, scratch).token
            sampler.accept(token)
            drawn.append(token)
        }
        #expect(Set(drawn).count > 5)
        // Taken over by another node after 11 tokens.
        var other = Sampler(parameters, tokens: [1, 2, 3] + drawn.prefix(11), delivered: 11)
        for index in 11..<20 {
            let token = sample(other, values, scratch).token
            other.accept(token)
            #expect(token == drawn[index])
        }
    }

    @Test func greedyTakesTheLowestIdOfATie() {
        var parameters = SamplingParameters()
        parameters.temperature = 0
        var values = [Float](repeating: -1, count: 100)
        (values[40], values[17], values[99]) = (3, 3, 3)
        let sampler = Sampler(parameters, tokens: [0], delivered: 0)
        #expect(sample(sampler, values, SamplerScratch(vocabulary: 100)).token == 17)
    }

    @Test func valuesThatAreNoNumbersDoNotCrash() {
        for temperature in [Float(0), 1] {
            for topK in [0, 5] {
                var parameters = SamplingParameters()
                (parameters.temperature, parameters.topK, parameters.topLogprobs) = (temperature, topK, 3)
                let sampler = Sampler(parameters, tokens: [0], delivered: 0)
                for value in [Float.nan, .infinity, -.infinity] {
                    let found = sample(
                        sampler, Array(repeating: value, count: 100), SamplerScratch(vocabulary: 100))
                    #expect((0..<100).contains(found.token))
                }
            }
        }
    }

    /// Known answers of the Random123 library for philox4x32-10.
    @Test func philoxKnownAnswers() {
        #expect(
            CounterRandom.words(key: 0, counter: 0)
                == SIMD4(0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8))
    }

    @Test func parametersOutOfRangeAreNamed() {
        func problem(_ change: (inout SamplingParameters) -> Void) -> String? {
            var parameters = SamplingParameters()
            change(&parameters)
            do throws(EngineError) {
                try parameters.validate(vocabulary: 100)
                return nil
            } catch {
                guard case .invalid(let field, _) = error else { return "?" }
                return field
            }
        }
        #expect(problem { _ in } == nil)
        #expect(problem { $0.temperature = -1 } == "temperature")
        #expect(problem { $0.temperature = .nan } == "temperature")
        #expect(problem { $0.topP = 0 } == "top_p")
        #expect(problem { $0.topP = .nan } == "top_p")
        #expect(problem { $0.minP = 1.5 } == "min_p")
        #expect(problem { $0.topK = -1 } == "top_k")
        #expect(problem { $0.repetitionPenalty = 0 } == "repetition_penalty")
        #expect(problem { $0.presencePenalty = .infinity } == "presence_penalty")
        #expect(problem { $0.frequencyPenalty = .nan } == "frequency_penalty")
        #expect(problem { $0.logitBias = [100: 1] } == "logit_bias")
        #expect(problem { $0.logitBias = [1: .nan] } == "logit_bias")
        #expect(problem { $0.stopTokens = [-1] } == "stop_token_ids")
        #expect(problem { $0.topLogprobs = 21 } == "top_logprobs")
        #expect(problem { $0.maxTokens = -1 } == "max_tokens")
        #expect(problem { $0.minTokens = -1 } == "min_tokens")
    }
}
