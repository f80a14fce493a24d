import CRDMA
import Glibc
import Handoff
import Threads

/// The prefill node's end of a lane over RDMA: a thread that has the adapter write slab pages straight into those of
/// the decode node, and tells from its completions what has arrived.
final class RDMASendLane: SendingLane {
    let key: LaneKey
    let transport = LaneTransport.rdma
    private let connection: RDMAConnection
    private let reach: RDMAWire.Reach
    private let slab: SlabRegion
    private let digests: Bool
    private let table: DigestTable?
    let counters: Monitor<LaneCounters>
    private let queue: LaneQueue

    init(
        key: LaneKey, connected: RDMADial.Connected, slab: SlabRegion, digests: Bool, table: DigestTable?,
        tallies: LaneTallies
    ) throws(TransportError) {
        self.key = key
        connection = connected.connection
        reach = connected.reach
        self.slab = slab
        self.digests = digests
        self.table = table
        counters = tallies[connected.connection.domain.name]
        queue = try LaneQueue()
    }

    func post(_ item: LaneQueue.Item) -> Bool { queue.post(item) }
    func stop(_ reason: LaneCloseReason) { queue.stop(reason) }

    func checkDevice() {
        if !connection.domain.isPresent() { stop(connection.domain.removal) }
    }

    func run(_ onAnswer: @escaping (LaneAnswer) -> Void) -> LaneCloseReason {
        let sender = Sender(lane: self, onAnswer: onAnswer)
        let reason = sender.run()
        // Nothing is read from the slab behind this.
        connection.sever()
        return queue.finish(reason)
    }

    // MARK: The thread

    /// What only the lane's thread touches.
    private final class Sender {
        /// What the completion of a request says, in the order of the requests.
        private enum Pending {
            /// This many requests of a record, which is not whole yet.
            case part(requests: Int)
            case record(requests: Int, Record)
            /// With what is before it: a handoff's last record has no completion of its own.
            case message(requests: Int, Record?, completes: (HandoffID, LaneEpoch)?)
        }

        private struct Record {
            let handoff: HandoffID
            let epoch: LaneEpoch
            let number: Int
        }

        private let lane: RDMASendLane
        private let connection: RDMAConnection
        private let onAnswer: (LaneAnswer) -> Void
        private var digests: SourceDigests
        private var epoch: LaneEpoch?
        private var sequence: UInt32 = 0
        /// What is being sent, and how much of it is posted: ranges of a record, bytes of a completion record.
        private var item: LaneQueue.Item?
        private var posted = 0
        private var frame: [UInt8] = []
        private var pending: [Pending] = []
        private var outstanding = 0
        /// Posted since the last request that reports its completion.
        private var unreported = 0
        private var unreportedRecord: Record?
        private var assembly = FrameAssembly()
        /// The windows of the latest grant, by first slot.
        private var windows: (epoch: LaneEpoch, all: [GrantWindow])?
        private let requests: UnsafeMutableBufferPointer<ibv_send_wr>
        private let pieces: UnsafeMutableBufferPointer<ibv_sge>

        init(lane: RDMASendLane, onAnswer: @escaping (LaneAnswer) -> Void) {
            self.lane = lane
            self.onAnswer = onAnswer
            connection = lane.connection
            digests = SourceDigests(slab: lane.slab, table: lane.table)
            requests = .allocate(capacity: connection.depth)
            requests.initialize(repeating: ibv_send_wr())
            pieces = .allocate(capacity: 2 * connection.depth)
            pieces.initialize(repeating: ibv_sge())
        }

        deinit {
            requests.deallocate()
            pieces.deallocate()
        }

        func run() -> LaneCloseReason {
            do throws(LaneViolation) {
                try send(ready: ())
                while !lane.queue.isStopping {
                    var isBusy = try poll()
                    if item == nil { begin() }
                    if try advance() { isBusy = true }
                    if !isBusy { try connection.wait(lane.queue.waker, until: nil) }
                }
                return LaneCloseReason(.shutdown)
            } catch {
                // Stale writes too: the decode node's adapter says so to nobody but the writer.
                lane.counters.withLock { $0.count(error) }
                return error.reason
            }
        }

