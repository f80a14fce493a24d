import CRDMA
import Glibc
import Handoff
import Threads

/// The decode node's end of a lane over RDMA. The adapter lands pages without asking anybody; the thread narrows what
/// it may land to what is granted, where the adapter has memory windows, and takes completion records.
final class RDMAReceiveLane: ReceivingLane {
    private enum Order: Sendable {
        case open(PartTerms)
        case end(LaneEpoch)
    }

    private struct Orders: Sendable {
        var queue: [Order] = []
        var stopping: LaneCloseReason?
        var fenceStart: Instant?
        /// Up to this epoch no window is bound any more.
        var endedUpTo = LaneEpoch(0)
        var hasLeft = false
    }

    /// Ending windows takes the adapter microseconds; who waits holds the node's lock.
    private static let endTimeout = Duration.milliseconds(50)

    let id: LaneID
    let peer: Incarnation
    let address: String
    let transport = LaneTransport.rdma
    private let connection: RDMAConnection
    private let slab: SlabRegion
    private let settings: ReceivingSettings
    let counters: Monitor<LaneCounters>
    private let gate = LaneGate(seesWrites: false)
    private let orders = Monitor(Orders())
    private let waker: Waker

    init(
        id: LaneID, peer: Incarnation, address: String, connection: RDMAConnection, settings: ReceivingSettings,
        tallies: LaneTallies
    ) throws(TransportError) {
        self.id = id
        self.peer = peer
        self.address = address
        self.connection = connection
        slab = connection.domain.slab
        self.settings = settings
        counters = tallies[connection.domain.name]
        waker = try Waker()
    }

    func bind(_ terms: PartTerms) -> Bool {
        // The adapter looks at pages, not at layers: writers that share pages are kept apart over TCP alone.
        guard terms.layers == 0..<slab.shape.layerCount else {
            fence(LaneCloseReason(.protocolError, "a part of layers \(terms.layers), which RDMA can't keep to them"))
            return false
        }
        guard gate.bind(terms) else { return false }
        if connection.domain.hasWindows { order(.open(terms)) }
        return true
    }

    /// Without windows the peer can write for as long as its lane lives, unless its completion record is here, behind
    /// which nothing comes.
    func unbind(_ epoch: LaneEpoch) -> LaneUnbinding {
        let wasOpen = gate.isOpen(epoch)
        let isQuiet = gate.unbind(epoch)
        guard wasOpen else { return isQuiet ? .quiet : .unknown }
        guard connection.domain.hasWindows else { return .unknown }
        order(.end(epoch))
        let ended = orders.wait(until: .after(RDMAReceiveLane.endTimeout)) { orders -> Bool? in
            if orders.hasLeft || orders.endedUpTo.value >= epoch.value { return true }
            return orders.stopping == nil ? nil : false
        }
        return ended == true ? .quiet : .unknown
    }

    func digests(_ epoch: LaneEpoch) -> (expected: [PageDigest], landed: [PageDigest], firstPage: Int)? {
        gate.digests(epoch)
    }

    /// Nothing is better.
    func retire() {}

    func checkDevice() {
        if !connection.domain.isPresent() { fence(connection.domain.removal) }
    }

    func fence(_ reason: LaneCloseReason) {
        orders.update { orders in
            if orders.fenceStart == nil { orders.fenceStart = .now }
            if orders.stopping == nil { orders.stopping = reason }
        }
        gate.fence()
        waker.wake()
    }

    private func order(_ order: Order) {
        orders.withLock { $0.queue.append(order) }
        waker.wake()
    }

    // MARK: The thread

    func waitUntilReady(_ timeout: Duration) -> Bool {
        let deadline = Instant.after(timeout)
        var isReady = false
        do throws(LaneViolation) {
            while !isReady, !deadline.hasPassed, !isStopping {
                let found = try connection.poll(
                    { (_) throws(LaneViolation) in throw .malformed("a completion of nothing that was posted") },
                    onMessage: { (bytes) throws(LaneViolation) in
                        guard bytes.count == RDMAWire.messageBytes, FrameHeader(reading: bytes) == .ready else {
                            throw .malformed("not ready")
                        }
                        isReady = true
                    })
                if !found { try connection.wait(waker, until: deadline) }
            }
        } catch {
            return false
        }
        return isReady
    }

