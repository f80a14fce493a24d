import CRDMA
import Glibc
import Handoff
import Threads

/// One queue pair with what belongs to it: its completion queue, its message buffers, and the connection that
/// librdmacm keeps for it.
///
/// `@unchecked Sendable`: used by one thread at a time, the one that sets it up and then the lane's own. Other threads
/// reach a lane through its queue and its waker.
final class RDMAConnection: @unchecked Sendable {
    /// How long nothing may happen before it is asked whether the peer's adapter is still there. One that is cut off says
    /// nothing; it takes the retries of the queue pair beyond this to find out, some 5 s.
    static let probeInterval = Duration.seconds(5)

    /// Requests that may be outstanding, messages included.
    let depth: Int
    let domain: RDMADomain
    private let id: UnsafeMutablePointer<rdma_cm_id>
    private let events: UnsafeMutablePointer<rdma_event_channel>
    private let channel: UnsafeMutablePointer<ibv_comp_channel>
    private let completions: UnsafeMutablePointer<ibv_cq>
    private let buffers: UnsafeMutableRawBufferPointer
    private let bufferRegion: UnsafeMutablePointer<ibv_mr>
    /// Nil once it has been severed.
    private var queue: UnsafeMutablePointer<ibv_qp>?
    /// A completion that was found while waiting.
    private var kept: ibv_wc?
    /// Send buffers that hold nothing.
    private(set) var freeSends = Array(0..<RDMAWire.sends)
    private var unacknowledgedEvents: UInt32 = 0
    private var isProbing = false
    /// How long to look for completions before going to sleep: a wake-up takes longer than most of them. Not on the only
    /// processor there is, which is given a few times to who may bring one.
    private let spin: Duration
    private static let yields = 4

    /// Takes over the connection and its event channel, which must be its own; they stay the caller's when it throws.
    init(
        id: UnsafeMutablePointer<rdma_cm_id>, events: UnsafeMutablePointer<rdma_event_channel>, domain: RDMADomain
    ) throws(TransportError) {
        let depth = min(256, domain.depthMax - 1)
        // First of all: an object that has all its parts when its initializer throws is deinitialized.
        let parts = try RDMAParts(id, domain, depth: depth)
        self.id = id
        self.events = events
        self.domain = domain
        self.depth = depth
        spin = sysconf(Int32(_SC_NPROCESSORS_ONLN)) > 1 ? .microseconds(20) : .zero
        (channel, completions, queue) = (parts.channel, parts.completions, parts.queue)
        (buffers, bufferRegion) = (parts.buffers, parts.bufferRegion)
        for index in 0..<RDMAWire.receives { _ = receiveInto(index) }
    }

    deinit {
        sever()
        // So that the peer hears of it before its retries run out.
        rdma_disconnect(id)
        if unacknowledgedEvents > 0 { ibv_ack_cq_events(completions, unacknowledgedEvents) }
        ibv_destroy_cq(completions)
        ibv_destroy_comp_channel(channel)
        ibv_dereg_mr(bufferRegion)
        buffers.deallocate()
        // With the last identifier of a removed device librdmacm closes it.
        rdma_destroy_id(id)
        rdma_destroy_event_channel(events)
    }

    /// Makes it impossible that anything lands or is read through this queue pair any more. Needs nothing of the peer,
    /// which may be stopped, flooding or gone.
    /// - Parameter release: gives back what refers to the queue pair; called when it accepts nothing any more.
    func sever(_ release: () -> Void = {}) {
        guard let queue else { return }
        var attributes = ibv_qp_attr()
        attributes.qp_state = IBV_QPS_ERR
        let isStopped = ibv_modify_qp(queue, &attributes, Int32(IBV_QP_STATE.rawValue)) == 0
        var completion = ibv_wc()
        while ibv_poll_cq(completions, 1, &completion) > 0 {}
        release()
        let isDestroyed = ibv_destroy_qp(queue) == 0
        id.pointee.qp = nil
        self.queue = nil
        // What was granted over it would be given to others: better no node than one that lets that happen.
        guard isStopped || isDestroyed || !domain.isPresent() else {
            fatalError("RDMA device \(domain.name) neither stops a queue pair nor destroys it: \(errorText(errno))")
        }
    }

