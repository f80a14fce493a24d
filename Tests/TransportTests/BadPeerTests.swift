import Glibc
import Handoff
import Testing

@testable import Transport

extension Lanes {
    @Suite struct BadPeerTests {
        /// What a peer may get wrong about a write, and what it is counted as. The slab stays as it was.
        @Test(arguments: [
            "unbound", "handoff", "epoch", "generation", "slot", "page", "offset", "half layer", "past the page",
            "empty",
            "overlap", "no ranges", "too many ranges", "sequence", "kind", "magic", "early completion",
            "long completion",
            "completion of other slots",
        ])
        func wrongWrites(what: String) throws {
            let lanes = try LaneHarness()
            defer { lanes.shutdown() }
            let peer = try RawPeer(port: lanes.listener.port)
            let grant = terms(peer.lane, epoch: 2, slots: 3..<5, generation: 6)
            if what != "unbound" { #expect(lanes.listener.bind(grant)) }
            let full = UInt32(testShape.pageBytes)
            let layer = UInt32(16 << 10)
            let slot = grant.slots[0]
            func data(_ ranges: [WireRange], handoff: HandoffID? = nil, epoch: LaneEpoch? = nil, sequence: UInt32 = 1) {
                let header = FrameHeader(
                    .data, count: ranges.count, handoff: handoff ?? grant.handoff, epoch: epoch ?? grant.epoch,
                    sequence: sequence)
                peer.sendHeader(header, ranges: ranges)
            }
            func completion(_ slots: [SlotRef]) {
                let header = FrameHeader(
                    .completion, count: slots.count, handoff: grant.handoff, epoch: grant.epoch, sequence: 1)
                peer.sendHeader(header, pages: slots.map { .init($0, claiming: 0) })
            }
            let good = WireRange(page: 0, slot: slot, offset: 0, length: full)
            switch what {
            case "unbound": data([good])
            case "handoff": data([good], handoff: HandoffID(router: Incarnation(1), request: 1, attempt: 9))
            case "epoch": data([good], epoch: LaneEpoch(1))
            case "generation":
                let old = SlotRef(index: slot.index, generation: Generation(5))
                data([WireRange(page: 0, slot: old, offset: 0, length: full)])
            case "slot":
                let other = SlotRef(index: 20, generation: Generation(6))
                data([WireRange(page: 0, slot: other, offset: 0, length: full)])
            case "page": data([WireRange(page: 7, slot: slot, offset: 0, length: full)])
            case "offset": data([WireRange(page: 0, slot: slot, offset: layer, length: layer)])
            case "half layer": data([WireRange(page: 0, slot: slot, offset: 0, length: layer / 2)])
            case "past the page": data([WireRange(page: 0, slot: slot, offset: 0, length: .max)])
            case "empty": data([WireRange(page: 0, slot: slot, offset: 0, length: 0)])
            case "overlap": data([good, good])
            case "no ranges": data([])
            case "too many ranges": data(Array(repeating: good, count: 65))
            case "sequence": data([good], sequence: 2)
            case "kind":
                peer.sendHeader(
                    FrameHeader(.acknowledgement, count: 0, handoff: grant.handoff, epoch: grant.epoch, sequence: 1))
            case "magic": peer.send([UInt8](repeating: 0x41, count: 64))
            case "early completion": completion(grant.slots)
            case "long completion": completion(Array(repeating: slot, count: 1000))
            default: completion(grant.slots.reversed())
            }
            peer.send([UInt8](repeating: 7, count: 4096))
            let end = try #require(lanes.waitForClose(peer.lane))
            let stale = ["unbound", "handoff", "epoch", "generation", "slot", "completion of other slots"].contains(
                what)
            #expect(end.reason.kind == (stale ? .staleWrite : .protocolError), "\(end.reason)")
            #expect(lanes.listener.tally.total.staleWritesRejected == (stale ? 1 : 0))
            #expect(lanes.listener.tally.total.protocolErrors == (stale ? 0 : 1))
            for slot in 0..<32 { #expect(lanes.target.isFilled(slot, with: 0)) }
        }

        @Test func wrongHellosAreToldWhy() throws {
            let lanes = try LaneHarness()
            defer { lanes.shutdown() }
            let other = PageShape(layers: 4, layerBytes: 8 << 10)
            var version = LaneHello(prefill: prefillNode, decode: decodeNode, shape: testShape)
            version.version = 99
            let cases: [(LaneRefusal, String, (UnsafeMutableRawBufferPointer) -> Void)] = [
                (
                    .notALane, "not a lane",
                    {
                        $0.copyBytes(
                            from: Array("GET / HTTP/1.1\r\nHost: somewhere\r\nAccept: */*\r\n\r\n".utf8.prefix(48)))
                    }
                ),
                (.wrongVersion, "lane protocol 99", { version.write(to: $0) }),
                (
                    .wrongDecodeNode, "another decode node",
                    { LaneHello(prefill: prefillNode, decode: Incarnation(1), shape: testShape).write(to: $0) }
                ),
                (
                    .wrongLayout, "pages of 32768 bytes",
                    { LaneHello(prefill: prefillNode, decode: decodeNode, shape: other).write(to: $0) }
                ),
            ]
            for (refusal, text, hello) in cases {
                let peer = try RawPeer(port: lanes.listener.port, hello: false)
                peer.send(hello)
                let ack = try #require(peer.readAck())
                #expect(ack.status == LaneHelloAck.Status.refused.rawValue)
                #expect(peer.readText(ack.reasonBytes).contains(text))
                #expect(peer.isClosed())
                #expect(lanes.listener.tally.total.refused[refusal] == 1)
            }
            #expect(lanes.received.all.isEmpty)
        }

        @Test func aSilentConnectionIsDropped() throws {
            let lanes = try LaneHarness { $0.helloTimeout = .milliseconds(100) }
            defer { lanes.shutdown() }
            let silent = try RawPeer(port: lanes.listener.port, hello: false)
            silent.send([0x42, 0x41])
            #expect(silent.readAck()?.status == LaneHelloAck.Status.refused.rawValue)
            #expect(lanes.listener.tally.total.refused[.helloTimeout] == 1)
        }

        @Test func aPeerThatStopsInAHeaderHoldsOnlyItsLane() throws {
            let lanes = try LaneHarness()
            defer { lanes.shutdown() }
            let stuck = try RawPeer(port: lanes.listener.port, prefill: Incarnation(0x99))
            stuck.send([1, 2, 3, 4, 5])
            let key = try lanes.connect()
            let grant = terms(key.lane, slots: 0..<2)
            #expect(lanes.listener.bind(grant))
            lanes.pool.post(key, batch(grant, layers: 0..<4))
            lanes.pool.postCompletion(key, grant)
            let done = lanes.received.first { if case .completion(key.lane, _, _) = $0 { true } else { nil } }
            #expect(done == true)
            stuck.socket.closeNow()
            #expect(lanes.waitForClose(stuck.lane)?.reason.kind == .peerClosed)
        }

        @Test func aSlowPeerIsStillRead() throws {
            let lanes = try LaneHarness()
            defer { lanes.shutdown() }
            let peer = try RawPeer(port: lanes.listener.port)
            let grant = terms(peer.lane, slots: 1..<2)
            #expect(lanes.listener.bind(grant))
            let range = WireRange(page: 0, slot: grant.slots[0], offset: 0, length: UInt32(testShape.pageBytes))
            peer.sendHeader(
                FrameHeader(.data, count: 1, handoff: grant.handoff, epoch: grant.epoch, sequence: 1), ranges: [range])
            let piece = testShape.pageBytes / 64
            for _ in 0..<64 {
                peer.send([UInt8](repeating: 0x5A, count: piece))
                // The slowness is what is tested.
                usleep(500)
            }
            // Counters tell nobody when they change.
            while lanes.listener.tally.total.records == 0 { usleep(1000) }
            #expect(lanes.target.isFilled(1, with: 0x5A))
            #expect(lanes.target.isFilled(0, with: 0) && lanes.target.isFilled(2, with: 0))
        }

        /// The newest are heard, so that silent ones keep nobody out.
        @Test func aFloodOfConnectionsIsBounded() throws {
            let lanes = try LaneHarness { configuration in
                configuration.handshakesMax = 8
                configuration.helloTimeout = .seconds(60)
            }
            defer { lanes.shutdown() }
            let flood = try (0..<100).map { _ in try RawPeer(port: lanes.listener.port, hello: false) }
            wait("all but eight to be refused", within: .seconds(10)) {
                lanes.listener.tally.total.refused[.tooManyLanes, default: 0] >= 92
            }
            #expect(lanes.listener.tally.total.refused[.tooManyLanes] == 92)
            _ = try lanes.connect()
            for peer in flood { peer.socket.closeNow() }
        }

        @Test func lanesOfOnePeerAreBounded() throws {
            let lanes = try LaneHarness { $0.lanesPerPeerMax = 2 }
            defer { lanes.shutdown() }
            let open = try (0..<2).map { _ in try RawPeer(port: lanes.listener.port) }
            let third = try RawPeer(port: lanes.listener.port, hello: false)
            third.send { LaneHello(prefill: prefillNode, decode: decodeNode, shape: testShape).write(to: $0) }
            #expect(third.readAck()?.status == LaneHelloAck.Status.refused.rawValue)
            let other = try RawPeer(port: lanes.listener.port, prefill: Incarnation(0x77))
            #expect(other.lane.value > 0)
            #expect(open.count == 2)
        }
    }
}
