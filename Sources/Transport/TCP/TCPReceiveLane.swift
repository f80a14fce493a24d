import Glibc
import Handoff
import Threads

/// The decode node's end of a lane over TCP: a thread that reads records straight into slab pages.
final class TCPReceiveLane: ReceivingLane {
    let id: LaneID
    let peer: Incarnation
    let address: String
    let transport = LaneTransport.tcp
    private let gate = LaneGate()
    private let socket: Socket
    private let slab: SlabRegion
    private let settings: ReceivingSettings
    let counters: Monitor<LaneCounters>
    private let fenceStart = Monitor<Instant?>(nil)
    private let stopping: Monitor<LaneCloseReason?>

    init(
        id: LaneID, peer: Incarnation, address: String, socket: Socket, slab: SlabRegion, settings: ReceivingSettings,
        tallies: LaneTallies
    ) {
        self.id = id
        self.peer = peer
        self.address = address
        self.socket = socket
        self.slab = slab
        self.settings = settings
        counters = tallies[LaneTransport.tcp.rawValue]
        stopping = Monitor(nil)
    }

    func bind(_ terms: PartTerms) -> Bool { gate.bind(terms) }
    func unbind(_ epoch: LaneEpoch) -> LaneUnbinding { gate.unbind(epoch) ? .quiet : .writing }
    func digests(_ epoch: LaneEpoch) -> (expected: [PageDigest], landed: [PageDigest], firstPage: Int)? {
        gate.digests(epoch)
    }

    func retire() {
        guard gate.retire() else { return }
        stopping.withLock { stopping in
            if stopping == nil { stopping = LaneCloseReason(.superseded, "by a lane over RDMA") }
        }
        socket.shutDown()
    }

    /// The socket says so itself.
    func checkDevice() {}

    func fence(_ reason: LaneCloseReason) {
        fenceStart.withLock { start in
            if start == nil { start = .now }
        }
        stopping.withLock { stopping in
            if stopping == nil { stopping = reason }
        }
        gate.fence()
        socket.shutDown()
    }

    func run(
        _ onCompletion: (CompletionRecord, LaneEpoch) -> Void, whenAcknowledged: () -> Void
    ) -> (reason: LaneCloseReason, fence: Duration?) {
        var reason = receive(onCompletion, whenAcknowledged)
        gate.close()
        socket.closeNow()
        if let asked = stopping.withLock({ $0 }) { reason = asked }
        let fence = fenceStart.withLock { start in start.map { Instant.now - $0 } }
        return (reason, fence)
    }

    func waitUntilReady(_ timeout: Duration) -> Bool {
        withUnsafeTemporaryAllocation(byteCount: LaneWire.headerBytes, alignment: 8) { bytes in
            guard (try? socket.read(into: bytes, until: .after(timeout))) != nil else { return false }
            return FrameHeader(reading: UnsafeRawBufferPointer(bytes)) == .ready
        }
    }

    // MARK: Records

    private func receive(
        _ onCompletion: (CompletionRecord, LaneEpoch) -> Void, _ whenAcknowledged: () -> Void
    ) -> LaneCloseReason {
        let prefix = UnsafeMutableRawBufferPointer.allocate(byteCount: LaneWire.recordPrefixBytesMax, alignment: 8)
        let vectors = UnsafeMutableBufferPointer<iovec>.allocate(capacity: WriteLimits.rangesMax)
        vectors.initialize(repeating: iovec())
        defer {
            vectors.deallocate()
            prefix.deallocate()
        }
        do throws(LaneViolation) {
            while true {
                try read(into: UnsafeMutableRawBufferPointer(rebasing: prefix[..<LaneWire.headerBytes]))
                guard let header = FrameHeader(reading: UnsafeRawBufferPointer(prefix)) else {
                    throw .malformed("no record header")
                }
                switch header.kind {
                case .data:
                    try receiveRecord(header, prefix, vectors)
                case .completion:
                    // The node first: what is whole and verified must not be lost because the peer cannot be told.
                    onCompletion(try receiveCompletion(header), header.epoch)
                    gate.told()
                    try acknowledge(.completionAcknowledgement, header)
                    whenAcknowledged()
                case .acknowledgement, .completionAcknowledgement, .ready, .windows:
                    throw .malformed("a \(header.kind) from the writing side")
                }
            }
        } catch {
            counters.withLock { $0.count(error) }
            return error.reason
        }
    }

