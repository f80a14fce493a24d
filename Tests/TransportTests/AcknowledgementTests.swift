import Glibc
import Handoff
import Testing
import Threads

@testable import Transport

extension Lanes {
    /// A whole and verified handoff is the decode node's, whether or not the prefill node can be told.
    @Suite struct AcknowledgementTests {
        /// Bytes that came for the peer and that it has not read.
        private func unread(_ socket: Socket) -> Int {
            var count: CInt = 0
            _ = ioctl(socket.descriptor, UInt(FIONREAD), &count)
            return Int(count)
        }

        @Test func theNodeIsToldBeforeThePeer() throws {
            let slab = TestSlab(slots: 4)
            let toldWith = Monitor<Int?>(nil)
            let descriptor = Monitor<CInt>(-1)
            var configuration = LaneListener.Configuration(host: "127.0.0.1", port: 0)
            configuration.rdma = .off
            let listener = try LaneListener(
                configuration: configuration, slab: slab.region, incarnation: decodeNode
            ) { event in
                guard case .completion = event else { return }
                var count: CInt = 0
                _ = ioctl(descriptor.withLock { $0 }, UInt(FIONREAD), &count)
                toldWith.update { $0 = Int(count) }
            }
            defer { listener.shutdown() }
            let peer = try RawPeer(port: listener.port)
            descriptor.update { $0 = peer.socket.descriptor }
            let grant = terms(peer.lane, slots: 0..<1)
            #expect(listener.bind(grant))
            let range = WireRange(page: 0, slot: grant.slots[0], offset: 0, length: UInt32(testShape.pageBytes))
            peer.sendHeader(
                FrameHeader(.data, count: 1, handoff: grant.handoff, epoch: grant.epoch, sequence: 1), ranges: [range])
            peer.send([UInt8](repeating: 7, count: testShape.pageBytes))
            wait("the record to be acknowledged") { unread(peer.socket) == LaneWire.headerBytes }
            peer.sendHeader(
                FrameHeader(.completion, count: 1, handoff: grant.handoff, epoch: grant.epoch, sequence: 2),
                pages: [CompletionLayout.Page(grant.slots[0], claiming: 0)])
            let unreadThen = toldWith.wait(until: .after(.seconds(20))) { $0 }
            #expect(unreadThen == LaneWire.headerBytes)
            wait("the completion record to be acknowledged") { unread(peer.socket) == 2 * LaneWire.headerBytes }
        }

        @Test func aLaneDoesNotRetireUnderAHandoffThatIsWhole() throws {
            let gate = LaneGate(seesWrites: false)
            let grant = terms(LaneID(1), slots: 0..<2)
            #expect(gate.bind(grant))
            let record = CompletionRecord(
                handoff: grant.handoff, part: 0, epoch: grant.epoch,
                pages: grant.slots.map { SealedPage(slot: $0, digest: 0) })
            try gate.complete(record, expected: [], reading: [], shape: testShape)
            #expect(!gate.retire())
            gate.told()
            #expect(gate.retire())
        }
    }
}
