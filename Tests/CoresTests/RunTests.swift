import API
import Handoff
import Messages
import Testing

@testable import Cores

/// A cluster of `prefill` × `decode` fake nodes.
private func cluster(
    _ prefills: Int, _ decodes: Int, settings: RoutingSettings = RoutingSettings()
) -> (FakeCluster, [Incarnation], [Incarnation]) {
    let cluster = FakeCluster(settings: settings)
    let p = (1...prefills).map { cluster.add(registration("p\($0)", .prefill, incarnation: UInt64($0))) }
    let d = (1...decodes).map { cluster.add(registration("d\($0)", .decode, incarnation: 100 + UInt64($0))) }
    return (cluster, p, d)
}

private func finish(_ ending: RunEnding?) -> FinishReason? { ending.flatMap { try? $0.result.get() } }

private func failure(_ ending: RunEnding?) -> APIError? {
    guard case .failure(let error)? = ending?.result else { return nil }
    return error
}

@Suite struct RunTests {
    @Test func aRequestGoesThrough() throws {
        let (cluster, p, d) = cluster(1, 1)
        let run = try cluster.submit()[0]
        #expect(cluster.tokens[run] == FakeCluster.completion())
        #expect(finish(cluster.endings[run]) == .length)
        let times = cluster.endings[run]?.times
        #expect(times?.cachedTokens == 3 && times?.completionTokens == 5 && times?.attempts == 1)
        #expect(times?.prefillNode == "p1" && times?.decodeNode == "d1")
        #expect(cluster.isIdle)
        // Everything it took was given back.
        #expect(cluster.nodes[p[0]]?.prefillTokens == 0)
        #expect(cluster.nodes[p[0]]?.outstanding[d[0]] == 0)
        #expect(cluster.nodes[d[0]]?.decodeTokens == 0 && cluster.nodes[d[0]]?.decodePages == 0)
        #expect(cluster.nodes[d[0]]?.sequences == 0)
        #expect(cluster.placements.isEmpty)
    }

