import API
import Handoff
import Messages
import Testing

@testable import Cores

/// Nodes that hang, lie or go away at the wrong moment.
@Suite struct FaultyNodeTests {
    private func cluster(
        decodes: Int = 1, slots: Int = 64, settings: RoutingSettings = RoutingSettings()
    ) -> FakeCluster {
        let cluster = FakeCluster(settings: settings)
        cluster.add(registration("p1", .prefill, incarnation: 1))
        for index in 1...UInt64(decodes) {
            cluster.add(registration("d\(index)", .decode, incarnation: 100 + index, slots: slots))
        }
        return cluster
    }

    private let prefill = Incarnation(1)
    private let decode = Incarnation(101)

    private func failure(_ ending: RunEnding?) -> APIError? {
        guard case .failure(let error)? = ending?.result else { return nil }
        return error
    }

    @Test func whatIsRefusedForEverTimesOut() throws {
        var settings = RoutingSettings()
        settings.queueTimeout = .seconds(1)
        let cluster = cluster(settings: settings)
        cluster.refusing = [decode: .busy]
        let run = try cluster.submit()[0]
        cluster.advance(.milliseconds(900))
        #expect(cluster.endings[run] == nil)
        cluster.advance(.milliseconds(200))
        #expect(failure(cluster.endings[run])?.code == "queue_timeout")
        #expect(cluster.isIdle)
    }

    @Test func aPrefillThatHangsIsGivenUp() throws {
        var settings = RoutingSettings()
        settings.progressTimeout = .seconds(2)
        settings.progressTimePerToken = .milliseconds(10)
        let cluster = cluster(settings: settings)
        cluster.stuckPrefills = [prefill]
        let run = try cluster.submit(tokens: 100)[0]
        cluster.advance(.milliseconds(2900))
        #expect(cluster.retries.isEmpty)
        cluster.stuckPrefills = []
        cluster.advance(.milliseconds(300))
        #expect(cluster.retries.count == 1)
        #expect(cluster.tokens[run] == FakeCluster.completion(tokens: 100))
    }

    @Test func aSequenceThatHangsIsResumed() throws {
        var settings = RoutingSettings()
        settings.progressTimeout = .seconds(2)
        settings.progressTimePerToken = .milliseconds(10)
        let cluster = cluster(settings: settings)
        cluster.tokensBeforeSilence = 2
        let run = try cluster.submit()[0]
        cluster.advance(.seconds(2))
        #expect(cluster.retries.isEmpty)
        cluster.tokensBeforeSilence = nil
        cluster.advance(.seconds(1))
        #expect(cluster.retries.count == 1)
        #expect(cluster.tokens[run] == FakeCluster.completion())
    }

    @Test func aSequenceMayWaitForOthersOnItsNode() throws {
        var settings = RoutingSettings()
        settings.progressTimeout = .seconds(2)
        settings.progressTimePerToken = .zero
        let cluster = cluster(settings: settings)
        cluster.tokensBeforeSilence = 1
        _ = try cluster.submit()
        let other = try cluster.submit(max: 1000)[0]
        let handoff = try #require(cluster.reservations.keys.first { $0.request == other })
        for index in 1...5 {
            cluster.advance(.seconds(1))
            let more = TokenRun(handoff: handoff, firstIndex: index, tokens: [1])
            cluster.say(.tokens(TokenBatch(runs: [more], sent: .zero)), decode)
        }
        #expect(cluster.retries.isEmpty)
        cluster.tokensBeforeSilence = nil
        cluster.advance(.seconds(6))
        #expect(cluster.retries.count == 2)
    }

    @Test func anEndThatMissesTokensIsAFailure() throws {
        let cluster = cluster()
        cluster.tokensBeforeSilence = 2
        let run = try cluster.submit()[0]
        let handoff = try #require(cluster.reservations.keys.first)
        cluster.tokensBeforeSilence = nil
        let report = FinishReport(
            handoff: handoff, reason: .stopToken(1), tokens: 3, firstStep: .zero, decode: .zero, preemptions: 0)
        cluster.say(.finished(report), decode)
        cluster.advance(.milliseconds(100))
        #expect(cluster.retries == [handoff])
        #expect(cluster.tokens[run] == FakeCluster.completion())
        #expect(cluster.isIdle)
    }

