import Glibc
import Handoff
import Testing

@testable import Transport

extension Lanes {
    /// Run where there is a device: `make test-rdma`.
    @Suite(.enabled(if: LaneCarrier.hasRDMA)) struct RDMATests {
        /// A sender that never stops, and a grant that ends at random moments while the lane lives on. What is written
        /// after that meets no window.
        @Test func pagesDoNotChangeAfterTheirWindowsEnd() throws {
            let lanes = try LaneHarness(slots: 64, over: .rdma, windows: .on)
            defer { lanes.shutdown() }
            lanes.pool.setPeers([lanes.peer])
            var random = SystemRandomNumberGenerator()
            var (interrupted, changed, refused, loud) = (0, 0, 0, 0)
            var rounds = 0
            var (time, last) = try lanes.undisturbedWrite(slots: 0..<64)
            // More where the machine's pace hides the moment.
            while rounds < 200 || ((interrupted <= 10 || refused <= 10) && rounds < 600) {
                rounds += 1
                let key = try #require(lanes.openLane(after: last))
                for slot in 0..<64 { lanes.target.fill(slot, with: 0xFF) }
                let grant = terms(key.lane, epoch: 1, slots: 0..<64, generation: UInt32(rounds))
                #expect(lanes.listener.bind(grant))
                for layer in 0..<testShape.layerCount {
                    lanes.pool.post(key, batch(grant, layers: layer..<layer + 1))
                }
                // The grant ends at a random moment of the write.
                usleep(UInt32.random(in: 0...time, using: &random))
                guard lanes.listener.unbind(key.lane, grant.epoch) == .quiet else {
                    // The adapter did not get to it in time: a fence it is.
                    loud += 1
                    lanes.listener.fence(key.lane)
                    _ = try #require(lanes.waitForClose(key.lane))
                    last = key.lane
                    continue
                }
                interrupted += lanes.isInTheMiddle(of: 63) ? 1 : 0
                let mark = UInt8(rounds & 0x7F)
                for slot in 0..<64 { lanes.target.fill(slot, with: mark) }
                // Time for a late write to show itself.
                usleep(1000)
                for slot in 0..<64 where !lanes.target.isFilled(slot, with: mark) { changed += 1 }
                let end = lanes.sent.first(within: .milliseconds(20) + .microseconds(4 * Int(time))) {
                    if case .closed(key, let reason) = $0 { reason } else { nil }
                }
                if end?.kind == .staleWrite { refused += 1 }
                lanes.listener.fence(key.lane)
                _ = try #require(lanes.waitForClose(key.lane))
                last = key.lane
            }
            #expect(changed == 0)
            let found: Comment = "\(rounds) grants, writes of \(time) µs: \(interrupted) ended in one, \(loud) late"
            #expect(loud < rounds / 10, found)
            #expect(interrupted > 10, found)
            #expect(refused > 10, found)
        }

        /// Without windows a peer can write for as long as its lane lives: only a fence ends that.
        @Test func withoutWindowsAnOpenGrantIsNotQuiet() throws {
            let lanes = try LaneHarness(over: .rdma, windows: .off)
            defer { lanes.shutdown() }
            let key = try lanes.connect()
            let grant = terms(key.lane, slots: 0..<4)
            #expect(lanes.listener.bind(grant))
            #expect(lanes.listener.unbind(key.lane, grant.epoch) == .unknown)
            lanes.listener.fence(key.lane)
            #expect(lanes.waitForClose(key.lane)?.reason.kind == .fenced)
        }

        /// More requests than a queue holds, to slots that do not lie side by side: one request and one window each.
        @Test(arguments: [RDMAWindows.off, .on]) func moreThanAQueueHolds(windows: RDMAWindows) throws {
            let lanes = try LaneHarness(slots: 1200, over: .rdma, windows: windows)
            defer { lanes.shutdown() }
            let key = try lanes.connect()
            let slots = (0..<600).map { SlotRef(index: UInt32(1199 - 2 * $0), generation: Generation(1)) }
            let grant = PartTerms(
                handoff: HandoffID(router: Incarnation(1), request: 1, attempt: 1), decode: decodeNode,
                lane: key.lane, epoch: LaneEpoch(1), slots: slots, layers: testShape.layerCount)
            #expect(lanes.listener.bind(grant))
            var posted = 0
            for first in stride(from: 0, to: 600, by: 30) {
                let batch = batch(grant, layers: 0..<testShape.layerCount, pages: first..<first + 30)
                lanes.pool.post(key, batch)
                posted += 1
                // No more than may wait in the lane.
                let number = posted
                _ = lanes.sent.first {
                    if case .acknowledged(_, _, _, number) = $0 { true } else { nil }
                }
            }
            #expect(lanes.pool.postCompletion(key, grant))
            let record = try #require(
                lanes.received.first {
                    if case .completion(key.lane, grant.epoch, let record) = $0 { record } else { nil }
                })
            let verdict = lanes.listener.verifyDigests(
                lane: key.lane, epoch: grant.epoch, expected: record.pages.map(\.digest))
            #expect(verdict.allowsSeal)
            for page in [0, 1, 299, 599] {
                #expect(lanes.target.page(Int(slots[page].index)).elementsEqual(lanes.source.page(page)))
            }
            #expect(lanes.target.isFilled(0, with: 0))
        }

        @Test func aStrangerIsRefusedWithTheReason() throws {
            let lanes = try LaneHarness(over: .rdma)
            defer { lanes.shutdown() }
            let peer = LanePeer(
                decode: Incarnation(0xBAD), address: "127.0.0.1:1", name: "stranger",
                rdmaAddresses: lanes.listener.rdmaAddresses)
            lanes.pool.setPeers([peer])
            wait("an attempt", within: .seconds(10)) {
                lanes.listener.tally.total.refused[.wrongDecodeNode] ?? 0 > 0
            }
            wait("its answer", within: .seconds(10)) { lanes.pool.snapshot().first?.reason != nil }
            #expect(lanes.pool.snapshot().first?.reason?.contains("another decode node") == true)
        }

        /// Where RDMA does not get through, lanes are TCP, and somebody is told why.
        @Test func unreachableOverRDMAIsReachedOverTCP() throws {
            let lanes = try LaneHarness(over: .rdma)
            defer { lanes.shutdown() }
            let peer = LanePeer(
                decode: decodeNode, address: lanes.address, name: "decode", rdmaAddresses: ["10.9.0.1:9"])
            lanes.pool.setPeers([peer])
            _ = try #require(lanes.openLane())
            let state = try #require(lanes.pool.snapshot().first)
            #expect(state.transport == "tcp")
            #expect(state.reason?.contains("10.9.0.1:9") == true)
        }
    }
}
