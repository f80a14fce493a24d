import CRDMA
import Glibc
import Handoff
import Testing
import Threads

@testable import Transport

extension Lanes {
    /// Nodes over RDMA that lie, on either side.
    @Suite(.enabled(if: LaneCarrier.hasRDMA)) struct BadRDMAPeerTests {
        private let source = TestSlab(slots: 8)

        // MARK: Prefill nodes

        @Test func wrongHellosAreToldWhy() throws {
            let lanes = try LaneHarness(over: .rdma)
            defer { lanes.shutdown() }
            var version = LaneHello(prefill: prefillNode, decode: decodeNode, shape: testShape)
            version.version = 99
            let other = PageShape(layers: 4, layerBytes: 8 << 10)
            let cases: [(LaneRefusal, String, LaneHello)] = [
                (.wrongVersion, "lane protocol 99", version),
                (
                    .wrongDecodeNode, "another decode node",
                    LaneHello(prefill: prefillNode, decode: Incarnation(1), shape: testShape)
                ),
                (
                    .wrongLayout, "pages of 32768 bytes",
                    LaneHello(prefill: prefillNode, decode: decodeNode, shape: other)
                ),
                (
                    .digestsDiffer, "digests",
                    LaneHello(prefill: prefillNode, decode: decodeNode, shape: testShape, digests: false)
                ),
            ]
            for (refusal, text, hello) in cases {
                let error = #expect(throws: TransportError.self) { _ = try RawRDMAPeer(lanes, hello: hello) }
                #expect(error?.message.contains(text) == true, "\(error?.message ?? "accepted")")
                #expect(lanes.refused[refusal] == 1)
            }
            #expect(lanes.received.all.isEmpty)
        }

        /// Private data that is no hello: none, too little, and as much as there can be.
        @Test(arguments: [0, 3, 47, 48, 56]) func privateDataThatIsNoHello(count: Int) throws {
            let lanes = try LaneHarness(over: .rdma)
            defer { lanes.shutdown() }
            let address = try #require(lanes.listener.rdmaAddresses.first)
            let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 37) }
            let answer = try #require(try RawRDMAPeer.connect(to: address, saying: bytes))
            #expect(answer.kind == RDMA_CM_EVENT_REJECTED)
            #expect(lanes.refused[.notALane] == 1)
            _ = try lanes.connect()
        }

        /// What a peer may get wrong about a completion record. The grant stays what it was, or its lane is gone.
        @Test(arguments: [
            "unbound", "handoff", "epoch", "other slots", "generation", "fewer pages", "more pages", "too long", "kind",
            "magic", "short", "method",
        ])
        func wrongCompletionRecords(what: String) throws {
            let lanes = try LaneHarness(over: .rdma)
            defer { lanes.shutdown() }
            let peer = try RawRDMAPeer(lanes)
            try peer.send(RawRDMAPeer.frame(.ready))
            _ = try #require(lanes.openLane())
            let grant = terms(peer.lane, epoch: 2, slots: 3..<5, generation: 6)
            if what != "unbound" { #expect(lanes.listener.bind(grant)) }
            func record(
                _ slots: [SlotRef], count: Int? = nil, handoff: HandoffID? = nil, epoch: UInt32 = 2
            ) -> [UInt8] {
                let header = FrameHeader(
                    .completion, count: count ?? slots.count, handoff: handoff ?? grant.handoff,
                    epoch: LaneEpoch(epoch), sequence: 1)
                return RawRDMAPeer.frame(header, pages: slots)
            }
            switch what {
            case "unbound": try peer.send(record(grant.slots))
            case "handoff":
                let other = HandoffID(router: Incarnation(1), request: 1, attempt: 9)
                try peer.send(record(grant.slots, handoff: other))
            case "epoch": try peer.send(record(grant.slots, epoch: 1))
            case "other slots": try peer.send(record(grant.slots.reversed()))
            case "generation":
                try peer.send(record(grant.slots.map { SlotRef(index: $0.index, generation: Generation(5)) }))
            case "fewer pages": try peer.send(record([grant.slots[0]]))
            case "more pages": try peer.send(record(grant.slots, count: 1000))
            case "too long": try peer.send(record(grant.slots) + [0])
            case "kind":
                let header = FrameHeader(.data, count: 1, handoff: grant.handoff, epoch: grant.epoch, sequence: 1)
                try peer.send(RawRDMAPeer.frame(header))
            case "magic": try peer.send([UInt8](repeating: 0x41, count: 64))
            case "short": try peer.send([1, 2, 3])
            default:
                var bytes = record(grant.slots)
                bytes[LaneWire.headerBytes] = 9
                try peer.send(bytes)
            }
            let end = try #require(lanes.waitForClose(peer.lane))
            let isStale = ["unbound", "handoff", "epoch", "other slots", "generation"].contains(what)
            #expect(end.reason.kind == (isStale ? .staleWrite : .protocolError), "\(end.reason)")
            #expect(lanes.listener.tally.total.staleWritesRejected == (isStale ? 1 : 0))
            #expect(lanes.listener.tally.total.completions == 0)
            for slot in 0..<32 { #expect(lanes.target.isFilled(slot, with: 0)) }
        }

        /// Where there are windows, a guessed key writes nothing.
        @Test func keysThatAreNotGranted() throws {
            let lanes = try LaneHarness(over: .rdma, windows: .on)
            defer { lanes.shutdown() }
            let peer = try RawRDMAPeer(lanes)
            try peer.send(RawRDMAPeer.frame(.ready))
            _ = try #require(lanes.openLane())
            #expect(peer.reach.hasWindows && peer.reach.key == 0)
            let grant = terms(peer.lane, slots: 3..<5)
            #expect(lanes.listener.bind(grant))
            #expect(try peer.write(to: 10, key: 0x1234_5678) == .staleWrite)
            for slot in 0..<32 { #expect(lanes.target.isFilled(slot, with: 0)) }
        }

        /// Connections that never become lanes are bounded, and gone after a while; who is ready gets in again.
        @Test func aFloodOfConnectionsIsBounded() throws {
            let lanes = try LaneHarness(over: .rdma) { configuration in
                configuration.handshakesMax = 8
                configuration.helloTimeout = .seconds(1)
                configuration.lanesPerPeerMax = 100
            }
            defer { lanes.shutdown() }
            let before = openDescriptors()
            var silent: [RawRDMAPeer] = []
            for _ in 0..<60 { if let peer = try? RawRDMAPeer(lanes) { silent.append(peer) } }
            let early = lanes.refused
            #expect(silent.count + early[.tooManyLanes, default: 0] == 60)
            #expect(early[.tooManyLanes, default: 0] > 0, "all 60 were let in")
            wait("those who are silent to be gone") { lanes.refused[.helloTimeout, default: 0] >= silent.count }
            #expect(lanes.refused[.helloTimeout] == silent.count)
            #expect(lanes.listener.lanes.isEmpty)
            silent = []
            _ = try lanes.connect()
            lanes.pool.setPeers([])
            wait("the last thread to let go of its lane") { openDescriptors() <= before }
        }

        /// One who goes away in the middle of setting up a lane holds nothing for long.
        @Test func aPeerThatGoesBeforeItIsReady() throws {
            let lanes = try LaneHarness(over: .rdma)
            defer { lanes.shutdown() }
            for _ in 0..<5 { _ = try RawRDMAPeer(lanes) }
            wait("all to be gone", within: .seconds(10)) { lanes.refused[.helloTimeout, default: 0] >= 5 }
            #expect(lanes.refused[.helloTimeout] == 5)
            #expect(lanes.listener.lanes.isEmpty)
            _ = try lanes.connect()
        }

        /// What a connection is made of is given back once when the last part cannot be had.
        @Test func aQueuePairThatCannotBeHad() throws {
            let lanes = try LaneHarness(over: .rdma)
            defer { lanes.shutdown() }
            let half = try RawRDMAPeer.resolved(try #require(lanes.listener.rdmaAddresses.first))
            let domains = RDMADomains(slab: source.region, windows: .off, isWritten: false)
            let context = try #require(half.id.pointee.verbs)
            let domain = try domains.domain(of: context)
            let first = try RDMAParts(half.id, domain, depth: 16)
            // An identifier has one queue pair at most.
            for _ in 0..<3 {
                let error = #expect(throws: TransportError.self) { _ = try half.connection(domains) }
                #expect(error?.message.contains("queue pair") == true, "\(error?.message ?? "none")")
            }
            rdma_destroy_qp(half.id)
            ibv_destroy_cq(first.completions)
            ibv_destroy_comp_channel(first.channel)
            ibv_dereg_mr(first.bufferRegion)
            first.buffers.deallocate()
            withExtendedLifetime(domain) {}
        }

        // MARK: Decode nodes

        /// An address that nothing can be added to. It is the adapter there that refuses it.
        @Test func aSlabAtTheEndOfMemory() throws {
            let listener = try RawRDMAListener()
            let (pool, sent) = pool(for: listener)
            defer { pool.shutdown() }
            let connection = try listener.accept(saying: RawRDMAListener.reply(lane: LaneID(3), base: .max))
            defer { withExtendedLifetime(connection) {} }
            let key = try #require(sent.first { if case .opened(let key) = $0 { key } else { nil } })
            _ = pool.post(key, batch(terms(key.lane, slots: 0..<2), layers: 0..<4))
            let reason = sent.first { if case .closed(key, let reason) = $0 { reason } else { nil } }
            #expect(reason?.kind == .staleWrite, "\(reason?.description ?? "still open")")
        }

        /// Windows without end do not keep a prefill node from leaving.
        @Test func aFloodOfWindows() throws {
            let listener = try RawRDMAListener()
            let (pool, sent) = pool(for: listener)
            let connection = try listener.accept(saying: RawRDMAListener.reply(lane: LaneID(3), hasWindows: true))
            let key = try #require(sent.first { if case .opened(let key) = $0 { key } else { nil } })
            let handoff = terms(key.lane, slots: 0..<1).handoff
            let count = (RDMAWire.messageBytes - LaneWire.headerBytes) / RDMAWire.windowBytes
            let header = FrameHeader(.windows, count: count, handoff: handoff, epoch: LaneEpoch(1), sequence: 0)
            var bytes = [UInt8](repeating: 0, count: LaneWire.headerBytes + count * RDMAWire.windowBytes)
            bytes.withUnsafeMutableBytes { header.write(to: $0) }
            let flood = RDMAFlood(connection, bytes)
            try flood.start()
            let start = Instant.now
            wait("a flood", within: .seconds(10)) { flood.sent >= 200 }
            pool.shutdown()
            #expect(Instant.now - start < .seconds(20))
            flood.stop()
        }

        @Test(arguments: ["short", "not a reply", "digests"]) func repliesThatAreNone(what: String) throws {
            let listener = try RawRDMAListener()
            let (pool, _) = pool(for: listener)
            defer { pool.shutdown() }
            var reply = RawRDMAListener.reply(lane: LaneID(3), digests: what != "digests")
            switch what {
            case "short": reply.removeLast(10)
            case "not a reply": reply[0] ^= 0xFF
            default: break
            }
            let connection = try listener.accept(saying: reply)
            defer { withExtendedLifetime(connection) {} }
            wait("the answer to be read", within: .seconds(10)) { pool.snapshot().first?.reason != nil }
            let reason = try #require(pool.snapshot().first?.reason)
            #expect(reason.contains(what == "digests" ? "another mind about digests" : "answers what no lane does"))
        }

        /// Messages of a decode node that are no windows, or do not hold what is to be written.
        @Test(arguments: ["kind", "none", "too many", "other slots", "unasked"]) func wrongWindows(what: String) throws
        {
            let listener = try RawRDMAListener()
            let (pool, sent) = pool(for: listener)
            defer { pool.shutdown() }
            let reply = RawRDMAListener.reply(lane: LaneID(3), hasWindows: what != "unasked")
            let connection = try listener.accept(saying: reply)
            let key = try #require(sent.first { if case .opened(let key) = $0 { key } else { nil } })
            let grant = terms(key.lane, slots: 3..<5)
            let kind: FrameHeader.Kind = what == "kind" ? .completion : .windows
            let count = ["none": 0, "too many": 1 << 21][what] ?? 1
            let header = FrameHeader(kind, count: count, handoff: grant.handoff, epoch: grant.epoch, sequence: 0)
            var bytes = RawRDMAPeer.frame(
                FrameHeader(.windows, count: 1, handoff: grant.handoff, epoch: grant.epoch, sequence: 0))
            bytes.withUnsafeMutableBytes { header.write(to: $0) }
            // One window, for slots that were not granted.
            let window: [UInt32] = [20, 2, 0x77]
            bytes += window.flatMap { word in withUnsafeBytes(of: word.littleEndian) { Array($0) } }
            try bytes.withUnsafeBytes { bytes in
                try Result { () throws(LaneViolation) in try connection.send(bytes) }.get()
            }
            _ = pool.post(key, batch(grant, layers: 0..<1, pages: 0..<1))
            let reason = sent.first { if case .closed(key, let reason) = $0 { reason } else { nil } }
            #expect(reason?.kind == .protocolError, "\(reason?.description ?? "still open")")
            #expect(pool.tally.total.protocolErrors == 1)
        }

        private func pool(for listener: RawRDMAListener) -> (LanePool, EventLog<LanePoolEvent>) {
            var configuration = LanePool.Configuration()
            configuration.lanesPerPeer = 1
            let sent = EventLog<LanePoolEvent>()
            let pool = LanePool(
                configuration: configuration, slab: source.region, incarnation: prefillNode
            ) { sent.append($0) }
            // Nobody listens over TCP.
            pool.setPeers([
                LanePeer(decode: decodeNode, address: "127.0.0.1:9", name: "decode", rdmaAddresses: [listener.address])
            ])
            return (pool, sent)
        }
    }
}

extension LaneHarness {
    fileprivate var refused: [LaneRefusal: Int] { listener.tally.total.refused }
}