        /// Tells the decode node that the lane is known here and may be granted, in as large a message as there is: a path
        /// that lets connections through and no large packets is none.
        private func send(ready: Void) throws(LaneViolation) {
            var bytes = [UInt8](repeating: 0, count: RDMAWire.messageBytes)
            bytes.withUnsafeMutableBytes { FrameHeader.ready.write(to: $0) }
            try send(bytes[...], completes: nil)
        }

        private func send(_ bytes: ArraySlice<UInt8>, completes: (HandoffID, LaneEpoch)?) throws(LaneViolation) {
            let sent = bytes.withUnsafeBytes { bytes in
                Result { () throws(LaneViolation) in try connection.send(bytes) }
            }
            try sent.get()
            pending.append(.message(requests: unreported + 1, unreportedRecord, completes: completes))
            outstanding += 1
            (unreported, unreportedRecord) = (0, nil)
        }

        // MARK: Items

        private func begin() {
            item = lane.queue.next()
            posted = 0
            switch item {
            case .batch(let batch):
                precondition(
                    batch.ranges.count >= 1 && batch.ranges.count <= WriteLimits.rangesMax, "a record's ranges")
                begin(batch.epoch)
                sequence += 1
            case .completion(let terms):
                begin(terms.epoch)
                sequence += 1
                frame = digests.completion(terms, sequence: sequence, digests: lane.digests)
            case nil:
                break
            }
        }

        private func begin(_ epoch: LaneEpoch) {
            if self.epoch == epoch { return }
            self.epoch = epoch
            sequence = 0
            digests.begin()
        }

        /// Posts what there is room for of the item; false when nothing could be posted.
        private func advance() throws(LaneViolation) -> Bool {
            switch item {
            case .batch(let batch): try advance(batch)
            case .completion(let terms): try advance(terms)
            case nil: false
            }
        }

        private func advance(_ terms: PartTerms) throws(LaneViolation) -> Bool {
            let before = posted
            while posted < frame.count, outstanding < connection.depth, !connection.freeSends.isEmpty {
                let end = min(posted + RDMAWire.messageBytes, frame.count)
                try send(frame[posted..<end], completes: end == frame.count ? (terms.handoff, terms.epoch) : nil)
                posted = end
            }
            if posted == frame.count {
                item = nil
                lane.counters.withLock { $0.completions += 1 }
            }
            return posted > before
        }

        private func advance(_ batch: WriteBatch) throws(LaneViolation) -> Bool {
            // Its windows are on their way.
            if lane.reach.hasWindows, windows?.epoch != batch.epoch { return false }
            let room = connection.depth - outstanding
            guard room > 0 else { return false }
            let count = try gather(batch, room: room)
            let isWhole = posted == batch.ranges.count
            // One completion for a record, or for a queue that is full; for the last record that of the message behind it.
            let isReported = count == room || isWhole && !lane.queue.isCompletionNext
            if isReported { requests[count - 1].send_flags = UInt32(IBV_SEND_SIGNALED.rawValue) }
            guard let base = requests.baseAddress else { return false }
            for index in 0..<count { requests[index].next = index + 1 < count ? base + (index + 1) : nil }
            try connection.post(base)
            outstanding += count
            unreported += count
            let record = isWhole ? Record(handoff: batch.handoff, epoch: batch.epoch, number: Int(sequence)) : nil
            if isReported {
                pending.append(record.map { .record(requests: unreported, $0) } ?? .part(requests: unreported))
                unreported = 0
            } else {
                unreportedRecord = record
            }
            if isWhole {
                item = nil
                lane.counters.withLock { counters in
                    counters.records += 1
                    counters.bytes += batch.bytes
                }
            }
            return true
        }

