import Glibc
import Handoff
import Threads

/// The prefill node's end of a lane over TCP: a thread that writes records straight from slab pages and reads the
/// acknowledgements that come back.
final class TCPSendLane: SendingLane {
    let key: LaneKey
    let transport = LaneTransport.tcp
    private let socket: Socket
    private let slab: SlabRegion
    private let digests: Bool
    private let table: DigestTable?
    let counters: Monitor<LaneCounters>
    private let queue: LaneQueue

    init(
        key: LaneKey, socket: Socket, slab: SlabRegion, digests: Bool, table: DigestTable?,
        tallies: LaneTallies
    ) throws(TransportError) {
        self.key = key
        self.socket = socket
        self.slab = slab
        self.digests = digests
        self.table = table
        counters = tallies[LaneTransport.tcp.rawValue]
        queue = try LaneQueue()
    }

    func post(_ item: LaneQueue.Item) -> Bool { queue.post(item) }

    func stop(_ reason: LaneCloseReason) {
        queue.stop(reason)
        socket.shutDown()
    }

    /// The socket says so itself.
    func checkDevice() {}

    func run(_ onAnswer: @escaping (LaneAnswer) -> Void) -> LaneCloseReason {
        var sender = Sender(lane: self, onAnswer: onAnswer)
        let reason = sender.run()
        sender.deallocate()
        socket.closeNow()
        return queue.finish(reason)
    }

    // MARK: The thread

    /// What only the lane's thread touches.
    private struct Sender {
        let lane: TCPSendLane
        let onAnswer: (LaneAnswer) -> Void
        private var digests: SourceDigests
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

        init(lane: TCPSendLane, onAnswer: @escaping (LaneAnswer) -> Void) {
            self.lane = lane
            self.onAnswer = onAnswer
            digests = SourceDigests(slab: lane.slab, table: lane.table)
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
                    let item = lane.queue.next()
                    if item == nil, lane.queue.isStopping { return LaneCloseReason(.shutdown) }
                    switch item {
                    case .batch(let batch): try send(batch)
                    case .completion(let terms): try sendCompletion(terms)
                    case nil: try wait(for: POLLIN)
                    }
                    try readAnswers()
                }
            } catch {
                lane.counters.withLock { $0.count(error) }
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
            digests.begin()
        }

        private mutating func send(_ batch: WriteBatch) throws(LaneViolation) {
            begin(batch.epoch)
            sequence += 1
            precondition(batch.ranges.count >= 1 && batch.ranges.count <= WriteLimits.rangesMax, "a record's ranges")
            let header = FrameHeader(
                .data, count: batch.ranges.count, handoff: batch.handoff, part: batch.part, epoch: batch.epoch,
                sequence: sequence)
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
                let mismatches = digests.take(range, of: batch.handoff)
                if !mismatches.isEmpty { onAnswer(.sourceChanged(batch.handoff, range.source, mismatches)) }
                // Send in strides what was just read, while it is in the cache.
                if bytes >= SourceDigests.strideBytes, index + 1 < batch.ranges.count {
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

        private mutating func sendCompletion(_ terms: PartTerms) throws(LaneViolation) {
            begin(terms.epoch)
            sequence += 1
            var frame = digests.completion(terms, sequence: sequence, digests: lane.digests)
            let sent = frame.withUnsafeMutableBytes { bytes in
                vectors[0] = iovec(iov_base: bytes.baseAddress, iov_len: bytes.count)
                return Result { () throws(LaneViolation) in try sendVectors(1) }
            }
            try sent.get()
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
            if lane.queue.isStopping { throw LaneViolation(kind: .shutdown, detail: "") }
            try readAnswers()
        }

        private func wait(for events: Int32) throws(LaneViolation) {
            var entries = (
                pollfd(fd: lane.socket.descriptor, events: Int16(events), revents: 0),
                pollfd(fd: lane.queue.waker.readEnd, events: Int16(POLLIN), revents: 0)
            )
            let ready = withUnsafeMutablePointer(to: &entries) { pointer in
                pointer.withMemoryRebound(to: pollfd.self, capacity: 2) { poll($0, 2, -1) }
            }
            if ready < 0, errno != EINTR { throw violation(errno, "waiting") }
            if entries.1.revents != 0 { lane.queue.waker.clear() }
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
                case .data, .completion, .ready, .windows:
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
