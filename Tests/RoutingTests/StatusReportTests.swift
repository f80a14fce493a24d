import ControlPlane
import Cores
import Handoff
import Messages
import OrderedJSON
import Testing

@testable import Routing

/// What scripts read of a node's contract: docs/operating.md has the shape.
@Suite struct StatusReportTests {
    @Test func aNodeShowsWhatTheContractDid() throws {
        var core = RoutingCore(incarnation: Incarnation(7), settings: RoutingSettings())
        core.joined(registration("d1", .decode, incarnation: 101, slots: 64), now: .zero)
        var load = NodeLoad()
        load.slots = SlotCounts(free: 40, inUse: 10, granted: 5, quarantined: 3, cached: 4)
        load.digestMismatches = 6
        load.contract.scrubMismatches = 2
        load.contract.sendMismatches = 1
        load.contract.proofsDrained = 7
        load.contract.peerFaults = 8
        load.contract.reclaims = 9
        load.contract.reclaimMedian = .microseconds(1500)
        load.contract.reclaimP99 = .milliseconds(20)
        core.received(.heartbeat(load), from: Incarnation(101), now: .zero)
        let status = core.statusReport(model: "m", version: "v", now: .zero)
        let node = try #require(status["nodes"]?[0])
        #expect(node["pages"]?["quarantined"] == 3)
        #expect(node["pages"]?["lost"] == 2)
        let contract = try #require(node["contract"])
        #expect(contract["digest_mismatches"] == ["seal": 3, "scrub": 2, "send": 1])
        #expect(contract["proofs"] == ["write_complete": 0, "drained": 7, "fenced": 0])
        #expect(contract["events"]?["peer_fault"] == 8)
        #expect(contract["reclaim_ms"] == ["count": 9, "p50": 1.5, "p99": 20.0, "max": 0.0])
    }
}
