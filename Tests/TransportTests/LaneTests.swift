import Glibc
import Handoff
import Testing
import Threads

@testable import Transport

extension Lanes {
    @Suite struct LaneTests {
        @Test(arguments: LaneCarrier.all) func bulkTransferWithDigests(over carrier: LaneCarrier) throws {
            let lanes = try LaneHarness(slots: 100, over: carrier.transport, windows: carrier.windows)
            defer { lanes.shutdown() }
            let key = try lanes.connect()
            let grant = terms(key.lane, slots: 20..<80)
            #expect(lanes.listener.bind(grant))
            for layer in 0..<testShape.layerCount {
                #expect(lanes.pool.post(key, batch(grant, layers: layer..<layer + 1)))
            }
            #expect(lanes.pool.postCompletion(key, grant))
            let record = try #require(
                lanes.received.first {
                    if case .completion(key.lane, grant.epoch, let record) = $0 { record } else { nil }
                })
            #expect(record.pages.map(\.slot) == grant.slots)
            let expected = (0..<60).map { page in
                PageDigest.of(
                    page: UnsafeRawPointer(lanes.target.region.base + (20 + page) * testShape.pageBytes),
                    shape: testShape)
            }
            #expect(record.pages.map(\.digest) == expected.map(\.value))
            let verdict = lanes.listener.verifyDigests(
                lane: key.lane, epoch: grant.epoch, expected: record.pages.map(\.digest))
            #expect(verdict == .matching(expected))
            for page in 0..<60 { #expect(lanes.target.page(20 + page).elementsEqual(lanes.source.page(page))) }
            #expect(lanes.target.isFilled(19, with: 0) && lanes.target.isFilled(80, with: 0))
            let done = lanes.sent.first {
                if case .completionAcknowledged(key, grant.handoff, grant.epoch) = $0 { true } else { nil }
            }
            #expect(done == true)
            let landed = lanes.sent.all.compactMap {
                if case .acknowledged(_, _, _, let records) = $0 { records } else { nil }
            }
            #expect(landed == [1, 2, 3, 4])
            #expect(lanes.listener.tally.total.bytes == 60 * testShape.pageBytes)
        }

        @Test(arguments: LaneCarrier.all) func aLaneServesOneHandoffAfterTheOther(over carrier: LaneCarrier) throws {
            let lanes = try LaneHarness(over: carrier.transport, windows: carrier.windows)
            defer { lanes.shutdown() }
            let key = try lanes.connect()
            for epoch in 1...20 as ClosedRange<UInt32> {
                lanes.source.fillWithPattern(UInt64(epoch))
                let grant = terms(key.lane, epoch: epoch, slots: 4..<8, generation: epoch, request: UInt64(epoch))
                #expect(lanes.listener.bind(grant))
                lanes.pool.post(key, batch(grant, layers: 0..<testShape.layerCount))
                lanes.pool.postCompletion(key, grant)
                let record = lanes.received.first {
                    if case .completion(_, grant.epoch, let record) = $0 { record } else { nil }
                }
                let digests = try #require(record).pages.map(\.digest)
                let verdict = lanes.listener.verifyDigests(lane: key.lane, epoch: grant.epoch, expected: digests)
                #expect(verdict.allowsSeal)
                #expect(lanes.target.page(5).elementsEqual(lanes.source.page(1)))
            }
            #expect(lanes.listener.tally.total.staleWritesRejected == 0)
        }

        @Test func unbindSaysWhetherARecordIsLanding() throws {
            let lanes = try LaneHarness()
            defer { lanes.shutdown() }
            let peer = try RawPeer(port: lanes.listener.port)
            let grant = terms(peer.lane, slots: 0..<1)
            #expect(lanes.listener.bind(grant))
            let range = WireRange(page: 0, slot: grant.slots[0], offset: 0, length: UInt32(testShape.pageBytes))
            peer.sendHeader(
                FrameHeader(.data, count: 1, handoff: grant.handoff, epoch: grant.epoch, sequence: 1), ranges: [range])
            peer.send([UInt8](repeating: 7, count: 1000))
            while lanes.target.page(0)[999] != 7 {}
            #expect(lanes.listener.unbind(peer.lane, grant.epoch) == .writing)
            lanes.listener.fence(peer.lane)
            #expect(lanes.waitForClose(peer.lane)?.reason.kind == .fenced)
            #expect(lanes.listener.unbind(peer.lane, grant.epoch) == .quiet)
            #expect(!lanes.listener.bind(terms(peer.lane, epoch: 9, slots: 0..<1)))
        }