    func run(
        _ onCompletion: (CompletionRecord, LaneEpoch) -> Void, whenAcknowledged: () -> Void
    ) -> (reason: LaneCloseReason, fence: Duration?) {
        var reason = LaneCloseReason(.shutdown)
        withoutActuallyEscaping(onCompletion) { onCompletion in
            let receiver = Receiver(lane: self, onCompletion: onCompletion)
            reason = receiver.run()
            connection.sever { receiver.releaseWindows() }
        }
        gate.close()
        return orders.update { orders in
            orders.hasLeft = true
            return (orders.stopping ?? reason, orders.fenceStart.map { .now - $0 })
        }
    }

    /// No window of this epoch is bound any more.
    private func hasEnded(_ epoch: LaneEpoch) {
        orders.update { if epoch.value > $0.endedUpTo.value { $0.endedUpTo = epoch } }
    }

    private var isStopping: Bool { orders.withLock { $0.stopping != nil } }

    /// What only the lane's thread touches.
    private final class Receiver {
        private let lane: RDMAReceiveLane
        private let connection: RDMAConnection
        private let onCompletion: (CompletionRecord, LaneEpoch) -> Void
        private var assembly = FrameAssembly()
        private let windows: GrantWindows
        /// The grant whose windows are open or being opened.
        private var open: PartTerms?
        private var runsToBind: ArraySlice<(first: UInt32, count: UInt32)> = []
        private var granted: [GrantWindow] = []
        /// What the peer is still to be told.
        private var notice: ArraySlice<UInt8> = []
        private var isTelling: Bool { !notice.isEmpty && notice.startIndex > 0 }
        private var messages = 0
        /// One that is whole, and may have come while windows were being ended.
        private var frame: (header: FrameHeader, body: [UInt8])?

        init(lane: RDMAReceiveLane, onCompletion: @escaping (CompletionRecord, LaneEpoch) -> Void) {
            self.lane = lane
            connection = lane.connection
            self.onCompletion = onCompletion
            windows = GrantWindows(connection)
        }

        func run() -> LaneCloseReason {
            do throws(LaneViolation) {
                while !lane.isStopping {
                    var isBusy = false
                    while !lane.isStopping, try poll() { isBusy = true }
                    while let order = lane.orders.withLock({ $0.queue.isEmpty ? nil : $0.queue.removeFirst() }) {
                        isBusy = true
                        try follow(order)
                    }
                    if try advance() { isBusy = true }
                    if let (header, body) = frame {
                        isBusy = true
                        frame = nil
                        try complete(header, body)
                    }
                    if !isBusy { try connection.wait(lane.waker, until: nil) }
                }
                return LaneCloseReason(.shutdown)
            } catch {
                lane.counters.withLock { $0.count(error) }
                return error.reason
            }
        }

        // MARK: Windows

        func releaseWindows() { windows.release() }

        private func follow(_ order: Order) throws(LaneViolation) {
            switch order {
            case .open(let terms):
                try endWindows()
                open = terms
                runsToBind = GrantWindow.runs(terms.slots)[...]
                granted = []
            case .end(let epoch):
                if open?.epoch == epoch { try endWindows() }
                lane.hasEnded(epoch)
            }
        }

        private var hasRoom: Bool { windows.outstanding + messages < connection.depth }

        /// Binds windows and tells the peer of them, as far as there is room for requests; false when there was nothing
        /// to do.
        private func advance() throws(LaneViolation) -> Bool {
            var isBusy = false
            while hasRoom, let run = runsToBind.popFirst() {
                granted.append(try windows.bind(first: run.first, count: run.count))
                isBusy = true
            }
            if let open, runsToBind.isEmpty, !granted.isEmpty, windows.areAllBound {
                notice = RDMAReceiveLane.notice(open, granted)[...]
                granted = []
            }
            while hasRoom, !notice.isEmpty, !connection.freeSends.isEmpty {
                let message = notice.prefix(RDMAWire.messageBytes)
                let sent = message.withUnsafeBytes { bytes in
                    Result { () throws(LaneViolation) in try connection.send(bytes) }
                }
                try sent.get()
                messages += 1
                notice = notice.dropFirst(message.count)
                isBusy = true
            }
            return isBusy
        }

