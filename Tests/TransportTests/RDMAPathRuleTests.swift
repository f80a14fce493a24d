import Testing

@testable import Transport

/// When lanes that end speak against RDMA, and when they do not.
@Suite struct RDMAPathRuleTests {
    @Test func lanesOfHandoffsThatWereCalledOffSayNothing() {
        var path = RDMAPath(LanePool.Configuration())
        for _ in 0..<100 { path.laneEnded(LaneCloseReason(.peerClosed), isProven: true) }
        #expect(path.isOpen)
        #expect(path.error == nil)
    }

    @Test func lanesThatCarryNothingDo() {
        let settings = LanePool.Configuration()
        var path = RDMAPath(settings)
        for _ in 1..<settings.rdmaUnprovenMax { path.laneEnded(LaneCloseReason(.peerClosed), isProven: false) }
        #expect(path.isOpen)
        path.laneEnded(LaneCloseReason(.peerClosed), isProven: false)
        #expect(!path.isOpen)
    }
}