    /// To be called once it is connected. Between these nodes a message without a buffer waiting for it is a matter of
    /// microseconds; librdmacm leaves the pause before the next attempt at 655 ms.
    func shortenPauses() {
        guard let queue else { return }
        var attributes = ibv_qp_attr()
        attributes.min_rnr_timer = 5  // 0.06 ms, InfiniBand specification, table 45
        ibv_modify_qp(queue, &attributes, Int32(IBV_QP_MIN_RNR_TIMER.rawValue))
    }

    // MARK: Posting

    func post(_ first: UnsafeMutablePointer<ibv_send_wr>) throws(LaneViolation) {
        try check(queue.map { crdma_post($0, first) } ?? EPIPE, "posting writes")
    }

    func bind(
        _ window: UnsafeMutablePointer<ibv_mw>, key: UInt32, at address: UnsafeMutableRawPointer, bytes: Int
    ) throws(LaneViolation) {
        let result = queue.map {
            crdma_post_bind($0, RDMAWork.bind.rawValue, window, key, domain.slabRegion, address, UInt64(bytes))
        }
        try check(result ?? EPIPE, "binding a memory window")
    }

    func invalidate(key: UInt32) throws(LaneViolation) {
        try check(
            queue.map { crdma_post_invalidate($0, RDMAWork.invalidate.rawValue, key) } ?? EPIPE,
            "ending a memory window")
    }

    /// Sends a message of at most `RDMAWire.messageBytes`; there must be a free buffer.
    func send(_ message: UnsafeRawBufferPointer) throws(LaneViolation) {
        precondition(message.count <= RDMAWire.messageBytes, "a message of \(message.count) bytes")
        guard let index = freeSends.popLast(), let queue else { throw LaneViolation(kind: .peerClosed, detail: "") }
        let buffer = buffer(RDMAWire.receives + index)
        buffer.copyMemory(from: message)
        try check(
            crdma_post_send(
                queue, RDMAWork.message.rawValue | UInt64(index), buffer.baseAddress, UInt32(message.count),
                bufferRegion.pointee.lkey), "sending a message")
    }

    private func receiveInto(_ index: Int) -> Int32 {
        guard let queue else { return EPIPE }
        return crdma_post_receive(
            queue, RDMAWork.received.rawValue | UInt64(index), buffer(index).baseAddress,
            UInt32(RDMAWire.messageBytes), bufferRegion.pointee.lkey)
    }

    private func buffer(_ index: Int) -> UnsafeMutableRawBufferPointer {
        let start = index * RDMAWire.messageBytes
        return UnsafeMutableRawBufferPointer(rebasing: buffers[start..<(start + RDMAWire.messageBytes)])
    }

    private func check(_ code: Int32, _ doing: String) throws(LaneViolation) {
        if code != 0 { throw LaneViolation(kind: .system, detail: "\(doing): \(errorText(code))") }
    }

    // MARK: Completions

    /// What has completed, or nothing. Messages are given to `onMessage`, whose bytes are gone behind it.
    func poll(
        _ onWork: (RDMAWork) throws(LaneViolation) -> Void,
        onMessage: (UnsafeRawBufferPointer) throws(LaneViolation) -> Void
    ) throws(LaneViolation) -> Bool {
        guard hasCompletion, let completion = kept else { return false }
        kept = nil
        guard completion.status == IBV_WC_SUCCESS else { throw RDMAConnection.violation(completion.status) }
        let index = Int(completion.wr_id & 0xFFFF)
        guard let work = RDMAWork(rawValue: completion.wr_id & ~0xFFFF) else {
            preconditionFailure("a completion of nothing that was posted: \(completion.wr_id)")
        }
        switch work {
        case .received:
            let bytes = UnsafeRawBufferPointer(buffer(index))
            let result = Result { () throws(LaneViolation) in
                try onMessage(UnsafeRawBufferPointer(rebasing: bytes[..<Int(completion.byte_len)]))
            }
            try check(receiveInto(index), "posting a receive")
            try result.get()
        case .message:
            freeSends.append(index)
            try onWork(.message)
        case .probe:
            isProbing = false
        case .write, .bind, .invalidate:
            try onWork(work)
        }
        return true
    }

