import ControlPlane
import Engine
import Handoff
import Messages
import Synchronization
import Telemetry
import Testing

@testable import Node

/// Both roles in this process with a small model: real gRPC, real lanes, a scripted router.
@Suite(.serialized) struct NodeClusterTests {
    func prompt(_ length: Int, _ seed: UInt32 = 1) -> [UInt32] {
        var state = seed
        return (0..<length).map { _ in
            state = state &* 1_664_525 &+ 1_013_904_223
            return (state >> 16) % 128
        }
    }

    @Test func tokensEqualTheEnginesOwn() async throws {
        try await TestCluster.with { cluster in
            for (request, length) in [1, 15, 16, 17, 33, 100].enumerated() {
                let prompt = prompt(length, UInt32(request))
                let tokens = try await cluster.router.serve(UInt64(request), prompt, maxTokens: 12)
                #expect(tokens == (try await cluster.greedy(prompt, 12)), "prompt of \(length) tokens")
            }
            // The same prompt again comes from the prefix cache, with the same result.
            let prompt = prompt(100, 5)
            let tokens = try await cluster.router.serve(100, prompt, maxTokens: 12)
            #expect(tokens == (try await cluster.greedy(prompt, 12)))
            let written = try await cluster.router.wait("written") { message -> WriteReport? in
                if case .written(let report) = message, report.handoff.request == 100 { report } else { nil }
            }
            #expect(written.cachedTokens >= 80)
            #expect(written.bytes == UInt64(7 * cluster.model.layout.pageBytes))
            try await cluster.expectSettled()
        }
    }

    @Test func manyAtOnce() async throws {
        try await TestCluster.with { cluster in
            try await withThrowingTaskGroup(of: Void.self) { group in
                // As many as there are lanes, several times over.
                for worker in 0..<4 as Range<UInt64> {
                    group.addTask {
                        for round in 0..<4 as Range<UInt64> {
                            let request = worker * 10 + round
                            let prompt = prompt(5 + Int(request) * 3, UInt32(request))
                            let tokens = try await cluster.router.serve(request, prompt, maxTokens: 10)
                            #expect(tokens == (try await cluster.greedy(prompt, 10)))
                            try await cluster.router.idle(cluster)
                        }
                    }
                }
                try await group.waitForAll()
            }
            try await cluster.expectSettled()
        }
    }

    @Test func cancelBeforePrefill() async throws {
        try await TestCluster.with { cluster in
            let handoff = ScriptedRouter.id(1)
            try cluster.router.reserve(handoff, prompt(40), maxTokens: 5)
            _ = try await cluster.router.granted(handoff)
            #expect(cluster.decode.memory.counts.granted == 3)
            cluster.router.toDecode(.cancel(handoff))
            try await eventually("quarantine") { cluster.decode.memory.counts.quarantined == 3 }
            cluster.router.toPrefill(.cancel(handoff))
            let drained = try await cluster.router.drained(handoff)
            #expect(drained == (0, 0))
            cluster.router.toDecode(.reclaim(handoff, .all))
            #expect(try await cluster.router.reclaimed(handoff) == .drained)
            try await cluster.expectSettled()
            // A late order of the cancelled handoff starts nothing.
            try cluster.router.reserve(handoff, prompt(40), maxTokens: 5)
            try await cluster.expectSettled()
        }
    }

    @Test func cancelWhileWriting() async throws {
        try await TestCluster.with { cluster in
            for request in 1...8 as ClosedRange<UInt64> {
                let handoff = ScriptedRouter.id(request)
                let prompt = prompt(240, UInt32(request))
                try cluster.router.reserve(handoff, prompt, maxTokens: 5)
                let grant = try await cluster.router.granted(handoff)
                cluster.router.toPrefill(.prefill(PrefillOrder(grant: grant, tokens: prompt)))
                try await Task.sleep(for: .microseconds(400 * Int(request)))
                cluster.router.toPrefill(.cancel(handoff))
                cluster.router.toDecode(.cancel(handoff))
                let (posted, completed) = try await cluster.router.drained(handoff)
                #expect(posted >= completed)
                cluster.router.toDecode(posted == completed ? .reclaim(handoff, .all) : .fence(handoff, .all))
                // It may have sealed before the cancel: then the sequence was ended instead.
                _ = try await cluster.router.wait("end") { message in
                    switch message {
                    case .reclaimed(handoff, _): true
                    case .finished(let report) where report.handoff == handoff: true
                    default: nil
                    }
                }
                try await cluster.expectSettled()
                try await cluster.router.lanesIdle(4)
            }
            let tokens = try await cluster.router.serve(99, prompt(50), maxTokens: 6)
            #expect(tokens == (try await cluster.greedy(prompt(50), 6)))
        }
    }

