import Glibc
import Handoff

/// The prefill node's end of one lane: a thread that writes records straight from slab pages and reads the
/// acknowledgements that come back.
final class SendLane: Sendable {
    enum Item: Sendable {
        case batch(WriteBatch)
        case completion(GrantTerms)
    }

    enum Answer: Sendable {
        case acknowledged(HandoffID, LaneEpoch, records: Int)
        case completionAcknowledged(HandoffID, LaneEpoch)
        case sourceChanged(HandoffID, SlotRef, [DigestMismatch])
    }

    private struct Queue: Sendable {
        var items: [Item] = []
        var stopping: LaneCloseReason?
    }

    /// Items that may wait: what two handoffs can have posted, for one may queue behind another's last words.
    static let queueMax = 2 * (WriteLimits.recordsInFlightMax + 1)
    /// Bytes whose digests are taken before they are sent, so that they are still in the cache.
    private static let digestStride = 1 << 19

    let key: LaneKey
    private let socket: Socket
    private let slab: SlabRegion
    private let digests: Bool
    private let table: DigestTable?
    private let counters: Monitor<LaneCounters>
    private let waker: Waker
    private let queue = Monitor(Queue())

    init(
        key: LaneKey, socket: Socket, slab: SlabRegion, digests: Bool, table: DigestTable?,
        counters: Monitor<LaneCounters>
    ) throws(TransportError) {
        self.key = key
        self.socket = socket
        self.slab = slab
        self.digests = digests
        self.table = table
        self.counters = counters
        waker = try Waker()
    }

    /// Queues an item; false when the lane is closing or the queue is full, which a poster within its limits
    /// never meets.
    func post(_ item: Item) -> Bool {
        let posted = queue.withLock { queue in
            guard queue.stopping == nil, queue.items.count < SendLane.queueMax else { return false }
            queue.items.append(item)
            return true
        }
        if posted { waker.wake() }
        return posted
    }

    /// Ends the lane; the thread reports when it has left.
    func stop(_ reason: LaneCloseReason) {
        queue.withLock { queue in
            if queue.stopping == nil { queue.stopping = reason }
        }
        socket.shutDown()
        waker.wake()
    }

    /// Sends what is queued until the lane ends; returns why, after the thread has left the slab for good.
    func run(_ onAnswer: @escaping (Answer) -> Void) -> LaneCloseReason {
        var sender = Sender(lane: self, onAnswer: onAnswer)
        var reason = sender.run()
        sender.deallocate()
        socket.closeNow()
        queue.withLock { queue in
            if let asked = queue.stopping { reason = asked }
            queue.stopping = reason
            queue.items = []
        }
        return reason
    }

    private func next() -> (item: Item?, stopping: Bool) {
        queue.withLock { queue in
            if queue.stopping != nil { return (nil, true) }
            return (queue.items.isEmpty ? nil : queue.items.removeFirst(), false)
        }
    }

    // MARK: The thread

    /// What only the lane's thread touches.
    private struct Sender {
        let lane: SendLane
        let onAnswer: (Answer) -> Void
        /// Of the handoff being written, per page.
        private var digests: [PageDigest] = []
        private var epoch: LaneEpoch?
        private var sequence: UInt32 = 0
        /// What of this epoch has left whole, and so may have been acknowledged.
        private var recordsSent: UInt32 = 0
        private var completionSent = false
        private let prefix = UnsafeMutableRawBufferPointer.allocate(
            byteCount: LaneWire.recordPrefixBytesMax, alignment: 8)
        private let vectors = UnsafeMutableBufferPointer<iovec>.allocate(capacity: WriteLimits.rangesMax + 1)
        private let answers = UnsafeMutableRawBufferPointer.allocate(
            byteCount: 64 * LaneWire.headerBytes, alignment: 8)
        private var answerBytes = 0

        init(lane: SendLane, onAnswer: @escaping (Answer) -> Void) {
            self.lane = lane
            self.onAnswer = onAnswer
            vectors.initialize(repeating: iovec())
        }

        func deallocate() {
            prefix.deallocate()
            vectors.deallocate()
            answers.deallocate()
        }

        mutating func run() -> LaneCloseReason {
            do throws(LaneViolation) {
                try sendReady()
                while true {
                    let (item, stopping) = lane.next()
                    if stopping { return LaneCloseReason(.shutdown) }
                    switch item {
                    case .batch(let batch): try send(batch)
                    case .completion(let terms): try sendCompletion(terms)
                    case nil: try wait(for: POLLIN)
                    }
                    try readAnswers()
                }
            } catch {
                if error.kind == .protocolError { lane.counters.withLock { $0.protocolErrors += 1 } }
                return error.reason
            }
        }

