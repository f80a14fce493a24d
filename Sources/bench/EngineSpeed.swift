import Engine
import Handoff
import SeededRandom

/// Speed of one sequence on an idle engine, counted as llama.cpp's llama-bench does: prefill is a prompt of random
/// tokens on empty KV, decode generates one token after another from empty KV.
struct EngineSpeed {
    let model: LoadedModel
    let threads: Int
    let repetitions: Int

    struct Measured {
        /// tokens/s of each repetition, after one that is not counted
        var speeds: [Double] = []
        /// Of all of them.
        var speculation = SpeculationStats()
    }

    /// - Parameters:
    ///   - drafts: drafted ahead of each token that is decoded.
    ///   - prompt: what decoding continues; nil: one random token.
    func measure(
        role: Scheduler.Role, tokens: Int, drafts: Int = 0, prompt: [TokenID]? = nil
    ) async throws -> Measured {
        let length = tokens + 2 * drafts + (prompt?.count ?? 1)
        let pages = 2 * model.layout.pages(for: length) * (repetitions + 1)
        let memory = try KVMemory(layout: model.layout, pageCount: pages)
        let (events, continuation) = AsyncStream.makeStream(of: EngineEvent.self)
        let loop = try EngineLoop(
            model: model, memory: memory, options: EngineOptions(role: role, threads: threads, drafts: drafts),
            onEvent: { continuation.yield($0) })
        defer { loop.shutdown() }
        var iterator = events.makeAsyncIterator()
        var measured = Measured()
        for run in 0...repetitions {
            let id = HandoffID(router: Incarnation(1), request: UInt64(run + 1), attempt: 1)
            let clock = ContinuousClock()
            let start = clock.now
            submit(id, to: loop, role: role, tokens: tokens, prompt: prompt)
            try await waitForEnd(&iterator)
            let seconds = (clock.now - start) / .seconds(1)
            if role == .prefill { loop.releasePrefill(id) }
            if run > 0 { measured.speeds.append(Double(tokens) / seconds) }
        }
        measured.speculation = loop.snapshot().speculation
        return measured
    }

    private func submit(
        _ id: HandoffID, to loop: EngineLoop, role: Scheduler.Role, tokens: Int, prompt given: [TokenID]?
    ) {
        let vocabulary = model.facts.vocabularySize
        // Other tokens in each run, so that the prefix cache has nothing to offer.
        var random = SplitMix64(state: id.request)
        let count = role == .prefill ? tokens : 1
        let prompt = given ?? (0..<count).map { _ in TokenID(random.next() % UInt64(vocabulary)) }
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