    @Test func fenceWithoutThePrefillNode() async throws {
        try await TestCluster.with { cluster in
            let handoff = ScriptedRouter.id(1)
            try cluster.router.reserve(handoff, prompt(100), maxTokens: 5)
            _ = try await cluster.router.granted(handoff)
            cluster.router.toDecode(.fence(handoff, .all))
            #expect(try await cluster.router.reclaimed(handoff) == .fenced)
            try await cluster.expectSettled()
            // The lane is rebuilt.
            try await cluster.router.lanesIdle(4)
            #expect(cluster.decode.driver.load().fences == 1)
        }
    }

    @Test func cancelWhileDecoding() async throws {
        try await TestCluster.with(pages: 128) { cluster in
            let prompt = prompt(20)
            // On a busy machine a sequence may end before the cancel arrives.
            for request in 1...50 as ClosedRange<UInt64> {
                let handoff = ScriptedRouter.id(request)
                try cluster.router.reserve(handoff, prompt, maxTokens: 1900)
                let grant = try await cluster.router.granted(handoff)
                cluster.router.toPrefill(.prefill(PrefillOrder(grant: grant, tokens: prompt)))
                try await cluster.router.sealed(handoff)
                cluster.router.toPrefill(.release(handoff))
                cluster.router.toDecode(.cancel(handoff))
                let report = try await cluster.router.finished(handoff)
                _ = try await cluster.router.drained(handoff)
                let tokens = cluster.router.tokens(handoff)
                #expect(tokens.count == report.tokens)
                if tokens.isEmpty || report.reason != .cancelled { continue }
                #expect(tokens == (try await cluster.greedy(prompt, tokens.count)))
                try await cluster.expectSettled()
                return
            }
            Issue.record("no sequence was cancelled on its way")
        }
    }

    @Test func routerLost() async throws {
        try await TestCluster.with { cluster in
            // One waits for its writes, one decodes, one is being computed.
            for (request, isPrefilled) in [(1, false), (2, true)] as [(UInt64, Bool)] {
                let handoff = ScriptedRouter.id(request)
                try cluster.router.reserve(handoff, prompt(30), maxTokens: 400)
                let grant = try await cluster.router.granted(handoff)
                guard isPrefilled else { continue }
                cluster.router.toPrefill(.prefill(PrefillOrder(grant: grant, tokens: prompt(30))))
                try await eventually("tokens") { !cluster.router.tokens(handoff).isEmpty }
            }
            cluster.router.server.stop()
            try await cluster.expectSettled()
        }
    }