        /// Tells the decode node that the lane is known here and may be granted.
        private mutating func sendReady() throws(LaneViolation) {
            FrameHeader.ready.write(to: prefix)
            vectors[0] = iovec(iov_base: prefix.baseAddress, iov_len: LaneWire.headerBytes)
            try sendVectors(1)
        }

        private mutating func begin(_ epoch: LaneEpoch) {
            if self.epoch == epoch { return }
            self.epoch = epoch
            sequence = 0
            recordsSent = 0
            completionSent = false
            digests.removeAll(keepingCapacity: true)
        }

        private mutating func send(_ batch: WriteBatch) throws(LaneViolation) {
            begin(batch.epoch)
            sequence += 1
            precondition(batch.ranges.count >= 1 && batch.ranges.count <= WriteLimits.rangesMax, "a record's ranges")
            let header = FrameHeader(
                .data, count: batch.ranges.count, handoff: batch.handoff, epoch: batch.epoch, sequence: sequence)
            header.write(to: prefix)
            let body = UnsafeMutableRawBufferPointer(rebasing: prefix[LaneWire.headerBytes...])
            var writer = WireWriter(body)
            for range in batch.ranges { WireRange(range).write(to: &writer) }
            vectors[0] = iovec(
                iov_base: prefix.baseAddress,
                iov_len: LaneWire.headerBytes + batch.ranges.count * LaneWire.rangeBytes)
            var filled = 1
            var bytes = 0
            for (index, range) in batch.ranges.enumerated() {
                let address = lane.slab.address(of: range.source, offset: range.offset)
                vectors[filled] = iovec(iov_base: address, iov_len: range.length)
                filled += 1
                bytes += range.length
                guard lane.digests else { continue }
                digest(range, of: batch.handoff, at: address)
                // Send in strides what was just read, while it is in the cache.
                if bytes >= SendLane.digestStride, index + 1 < batch.ranges.count {
                    try sendVectors(filled)
                    filled = 0
                    bytes = 0
                }
            }
            try sendVectors(filled)
            recordsSent = sequence
            lane.counters.withLock { counters in
                counters.records += 1
                counters.bytes += batch.bytes
            }
        }

        /// Takes the digests of a range that is about to be sent. Where it was sent before, by a handoff with the
        /// same prefix, the digests of then are what the decode node is told.
        private mutating func digest(_ range: WriteRange, of handoff: HandoffID, at bytes: UnsafeRawPointer) {
            let shape = lane.slab.shape
            guard let first = shape.layer(startingAt: range.offset),
                let last = shape.layer(startingAt: range.offset + range.length)
            else { preconditionFailure("a range that is not whole layers") }
            while digests.count <= range.page { digests.append(PageDigest()) }
            let known = digests[range.page].layers
            precondition(known.count == first, "layer \(first) of a page after layer \(known.count)")
            digests[range.page].add(layers: first..<last, at: bytes, shape: shape)
            guard let table = lane.table else { return }
            let found = Array(digests[range.page].layers[first...])
            let expected = table.first(
                range.source, of: handoff, page: range.page, layers: first..<last, digests: found)
            guard expected != found else { return }
            digests[range.page] = PageDigest(layers: known + expected)
            let mismatches = (first..<last).filter { expected[$0 - first] != found[$0 - first] }.map {
                DigestMismatch(
                    page: range.page, layer: $0, expected: expected[$0 - first], found: found[$0 - first])
            }
            onAnswer(.sourceChanged(handoff, range.source, mismatches))
        }

        private mutating func sendCompletion(_ terms: GrantTerms) throws(LaneViolation) {
            begin(terms.epoch)
            sequence += 1
            let layout = CompletionLayout(pages: terms.slots.count, digests: lane.digests, shape: lane.slab.shape)
            let count = LaneWire.headerBytes + layout.bytes
            let frame = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 8)
            defer { frame.deallocate() }
            let header = FrameHeader(
                .completion, count: terms.slots.count, handoff: terms.handoff, epoch: terms.epoch, sequence: sequence)
            header.write(to: frame)
            precondition(!lane.digests || digests.count == terms.slots.count, "digests of \(digests.count) pages")
            let pages = terms.slots.enumerated().map { page, slot in
                CompletionLayout.Page(slot: slot, digest: lane.digests ? digests[page] : PageDigest())
            }
            layout.write(pages, to: UnsafeMutableRawBufferPointer(rebasing: frame[LaneWire.headerBytes...]))
            vectors[0] = iovec(iov_base: frame.baseAddress, iov_len: count)
            try sendVectors(1)
            completionSent = true
            lane.counters.withLock { $0.completions += 1 }
        }