    @Test func choicesAreRunsOfTheirOwn() throws {
        let (cluster, _, _) = cluster(1, 2)
        let runs = try cluster.submit(choices: 3)
        #expect(runs.count == 3)
        for run in runs { #expect(cluster.tokens[run] == FakeCluster.completion()) }
        #expect(cluster.isIdle)
    }

    @Test func aFailedAttemptIsRetriedOnAnotherPair() throws {
        let (cluster, p, _) = cluster(2, 2)
        cluster.stuckPrefills = [p[0]]
        let run = try cluster.submit()[0]
        #expect(cluster.tokens[run] == nil)
        let handoff = try #require(cluster.reservations.keys.first)
        cluster.say(.failed(handoff, HandoffFailure(.computeFailed), details: "boom"), p[0])
        cluster.advance(.milliseconds(100))
        #expect(cluster.retries == [handoff])
        #expect(cluster.tokens[run] == FakeCluster.completion())
        let second = cluster.reservations.keys.first { $0.attempt == 2 }
        #expect(second.flatMap { cluster.reservations[$0] }?.shares.map(\.writer) == [p[1]])
        #expect(cluster.endings[run]?.times.attempts == 2)
        #expect(cluster.isIdle)
    }

    @Test func aLostDecodeNodeIsResumedFromDeliveredTokens() throws {
        let (cluster, _, d) = cluster(1, 2)
        cluster.tokensBeforeSilence = 2
        let run = try cluster.submit()[0]
        #expect(cluster.tokens[run]?.count == 2)
        let first = try #require(cluster.reservations.keys.first)
        cluster.tokensBeforeSilence = nil
        let decode = try #require(cluster.placements[first]?.pair.decode)
        cluster.lose(decode)
        cluster.advance(.milliseconds(100))
        // The same tokens as without the loss, each once.
        #expect(cluster.tokens[run] == FakeCluster.completion())
        #expect(finish(cluster.endings[run]) == .length)
        let second = try #require(cluster.reservations.keys.first { $0.attempt == 2 })
        #expect(cluster.reservations[second]?.delivered == 2)
        #expect(cluster.reservations[second]?.tokens.count == 22)
        #expect(cluster.isIdle)
        #expect(d.contains(decode))
    }

    @Test func aLostPrefillNodeFencesAndRetries() throws {
        let (cluster, p, d) = cluster(2, 1)
        cluster.stuckPrefills = [p[0], p[1]]
        let run = try cluster.submit()[0]
        let first = try #require(cluster.placements.first)
        cluster.stuckPrefills = []
        cluster.lose(first.value.pair.prefill)
        cluster.advance(.milliseconds(100))
        #expect(cluster.count(to: d[0]) { $0 == .fence(first.key, PartSet(0)) } == 1)
        #expect(cluster.tokens[run] == FakeCluster.completion())
        #expect(cluster.isIdle)
    }

    @Test func attemptsAreCapped() throws {
        var settings = RoutingSettings()
        settings.failuresMax = 3
        let (cluster, p, _) = cluster(1, 1, settings: settings)
        cluster.stuckPrefills = [p[0]]
        let run = try cluster.submit()[0]
        for attempt in 1...3 {
            let handoff = HandoffID(router: Incarnation(7), request: run, attempt: UInt32(attempt))
            #expect(cluster.reservations[handoff] != nil)
            cluster.say(.failed(handoff, HandoffFailure(.laneLost), details: ""), p[0])
            cluster.advance(.milliseconds(300))
        }
        #expect(failure(cluster.endings[run])?.status == 500)
        #expect(failure(cluster.endings[run])?.code == "handoff_failed")
        #expect(cluster.isIdle)
    }

    @Test func whatCannotSucceedIsNotRetried() throws {
        let (cluster, p, _) = cluster(1, 1)
        cluster.stuckPrefills = [p[0]]
        let run = try cluster.submit()[0]
        let handoff = try #require(cluster.reservations.keys.first)
        cluster.say(.failed(handoff, HandoffFailure(.computeFailed, retryable: false), details: "no"), p[0])
        #expect(failure(cluster.endings[run])?.message.contains("no") == true)
        #expect(cluster.retries.isEmpty)
    }

    @Test func aRefusalGoesToAnotherNode() throws {
        let (cluster, _, d) = cluster(1, 2)
        cluster.refusing = [d[0]: .noPages]
        let run = try cluster.submit()[0]
        #expect(cluster.tokens[run] == FakeCluster.completion())
        #expect(cluster.endings[run]?.times.decodeNode == "d2")
        // A refusal is no failure, and prefill was not started for nothing.
        #expect(cluster.retries.isEmpty)
        #expect(cluster.sent.count { if case .prefill = $0.message { true } else { false } } == 1)
    }

    @Test func aRefusalByAllWaitsUntilOneHasRoom() throws {
        let (cluster, _, d) = cluster(1, 1)
        cluster.refusing = [d[0]: .noLane]
        let run = try cluster.submit()[0]
        cluster.advance(.milliseconds(200))
        #expect(cluster.endings[run] == nil)
        cluster.refusing = [:]
        cluster.advance(.milliseconds(100))
        #expect(cluster.tokens[run] == FakeCluster.completion())
    }

    @Test func tooLongForOneNodeGoesToAnother() throws {
        let (cluster, _, d) = cluster(1, 2)
        cluster.refusing = [d[0]: .tooLong]
        let run = try cluster.submit()[0]
        #expect(cluster.endings[run]?.times.decodeNode == "d2")
        cluster.refusing = [d[0]: .tooLong, d[1]: .tooLong]
        let other = try cluster.submit()[0]
        #expect(failure(cluster.endings[other])?.code == "context_length_exceeded")
    }

    @Test func repeatedAndSkippedTokens() throws {
        let (cluster, _, d) = cluster(1, 1)
        cluster.tokensBeforeSilence = 2
        let run = try cluster.submit(max: 6)[0]
        let handoff = try #require(cluster.reservations.keys.first)
        let expected = FakeCluster.completion(max: 6)
        // Positions 1 and 2: the first of them is known.
        let again = TokenRun(handoff: handoff, firstIndex: 1, tokens: [999, expected[2]])
        cluster.say(.tokens(TokenBatch(runs: [again], sent: .zero)), d[0])
        #expect(cluster.tokens[run] == Array(expected[..<3]))
        // Position 4 without 3: the attempt is broken, another goes on from what was delivered.
        cluster.tokensBeforeSilence = nil
        let skipping = TokenRun(handoff: handoff, firstIndex: 4, tokens: [expected[4]])
        cluster.say(.tokens(TokenBatch(runs: [skipping], sent: .zero)), d[0])
        cluster.advance(.milliseconds(100))
        #expect(cluster.tokens[run] == expected)
        #expect(cluster.retries.count == 1)
        // What the first attempt still says is dropped.
        let late = TokenRun(handoff: handoff, firstIndex: 6, tokens: [1])
        cluster.say(.tokens(TokenBatch(runs: [late], sent: .zero)), d[0])
        #expect(cluster.tokens[run] == expected)
        #expect(cluster.isIdle)
    }

    @Test func aStopStringEndsTheRunWell() throws {
        let (cluster, _, d) = cluster(1, 1)
        cluster.tokensBeforeSilence = 2
        let run = try cluster.submit()[0]
        cluster.complete(run)
        #expect(finish(cluster.endings[run]) == .stop)
        #expect(cluster.outcomes[run] == .completed)
        #expect(cluster.count(to: d[0]) { if case .cancel = $0 { true } else { false } } == 1)
        #expect(cluster.isIdle)
    }
}

/// An answer that is whole before the prefill node has told what it measured: its words come on another stream.
@Suite struct LateReportTests {
    enum Next: CaseIterable { case reported, settled, patienceOver, prefillLost, shutdown, reportOfAnother }

