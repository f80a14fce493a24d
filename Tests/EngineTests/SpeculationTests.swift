import Engine
import Handoff
import Kernels
import SeededRandom
import Testing

/// Speculative decoding in the engine loop: what it says of itself. That it changes no token is what
/// `BatchInvarianceTests` shows.
@Suite struct SpeculationTests {
    /// Runs prompts at once on a decode loop.
    private func run(
        _ model: LoadedModel, _ prompts: [[TokenID]], drafts: Int, pages: Int = 200, sampling: SamplingParameters
    ) throws -> ([EventLog.Answer], EngineSnapshot) {
        let memory = try poisonedMemory(model, pages: pages)
        let log = EventLog()
        let loop = try EngineLoop(
            model: model, memory: memory, options: .init(role: .decode, threads: 2, drafts: drafts),
            onEvent: log.record)
        defer { loop.shutdown() }
        for (index, tokens) in prompts.enumerated() {
            loop.start(DecodeJob(id: handoff(index), tokens: tokens, sampling: sampling, slots: []))
        }
        for index in prompts.indices { try #require(log.wait(handoff(index))) }
        return (prompts.indices.map { log[handoff($0)] }, loop.snapshot())
    }

    /// As many drafts are accepted as in the reference, round by round.
    @Test(arguments: ["tiny-glm5", "tiny-glm52"], 1...3)
    func acceptsWhatTheReferenceAccepts(name: String, drafts: Int) throws {
        var options = LoadOptions()
        options.kvType = .f32
        options.pageTokens = 16
        options.sharesDraftSelection = false
        let model = try LoadedModel.load(path: "\(TestModels.fixtures)/\(name)", options: options)
        let goldens = try Goldens(name)
        var sampling = SamplingParameters()
        sampling.temperature = 0
        sampling.maxTokens = 64
        for prompt in ["short", "medium", "long"] {
            let (answers, snapshot) = try run(
                model, [goldens.ids("\(prompt).input_ids")], drafts: drafts, sampling: sampling)
            #expect(try answers[0].tokens == goldens.ids("\(prompt).greedy_ids"))
            let expected = try goldens.ids("\(prompt).spec\(drafts)_accepted")
            let stats = answers[0].stats.speculation
            // The reference drafts as many to the end; the engine no more than are wanted.
            var (delivered, counted) = (1, SpeculationStats())
            for accepted in expected.map({ Int($0) }) {
                let drafted = min(drafts, sampling.maxTokens - delivered - 1)
                counted.count(drafted: drafted, accepted: min(accepted, drafted))
                delivered += min(accepted, drafted) + 1
            }
            #expect(stats == counted)
            #expect(snapshot.speculation == stats)
        }
    }

    /// A stop token and the length end a sequence within a round, and nothing behind them is delivered.
    @Test func endsWithinARound() throws {
        let model = try TestModels.fixture("tiny-glm5", kvType: .f32)
        var sampling = SamplingParameters()
        sampling.temperature = 0
        sampling.maxTokens = 40
        let prompt = try Goldens("tiny-glm5").ids("short.input_ids")
        let (whole, _) = try run(model, [prompt], drafts: 0, sampling: sampling)
        for length in 1...12 {
            sampling.maxTokens = length
            let (answers, _) = try run(model, [prompt], drafts: 4, sampling: sampling)
            #expect(answers[0].tokens == Array(whole[0].tokens.prefix(length)))
            #expect(answers[0].reason == .length && answers[0].stats.generated == length)
        }
        sampling.maxTokens = 40
        for stop in Set(whole[0].tokens) {
            sampling.stopTokens = [stop]
            let (answers, _) = try run(model, [prompt], drafts: 4, sampling: sampling)
            let expected = whole[0].tokens.prefix { $0 != stop }
            #expect(answers[0].tokens == Array(expected) && answers[0].reason == .stopToken(stop))
        }
    }

    /// Up to the last position of the context, and with no page to spare.
    @Test func theLimitsOfContextAndMemory() throws {
        var options = LoadOptions()
        options.pageTokens = 16
        options.contextLimit = 50
        let model = try LoadedModel.load(path: "\(TestModels.fixtures)/tiny-glm52", options: options)
        var sampling = SamplingParameters()
        sampling.seed = 3
        sampling.maxTokens = 100
        let prompts = (0..<3).map { index in (0..<20).map { TokenID($0 * 7 + index) } }
        let (expected, _) = try run(model, prompts, drafts: 0, sampling: sampling)
        for pages in [4, 7, 12] {
            let (answers, _) = try run(model, prompts, drafts: 5, pages: pages, sampling: sampling)
            for (found, wanted) in zip(answers, expected) {
                #expect(found.tokens == wanted.tokens && found.tokens.count == 30 && found.reason == .length)
            }
        }
    }

    @Test func modelsWithoutADraftLayerAreRefused() throws {
        let model = try TestModels.tinyLlama()
        let memory = try poisonedMemory(model, pages: 4)
        #expect(throws: EngineError.self) {
            try EngineLoop(model: model, memory: memory, options: .init(role: .decode, drafts: 1)) { _ in }
        }
        let glm = try TestModels.fixture("tiny-glm5")
        let pages = try poisonedMemory(glm, pages: 4)
        #expect(throws: EngineError.self) {
            try EngineLoop(model: glm, memory: pages, options: .init(role: .decode, drafts: 17)) { _ in }
        }
    }

    @Test func whatTheNumbersMean() {
        var stats = SpeculationStats()
        #expect(stats.acceptLength == nil && stats.acceptRate == nil)
        stats.count(drafted: 0, accepted: 0)
        stats.count(drafted: 3, accepted: 3)
        stats.count(drafted: 3, accepted: 0)
        #expect(stats.rounds == 2 && stats.acceptLength == 2.5 && stats.acceptRate == 0.5)
    }
}
