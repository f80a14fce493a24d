import Engine
import Handoff
import Kernels
import SeededRandom
import Synchronization
import Testing

/// The bits of a request's tokens and log probabilities are the same alone, in any batch, under any chunking,
/// preempted or not, prefilled here or there, with or without the prefix cache, on one thread or two. Memory starts
/// full of NaN, so that a read of something never written shows.
@Suite struct BatchInvarianceTests {
    struct Request {
        var tokens: [TokenID]
        var sampling: SamplingParameters
    }

    private func requests(
        _ random: inout SplitMix64, count: Int, vocabulary: Int, longest: Int, answer: Int
    ) -> [Request] {
        let shared = (0..<longest).map { _ in TokenID.random(in: 0..<TokenID(vocabulary), using: &random) }
        return (0..<count).map { index in
            let common = Int.random(in: 0...longest / 2, using: &random)
            let own = Int.random(in: 1...longest / 2, using: &random)
            var sampling = SamplingParameters()
            sampling.temperature = index % 3 == 0 ? 0 : 0.9
            sampling.topP = index % 2 == 0 ? 1 : 0.9
            sampling.repetitionPenalty = index % 4 == 0 ? 1.1 : 1
            sampling.seed = random.next()
            sampling.maxTokens = Int.random(in: 1...answer, using: &random)
            sampling.topLogprobs = 4
            let tail = (0..<own).map { _ in TokenID.random(in: 0..<TokenID(vocabulary), using: &random) }
            return Request(tokens: shared.prefix(common) + tail, sampling: sampling)
        }
    }

    private func bits(_ answer: EventLog.Answer) -> [[UInt64]] {
        answer.logprobs.map { $0.map { UInt64($0.logprob.bitPattern) << 32 | UInt64($0.token) } }
    }

    /// Each request by itself on one thread, prefilled where it is decoded, in chunks of one page.
    private func alone(_ model: LoadedModel, _ requests: [Request]) throws -> [EventLog.Answer] {
        let memory = try poisonedMemory(model, pages: 64)
        let log = EventLog()
        let loop = try EngineLoop(
            model: model, memory: memory,
            options: .init(role: .decode, chunkTokens: model.layout.pageTokens, threads: 1), onEvent: log.record)
        defer { loop.shutdown() }
        return try requests.enumerated().map { index, request in
            loop.start(
                DecodeJob(id: handoff(index), tokens: request.tokens, sampling: request.sampling, slots: []))
            try #require(log.wait(handoff(index)))
            return log[handoff(index)]
        }
    }

