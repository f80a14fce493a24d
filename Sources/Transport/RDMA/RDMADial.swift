import CRDMA
import Glibc
import Handoff
import Threads

/// Connecting one lane over RDMA: address, route, hello, answer; each with a deadline.
struct RDMADial {
    struct Connected {
        let connection: RDMAConnection
        let lane: LaneID
        let reach: RDMAWire.Reach
    }

    let address: String
    /// The address of the adapter to use on this side.
    let source: String
    let hello: LaneHello
    let timeout: Duration
    let domains: RDMADomains
    /// Asked between waits, so that a shutdown does not take a timeout.
    let isWanted: () -> Bool

    private static let slice = Duration.milliseconds(50)

    func connect() throws(TransportError) -> Connected {
        let endpoint = try Endpoint(address)
        let target = try endpoint.resolve(passive: false)
        let deadline = Instant.after(timeout)
        let half = try RDMAHalf()
        let milliseconds = max(1, deadline.pollTimeout)
        let from = try Endpoint(host: source, port: 0).resolve(passive: true)
        let isResolving = from.withPointer { from, _ in
            target.withPointer { to, _ in
                rdma_resolve_addr(
                    half.id, UnsafeMutablePointer(mutating: from), UnsafeMutablePointer(mutating: to), milliseconds)
            }
        }
        guard isResolving == 0 else {
            throw TransportError(.system, "no RDMA device reaches \(endpoint)", errno: errno)
        }
        try expect(RDMA_CM_EVENT_ADDR_RESOLVED, half, endpoint, until: deadline)
        guard rdma_resolve_route(half.id, milliseconds) == 0 else {
            throw TransportError(.system, "no RDMA route to \(endpoint)", errno: errno)
        }
        try expect(RDMA_CM_EVENT_ROUTE_RESOLVED, half, endpoint, until: deadline)
        let connection = try half.connection(domains)
        try request(half)
        let answer = try expect(RDMA_CM_EVENT_ESTABLISHED, half, endpoint, until: deadline)
        return try accepted(answer, connection, endpoint)
    }

    private func request(_ half: RDMAHalf) throws(TransportError) {
        let result = withUnsafeTemporaryAllocation(byteCount: LaneWire.helloBytes, alignment: 8) { bytes in
            hello.write(to: bytes)
            var parameters = rdma_conn_param()
            parameters.private_data = UnsafeRawPointer(bytes.baseAddress)
            parameters.private_data_len = UInt8(LaneWire.helloBytes)
            // 7 is the most there is, and for ever with Soft-RoCE: a cut path would not be noticed.
            parameters.retry_count = 6
            // For ever: the peer is there, and how long it is waited for is decided above.
            parameters.rnr_retry_count = 7
            return rdma_connect(half.id, &parameters)
        }
        guard result == 0 else {
            throw TransportError(.system, "can't connect an RDMA lane to \(address)", errno: errno)
        }
    }

    private func accepted(
        _ answer: [UInt8], _ connection: RDMAConnection, _ endpoint: Endpoint
    ) throws(TransportError) -> Connected {
        let read = answer.withUnsafeBytes { bytes -> (LaneHelloAck, RDMAWire.Reach)? in
            guard bytes.count >= RDMAWire.replyBytes, let ack = LaneHelloAck(reading: bytes) else { return nil }
            let rest = UnsafeRawBufferPointer(rebasing: bytes[LaneWire.helloAckBytes...])
            return RDMAWire.Reach(reading: rest).map { (ack, $0) }
        }
        guard let (ack, reach) = read, ack.status == LaneHelloAck.Status.accepted.rawValue else {
            throw TransportError(.refused, "\(endpoint) answers what no lane does")
        }
        guard ack.digests == hello.digests else {
            throw TransportError(.refused, "\(endpoint) has another mind about digests")
        }
        connection.shortenPauses()
        return Connected(connection: connection, lane: ack.lane, reach: reach)
    }

    /// Waits for an event, and returns its private data.
    @discardableResult
    private func expect(
        _ wanted: rdma_cm_event_type, _ half: RDMAHalf, _ endpoint: Endpoint, until deadline: Instant
    ) throws(TransportError) -> [UInt8] {
        while true {
            guard isWanted() else { throw TransportError(.timeout, "the peer is not wanted any more") }
            guard !deadline.hasPassed else {
                throw TransportError(.timeout, "\(endpoint) did not answer over RDMA within \(timeout)")
            }
            guard let event = half.event(until: min(deadline, .after(RDMADial.slice))) else { continue }
            if event.kind == wanted { return event.data }
            throw failure(event, endpoint)
        }
    }