    @Test(arguments: Next.allCases)
    func theEndWaitsForTheReport(next: Next) throws {
        let (cluster, p, d) = cluster(1, 1)
        cluster.stuckPrefills = [p[0]]
        let run = try cluster.submit()[0]
        let handoff = try #require(cluster.reservations.keys.first)
        cluster.silent = [p[0]]
        cluster.say(.sealed(handoff, sealTime: .zero), d[0])
        let tokens = FakeCluster.completion()
        cluster.say(
            .tokens(TokenBatch(runs: [TokenRun(handoff: handoff, firstIndex: 0, tokens: tokens)], sent: .zero)), d[0])
        cluster.say(
            .finished(
                FinishReport(
                    handoff: handoff, reason: .length, tokens: 5, firstStep: .zero, decode: .zero, preemptions: 0)),
            d[0])
        #expect(cluster.tokens[run] == tokens)
        #expect(cluster.endings[run] == nil)
        let report = WriteReport(
            handoff: handoff, cachedTokens: 3, queue: .zero, compute: .milliseconds(1), transfer: .zero, bytes: 64)
        switch next {
        case .reported: cluster.say(.written(report), p[0])
        case .settled: cluster.say(.drained(handoff, posted: 1, completed: 1), p[0])
        case .patienceOver:
            cluster.advance(.milliseconds(90))
            #expect(cluster.endings[run] == nil)
            cluster.advance(.milliseconds(20))
        case .prefillLost: cluster.lose(p[0])
        case .shutdown:
            cluster.core.cancelAll(now: cluster.now)
            cluster.settle()
        case .reportOfAnother:
            cluster.say(.written(report), d[0])
            #expect(cluster.endings[run] == nil)
            cluster.say(.written(report), p[0])
        }
        #expect(finish(cluster.endings[run]) == .length)
        let isTold = next == .reported || next == .reportOfAnother
        #expect(cluster.endings[run]?.times.cachedTokens == (isTold ? 3 : 0))
        #expect(cluster.outcomes[run] == .completed)
        // It ends once, whatever comes later.
        cluster.endings = [:]
        cluster.silent = []
        cluster.say(.written(report), p[0])
        cluster.advance(.seconds(3))
        #expect(cluster.endings[run] == nil)
        #expect(cluster.isIdle)
        #expect(cluster.placements.isEmpty)
    }
}

@Suite struct CancelTests {
    /// Where a run is when its client leaves.
    enum Phase: CaseIterable { case waiting, reserving, prefilling, decoding, retrying }

