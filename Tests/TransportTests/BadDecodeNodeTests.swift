import Glibc
import Handoff
import Testing
import Threads

@testable import Transport

extension Lanes {
    /// A prefill node against decode nodes that lie.
    @Suite struct BadDecodeNodeTests {
        private let sent = EventLog<LanePoolEvent>()
        private let source = TestSlab(slots: 4)
        private let configuration = {
            var configuration = LanePool.Configuration()
            configuration.lanesPerPeer = 1
            return configuration
        }()
        private let firstRecordBytes = LaneWire.headerBytes + LaneWire.rangeBytes + testShape.bytes(of: 0..<1).count

        /// Lane 3, open on both sides.
        private func connect(
            _ pool: LanePool, to listener: RawListener
        ) throws -> (key: LaneKey, connection: RawPeer) {
            pool.setPeers([LanePeer(decode: decodeNode, address: listener.address, name: "decode")])
            let connection = try listener.accept(as: LaneID(3))
            let key = try #require(sent.first { if case .opened(let key) = $0 { key } else { nil } })
            return (key, connection)
        }

        private func acknowledgement(
            _ kind: FrameHeader.Kind = .acknowledgement, epoch: UInt32 = 1, sequence: UInt32
        ) -> FrameHeader {
            let handoff = terms(LaneID(3), slots: 0..<1).handoff
            return FrameHeader(kind, count: 0, handoff: handoff, epoch: LaneEpoch(epoch), sequence: sequence)
        }

        private func closeReason(_ lane: LaneID) -> LaneCloseReason? {
            sent.first { if case .closed(let key, let reason) = $0, key.lane == lane { reason } else { nil } }
        }

        @Test(arguments: ["before any record", "record", "epoch", "completion"])
        func whatWasNotSentIsNotAcknowledged(what: String) throws {
            let listener = try RawListener()
            let sent = sent
            let pool = LanePool(configuration: configuration, slab: source.region, incarnation: prefillNode) {
                sent.append($0)
            }
            defer { pool.shutdown() }
            let (key, connection) = try connect(pool, to: listener)
            if what != "before any record" {
                #expect(pool.post(key, batch(terms(key.lane, slots: 0..<1), layers: 0..<1)))
                connection.skip(firstRecordBytes)
            }
            switch what {
            case "epoch": connection.sendHeader(acknowledgement(epoch: 2, sequence: 1))
            case "completion": connection.sendHeader(acknowledgement(.completionAcknowledgement, sequence: 1))
            default: connection.sendHeader(acknowledgement(sequence: 2))
            }
            #expect(closeReason(LaneID(3))?.kind == .protocolError)
            #expect(pool.tally.total.protocolErrors == 1)
            let believed = sent.all.contains { event in
                switch event {
                case .acknowledged, .completionAcknowledged: true
                case .opened, .closed, .sourceChanged: false
                }
            }
            #expect(!believed)
        }

        /// The events of two lanes with one number could not be told apart.
        @Test func aLaneNumberIsNotUsedTwiceByMovingToAnotherAddress() throws {
            let (first, second) = (try RawListener(), try RawListener())
            let isHeldUp = Monitor(true)
            let sent = sent
            let pool = LanePool(configuration: configuration, slab: source.region, incarnation: prefillNode) { event in
                sent.append(event)
                // Keeps the first lane's thread busy, so that the lane outlives its peer.
                guard case .acknowledged = event else { return }
                _ = isHeldUp.wait(until: .after(.seconds(20))) { $0 ? nil : true }
            }
            defer { pool.shutdown() }
            let (key, connection) = try connect(pool, to: first)
            #expect(pool.post(key, batch(terms(key.lane, slots: 0..<1), layers: 0..<1)))
            connection.skip(firstRecordBytes)
            connection.sendHeader(acknowledgement(sequence: 1))
            #expect(sent.first { if case .acknowledged = $0 { true } else { nil } } == true)

            pool.setPeers([LanePeer(decode: decodeNode, address: second.address, name: "decode")])
            try second.accept(as: key.lane)
            wait("a failed attempt", within: .seconds(10)) { pool.tally.total.dialFailures > 0 }
            #expect(pool.snapshot().first?.lastError?.contains("twice") == true)
            #expect(sent.all.count == 2)
            isHeldUp.update { $0 = false }
            #expect(closeReason(key.lane)?.kind == .shutdown)
        }
    }
}

/// A listening socket that plays decode node, byte for byte.
private final class RawListener {
    private let socket: Socket
    let address: String
    private(set) var lanes: [RawPeer] = []

    init() throws {
        let local = try Endpoint(host: "127.0.0.1", port: 0).resolve(passive: true)
        let socket = try Socket.make(family: local.family)
        try #require(local.withPointer { Glibc.bind(socket.descriptor, $0, $1) } == 0)
        try #require(Glibc.listen(socket.descriptor, 8) == 0)
        let bound = try #require(SocketAddress { getsockname(socket.descriptor, $0, $1) })
        self.socket = socket
        address = bound.endpoint.description
    }

    /// Waits for a connection and makes it a lane of that number.
    @discardableResult
    func accept(as lane: LaneID) throws -> RawPeer {
        let descriptor = Glibc.accept(socket.descriptor, nil, nil)
        try #require(descriptor >= 0)
        let peer = RawPeer(adopting: Socket(adopting: descriptor))
        peer.skip(LaneWire.helloBytes)
        peer.sendAck(LaneHelloAck(lane: lane, digests: true))
        peer.skip(LaneWire.headerBytes)
        lanes.append(peer)
        return peer
    }
}