    @Test func aShrunkenClusterDoesNotCutASequenceShort() throws {
        var settings = RoutingSettings()
        settings.queueTimeout = .seconds(2)
        let cluster = cluster(settings: settings)
        cluster.tokensBeforeSilence = 2
        let run = try cluster.submit(tokens: 60)[0]
        // What is left holds 32 tokens.
        cluster.add(registration("d2", .decode, incarnation: 102, slots: 2))
        cluster.lose(decode)
        cluster.tokensBeforeSilence = nil
        cluster.advance(.seconds(1))
        #expect(cluster.endings[run] == nil)
        cluster.add(registration("d3", .decode, incarnation: 103))
        cluster.advance(.milliseconds(50))
        #expect(cluster.tokens[run] == FakeCluster.completion(tokens: 60))
    }

    @Test func onlyThePairOfAnAttemptSpeaksForIt() throws {
        let cluster = cluster(decodes: 2)
        cluster.stuckPrefills = [prefill]
        let run = try cluster.submit()[0]
        let handoff = try #require(cluster.reservations.keys.first)
        let mine = try #require(cluster.placements[handoff]?.pair.decode)
        let other = mine == decode ? Incarnation(102) : decode
        let forged = TokenRun(handoff: handoff, firstIndex: 0, tokens: [1])
        cluster.say(.tokens(TokenBatch(runs: [forged], sent: .zero)), other)
        cluster.say(.sealed(handoff, sealTime: .zero), other)
        let report = WriteReport(
            handoff: handoff, cachedTokens: 3, queue: .zero, compute: .zero, transfer: .zero, bytes: 0)
        cluster.say(.written(report), other)
        #expect(cluster.tokens[run] == nil)
        #expect(cluster.placements[handoff]?.holdsLane == true)
        #expect(cluster.placements[handoff]?.prefillTokens == 20)
        cluster.written(handoff, prefill: prefill, decode: mine)
        cluster.settle()
        #expect(cluster.tokens[run] == FakeCluster.completion())
    }

    @Test func cachedTokensAreAtMostThePrompt() throws {
        let cluster = cluster()
        let run = try cluster.submit(tokens: 2)[0]
        #expect(cluster.endings[run]?.times.cachedTokens == 2)
    }

    @Test func whatFindsTheQueueFullIsNeverSent() throws {
        var settings = RoutingSettings()
        settings.queueLimit = 1
        let cluster = cluster(settings: settings)
        cluster.refusing = [decode: .busy]
        _ = try cluster.submit()
        cluster.advance(.milliseconds(10))
        cluster.core.nodes.update(decode) { $0.quietUntil = .zero }
        let before = cluster.sent.count
        #expect(throws: APIError.self) { try cluster.submit() }
        #expect(cluster.sent.count == before)
    }

    @Test func everyStateIsReported() {
        let cluster = cluster()
        let states = cluster.core.handoffStates
        #expect(states.contains { $0.0 == "decoding" })
        #expect(states.allSatisfy { $0.1 == 0 })
    }

    @Test func compatibilitiesOfNodesThatLeftAreForgotten() {
        var nodes = NodeTable()
        for index in 1...50 as ClosedRange<UInt64> {
            nodes.add(registration("p", .prefill, incarnation: index, kvType: "t\(index)"), now: .zero)
            nodes.add(registration("d", .decode, incarnation: 100 + index, kvType: "t\(index)"), now: .zero)
            #expect(nodes.sequenceLimit == 1024)
            nodes.remove(Incarnation(index))
            nodes.remove(Incarnation(100 + index))
            #expect(nodes.groupCount == 0)
        }
    }
}