    @Test(arguments: Phase.allCases)
    func bothLegsStop(phase: Phase) throws {
        let (cluster, p, d) = cluster(1, 1)
        cluster.tokensBeforeSilence = 1
        switch phase {
        case .waiting: cluster.core.nodes.update(d[0]) { $0.quietUntil = .seconds(1000) }
        case .reserving: cluster.silent = [d[0]]
        case .prefilling, .retrying: cluster.stuckPrefills = [p[0]]
        case .decoding: break
        }
        let run = try cluster.submit()[0]
        if phase == .retrying {
            let handoff = try #require(cluster.reservations.keys.first)
            cluster.say(.failed(handoff, HandoffFailure(.laneLost), details: ""), p[0])
            #expect(cluster.waitingCount == 1)
        }
        let before = cluster.sent.count
        cluster.cancel(run)
        let after = cluster.sent[before...].map(\.message)
        switch phase {
        case .waiting, .retrying: #expect(after.isEmpty)
        case .reserving: #expect(after.contains { if case .reclaim = $0 { true } else { false } })
        case .prefilling: #expect(after.count { if case .cancel = $0 { true } else { false } } >= 2)
        case .decoding: #expect(after.contains { if case .cancel = $0 { true } else { false } })
        }
        #expect(cluster.outcomes[run] == .cancelled)
        #expect(cluster.endings[run] == nil)
        cluster.silent = []
        cluster.advance(.seconds(2))
        #expect(cluster.isIdle)
        #expect(cluster.placements.isEmpty)
        // Cancelling again, or what is unknown, does nothing.
        cluster.cancel(run)
        cluster.cancel(12345)
    }

    @Test func anUnansweredCancelIsFenced() throws {
        let (cluster, p, d) = cluster(1, 1)
        cluster.stuckPrefills = [p[0]]
        let run = try cluster.submit()[0]
        cluster.silent = [p[0]]
        cluster.reservations = [:]
        cluster.cancel(run)
        #expect(cluster.unsettledCount == 1)
        cluster.advance(.seconds(3))
        #expect(cluster.count(to: d[0]) { if case .fence = $0 { true } else { false } } >= 1)
        // The prefill node's half is settled when it is lost.
        cluster.lose(p[0])
        #expect(cluster.isIdle)
    }
}

@Suite struct QueueTests {
    @Test func withoutNodesTheAnswerIs503() {
        let cluster = FakeCluster()
        // Nodes that are about to attach have had their time.
        cluster.advance(RoutingSettings().attachPatience)
        let error = #expect(throws: APIError.self) { try cluster.submit() }
        #expect(error?.status == 503)
        #expect(error?.retryAfter != nil)
        #expect(error?.message.contains("no node is attached") == true)
        cluster.add(registration("p1", .prefill, incarnation: 1))
        let other = #expect(throws: APIError.self) { try cluster.submit() }
        #expect(other?.message.contains("no decode node") == true)
    }

    @Test func nodesThatDifferAreNotPairedAndTheDifferenceIsNamed() {
        let cluster = FakeCluster()
        cluster.add(registration("p1", .prefill, incarnation: 1))
        cluster.add(registration("d1", .decode, incarnation: 101, kvType: "f32"))
        let error = #expect(throws: APIError.self) { try cluster.submit() }
        #expect(error?.message.contains("KV type") == true)
        let entry = cluster.nodes[Incarnation(101)]
        #expect(entry.flatMap { cluster.nodes.mismatch(of: $0) }?.contains("f32") == true)
    }

    @Test func theQueueIsBoundedAndTimesOut() throws {
        var settings = RoutingSettings()
        settings.queueLimit = 2
        settings.queueTimeout = .seconds(1)
        let (cluster, _, d) = cluster(1, 1, settings: settings)
        cluster.refusing = [d[0]: .busy]
        let runs = [try cluster.submit()[0], try cluster.submit()[0]]
        cluster.core.nodes.update(d[0]) { $0.quietUntil = .seconds(100) }
        let error = #expect(throws: APIError.self) { try cluster.submit() }
        #expect(error?.status == 429)
        #expect(error?.retryAfter != nil)
        cluster.advance(.milliseconds(1100))
        for run in runs {
            #expect(failure(cluster.endings[run])?.status == 503)
            #expect(failure(cluster.endings[run])?.code == "queue_timeout")
        }
        #expect(cluster.isIdle)
        #expect(cluster.waitingCount == 0)
    }

    @Test func lanesBoundTheHandoffsOfAPair() throws {
        let cluster = FakeCluster()
        let p = cluster.add(registration("p1", .prefill, incarnation: 1, lanes: 2))
        let d = cluster.add(registration("d1", .decode, incarnation: 101))
        cluster.stuckPrefills = [p]
        let runs = try (0..<3).map { _ in try cluster.submit()[0] }
        #expect(cluster.nodes[p]?.outstanding[d] == 2)
        #expect(cluster.waitingCount == 1)
        cluster.stuckPrefills = []
        let first = try #require(cluster.reservations.keys.first { $0.request == runs[0] })
        cluster.written(first, prefill: p, decode: d)
        cluster.settle()
        #expect(cluster.tokens[runs[0]] == FakeCluster.completion())
        #expect(cluster.tokens[runs[2]] == FakeCluster.completion())
    }