    @Test func ordersThatCannotBeRight() async throws {
        try await TestCluster.with(maxRunning: 2) { cluster in
            let router = cluster.router
            let foreign = HandoffID(router: Incarnation(999), request: 1, attempt: 1)
            try router.reserve(foreign, [1], maxTokens: 1)
            #expect(try await router.refusal(foreign).reason == .invalid)
            try router.reserve(ScriptedRouter.id(2), [1, 1_000_000], maxTokens: 1)
            #expect(try await router.refusal(ScriptedRouter.id(2)).message.contains("1000000 is not in"))
            try router.reserve(ScriptedRouter.id(3), prompt(5000), maxTokens: 1)
            #expect(try await router.refusal(ScriptedRouter.id(3)).reason == .tooLong)
            // More sequences than the node runs.
            for request in 4...5 as ClosedRange<UInt64> {
                try router.reserve(ScriptedRouter.id(request), [1], maxTokens: 1)
                _ = try await router.granted(ScriptedRouter.id(request))
            }
            try router.reserve(ScriptedRouter.id(6), [1], maxTokens: 1)
            #expect(try await router.refusal(ScriptedRouter.id(6)).reason == .busy)
            // A grant that fits neither the prompt nor any lane; messages for the other role; an unknown handoff.
            let terms = GrantTerms(
                handoff: ScriptedRouter.id(7), decode: Incarnation(5),
                slots: [SlotRef(index: 1 << 30, generation: Generation(1))], lent: 0,
                parts: [
                    GrantPart(
                        writer: Incarnation(6), lane: LaneID(77), epoch: LaneEpoch(1), pages: 0..<1, layers: 0..<1)
                ])
            router.toPrefill(.prefill(PrefillOrder(grant: terms, tokens: prompt(100))))
            _ = try await router.drained(ScriptedRouter.id(7))
            router.toPrefill(.fence(ScriptedRouter.id(4), .all))
            router.toDecode(.release(ScriptedRouter.id(4)))
            router.toDecode(.fence(ScriptedRouter.id(12345), .all))
            #expect(try await router.reclaimed(ScriptedRouter.id(12345)) == .drained)
            // Everything still works.
            for request in 4...5 as ClosedRange<UInt64> { router.toDecode(.fence(ScriptedRouter.id(request), .all)) }
            _ = try await router.reclaimed(ScriptedRouter.id(5))
            try await cluster.expectSettled()
            try await router.lanesIdle(4)
            _ = try await router.serve(8, prompt(20), maxTokens: 3)
            // What is open is told.
            try router.reserve(ScriptedRouter.id(9), [1], maxTokens: 1)
            _ = try await router.granted(ScriptedRouter.id(9))
            router.toDecode(.listHandoffs)
            let open = try await router.wait("open handoffs") { message -> [HandoffID]? in
                if case .openHandoffs(let open) = message { open } else { nil }
            }
            #expect(open == [ScriptedRouter.id(9)])
        }
    }

    @Test func drainRefusesNewWorkAndFinishesTheOld() async throws {
        try await TestCluster.with { cluster in
            let handoff = ScriptedRouter.id(1)
            // So many that it is not over before the new work comes.
            try cluster.router.reserve(handoff, prompt(20), maxTokens: 1000)
            let grant = try await cluster.router.granted(handoff)
            cluster.router.toPrefill(.prefill(PrefillOrder(grant: grant, tokens: prompt(20))))
            try await cluster.router.sealed(handoff)
            cluster.router.toPrefill(.release(handoff))
            cluster.decode.runtime.stop(within: .seconds(30))
            try await eventually("draining") { cluster.router.messages.contains(.draining) }
            try cluster.router.reserve(ScriptedRouter.id(2), prompt(20), maxTokens: 5)
            #expect(try await cluster.router.refusal(ScriptedRouter.id(2)).reason == .draining)
            #expect(try await cluster.router.finished(handoff).tokens == 1000)
            try await cluster.decode.task.value
            try await eventually("the node leaves") { cluster.router.server.node(named: "decode-1") == nil }
        }
    }

    @Test func metricsHaveTheFieldsNames() async throws {
        try await TestCluster.with { cluster in
            _ = try await cluster.router.serve(1, prompt(50), maxTokens: 5)
            // Counted after the step, while its pages are already on their way.
            try await eventually("prompt tokens") {
                cluster.prefill.metrics.registry.exposition().contains("baton_prompt_tokens_total 50\n")
            }
            let prefill = cluster.prefill.metrics.registry.exposition()
            let decode = cluster.decode.metrics.registry.exposition()
            #expect(prefill.contains("baton_kv_transfer_latency_ms_count 1\n"))
            #expect(decode.contains("baton_generation_tokens_total 5\n"))
            #expect(decode.contains("baton_quiescence_proofs_total{kind=\"writeComplete\"} 1\n"))
            #expect(decode.contains("baton_kv_pages{state=\"quarantined\"} 0\n"))
            #expect(decode.contains("baton_stale_write_rejected_total 0\n"))
            for name in ["num_running_reqs", "num_queue_reqs", "token_usage", "cache_hit_rate", "kv_transfer_total_mb"]
            {
                #expect(prefill.contains("\nbaton_\(name) ") && decode.contains("\nbaton_\(name) "))
            }
        }
    }
}

extension ScriptedRouter {
    /// Waits until a lane is idle on both sides, by the nodes' own state.
    func idle(_ cluster: TestCluster) async throws {
        try await eventually("an idle lane") {
            cluster.prefill.driver.load().lanesIdle > 0 && cluster.decode.driver.load().lanesIdle > 0
        }
    }
}