        /// Sends the first `count` vectors whole.
        private mutating func sendVectors(_ count: Int) throws(LaneViolation) {
            guard let base = vectors.baseAddress else { return }
            var first = 0
            while first < count {
                var message = msghdr()
                message.msg_iov = base + first
                message.msg_iovlen = count - first
                var sent = sendmsg(lane.socket.descriptor, &message, messageDontWait | messageNoSignal)
                if sent < 0 {
                    switch errno {
                    case EINTR: continue
                    case EAGAIN: try waitToSend()
                    default: throw violation(errno, "writing")
                    }
                    continue
                }
                while first < count, sent >= vectors[first].iov_len {
                    sent -= vectors[first].iov_len
                    first += 1
                }
                if sent > 0, let rest = vectors[first].iov_base {
                    vectors[first] = iovec(iov_base: rest + sent, iov_len: vectors[first].iov_len - sent)
                }
            }
        }

        /// Waits for room to send, reading what the peer has to say meanwhile: it may wait for that itself.
        private mutating func waitToSend() throws(LaneViolation) {
            try wait(for: POLLOUT | POLLIN)
            if lane.queue.withLock({ $0.stopping != nil }) { throw LaneViolation(kind: .shutdown, detail: "") }
            try readAnswers()
        }

        private func wait(for events: Int32) throws(LaneViolation) {
            var entries = (
                pollfd(fd: lane.socket.descriptor, events: Int16(events), revents: 0),
                pollfd(fd: lane.waker.readEnd, events: Int16(POLLIN), revents: 0)
            )
            let ready = withUnsafeMutablePointer(to: &entries) { pointer in
                pointer.withMemoryRebound(to: pollfd.self, capacity: 2) { poll($0, 2, -1) }
            }
            if ready < 0, errno != EINTR { throw violation(errno, "waiting") }
            if entries.1.revents != 0 { lane.waker.clear() }
        }

        // MARK: Acknowledgements

        private mutating func readAnswers() throws(LaneViolation) {
            while true {
                let room = answers.count - answerBytes
                let count = recv(
                    lane.socket.descriptor, answers.baseAddress.map { $0 + answerBytes }, room, messageDontWait)
                if count == 0 { throw LaneViolation(kind: .peerClosed, detail: "") }
                if count < 0 {
                    if errno == EAGAIN { return }
                    if errno == EINTR { continue }
                    throw violation(errno, "reading acknowledgements")
                }
                answerBytes += count
                try deliverAnswers()
                if count < room { return }
            }
        }

        private mutating func deliverAnswers() throws(LaneViolation) {
            var position = 0
            while answerBytes - position >= LaneWire.headerBytes {
                let bytes = UnsafeRawBufferPointer(
                    rebasing: answers[position..<(position + LaneWire.headerBytes)])
                guard let header = FrameHeader(reading: bytes) else { throw .malformed("no acknowledgement") }
                try check(header)
                switch header.kind {
                case .acknowledgement:
                    onAnswer(.acknowledged(header.handoff, header.epoch, records: Int(header.sequence)))
                case .completionAcknowledgement:
                    onAnswer(.completionAcknowledged(header.handoff, header.epoch))
                case .data, .completion, .ready:
                    throw .malformed("a record from the reading side")
                }
                position += LaneWire.headerBytes
            }
            answerBytes -= position
            if position > 0, answerBytes > 0, let base = answers.baseAddress {
                base.copyMemory(from: base + position, byteCount: answerBytes)
            }
        }

        /// Nothing may be acknowledged before it has left: its pages would be given away while they are still read.
        /// Of earlier epochs everything left before the current one's first record.
        private func check(_ header: FrameHeader) throws(LaneViolation) {
            guard let epoch, header.epoch.value <= epoch.value else {
                throw .malformed("an acknowledgement of epoch \(header.epoch.value), which has not begun")
            }
            guard header.epoch == epoch else { return }
            switch header.kind {
            case .acknowledgement where header.sequence > recordsSent:
                throw .malformed("record \(header.sequence) acknowledged, \(recordsSent) were sent")
            case .completionAcknowledgement where !completionSent:
                throw .malformed("a completion acknowledged that was not sent")
            default:
                break
            }
        }

        private func violation(_ code: Int32, _ doing: String) -> LaneViolation {
            let failure: Socket.Failure =
                switch code {
                case ECONNRESET, EPIPE: .closed
                case ETIMEDOUT: .timeout
                default: .system(code)
                }
            let reason = LaneCloseReason(after: failure, doing)
            return LaneViolation(kind: reason.kind, detail: reason.detail)
        }
    }
}