        /// Ends all windows; when it returns, nothing can land through them any more.
        private func endWindows() throws(LaneViolation) {
            runsToBind = []
            granted = []
            // The peer would take the next notice for the rest of this one.
            guard !isTelling else {
                throw LaneViolation(kind: .system, detail: "a grant ended while the peer was being told of its windows")
            }
            notice = []
            open = nil
            while !windows.areAllEnded {
                guard !lane.isStopping else { throw LaneViolation(kind: .fenced, detail: "") }
                var isBusy = false
                while hasRoom, try windows.endOne() { isBusy = true }
                while !lane.isStopping, try poll() { isBusy = true }
                if !isBusy { try connection.wait(lane.waker, until: nil) }
            }
        }

        // MARK: Completions

        private func poll() throws(LaneViolation) -> Bool {
            try connection.poll(
                { (work) throws(LaneViolation) in
                    switch work {
                    case .bind: windows.hasBound()
                    case .invalidate: windows.hasEnded()
                    case .message: messages -= 1
                    case .write, .received, .probe: break
                    }
                },
                onMessage: { (bytes) throws(LaneViolation) in
                    let whole = try assembly.add(bytes) { (header) throws(LaneViolation) in
                        guard header.kind == .completion else {
                            throw .malformed("a \(header.kind) from the writing side")
                        }
                        return try lane.completionLayout(header).bytes
                    }
                    guard let whole else { return }
                    // There is one per grant, and the next grant is not made before this one is over.
                    guard frame == nil else { throw .malformed("a completion record behind a completion record") }
                    frame = whole
                })
        }

        private func complete(_ header: FrameHeader, _ body: [UInt8]) throws(LaneViolation) {
            // First of all, so that nothing changes behind the digests.
            try endWindows()
            lane.hasEnded(header.epoch)
            if let record = try lane.take(header, body) { onCompletion(record, header.epoch) }
        }
    }

    private static func notice(_ terms: PartTerms, _ windows: [GrantWindow]) -> [UInt8] {
        let header = FrameHeader(
            .windows, count: windows.count, handoff: terms.handoff, part: terms.number, epoch: terms.epoch, sequence: 0)
        var bytes = [UInt8](repeating: 0, count: LaneWire.headerBytes + windows.count * RDMAWire.windowBytes)
        bytes.withUnsafeMutableBytes { bytes in
            header.write(to: bytes)
            var writer = WireWriter(UnsafeMutableRawBufferPointer(rebasing: bytes[LaneWire.headerBytes...]))
            for window in windows {
                writer.put(window.first)
                writer.put(window.count)
                writer.put(window.key)
            }
        }
        return bytes
    }

    private func completionLayout(_ header: FrameHeader) throws(LaneViolation) -> CompletionLayout {
        CompletionLayout(of: try gate.expectCompletion(header), digests: settings.digests.makesDigests)
    }

    /// Checks a completion record and closes the grant with it. Nil when the node has ended the grant since the record
    /// came, for which the peer cannot be blamed.
    private func take(_ header: FrameHeader, _ body: [UInt8]) throws(LaneViolation) -> CompletionRecord? {
        do throws(LaneViolation) {
            return try check(header, body)
        } catch {
            if error.kind == .staleWrite, !gate.isOpen(header.epoch) { return nil }
            throw error
        }
    }

    private func check(_ header: FrameHeader, _ body: [UInt8]) throws(LaneViolation) -> CompletionRecord {
        let part = try gate.expectCompletion(header)
        let layout = CompletionLayout(of: part, digests: settings.digests.makesDigests)
        let pages = try body.withUnsafeBytes { body in
            Result { () throws(LaneViolation) in
                try layout.check(body)
                return layout.read(body)
            }
        }.get()
        let record = CompletionRecord(header, pages)
        // Nobody saw the bytes land.
        let found = settings.digests.makesDigests ? slab.digests(of: part) : []
        try gate.complete(record, expected: pages.map(\.digest), reading: found, shape: slab.shape)
        counters.withLock { counters in
            counters.completions += 1
            counters.bytes += part.slots.count * slab.shape.bytes(of: part.layers).count
        }
        return record
    }
}