    @Test func promptsBeyondEveryNodeAreRefused() {
        let (cluster, _, _) = cluster(1, 1)
        let error = #expect(throws: APIError.self) { try cluster.submit(tokens: 1024) }
        #expect(error?.code == "context_length_exceeded")
        #expect(throws: Never.self) { try cluster.submit(tokens: 1023, max: 1) }
    }

    @Test func shutdownRefusesAndEndsWhatIsLeft() throws {
        let (cluster, p, _) = cluster(1, 1)
        cluster.stuckPrefills = [p[0]]
        let run = try cluster.submit()[0]
        cluster.core.beginDrain()
        let error = #expect(throws: APIError.self) { try cluster.submit() }
        #expect(error?.code == "draining")
        cluster.core.cancelAll(now: cluster.now)
        cluster.settle()
        #expect(failure(cluster.endings[run])?.status == 503)
        #expect(cluster.isIdle)
    }

    @Test func adrainedNodeGetsNoNewWork() throws {
        let (cluster, _, d) = cluster(1, 2)
        cluster.core.drain(d[0], now: cluster.now)
        cluster.settle()
        for _ in 0..<4 {
            let run = try cluster.submit()[0]
            #expect(cluster.endings[run]?.times.decodeNode == "d2")
        }
    }

    @Test func whatANodeHoldsUnknowinglyIsEnded() {
        let (cluster, p, d) = cluster(1, 1)
        let lost = HandoffID(router: Incarnation(7), request: 999, attempt: 1)
        let foreign = HandoffID(router: Incarnation(8), request: 1, attempt: 1)
        cluster.say(.openHandoffs([lost, foreign]), d[0])
        cluster.say(.openHandoffs([lost, foreign]), p[0])
        #expect(cluster.count(to: d[0]) { $0 == .fence(lost, .all) } == 1)
        #expect(cluster.count(to: p[0]) { $0 == .cancel(lost) } == 1)
        #expect(!cluster.sent.contains { $0.message == .fence(foreign, .all) || $0.message == .cancel(foreign) })
    }
}

@Suite struct ReadinessTests {
    private func probing() -> RoutingSettings {
        var settings = RoutingSettings()
        settings.probeTokens = [1, 2, 3]
        return settings
    }

    @Test func readyMeansARoundTrip() {
        let cluster = FakeCluster(settings: probing())
        #expect(cluster.unreadyReason != nil)
        cluster.add(registration("p1", .prefill, incarnation: 1))
        #expect(cluster.unreadyReason?.contains("decode") == true)
        cluster.add(registration("d1", .decode, incarnation: 101))
        #expect(cluster.unreadyReason == nil)
        #expect(cluster.isIdle)
        // Probes are nobody's request.
        #expect(cluster.outcomes.isEmpty && cluster.tokens.isEmpty)
        cluster.lose(Incarnation(101))
        #expect(cluster.unreadyReason != nil)
    }

    /// Another router's handoffs may use every lane at the moment a node reports them.
    @Test func lanesThatAreBusyCanBeProbed() {
        let cluster = FakeCluster(settings: probing())
        let p = cluster.add(registration("p1", .prefill, incarnation: 1), lanesTo: [])
        let d = cluster.add(registration("d1", .decode, incarnation: 101), lanesTo: [])
        #expect(cluster.unreadyReason != nil)
        cluster.say(.lanes([PeerLanes(decode: d, idle: 0, busy: 4, transport: "tcp", error: "")]), p)
        #expect(cluster.unreadyReason == nil)
    }

    @Test func aFailedProbeIsRepeated() throws {
        let cluster = FakeCluster(settings: probing())
        let p = cluster.add(registration("p1", .prefill, incarnation: 1))
        cluster.stuckPrefills = [p]
        cluster.add(registration("d1", .decode, incarnation: 101))
        let handoff = try #require(cluster.reservations.keys.first)
        cluster.say(.failed(handoff, HandoffFailure(.laneLost), details: "cut"), p)
        #expect(cluster.unreadyReason?.contains("cut") == true)
        cluster.stuckPrefills = []
        cluster.advance(.seconds(1))
        #expect(cluster.unreadyReason == nil)
    }
}