    private static func violation(_ status: ibv_wc_status) -> LaneViolation {
        let text = ibv_wc_status_str(status).map { String(cString: $0) } ?? "status \(status.rawValue)"
        switch status {
        case IBV_WC_WR_FLUSH_ERR, IBV_WC_REM_OP_ERR: return LaneViolation(kind: .peerClosed, detail: text)
        case IBV_WC_RETRY_EXC_ERR, IBV_WC_RNR_RETRY_EXC_ERR: return LaneViolation(kind: .timeout, detail: text)
        case IBV_WC_REM_ACCESS_ERR, IBV_WC_REM_INV_REQ_ERR:
            return LaneViolation(kind: .staleWrite, detail: "\(text): the grant has ended")
        default: return LaneViolation(kind: .system, detail: text)
        }
    }

    /// Waits until something may have completed, the connection has something to say, or the waker has been woken. Where
    /// nothing does for long, it is looked whether the peer is still there.
    func wait(_ waker: Waker, until deadline: Instant?) throws(LaneViolation) {
        if spin > .zero {
            let end = Instant.now + spin
            while !end.hasPassed { if hasCompletion { return } }
        } else {
            for _ in 0..<RDMAConnection.yields {
                if hasCompletion { return }
                sched_yield()
            }
        }
        guard ibv_req_notify_cq(completions, 0) == 0 else {
            throw LaneViolation(kind: .system, detail: "asking to be told of completions: \(errorText(errno))")
        }
        // One that came before it was asked for is not told of.
        if hasCompletion { return }
        let probeTimeout = Int32(RDMAConnection.probeInterval / .milliseconds(1))
        let timeout = deadline.map { min($0.pollTimeout, probeTimeout) } ?? probeTimeout
        var entries = (
            pollfd(fd: channel.pointee.fd, events: Int16(POLLIN), revents: 0),
            pollfd(fd: events.pointee.fd, events: Int16(POLLIN), revents: 0),
            pollfd(fd: waker.readEnd, events: Int16(POLLIN), revents: 0)
        )
        let ready = withUnsafeMutablePointer(to: &entries) { pointer in
            pointer.withMemoryRebound(to: pollfd.self, capacity: 3) {
                Glibc.poll($0, 3, timeout)
            }
        }
        if ready < 0, errno != EINTR { throw LaneViolation(kind: .system, detail: "waiting: \(errorText(errno))") }
        guard ready > 0 else {
            if ready == 0, timeout == probeTimeout { try probe() }
            return
        }
        if entries.0.revents != 0 { takeNotification() }
        if entries.2.revents != 0 { waker.clear() }
        if entries.1.revents != 0 { try takeEvent() }
    }

    private func probe() throws(LaneViolation) {
        guard !isProbing, let queue else { return }
        try check(crdma_post_probe(queue, RDMAWork.probe.rawValue), "asking for the peer")
        isProbing = true
    }

    /// Whether `poll` would find something. Completions cannot be looked at without being taken: one is kept.
    private var hasCompletion: Bool {
        if kept != nil { return true }
        var completion = ibv_wc()
        guard ibv_poll_cq(completions, 1, &completion) > 0 else { return false }
        kept = completion
        return true
    }

    private func takeNotification() {
        var queue: UnsafeMutablePointer<ibv_cq>?
        var context: UnsafeMutableRawPointer?
        guard ibv_get_cq_event(channel, &queue, &context) == 0 else { return }
        unacknowledgedEvents += 1
        // Each acknowledgement takes a lock.
        if unacknowledgedEvents >= 64 {
            ibv_ack_cq_events(completions, unacknowledgedEvents)
            unacknowledgedEvents = 0
        }
    }

    private func takeEvent() throws(LaneViolation) {
        var event: UnsafeMutablePointer<rdma_cm_event>?
        guard rdma_get_cm_event(events, &event) == 0, let event else { return }
        let kind = event.pointee.event
        rdma_ack_cm_event(event)
        switch kind {
        case RDMA_CM_EVENT_DISCONNECTED, RDMA_CM_EVENT_TIMEWAIT_EXIT:
            throw LaneViolation(kind: .peerClosed, detail: "")
        case RDMA_CM_EVENT_DEVICE_REMOVAL:
            domain.markGone()
            throw LaneViolation(kind: .system, detail: "RDMA device \(domain.name) was removed")
        default:
            break
        }
    }
}

/// What a completion is of; the low 16 bits of a request's number are a buffer's.
enum RDMAWork: UInt64 {
    case write = 0x1_0000
    case message = 0x2_0000
    case received = 0x3_0000
    case bind = 0x4_0000
    case invalidate = 0x5_0000
    case probe = 0x6_0000
}