    private func failure(_ event: RDMAHalf.Event, _ endpoint: Endpoint) -> TransportError {
        switch event.kind {
        case RDMA_CM_EVENT_REJECTED:
            let reason = event.data.withUnsafeBytes { bytes -> String? in
                guard bytes.count >= LaneWire.helloAckBytes, let ack = LaneHelloAck(reading: bytes) else { return nil }
                let text = bytes[LaneWire.helloAckBytes...].prefix(ack.reasonBytes)
                return String(decoding: text, as: UTF8.self)
            }
            return TransportError(.refused, "\(endpoint) refused: \(reason ?? "nobody listens there for RDMA lanes")")
        case RDMA_CM_EVENT_ADDR_ERROR:
            return TransportError(.system, "no RDMA device reaches \(endpoint)", errno: -event.status)
        case RDMA_CM_EVENT_ROUTE_ERROR:
            return TransportError(.system, "no RDMA route to \(endpoint)", errno: -event.status)
        case RDMA_CM_EVENT_UNREACHABLE:
            return TransportError(.timeout, "\(endpoint) does not answer over RDMA")
        default:
            let name = rdma_event_str(event.kind).map { String(cString: $0) } ?? "event \(event.kind.rawValue)"
            return TransportError(.refused, "\(endpoint), while connecting an RDMA lane: \(name)")
        }
    }
}

/// A connection before it has a queue pair: an identifier with an event channel of its own.
final class RDMAHalf {
    struct Event {
        let kind: rdma_cm_event_type
        let status: Int32
        let data: [UInt8]
    }

    let id: UnsafeMutablePointer<rdma_cm_id>
    let events: UnsafeMutablePointer<rdma_event_channel>
    private var isOwned = true

    /// One to connect with.
    convenience init() throws(TransportError) {
        guard let events = rdma_create_event_channel() else { throw RDMAHalf.unavailable(errno) }
        var id: UnsafeMutablePointer<rdma_cm_id>?
        guard rdma_create_id(events, &id, nil, RDMA_PS_TCP) == 0, let id else {
            let code = errno
            rdma_destroy_event_channel(events)
            throw RDMAHalf.unavailable(code)
        }
        self.init(id: id, events: events)
    }

    /// Takes over what a listener was asked for.
    convenience init(adopting id: UnsafeMutablePointer<rdma_cm_id>) throws(TransportError) {
        guard let events = rdma_create_event_channel() else { throw RDMAHalf.unavailable(errno) }
        guard rdma_migrate_id(id, events) == 0 else {
            let code = errno
            rdma_destroy_event_channel(events)
            throw RDMAHalf.unavailable(code)
        }
        self.init(id: id, events: events)
    }

    private init(id: UnsafeMutablePointer<rdma_cm_id>, events: UnsafeMutablePointer<rdma_event_channel>) {
        self.id = id
        self.events = events
        _ = fcntl(events.pointee.fd, F_SETFL, O_NONBLOCK)
    }

    deinit {
        guard isOwned else { return }
        rdma_destroy_id(id)
        rdma_destroy_event_channel(events)
    }

    /// Gives identifier and events to a connection, by the adapter that they were found to belong to.
    func connection(_ domains: RDMADomains) throws(TransportError) -> RDMAConnection {
        guard let context = id.pointee.verbs else { throw TransportError(.system, "no RDMA device") }
        let domain = try domains.domain(of: context)
        do throws(TransportError) {
            let connection = try RDMAConnection(id: id, events: events, domain: domain)
            isOwned = false
            return connection
        } catch {
            // The device may have gone and come back. Else the slab stays registered once.
            if !domain.isPresent() { domains.forget(context) }
            throw error
        }
    }

    func event(until deadline: Instant) -> Event? { RDMAHalf.event(events, until: deadline) }

    /// The next event of a channel that does not block; nil when there is none in time.
    static func event(_ events: UnsafeMutablePointer<rdma_event_channel>, until deadline: Instant) -> Event? {
        var entry = pollfd(fd: events.pointee.fd, events: Int16(POLLIN), revents: 0)
        guard poll(&entry, 1, deadline.pollTimeout) > 0 else { return nil }
        var event: UnsafeMutablePointer<rdma_cm_event>?
        guard rdma_get_cm_event(events, &event) == 0, let event else { return nil }
        defer { rdma_ack_cm_event(event) }
        return Event(kind: event.pointee.event, status: event.pointee.status, data: privateData(event))
    }

    static func privateData(_ event: UnsafeMutablePointer<rdma_cm_event>) -> [UInt8] {
        var length: UInt8 = 0
        guard let data = crdma_private_data(event, &length) else { return [] }
        return Array(UnsafeRawBufferPointer(start: data, count: Int(length)))
    }

    static func unavailable(_ code: Int32) -> TransportError {
        let why =
            switch code {
            case ENODEV, ENOENT: "this host has no RDMA device, or not the kernel's rdma_ucm module"
            case EACCES, EPERM: "this process may not open /dev/infiniband/rdma_cm"
            default: "can't use RDMA"
            }
        return TransportError(.system, why, errno: code)
    }
}
