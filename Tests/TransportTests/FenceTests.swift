import Glibc
import Handoff
import Testing
import Threads

@testable import Transport

extension Lanes {
    @Suite struct FenceTests {
        /// A sender that never stops, fenced at random moments. From the moment the lane says that it is closed the
        /// pages belong to somebody else, and must not change again.
        @Test(arguments: LaneCarrier.all) func pagesDoNotChangeAfterAFence(over carrier: LaneCarrier) throws {
            let lanes = try LaneHarness(slots: 64, over: carrier.transport, windows: carrier.windows)
            defer { lanes.shutdown() }
            lanes.pool.setPeers([lanes.peer])
            var random = SystemRandomNumberGenerator()
            var interrupted = 0
            var changed = 0
            var rounds = 0
            var (time, last) = try lanes.undisturbedWrite(slots: 0..<64)
            // More where the machine's pace hides the moment.
            while rounds < 300 || (interrupted <= 10 && rounds < 1000) {
                rounds += 1
                let key = try #require(lanes.openLane(after: last))
                last = key.lane
                for slot in 0..<64 { lanes.target.fill(slot, with: 0xFF) }
                let grant = terms(key.lane, slots: 0..<64, generation: UInt32(rounds))
                #expect(lanes.listener.bind(grant))
                for layer in 0..<testShape.layerCount {
                    lanes.pool.post(key, batch(grant, layers: layer..<layer + 1))
                }
                // The fence comes at a random moment of the write.
                usleep(UInt32.random(in: 0...time, using: &random))
                lanes.listener.fence(key.lane)
                _ = try #require(lanes.waitForClose(key.lane))
                interrupted += lanes.isInTheMiddle(of: 63) ? 1 : 0
                let mark = UInt8(rounds & 0x7F)
                for slot in 0..<64 { lanes.target.fill(slot, with: mark) }
                // Time for a late write to show itself.
                usleep(500)
                for slot in 0..<64 where !lanes.target.isFilled(slot, with: mark) { changed += 1 }
            }
            #expect(changed == 0)
            #expect(interrupted > 10, "of \(rounds) fences that many met a write, which takes \(time) µs")
            #expect(lanes.listener.tally.total.fences == rounds + 3)
        }

        /// The fence needs nothing of the peer: it may be silent in the middle of a record.
        @Test func aSilentPeerIsFencedAtOnce() throws {
            let lanes = try LaneHarness()
            defer { lanes.shutdown() }
            for round in 0..<20 {
                let peer = try RawPeer(port: lanes.listener.port)
                let grant = terms(peer.lane, slots: 0..<1)
                #expect(lanes.listener.bind(grant))
                let range = WireRange(page: 0, slot: grant.slots[0], offset: 0, length: UInt32(testShape.pageBytes))
                let header = FrameHeader(.data, count: 1, handoff: grant.handoff, epoch: grant.epoch, sequence: 1)
                peer.sendHeader(header, ranges: [range])
                lanes.target.fill(0, with: 0)
                peer.send([UInt8](repeating: 7, count: 100 + round))
                // Time for some of it to land.
                usleep(200)
                lanes.listener.fence(peer.lane)
                let end = try #require(lanes.waitForClose(peer.lane))
                #expect(end.reason.kind == .fenced && end.fence != nil)
                lanes.target.fill(0, with: 9)
                peer.send([UInt8](repeating: 7, count: 4000))
                // Time for a late write to show itself.
                usleep(200)
                #expect(lanes.target.isFilled(0, with: 9))
            }
            #expect(lanes.listener.tally.total.fences == 20)
        }

        /// A peer that floods, and never reads what it is told.
        @Test func aFloodingPeerIsFenced() throws {
            let lanes = try LaneHarness(slots: 64)
            defer { lanes.shutdown() }
            let peer = try RawPeer(port: lanes.listener.port)
            let grant = terms(peer.lane, slots: 0..<64)
            #expect(lanes.listener.bind(grant))
            let ranges = grant.slots.indices.map { page in
                WireRange(page: UInt32(page), slot: grant.slots[page], offset: 0, length: UInt32(testShape.pageBytes))
            }
            peer.sendHeader(
                FrameHeader(.data, count: 64, handoff: grant.handoff, epoch: grant.epoch, sequence: 1), ranges: ranges)
            let flood = ThreadGroup()
            let socket = peer.socket
            try flood.start("flood") {
                let bytes = [UInt8](repeating: 7, count: 1 << 20)
                bytes.withUnsafeBytes { bytes in
                    while (try? socket.write(bytes, until: .after(.seconds(5)))) != nil {}
                }
            }
            lanes.listener.fence(peer.lane)
            _ = try #require(lanes.waitForClose(peer.lane))
            for slot in 0..<64 { lanes.target.fill(slot, with: 9) }
            flood.waitForAll()
            for slot in 0..<64 { #expect(lanes.target.isFilled(slot, with: 9)) }
        }
    }
}
