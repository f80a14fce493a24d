import Engine
import Handoff
import SeededRandom

/// Speed of one sequence on an idle engine, counted as llama.cpp's llama-bench does: prefill is a prompt of random
/// tokens on empty KV, decode generates one token after another from empty KV.
struct EngineSpeed {
    let model: LoadedModel
    let threads: Int
    let repetitions: Int

    /// Tokens per second of each repetition, after one that is not counted.
    func measure(role: Scheduler.Role, tokens: Int) async throws -> [Double] {
        let pages = 2 * model.layout.pages(for: tokens + 1) * (repetitions + 1)
        let memory = try KVMemory(layout: model.layout, pageCount: pages)
        let (events, continuation) = AsyncStream.makeStream(of: EngineEvent.self)
        let loop = try EngineLoop(
            model: model, memory: memory, options: EngineOptions(role: role, threads: threads),
            onEvent: { continuation.yield($0) })
        defer { loop.shutdown() }
        var iterator = events.makeAsyncIterator()
        var speeds: [Double] = []
        for run in 0...repetitions {
            let id = HandoffID(router: Incarnation(1), request: UInt64(run + 1), attempt: 1)
            let clock = ContinuousClock()
            let start = clock.now
            submit(id, to: loop, role: role, tokens: tokens, vocabulary: model.facts.vocabularySize)
            try await waitForEnd(&iterator)
            let seconds = (clock.now - start) / .seconds(1)
            if role == .prefill { loop.releasePrefill(id) }
            if run > 0 { speeds.append(Double(tokens) / seconds) }
        }
        return speeds
    }

    private func submit(_ id: HandoffID, to loop: EngineLoop, role: Scheduler.Role, tokens: Int, vocabulary: Int) {
        // Other tokens in each run, so that the prefix cache has nothing to offer.
        var random = SplitMix64(state: id.request)
        let count = role == .prefill ? tokens : 1
        let prompt = (0..<count).map { _ in TokenID(random.next() % UInt64(vocabulary)) }
        if role == .prefill { return loop.submit(PrefillJob(id: id, tokens: prompt)) }
        var sampling = SamplingParameters()
        sampling.temperature = 0
        sampling.maxTokens = tokens
        loop.start(DecodeJob(id: id, tokens: prompt, sampling: sampling, slots: []))
    }

    private func waitForEnd(_ events: inout AsyncStream<EngineEvent>.AsyncIterator) async throws {
        while let event = await events.next(isolation: nil) {
            switch event {
            case .prefilled, .finished: return
            case .failed(_, let error): throw error
            case .started, .pagesReady, .tokens: continue
            }
        }
    }
}