        @Test func anUnbindForbidsTheBindItOvertook() throws {
            let lanes = try LaneHarness()
            defer { lanes.shutdown() }
            let key = try lanes.connect()
            #expect(lanes.listener.unbind(key.lane, LaneEpoch(3)) == .quiet)
            #expect(!lanes.listener.bind(terms(key.lane, epoch: 3, slots: 0..<1)))
            #expect(lanes.listener.bind(terms(key.lane, epoch: 4, slots: 0..<1)))
        }

        @Test func reconnectsAndSaysWhyNot() throws {
            let lanes = try LaneHarness(lanes: 2)
            defer { lanes.shutdown() }
            let key = try lanes.connect()
            lanes.pool.close(key)
            let closed = lanes.sent.first { if case .closed(key, let reason) = $0 { reason } else { nil } }
            #expect(closed?.kind == .fenced)
            let another = lanes.sent.all.count
            let reopened = lanes.sent.first { event in
                if case .opened(let other) = event, other.lane.value > 2 { true } else { nil }
            }
            #expect(reopened == true && another > 0)
            let stranger = LanePeer(decode: Incarnation(0xBAD), address: lanes.address, name: "stranger")
            lanes.pool.setPeers([stranger])
            let start = Instant.now
            while lanes.pool.snapshot().first?.lastError == nil, Instant.now - start < .seconds(10) {
                // Counters tell nobody when they change.
                usleep(1000)
            }
            let state = try #require(lanes.pool.snapshot().first)
            #expect(state.connected == 0)
            #expect(state.lastError?.contains("another decode node") == true)
        }

        @Test func aPeerThatComesAndGoesKeepsItsNumberOfLanes() throws {
            let lanes = try LaneHarness(lanes: 2)
            defer { lanes.shutdown() }
            let peer = LanePeer(decode: decodeNode, address: lanes.address, name: "decode")
            for _ in 0..<30 {
                lanes.pool.setPeers([peer])
                lanes.pool.setPeers([])
            }
            lanes.pool.setPeers([peer])
            // Connections that were given up on the way are accepted too, and closed.
            var steady = 0
            wait("two lanes on both sides, for a while") {
                let areTwo = lanes.listener.lanes.count == 2 && lanes.pool.snapshot().first?.connected == 2
                steady = areTwo ? steady + 1 : 0
                return steady >= 20
            }
        }

        @Test func addressesAndPortsInUse() throws {
            let lanes = try LaneHarness()
            defer { lanes.shutdown() }
            let taken = LaneListener.Configuration(host: "127.0.0.1", port: lanes.listener.port)
            let inUse = #expect(throws: TransportError.self) {
                try LaneListener(configuration: taken, slab: lanes.target.region, incarnation: decodeNode) { _ in }
            }
            #expect(inUse?.kind == .inUse)
            #expect(inUse?.message.contains("127.0.0.1:\(lanes.listener.port)") == true)
            for text in ["", "host", "host:", "host:99999", "::1:80", "[::1]", ":80"] {
                let error = #expect(throws: TransportError.self) { try Endpoint(text) }
                #expect(error?.kind == .badAddress)
            }
            #expect(try Endpoint("[::1]:80") == Endpoint(host: "::1", port: 80))
            let unknown = #expect(throws: TransportError.self) {
                try Endpoint(host: "no-such-host.invalid", port: 1).resolve(passive: false)
            }
            #expect(unknown?.kind == .unresolvable)
        }

        @Test func nothingIsLeftAfterShutdown() throws {
            _ = try { try LaneHarness().shutdown() }()
            let before = openDescriptors()
            for _ in 0..<5 {
                let lanes = try LaneHarness(lanes: 4)
                let key = try lanes.connect()
                let grant = terms(key.lane, slots: 0..<4)
                _ = lanes.listener.bind(grant)
                lanes.pool.post(key, batch(grant, layers: 0..<4))
                let garbage = try RawPeer(port: lanes.listener.port, hello: false)
                garbage.send([1, 2, 3])
                lanes.shutdown()
                let opened = lanes.received.all.count { if case .opened = $0 { true } else { false } }
                let closed = lanes.received.all.count { if case .closed = $0 { true } else { false } }
                #expect(opened == closed)
            }
            // Other tests of this process open files too.
            wait("descriptors to be closed") { openDescriptors() <= before }
        }
    }
}
