import API
import Handoff
import Messages
import Testing

@testable import Cores

/// Engines that stop while their nodes go on: heartbeats and answers to the router's own questions are no progress.
@Suite struct HungEngineTests {
    private let prefill = Incarnation(1)
    private let decode = Incarnation(101)
    private let other = Incarnation(102)

    private func cluster(_ settings: RoutingSettings = RoutingSettings(), decodes: Int = 1) -> FakeCluster {
        let cluster = FakeCluster(settings: settings)
        cluster.add(registration("p1", .prefill, incarnation: 1))
        for index in 1...UInt64(decodes) {
            cluster.add(registration("d\(index)", .decode, incarnation: 100 + index))
        }
        return cluster
    }

    /// Heartbeats of a node whose engine stands still, twice a second.
    private func stall(_ cluster: FakeCluster, _ node: Incarnation, for time: Duration, since: Duration = .zero) {
        var load = NodeLoad()
        var stalled = since
        while stalled < since + time {
            stalled += .milliseconds(500)
            cluster.advance(.milliseconds(500))
            load.engineStalled = stalled
            cluster.say(.heartbeat(load), node)
        }
    }

    @Test func anAnswerToOurOwnQuestionIsNoProgress() throws {
        var settings = RoutingSettings()
        settings.progressTimeout = .seconds(20)
        settings.progressTimePerToken = .zero
        let cluster = cluster(settings)
        cluster.tokensBeforeSilence = 0
        let run = try cluster.submit()[0]
        // The ledger asks every five seconds, and the node says Sealed again.
        cluster.advance(.seconds(19))
        #expect(cluster.count(to: decode) { if case .query = $0 { true } else { false } } >= 3)
        #expect(cluster.retries.isEmpty)
        cluster.tokensBeforeSilence = nil
        cluster.advance(.seconds(2))
        #expect(cluster.retries.count == 1)
        #expect(cluster.tokens[run] == FakeCluster.completion())
    }

    @Test func aRepeatedSealedChangesNoTimes() throws {
        let cluster = cluster()
        cluster.tokensBeforeSilence = 0
        let run = try cluster.submit()[0]
        let handoff = try #require(cluster.reservations.keys.first)
        let sealed = try #require(cluster.core.runs[run]?.request.times.sealed)
        cluster.advance(.seconds(3))
        cluster.say(.sealed(handoff, sealTime: .seconds(3)), decode)
        #expect(cluster.core.runs[run]?.request.times.sealed == sealed)
        #expect(cluster.core.runs[run]?.request.times.sealing == .microseconds(5))
    }

    @Test func aStalledDecodeEngineLosesItsRequestsToAnotherNode() throws {
        let cluster = cluster(decodes: 2)
        cluster.tokensBeforeSilence = 2
        let run = try cluster.submit()[0]
        let first = try #require(cluster.placements.values.first?.pair.decode)
        cluster.tokensBeforeSilence = nil
        stall(cluster, first, for: .milliseconds(4500))
        #expect(cluster.retries.isEmpty)
        stall(cluster, first, for: .seconds(1), since: .milliseconds(4500))
        cluster.advance(.milliseconds(100))
        #expect(cluster.retries.count == 1)
        #expect(cluster.tokens[run] == FakeCluster.completion())
        // It gets nothing until its engine moves again.
        let reserved = { cluster.count(to: first) { if case .reserve = $0 { true } else { false } } }
        let before = reserved()
        for _ in 0..<4 { try cluster.submit() }
        #expect(reserved() == before)
        #expect(cluster.nodes[first]?.isStalled == true)
        cluster.say(.heartbeat(NodeLoad()), first)
        #expect(cluster.nodes[first]?.isStalled == false)
    }

    @Test func aStalledPrefillEngineLosesItsPrompts() throws {
        let cluster = cluster()
        cluster.stuckPrefills = [prefill]
        let run = try cluster.submit()[0]
        cluster.add(registration("p2", .prefill, incarnation: 2))
        stall(cluster, prefill, for: .milliseconds(5500))
        cluster.advance(.milliseconds(100))
        #expect(cluster.retries.count == 1)
        #expect(cluster.tokens[run] == FakeCluster.completion())
    }

    @Test func whatIsWrittenAlreadySurvivesItsPrefillNode() throws {
        let cluster = cluster()
        cluster.tokensBeforeSilence = 1
        _ = try cluster.submit()
        stall(cluster, prefill, for: .milliseconds(5500))
        #expect(cluster.retries.isEmpty)
    }

    @Test func whereAllStandStillRequestsAreToldSo() throws {
        let cluster = cluster()
        stall(cluster, decode, for: .milliseconds(5500))
        let error = #expect(throws: APIError.self) { try cluster.submit() }
        #expect(error?.status == 503)
        #expect(error?.message.contains("d1") == true)
        #expect(cluster.unreadyReason?.contains("d1") == true)
    }
}
