import CRDMA
import Glibc
import Handoff
import Testing
import Threads

@testable import Transport

/// A peer over RDMA that says what the test wants.
final class RawRDMAPeer {
    let connection: RDMAConnection
    let lane: LaneID
    let reach: RDMAWire.Reach
    private let slab: TestSlab
    private let waker: Waker

    /// Asks for a lane and does not say yet that it is ready.
    init(_ lanes: LaneHarness, hello: LaneHello? = nil) throws {
        let slab = TestSlab(slots: 4)
        let domains = RDMADomains(slab: slab.region, windows: .off, isWritten: false)
        let address = try #require(lanes.listener.rdmaAddresses.first)
        let source = try #require(try RDMAPort.usable(.auto).first?.addresses.first)
        let hello = hello ?? LaneHello(prefill: prefillNode, decode: decodeNode, shape: testShape)
        let connected = try RDMADial(
            address: address, source: source, hello: hello, timeout: .seconds(10), domains: domains, isWanted: { true }
        ).connect()
        self.slab = slab
        connection = connected.connection
        lane = connected.lane
        reach = connected.reach
        waker = try Waker()
    }

    func send(_ bytes: [UInt8]) throws {
        try bytes.withUnsafeBytes { bytes in
            try Result { () throws(LaneViolation) in try connection.send(bytes) }.get()
        }
    }

    /// A frame with the pages of a completion record, whose digests are one number per layer.
    static func frame(_ header: FrameHeader, pages: [SlotRef] = []) -> [UInt8] {
        let layout = CompletionLayout(pages: pages.count, digests: true, layers: 0..<testShape.layerCount)
        let count =
            header.kind == .ready
            ? RDMAWire.messageBytes : LaneWire.headerBytes + (header.kind == .completion ? layout.bytes : 0)
        var bytes = [UInt8](repeating: 0, count: count)
        bytes.withUnsafeMutableBytes { bytes in
            header.write(to: bytes)
            guard header.kind == .completion else { return }
            layout.write(
                pages.map { .init($0, claiming: 0) },
                to: UnsafeMutableRawBufferPointer(rebasing: bytes[LaneWire.headerBytes...]))
        }
        return bytes
    }

    /// Writes a page of 0x41 to a slot with this key; returns how it ended.
    func write(to slot: Int, key: UInt32) throws -> LaneCloseReason.Kind? {
        slab.fill(0, with: 0x41)
        var piece = ibv_sge(
            addr: UInt64(UInt(bitPattern: slab.region.base)), length: UInt32(testShape.pageBytes),
            lkey: connection.domain.slabRegion.pointee.lkey)
        var request = ibv_send_wr()
        let remote = reach.base + UInt64(slot * testShape.pageBytes)
        crdma_set_write(&request, RDMAWork.write.rawValue, &piece, 1, remote, key, true)
        return try end {
            try withUnsafeMutablePointer(to: &request) { request in
                try Result { () throws(LaneViolation) in try connection.post(request) }.get()
            }
        }
    }

    /// Does something, and waits for a write to complete or the lane to end; nil when it did complete.
    private func end(_ post: () throws -> Void) throws -> LaneCloseReason.Kind? {
        try post()
        let deadline = Instant.after(.seconds(10))
        do throws(LaneViolation) {
            var isDone = false
            while !isDone, !deadline.hasPassed {
                let found = try connection.poll(
                    { (work) throws(LaneViolation) in if work == .write { isDone = true } },
                    onMessage: { (_) throws(LaneViolation) in })
                if !found { try connection.wait(waker, until: deadline) }
            }
            return isDone ? nil : .timeout
        } catch {
            return error.kind
        }
    }

    /// Connects with bytes that need be no hello; returns what it is told.
    static func connect(to address: String, saying bytes: [UInt8]) throws -> RDMAHalf.Event? {
        let half = try resolved(address)
        let slab = TestSlab(slots: 1)
        let domains = RDMADomains(slab: slab.region, windows: .off, isWritten: false)
        let connection = try half.connection(domains)
        defer { withExtendedLifetime((connection, slab)) {} }
        let result = bytes.withUnsafeBytes { bytes in
            var parameters = rdma_conn_param()
            parameters.private_data = bytes.baseAddress
            parameters.private_data_len = UInt8(bytes.count)
            return rdma_connect(half.id, &parameters)
        }
        try #require(result == 0)
        return half.event(until: .after(.seconds(10)))
    }