        /// Fills requests with the next ranges of a record, neighbours on the decode node's side in one request; returns
        /// how many. Stops where the digests of so many bytes have been taken that the adapter should begin with them.
        private func gather(_ batch: WriteBatch, room: Int) throws(LaneViolation) -> Int {
            var count = 0
            var piece = -1
            var bytes = 0
            var remoteEnd: UInt64 = 0
            var localEnd: UInt64 = 0
            var lastKey: UInt32 = 0
            while posted < batch.ranges.count, bytes < SourceDigests.strideBytes {
                let range = batch.ranges[posted]
                let local = UInt64(UInt(bitPattern: lane.slab.address(of: range.source, offset: range.offset)))
                let remote = address(range)
                let key = try key(range.target.index)
                let isNext = count > 0 && remote == remoteEnd && key == lastKey
                if isNext, local == localEnd {
                    pieces[piece].length += UInt32(range.length)
                } else {
                    let joins = isNext && requests[count - 1].num_sge < Int32(connection.domain.piecesMax)
                    guard piece + 1 < pieces.count, joins || count < room else { break }
                    piece += 1
                    pieces[piece] = ibv_sge(
                        addr: local, length: UInt32(range.length), lkey: connection.domain.slabRegion.pointee.lkey)
                    if joins {
                        requests[count - 1].num_sge += 1
                    } else {
                        crdma_set_write(
                            &requests[count], RDMAWork.write.rawValue, pieces.baseAddress.map { $0 + piece }, 1, remote,
                            key, false)
                        count += 1
                    }
                }
                if lane.digests {
                    let mismatches = digests.take(range, of: batch.handoff)
                    if !mismatches.isEmpty { onAnswer(.sourceChanged(batch.handoff, range.source, mismatches)) }
                    bytes += range.length
                }
                (remoteEnd, localEnd, lastKey) = (remote &+ UInt64(range.length), local + UInt64(range.length), key)
                posted += 1
            }
            return count
        }

        private func address(_ range: WriteRange) -> UInt64 {
            // Not what it is: a wrong one is refused by the decode node's adapter.
            lane.reach.base &+ UInt64(Int(range.target.index) * lane.slab.shape.pageBytes + range.offset)
        }

        private func key(_ slot: UInt32) throws(LaneViolation) -> UInt32 {
            guard lane.reach.hasWindows else { return lane.reach.key }
            let all = windows?.all ?? []
            // The last that begins at or before it.
            var (low, high) = (0, all.count)
            while low < high {
                let middle = (low + high) / 2
                if all[middle].first <= slot { low = middle + 1 } else { high = middle }
            }
            guard low > 0, all[low - 1].holds(slot) else { throw .malformed("no window for slot \(slot)") }
            return all[low - 1].key
        }

        // MARK: Completions

        private func poll() throws(LaneViolation) -> Bool {
            var found = false
            while !lane.queue.isStopping,
                try connection.poll(
                    { (work) throws(LaneViolation) in try completed(work) },
                    onMessage: { (bytes) throws(LaneViolation) in try received(bytes) })
            { found = true }
            return found
        }

        private func completed(_ work: RDMAWork) throws(LaneViolation) {
            guard !pending.isEmpty else { throw .malformed("a completion of nothing that was posted") }
            switch pending.removeFirst() {
            case .part(let requests):
                outstanding -= requests
            case .record(let requests, let record):
                outstanding -= requests
                acknowledge(record)
            case .message(let requests, let record, let completes):
                outstanding -= requests
                if let record { acknowledge(record) }
                if let (handoff, epoch) = completes { onAnswer(.completionAcknowledged(handoff, epoch)) }
            }
        }

        private func acknowledge(_ record: Record) {
            onAnswer(.acknowledged(record.handoff, record.epoch, records: record.number))
        }

        private func received(_ message: UnsafeRawBufferPointer) throws(LaneViolation) {
            let slots = lane.reach.hasWindows ? Int(UInt32.max) : 0
            let whole = try assembly.add(message) { (header) throws(LaneViolation) in
                guard header.kind == .windows, header.count > 0, header.count <= RDMASendLane.windowsMax, slots > 0
                else {
                    throw .malformed("a \(header.kind) of \(header.count) from the reading side")
                }
                return Int(header.count) * RDMAWire.windowBytes
            }
            guard let (header, body) = whole else { return }
            windows = body.withUnsafeBytes { bytes in
                var reader = WireReader(bytes)
                let all = (0..<header.count).map { _ in
                    GrantWindow(first: reader.next(), count: reader.next(), key: reader.next())
                }
                return (header.epoch, all)
            }
        }
    }

    /// Windows of one grant: one per slot at most, of which there are no more than this.
    private static let windowsMax: UInt32 = 1 << 20
}
