import API
import Handoff
import Messages
import Testing

@testable import Cores

/// Pairs that can not work are known as such, with the reason, and nobody waits for them.
@Suite struct UnusablePairTests {
    private let prefill = Incarnation(1)
    private let decode = Incarnation(101)

    private func cluster() -> FakeCluster {
        let cluster = FakeCluster()
        cluster.add(registration("p1", .prefill, incarnation: 1))
        cluster.add(registration("d1", .decode, incarnation: 101))
        return cluster
    }

    private func lanes(idle: Int, error: String = "") -> NodeMessage {
        .lanes([PeerLanes(decode: decode, idle: idle, busy: 0, transport: "tcp", error: error)])
    }

    @Test func lanesThatCannotBeDialledMakeAPairUnusable() throws {
        let cluster = cluster()
        cluster.say(lanes(idle: 0, error: "connection refused"), prefill)
        // It may only be starting: those that come now wait.
        let waiting = try cluster.submit()[0]
        #expect(cluster.endings[waiting] == nil)
        cluster.advance(.seconds(6))
        let problem = cluster.core.nodes.problem(prefill: prefill, decode: decode)
        #expect(problem?.contains("connection refused") == true)
        let error = #expect(throws: APIError.self) { try cluster.submit() }
        #expect(error?.status == 503)
        #expect(error?.message.contains("connection refused") == true)
        #expect(cluster.unreadyReason?.contains("connection refused") == true)
        // As soon as a lane is there, it is a pair like any other.
        cluster.say(lanes(idle: 4), prefill)
        #expect(cluster.core.nodes.problem(prefill: prefill, decode: decode) == nil)
        #expect(cluster.tokens[waiting] == FakeCluster.completion())
    }

    @Test func aPairThatIsReachedAgainAndAgainStaysOne() throws {
        let cluster = cluster()
        for _ in 0..<4 {
            cluster.say(lanes(idle: 0, error: "reset"), prefill)
            cluster.advance(.seconds(4))
            cluster.say(lanes(idle: 1), prefill)
        }
        #expect(cluster.core.nodes.problem(prefill: prefill, decode: decode) == nil)
    }

    @Test func drainedNodesAreNamed() throws {
        let cluster = cluster()
        cluster.core.drain(decode, now: cluster.now)
        let error = #expect(throws: APIError.self) { try cluster.submit() }
        #expect(error?.status == 503)
        #expect(error?.message.contains("d1 is draining") == true)
    }

    @Test func requestsWaitForNodesOfARouterThatHasJustStarted() throws {
        let cluster = FakeCluster()
        cluster.now = .milliseconds(100)
        let run = try cluster.submit()[0]
        cluster.advance(.seconds(1))
        cluster.add(registration("p1", .prefill, incarnation: 1))
        cluster.add(registration("d1", .decode, incarnation: 101))
        cluster.advance(.milliseconds(100))
        #expect(cluster.tokens[run] == FakeCluster.completion())
    }

    @Test func nobodyWaitsLongForNodesThatDoNotCome() throws {
        let cluster = FakeCluster()
        let run = try cluster.submit()[0]
        cluster.advance(.milliseconds(3100))
        guard case .failure(let error)? = cluster.endings[run]?.result else {
            Issue.record("it still waits")
            return
        }
        #expect(error.status == 503)
        #expect(error.code == "no_nodes")
        #expect(throws: APIError.self) { try cluster.submit() }
    }
}