    /// All at once through a prefill loop and a decode loop, with page copies between them.
    private func together(
        _ model: LoadedModel, _ requests: [Request], threads: Int, chunk: Int, pages: Int, localShare: Int,
        drafts: Int = 0
    ) throws -> ([EventLog.Answer], preemptions: UInt64, cached: UInt64) {
        let (source, target) = (try poisonedMemory(model, pages: 400), try poisonedMemory(model, pages: pages))
        let (prefilled, decoded) = (EventLog(), EventLog())
        let prefill = try EngineLoop(
            model: model, memory: source, options: .init(role: .prefill, chunkTokens: chunk, threads: threads),
            onEvent: prefilled.record)
        let decode = try EngineLoop(
            model: model, memory: target,
            options: .init(role: .decode, chunkTokens: chunk, threads: threads, drafts: drafts),
            onEvent: decoded.record)
        for (index, request) in requests.enumerated() where index % localShare != 0 {
            prefill.submit(PrefillJob(id: handoff(index), tokens: request.tokens))
        }
        for index in requests.indices where index % localShare != 0 { try #require(prefilled.wait(handoff(index))) }
        for (index, request) in requests.enumerated() {
            var slots: [SlotRef] = []
            if index % localShare != 0 {
                // No room: it is prefilled by the decode loop instead.
                slots = copyPages(prefilled[handoff(index)].slots, from: source, to: target) ?? []
                prefill.releasePrefill(handoff(index))
            }
            decode.start(
                DecodeJob(id: handoff(index), tokens: request.tokens, sampling: request.sampling, slots: slots))
        }
        for index in requests.indices { try #require(decoded.wait(handoff(index))) }
        prefill.shutdown()
        decode.shutdown()
        #expect(target.counts.free == pages)
        #expect(source.counts.free + source.counts.cached == 400)
        return (
            requests.indices.map { decoded[handoff($0)] }, decode.snapshot().preemptionsTotal,
            prefill.snapshot().cachedTokensTotal
        )
    }

    @Test(arguments: UInt64(1)...6)
    func tinyLlama(seed: UInt64) throws {
        let model = try TestModels.tinyLlama(kvType: seed % 2 == 0 ? .f16 : .f32)
        var random = SplitMix64(state: seed)
        let requests = requests(&random, count: 24, vocabulary: 512, longest: 200, answer: 24)
        let expected = try alone(model, requests)
        for (threads, chunk, pages, share) in [(2, 64, 64, 1000), (1, 512, 40, 3), (2, 16, 26, 2)] {
            let (found, preemptions, _) = try together(
                model, requests, threads: threads, chunk: chunk, pages: pages, localShare: share)
            for index in requests.indices {
                #expect(found[index].tokens == expected[index].tokens)
                #expect(bits(found[index]) == bits(expected[index]), "request \(index), \(preemptions) preemptions")
            }
        }
    }

    /// Positions are selected and drafts verified here too, and show in nothing.
    @Test(arguments: ["tiny-glm5", "tiny-glm52", "tiny-qwen3-moe"], [CacheType.f16, .f32, .bf16, .fp8])
    func mixturesOfExperts(name: String, type: CacheType) throws {
        let drafts = name == "tiny-qwen3-moe" ? 0 : 3
        guard drafts > 0 || type != .fp8 else { return }
        let model = try TestModels.fixture(name, kvType: type)
        var random = SplitMix64(state: UInt64(type.rawValue))
        let requests = requests(&random, count: 20, vocabulary: 512, longest: 200, answer: 24)
        let expected = try alone(model, requests)
        var preempted: UInt64 = 0
        for (threads, chunk, pages, share, drafts) in [
            (2, 64, 64, 1000, drafts), (1, 512, 40, 3, drafts / 3), (2, 16, 26, 2, 2 * drafts), (2, 32, 30, 2, 0),
        ] {
            let (found, preemptions, _) = try together(
                model, requests, threads: threads, chunk: chunk, pages: pages, localShare: share, drafts: drafts)
            preempted += preemptions
            for index in requests.indices {
                #expect(found[index].tokens == expected[index].tokens)
                #expect(bits(found[index]) == bits(expected[index]), "request \(index), \(preemptions) preemptions")
            }
        }
        #expect(preempted > 0, "the memory is no longer too small")
    }

    @Test func smolLM2() throws {
        let model = try TestModels.smolLM2()
        var random = SplitMix64(state: 5)
        let requests = requests(&random, count: 8, vocabulary: 49152, longest: 120, answer: 90)
        let expected = try alone(model, requests)
        var (preemptions, cached): (UInt64, UInt64) = (0, 0)
        for pages in [9, 8, 7] {
            let (found, preempted, reused) = try together(
                model, requests, threads: 2, chunk: 64, pages: pages, localShare: 4)
            preemptions += preempted
            cached += reused
            for index in requests.indices {
                #expect(found[index].tokens == expected[index].tokens)
                #expect(bits(found[index]) == bits(expected[index]))
            }
        }
        #expect(preemptions > 0, "the memory is no longer too small")
        #expect(cached > 0, "the prompts no longer share pages")
    }

    /// The KV bytes themselves: what one chunking stores, another stores.
    @Test(arguments: ["tiny-llama", "tiny-glm52", "tiny-qwen3-moe"])
    func storedPagesAreEqualBits(name: String) throws {
        let model = try TestModels.fixture(name)
        let tokens = (0..<100).map { TokenID($0 * 7 % 512) }
        var images: [[UInt8]] = []
        for (chunk, threads) in [(16, 1), (48, 2), (512, 2)] {
            let memory = try KVMemory(layout: model.layout, pageCount: 8)
            let log = EventLog()
            let loop = try EngineLoop(
                model: model, memory: memory, options: .init(role: .prefill, chunkTokens: chunk, threads: threads),
                onEvent: log.record)
            loop.submit(PrefillJob(id: handoff(1), tokens: tokens))
            try #require(log.wait(handoff(1)))
            images.append(
                log[handoff(1)].slots.flatMap { slot in
                    Array(UnsafeRawBufferPointer(start: memory.page(slot.index), count: model.layout.pageBytes))
                })
            loop.releasePrefill(handoff(1))
            loop.shutdown()
        }
        #expect(images[0] == images[1] && images[1] == images[2])
    }
}
