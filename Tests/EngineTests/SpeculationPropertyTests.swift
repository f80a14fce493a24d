import Engine
import Handoff
import Kernels
import SeededRandom
import Testing

/// Speculative decoding changes no bit of any answer, for random models and every sampling setting: what is drawn for a
/// token depends on the seed and its index alone, so answers are not just distributed alike but the same.
@Suite struct SpeculationPropertyTests {
    private func sampling(_ random: inout SplitMix64, vocabulary: Int) -> SamplingParameters {
        func chance(_ one: Int) -> Bool { random.below(one) == 0 }
        func token() -> TokenID { TokenID(random.below(vocabulary)) }
        var sampling = SamplingParameters()
        sampling.temperature = [0, 0.3, 0.8, 1, 2][random.below(5)]
        if chance(3) { sampling.topK = 1 + random.below(vocabulary) }
        if chance(3) { sampling.topP = Float.random(in: 0.1...1, using: &random) }
        if chance(4) { sampling.minP = Float.random(in: 0...0.5, using: &random) }
        if chance(3) { sampling.repetitionPenalty = Float.random(in: 0.7...1.5, using: &random) }
        if chance(4) { sampling.presencePenalty = Float.random(in: -1...1, using: &random) }
        if chance(4) { sampling.frequencyPenalty = Float.random(in: -1...1, using: &random) }
        if chance(4) { sampling.logitBias[token()] = 3 }
        if chance(4) { sampling.minTokens = random.below(20) }
        if chance(2) { sampling.stopTokens = [token()] }
        sampling.maxTokens = 1 + random.below(30)
        sampling.seed = random.next()
        sampling.topLogprobs = min(3, vocabulary)
        return sampling
    }

    /// - Parameter elsewhere: prompts are computed by another loop, and their pages copied as far as there is room.
    private func answers(
        _ model: LoadedModel, _ jobs: [(tokens: [TokenID], sampling: SamplingParameters)], drafts: Int, threads: Int,
        chunk: Int, pages: Int, elsewhere: Bool = false
    ) throws -> (answers: [EventLog.Answer], snapshot: EngineSnapshot) {
        let memory = try poisonedMemory(model, pages: pages)
        let log = EventLog()
        let loop = try EngineLoop(
            model: model, memory: memory,
            options: .init(role: .decode, chunkTokens: chunk, threads: threads, drafts: drafts), onEvent: log.record)
        defer { loop.shutdown() }
        let pages = elsewhere ? try prefilled(model, jobs.map(\.tokens), into: memory) : jobs.map { _ in [] }
        for (index, job) in jobs.enumerated() {
            loop.start(
                DecodeJob(id: handoff(index), tokens: job.tokens, sampling: job.sampling, slots: pages[index]))
        }
        for index in jobs.indices { try #require(log.wait(handoff(index))) }
        return (jobs.indices.map { log[handoff($0)] }, loop.snapshot())
    }

    private func prefilled(
        _ model: LoadedModel, _ prompts: [[TokenID]], into target: KVMemory
    ) throws -> [[SlotRef]] {
        let memory = try poisonedMemory(model, pages: 64)
        let log = EventLog()
        let loop = try EngineLoop(
            model: model, memory: memory, options: .init(role: .prefill, chunkTokens: 16, threads: 1),
            onEvent: log.record)
        defer { loop.shutdown() }
        for (index, tokens) in prompts.enumerated() { loop.submit(PrefillJob(id: handoff(index), tokens: tokens)) }
        return try prompts.indices.map { index in
            try #require(log.wait(handoff(index)))
            return copyPages(log[handoff(index)].slots, from: memory, to: target) ?? []
        }
    }

    @Test(arguments: UInt64(100)..<140)
    func draftsChangeNoBit(seed: UInt64) throws {
        let drawn = RandomGLM5(seed: seed, draftLayer: true)
        let folder = try drawn.write()
        var random = SplitMix64(state: seed)
        var options = LoadOptions()
        options.kvType = CacheType.allCases[Int(seed) % CacheType.allCases.count]
        options.pageTokens = 16
        options.threads = 1
        let model = try LoadedModel.load(path: folder.path, options: options)
        let jobs = (0..<8).map { _ in
            let tokens = (0...random.below(60)).map { _ in TokenID(random.below(drawn.config.vocabulary)) }
            return (tokens, sampling(&random, vocabulary: drawn.config.vocabulary))
        }
        let (plain, _) = try answers(model, jobs, drafts: 0, threads: 1, chunk: 16, pages: 64)
        #expect(plain.allSatisfy { $0.error == nil }, "\(drawn.description)")
        for (drafts, threads, pages, elsewhere) in [(1, 1, 64, true), (3, 2, 16, true), (7, 2, 10, false)] {
            let (drafted, snapshot) = try answers(
                model, jobs, drafts: drafts, threads: threads, chunk: 64, pages: pages, elsewhere: elsewhere)
            #expect(snapshot.speculation.drafted > 0, "\(drawn.description)")
            for (index, (found, expected)) in zip(drafted, plain).enumerated() {
                let about = "request \(index), \(drafts) drafts, \(pages) pages; \(jobs[index]); \(drawn.description)"
                #expect(found.tokens == expected.tokens && found.reason == expected.reason, "\(about)")
                #expect(bits(found) == bits(expected), "\(about)")
            }
        }
    }

    private func bits(_ answer: EventLog.Answer) -> [[UInt64]] {
        answer.logprobs.map { $0.map { UInt64($0.logprob.bitPattern) << 32 | UInt64($0.token) } }
    }
}