    private func receiveRecord(
        _ header: FrameHeader, _ prefix: UnsafeMutableRawBufferPointer, _ vectors: UnsafeMutableBufferPointer<iovec>
    ) throws(LaneViolation) {
        let count = Int(header.count)
        guard count >= 1, count <= WriteLimits.rangesMax else {
            throw .malformed("\(count) ranges in a record, of 1 to \(WriteLimits.rangesMax)")
        }
        let body = UnsafeMutableRawBufferPointer(rebasing: prefix[..<(count * LaneWire.rangeBytes)])
        try read(into: body)
        var reader = WireReader(UnsafeRawBufferPointer(body))
        let ranges = (0..<count).map { _ in WireRange(reading: &reader) }
        var grant = try gate.enter(header, ranges, shape: slab.shape)
        let landed = Result { () throws(LaneViolation) in try land(ranges, &grant, vectors) }
        grant.recordLanded()
        gate.leave(grant)
        let bytes = try landed.get()
        counters.withLock { counters in
            counters.records += 1
            counters.bytes += bytes
        }
        try acknowledge(.acknowledgement, header)
    }

    /// Reads the bytes of a record into the slab; a range's digest is taken as soon as it is there, while it is
    /// still in the cache. Returns the bytes read.
    private func land(
        _ ranges: [WireRange], _ grant: inout BoundGrant, _ vectors: UnsafeMutableBufferPointer<iovec>
    ) throws(LaneViolation) -> Int {
        var total = 0
        for (index, range) in ranges.enumerated() {
            let address = slab.address(of: range.slot, offset: Int(range.offset))
            vectors[index] = iovec(iov_base: address, iov_len: Int(range.length))
            total += Int(range.length)
        }
        guard let base = vectors.baseAddress else { return 0 }
        var first = 0
        while first < ranges.count {
            var message = msghdr()
            message.msg_iov = base + first
            message.msg_iovlen = ranges.count - first
            guard !gate.isFenced else { throw LaneViolation(kind: .fenced, detail: "") }
            var count = recvmsg(socket.descriptor, &message, 0)
            if count == 0 { throw LaneViolation(kind: .peerClosed, detail: "in the middle of a record") }
            if count < 0 {
                if errno == EINTR { continue }
                throw violation(errno)
            }
            while first < ranges.count, count >= vectors[first].iov_len {
                count -= vectors[first].iov_len
                let range = ranges[first]
                let address = slab.address(of: range.slot, offset: Int(range.offset))
                grant.add(range, at: address, shape: slab.shape, digest: settings.digests == .sealed)
                first += 1
            }
            if count > 0, let rest = vectors[first].iov_base {
                vectors[first] = iovec(iov_base: rest + count, iov_len: vectors[first].iov_len - count)
            }
        }
        return total
    }

    private func receiveCompletion(_ header: FrameHeader) throws(LaneViolation) -> CompletionRecord {
        let part = try gate.expectCompletion(header)
        let layout = CompletionLayout(of: part, digests: settings.digests.makesDigests)
        let body = UnsafeMutableRawBufferPointer.allocate(byteCount: layout.bytes, alignment: 8)
        defer { body.deallocate() }
        // How its digests were made comes first: where it is not as the lane agreed, the rest has another length.
        try read(into: UnsafeMutableRawBufferPointer(rebasing: body[..<CompletionLayout.headBytes]))
        try layout.check(UnsafeRawBufferPointer(body))
        try read(into: UnsafeMutableRawBufferPointer(rebasing: body[CompletionLayout.headBytes...]))
        let pages = layout.read(UnsafeRawBufferPointer(body))
        let record = CompletionRecord(header, pages)
        try gate.complete(
            record, expected: pages.map(\.digest), reading: settings.digests == .scrub ? slab.digests(of: part) : nil,
            shape: slab.shape)
        counters.withLock { $0.completions += 1 }
        return record
    }

    private func acknowledge(_ kind: FrameHeader.Kind, _ header: FrameHeader) throws(LaneViolation) {
        let frame = FrameHeader(
            kind, count: 0, handoff: header.handoff, part: header.part, epoch: header.epoch, sequence: header.sequence)
        let sent = withUnsafeTemporaryAllocation(byteCount: LaneWire.headerBytes, alignment: 8) { bytes in
            frame.write(to: bytes)
            return Result { () throws(Socket.Failure) in
                try socket.write(UnsafeRawBufferPointer(bytes), until: .after(settings.writeTimeout))
            }
        }
        if case .failure(let failure) = sent {
            throw violation(failure, "acknowledgements are not read")
        }
    }

    private func read(into bytes: UnsafeMutableRawBufferPointer) throws(LaneViolation) {
        do throws(Socket.Failure) {
            try socket.read(into: bytes, until: nil)
        } catch {
            throw violation(error, "reading a record")
        }
    }

    private func violation(_ code: Int32) -> LaneViolation {
        violation(code == ECONNRESET || code == EPIPE ? .closed : .system(code), "reading a record")
    }

    private func violation(_ failure: Socket.Failure, _ doing: String) -> LaneViolation {
        let reason = LaneCloseReason(after: failure, doing)
        return LaneViolation(kind: reason.kind, detail: reason.detail)
    }
}
