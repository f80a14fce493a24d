import Engine
import Handoff
import Kernels
import Synchronization
import Testing

@Suite struct EngineLoopTests {
    private func greedy(_ count: Int) -> SamplingParameters {
        var parameters = SamplingParameters()
        parameters.temperature = 0
        parameters.maxTokens = count
        return parameters
    }

    @Test func prefillThenDecodeGivesTheGoldenContinuation() throws {
        let model = try TestModels.tinyLlama(kvType: .f32)
        let goldens = try Goldens("tiny-llama")
        let tokens = try goldens.ids("long.input_ids")
        let (source, target) = (try poisonedMemory(model, pages: 16), try poisonedMemory(model, pages: 16))
        let (prefilled, decoded) = (EventLog(), EventLog())
        let prefill = try EngineLoop(
            model: model, memory: source, options: .init(role: .prefill, chunkTokens: 32, threads: 2),
            onEvent: prefilled.record)
        let decode = try EngineLoop(
            model: model, memory: target, options: .init(role: .decode, threads: 2), onEvent: decoded.record)
        prefill.submit(PrefillJob(id: handoff(1), tokens: tokens))
        try #require(prefilled.wait(handoff(1)))
        let answer = prefilled[handoff(1)]
        #expect(answer.prefilled && answer.cachedTokens == 0 && answer.slots.count == 6)
        for layer in 0..<3 { #expect(answer.ready[layer] == [0..<2, 2..<4, 4..<6]) }
        let slots = try #require(copyPages(answer.slots, from: source, to: target))
        prefill.releasePrefill(handoff(1))
        decode.start(DecodeJob(id: handoff(1), tokens: tokens, sampling: greedy(64), slots: slots))
        try #require(decoded.wait(handoff(1)))
        #expect(try decoded[handoff(1)].tokens == goldens.ids("long.greedy_ids"))
        #expect(decoded[handoff(1)].reason == .length)
        #expect(decoded[handoff(1)].stats.generated == 64)

        // The same prompt again comes out of the cache.
        prefill.submit(PrefillJob(id: handoff(2), tokens: tokens))
        try #require(prefilled.wait(handoff(2)))
        #expect(prefilled[handoff(2)].cachedTokens == 96 && prefilled[handoff(2)].ready[2] == [0..<6])
        prefill.releasePrefill(handoff(2))
        prefill.shutdown()
        decode.shutdown()
        #expect(source.counts.free + source.counts.cached == 16 && target.counts.free == 16)
        #expect(prefill.snapshot().cachedTokensTotal == 96)
    }

    @Test func stopTokensAreNotDelivered() throws {
        let model = try TestModels.tinyLlama(kvType: .f32)
        let goldens = try Goldens("tiny-llama")
        let expected = try goldens.ids("short.greedy_ids")
        let stop = try #require(expected.dropFirst(3).first { token in !expected.prefix(3).contains(token) })
        let end = try #require(expected.firstIndex(of: stop))
        let log = EventLog()
        let loop = try EngineLoop(
            model: model, memory: try poisonedMemory(model, pages: 16), options: .init(role: .decode, threads: 1),
            onEvent: log.record)
        defer { loop.shutdown() }
        var sampling = greedy(64)
        sampling.stopTokens = [stop]
        loop.start(DecodeJob(id: handoff(1), tokens: try goldens.ids("short.input_ids"), sampling: sampling, slots: []))
        // A later attempt, of which two tokens were delivered.
        let retried = try goldens.ids("short.input_ids") + expected.prefix(2)
        loop.start(DecodeJob(id: handoff(2), tokens: retried, delivered: 2, sampling: sampling, slots: []))
        // Nothing left to generate.
        sampling.maxTokens = 2
        loop.start(DecodeJob(id: handoff(3), tokens: retried, delivered: 2, sampling: sampling, slots: []))
        for request in 1...3 { try #require(log.wait(handoff(request))) }
        #expect(log[handoff(1)].tokens == Array(expected[0..<end]))
        #expect(log[handoff(1)].reason == .stopToken(stop))
        #expect(log[handoff(1)].stats.generated == end)
        #expect(log[handoff(2)].stats.generated == end - 2)
        #expect(log[handoff(2)].tokens == Array(expected[2..<end]))
        #expect(log[handoff(3)].tokens == [] && log[handoff(3)].reason == .length)
    }

    @Test func jobsThatCannotBeAreRefusedAndGiveTheirPagesBack() throws {
        let model = try TestModels.tinyLlama()
        let memory = try poisonedMemory(model, pages: 4)
        let log = EventLog()
        let loop = try EngineLoop(
            model: model, memory: memory, options: .init(role: .decode, threads: 1), onEvent: log.record)
        var wrong = greedy(4)
        wrong.topP = 7
        let slots = memory.pool.withLock { $0.lease(1) ?? [] }
        loop.start(DecodeJob(id: handoff(1), tokens: [1, 2], sampling: wrong, slots: slots))
        loop.start(DecodeJob(id: handoff(2), tokens: [1, 512], sampling: greedy(4), slots: []))
        loop.start(DecodeJob(id: handoff(3), tokens: Array(repeating: 1, count: 65), sampling: greedy(4), slots: []))
        loop.start(DecodeJob(id: handoff(4), tokens: [], sampling: greedy(4), slots: []))
        loop.submit(PrefillJob(id: handoff(5), tokens: [1]))
        for request in 1...5 { try #require(log.wait(handoff(request))) }
        #expect(log[handoff(1)].error == .invalid(field: "top_p", reason: "7.0 is not in (0, 1]"))
        #expect(log[handoff(2)].error == .invalid(field: "tokens", reason: "512 is not in 0..<512"))
        #expect(log[handoff(3)].error == .tooLong(tokens: 65, limit: 64, what: "the KV memory"))
        #expect(log[handoff(4)].error != nil && log[handoff(5)].error != nil)
        loop.shutdown()
        #expect(memory.counts.free == 4)
    }

    @Test func cancelsActAtOnceAndPagesComeBack() throws {
        let model = try TestModels.tinyLlama()
        let memory = try poisonedMemory(model, pages: 128)
        let log = EventLog()
        let loop = try EngineLoop(
            model: model, memory: memory, options: .init(role: .prefill, chunkTokens: 16, threads: 1),
            onEvent: log.record)
        let tokens = (0..<2000).map { TokenID($0 % 500) }
        for request in 1...3 {
            loop.submit(PrefillJob(id: handoff(request), tokens: tokens.map { ($0 + TokenID(request)) % 512 }))
        }
        // The third waits for pages, the first is under way.
        try #require(log.wait(handoff(1)) { !$0.ready.isEmpty })
        loop.cancel(handoff(3))
        loop.cancel(handoff(1))
        try #require(log.wait(handoff(1)) && log.wait(handoff(3)))
        #expect(log[handoff(1)].reason == .cancelled && log[handoff(3)].reason == .cancelled)
        let ready = log[handoff(1)].ready
        loop.releasePrefill(handoff(1))
        try #require(log.wait(handoff(2)))
        loop.releasePrefill(handoff(2))
        loop.cancel(handoff(2))
        loop.cancel(handoff(77))
        loop.shutdown()
        for request in 1...3 { #expect(log[handoff(request)].endings == 1) }
        #expect(log[handoff(1)].ready == ready)
        #expect(memory.counts.free + memory.counts.cached == 128 && memory.counts.inUse == 0)
    }

    @Test func shutdownEndsWhatIsThere() throws {
        let model = try TestModels.tinyLlama()
        let memory = try poisonedMemory(model, pages: 64)
        let log = EventLog()
        let loop = try EngineLoop(
            model: model, memory: memory, options: .init(role: .decode, threads: 2), onEvent: log.record)
        loop.start(DecodeJob(id: handoff(1), tokens: [1, 2, 3], sampling: greedy(900), slots: []))
        try #require(log.wait(handoff(1)) { !$0.tokens.isEmpty })
        loop.shutdown()
        #expect(log[handoff(1)].endings == 1)
        #expect(memory.counts.free == 64)
        loop.shutdown()
    }

    @Test func optionsOutOfRangeAreNamed() throws {
        let model = try TestModels.tinyLlama()
        let memory = try poisonedMemory(model, pages: 4)
        for options in [
            EngineOptions(role: .decode, maxRunning: 0), EngineOptions(role: .prefill, chunkTokens: 0),
            EngineOptions(role: .prefill, threads: -1),
        ] {
            #expect(throws: EngineError.self) {
                try EngineLoop(model: model, memory: memory, options: options) { _ in }
            }
        }
        #expect(throws: EngineError.self) { try KVMemory(layout: model.layout, bytes: 10) }
        #expect(throws: EngineError.self) { try KVMemory(layout: model.layout, pageCount: 0) }
        // That much is not there; the message says how much is.
        #expect {
            try KVMemory(layout: model.layout, pageCount: (1 << 32) - 1)
        } throws: { error in
            "\(error)".contains("TiB wanted, but the system has only")
        }
    }
}