    /// An identifier that knows its device and its route.
    static func resolved(_ address: String) throws -> RDMAHalf {
        let half = try RDMAHalf()
        let target = try Endpoint(address).resolve(passive: false)
        func wait(_ kind: rdma_cm_event_type) throws {
            try #require(half.event(until: .after(.seconds(5)))?.kind == kind)
        }
        try #require(
            target.withPointer { to, _ in rdma_resolve_addr(half.id, nil, UnsafeMutablePointer(mutating: to), 2000) }
                == 0)
        try wait(RDMA_CM_EVENT_ADDR_RESOLVED)
        try #require(rdma_resolve_route(half.id, 2000) == 0)
        try wait(RDMA_CM_EVENT_ROUTE_RESOLVED)
        return half
    }
}

/// A decode node over RDMA that says what the test wants.
final class RawRDMAListener {
    private let events: UnsafeMutablePointer<rdma_event_channel>
    private let id: UnsafeMutablePointer<rdma_cm_id>
    private let slab = TestSlab(slots: 4)
    private let domains: RDMADomains
    let address: String

    init() throws {
        let host = try #require(try RDMAPort.usable(.auto).first?.addresses.first)
        events = try #require(rdma_create_event_channel())
        _ = fcntl(events.pointee.fd, F_SETFL, O_NONBLOCK)
        var made: UnsafeMutablePointer<rdma_cm_id>?
        try #require(rdma_create_id(events, &made, nil, RDMA_PS_TCP) == 0)
        id = try #require(made)
        let local = try Endpoint(host: host, port: 0).resolve(passive: true)
        let own = id
        let bound = local.withPointer { address, _ in rdma_bind_addr(own, UnsafeMutablePointer(mutating: address)) }
        try #require(bound == 0 && rdma_listen(own, 8) == 0)
        address = Endpoint(host: host, port: UInt16(bigEndian: rdma_get_src_port(id))).description
        domains = RDMADomains(slab: slab.region, windows: .off, isWritten: true)
    }

    deinit {
        rdma_destroy_id(id)
        rdma_destroy_event_channel(events)
    }

    /// Waits for a connection and accepts it with these bytes.
    func accept(saying reply: [UInt8]) throws -> RDMAConnection {
        var entry = pollfd(fd: events.pointee.fd, events: Int16(POLLIN), revents: 0)
        try #require(poll(&entry, 1, 10_000) > 0)
        var event: UnsafeMutablePointer<rdma_cm_event>?
        try #require(rdma_get_cm_event(events, &event) == 0)
        let (kind, asking) = (event?.pointee.event, event?.pointee.id)
        rdma_ack_cm_event(event)
        try #require(kind == RDMA_CM_EVENT_CONNECT_REQUEST)
        let half = try RDMAHalf(adopting: try #require(asking))
        let connection = try half.connection(domains)
        let result = reply.withUnsafeBytes { bytes in
            var parameters = rdma_conn_param()
            parameters.private_data = bytes.baseAddress
            parameters.private_data_len = UInt8(bytes.count)
            parameters.rnr_retry_count = 7
            return rdma_accept(half.id, &parameters)
        }
        try #require(result == 0)
        return connection
    }

    /// The reply of a decode node that opens a lane.
    static func reply(lane: LaneID, digests: Bool = true, hasWindows: Bool = false, base: UInt64 = 0x1000) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: RDMAWire.replyBytes)
        bytes.withUnsafeMutableBytes { bytes in
            LaneHelloAck(lane: lane, digests: digests).write(to: bytes)
            RDMAWire.Reach(base: base, key: 0, hasWindows: hasWindows)
                .write(to: UnsafeMutableRawBufferPointer(rebasing: bytes[LaneWire.helloAckBytes...]))
        }
        return bytes
    }
}

/// Sends a message as often as it can, on a thread of its own, until the connection ends.
final class RDMAFlood: Sendable {
    private let connection: RDMAConnection
    private let bytes: [UInt8]
    private let threads = ThreadGroup()
    private let state = Monitor((sent: 0, isStopping: false))

    init(_ connection: RDMAConnection, _ bytes: [UInt8]) {
        self.connection = connection
        self.bytes = bytes
    }

    var sent: Int { state.withLock { $0.sent } }

    func start() throws { try threads.start("flood") { [self] in run() } }

    func stop() {
        state.withLock { $0.isStopping = true }
        threads.waitForAll()
    }

    private func run() {
        do throws(LaneViolation) {
            while !state.withLock({ $0.isStopping }) {
                while try connection.poll({ (_) throws(LaneViolation) in }, onMessage: { (_) throws(LaneViolation) in })
                {}
                guard !connection.freeSends.isEmpty else { continue }
                let sent = bytes.withUnsafeBytes { bytes in
                    Result { () throws(LaneViolation) in try connection.send(bytes) }
                }
                try sent.get()
                state.withLock { $0.sent += 1 }
            }
        } catch {
            // The other side has left, which is what is waited for.
        }
    }
}
