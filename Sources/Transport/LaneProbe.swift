import Glibc
import Handoff
import Threads

/// Handoffs of this process to itself, over the lanes that nodes have: every byte compared, and measured.
package struct LaneProbe: Sendable {
    package struct Measurement: Sendable, Equatable {
        package let transport: LaneTransport
        /// Of all handoffs but those of one page.
        package let bytes: Int
        package let time: Duration
        /// From the grant of one page to the comparison of its digests; the median.
        package let pageTime: Duration
        package let pageBytes: Int

        /// 10⁹ bytes.
        package var gigabytesPerSecond: Double { Double(bytes) / 1e9 / (time / .seconds(1)) }
    }

    /// Over which adapter; `off` is TCP on loopback.
    package var rdma: RDMAChoice
    package var windows = RDMAWindows.auto
    /// Of either slab.
    package var pages = 128
    /// After either nothing more is sent. One handoff is cut to half of the time, by what one page takes.
    package var timeMax = Duration.seconds(2)
    package var bytesMax = 256 << 20
    /// How long anything may take.
    var patience = Duration.seconds(10)

    static let shape = PageShape(layers: 8, layerBytes: 64 << 10)
    private static let decode = Incarnation(2)

    package init(over rdma: RDMAChoice) { self.rdma = rdma }

    /// Pages of a slab such that two of them, and what else is locked, stay below the limit.
    static func pages(lockable bytes: Int?) -> Int {
        bytes.map { max(1, $0 / 4 / shape.pageBytes) } ?? .max
    }

    /// Throws when no lane comes about, when one ends, and when a byte is not what it was.
    package func run() throws(TransportError) -> Measurement {
        let (source, target) = (try ProbeSlab(pages), try ProbeSlab(pages))
        defer {
            source.unmap()
            target.unmap()
        }
        source.fillWithPattern()
        let events = Monitor(ProbeEvents())
        var configuration = LaneListener.Configuration(host: "127.0.0.1", port: 0)
        configuration.rdma = rdma
        configuration.rdmaWindows = windows
        let listener = try LaneListener(
            configuration: configuration, slab: target.region, incarnation: LaneProbe.decode
        ) {
            event in events.update { $0.take(event) }
        }
        defer { listener.shutdown() }
        if rdma != .off, let absence = listener.rdmaAbsence { throw TransportError(.system, absence) }
        var dialing = LanePool.Configuration()
        dialing.lanesPerPeer = 1
        dialing.rdma = rdma
        let pool = LanePool(configuration: dialing, slab: source.region, incarnation: Incarnation(1)) { event in
            events.update { $0.take(event) }
        }
        defer { pool.shutdown() }
        let address = Endpoint(host: listener.host, port: listener.port).description
        pool.setPeers([
            LanePeer(
                decode: LaneProbe.decode, address: address, name: "this process",
                rdmaAddresses: listener.rdmaAddresses)
        ])
        let session = ProbeSession(
            listener: listener, pool: pool, events: events, source: source, target: target, patience: patience)
        let lane = try session.open(over: rdma == .off ? .tcp : .rdma)
        return try measure(session, lane)
    }

    private func measure(_ session: ProbeSession, _ lane: LaneKey) throws(TransportError) -> Measurement {
        var epoch: UInt32 = 1
        func handOff(_ count: Int) throws(TransportError) -> Duration {
            defer { epoch += 1 }
            return try session.handOff(pages: count, lane, LaneEpoch(epoch))
        }
        // What is done once is not measured.
        _ = try handOff(1)
        var single: [Duration] = []
        let end = Instant.after(timeMax / 4)
        while single.count < 21, single.count < 3 || !end.hasPassed { single.append(try handOff(1)) }
        let pageTime = single.sorted()[single.count / 2]
        let count = max(1, min(pages, Int(timeMax / 2 / pageTime)))
        var (bytes, time) = (0, Duration.zero)
        repeat {
            time += try handOff(count)
            bytes += count * LaneProbe.shape.pageBytes
        } while bytes < bytesMax && time < timeMax
        return Measurement(
            transport: rdma == .off ? .tcp : .rdma, bytes: bytes, time: time, pageTime: pageTime,
            pageBytes: LaneProbe.shape.pageBytes)
    }
}

/// Both ends of one lane.
private struct ProbeSession {
    let listener: LaneListener
    let pool: LanePool
    let events: Monitor<ProbeEvents>
    let source: ProbeSlab
    let target: ProbeSlab
    let patience: Duration

    /// The first lane that comes about.
    func open(over transport: LaneTransport) throws(TransportError) -> LaneKey {
        let lane = try wait { $0.isOpenThere ? $0.lane : nil }
        guard listener.lanes.first(where: { $0.id == lane.lane })?.transport == transport else {
            throw TransportError(.refused, pool.snapshot().first?.reason ?? "no lane over RDMA came about")
        }
        return lane
    }

    /// Moves pages to places in a random order; returns the time from their grant to the comparison of digests.
    func handOff(pages count: Int, _ lane: LaneKey, _ epoch: LaneEpoch) throws(TransportError) -> Duration {
        let shape = LaneProbe.shape
        func slots() -> [SlotRef] {
            (0..<UInt32(target.region.slotCount)).shuffled().prefix(count)
                .map { SlotRef(index: $0, generation: Generation(epoch.value)) }
        }
        let (sources, targets) = (slots(), slots())
        for slot in targets { memset(target.region.address(of: slot, offset: 0), 0, shape.pageBytes) }
        let terms = PartTerms(
            handoff: HandoffID(router: Incarnation(1), request: UInt64(epoch.value), attempt: 1), decode: lane.decode,
            lane: lane.lane, epoch: epoch, slots: targets, layers: shape.layerCount)
        let start = Instant.now
        guard listener.bind(terms) else { throw TransportError(.refused, "the lane takes no grant") }
        let perRecord = WriteLimits.recordBytesAim / shape.pageBytes
        for (number, first) in stride(from: 0, to: count, by: perRecord).enumerated() {
            _ = try wait { $0.landed(epoch) + WriteLimits.recordsInFlightMax > number ? true : nil }
            let ranges = (first..<min(first + perRecord, count)).map { page in
                WriteRange(
                    page: page, source: sources[page], target: targets[page], offset: 0, length: shape.pageBytes)
            }
            pool.post(lane, WriteBatch(handoff: terms.handoff, part: terms.number, epoch: epoch, ranges: ranges))
        }
        pool.postCompletion(lane, terms)
        let record = try wait { $0.record(epoch) }
        let verdict = listener.verifyDigests(lane: lane.lane, epoch: epoch, expected: record.pages.map(\.digest))
        let time = Instant.now - start
        let areEqual = zip(sources, targets).allSatisfy { pair in
            memcmp(
                source.region.address(of: pair.0, offset: 0), target.region.address(of: pair.1, offset: 0),
                shape.pageBytes) == 0
        }
        guard case .matching = verdict, areEqual else {
            throw TransportError(.system, "what arrived is not what was sent")
        }
        // Nothing of a handoff is on its way when the next begins.
        _ = try wait { $0.isAcknowledged(epoch) ? true : nil }
        return time
    }

    private func wait<Result>(_ body: (ProbeEvents) -> Result?) throws(TransportError) -> Result {
        let found = events.wait(until: .after(patience)) { events -> Swift.Result<Result, TransportError>? in
            if let result = body(events) { return .success(result) }
            return events.closed.map { reason in
                .failure(TransportError(reason.meansNoPath ? .timeout : .system, "the lane ended: \(reason)"))
            }
        }
        guard let found else {
            throw TransportError(
                .timeout, pool.snapshot().first?.reason ?? "nothing came over the lane within \(patience)")
        }
        return try found.get()
    }
}

/// What has come of one lane's events, of both of its ends.
private struct ProbeEvents: Sendable {
    private(set) var lane: LaneKey?
    private(set) var isOpenThere = false
    private(set) var closed: LaneCloseReason?
    private var landed: (epoch: LaneEpoch, records: Int)?
    private var record: (epoch: LaneEpoch, record: CompletionRecord)?
    private var acknowledged: LaneEpoch?

    func landed(_ epoch: LaneEpoch) -> Int { landed?.epoch == epoch ? landed?.records ?? 0 : 0 }
    func record(_ epoch: LaneEpoch) -> CompletionRecord? { record?.epoch == epoch ? record?.record : nil }
    func isAcknowledged(_ epoch: LaneEpoch) -> Bool { acknowledged == epoch }

    mutating func take(_ event: LaneListenerEvent) {
        switch event {
        case .opened: isOpenThere = true
        case .completion(_, let epoch, let record): self.record = (epoch, record)
        case .closed(_, let reason, _): closed = closed ?? reason
        }
    }

    mutating func take(_ event: LanePoolEvent) {
        switch event {
        case .opened(let key): lane = lane ?? key
        case .acknowledged(_, _, let epoch, let records): landed = (epoch, records)
        case .completionAcknowledged(_, _, let epoch): acknowledged = epoch
        case .sourceChanged: break
        case .closed(_, let reason): closed = closed ?? reason
        }
    }
}

/// Memory to hand off from or to.
private struct ProbeSlab {
    let region: SlabRegion
    private var bytes: Int { region.slotCount * region.shape.pageBytes }

    init(_ pages: Int) throws(TransportError) {
        let bytes = pages * LaneProbe.shape.pageBytes
        let base = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let base, base != MAP_FAILED else {
            throw TransportError(.system, "no memory for a slab of \(bytes >> 20) MiB", errno: errno)
        }
        // As a node's slab.
        _ = madvise(base, bytes, MADV_HUGEPAGE)
        region = SlabRegion(base: base, slotCount: pages, shape: LaneProbe.shape)
    }

    func unmap() { munmap(region.base, bytes) }

    /// Bytes that differ between pages and positions.
    func fillWithPattern() {
        let words = UnsafeMutableRawBufferPointer(start: region.base, count: bytes).bindMemory(to: UInt64.self)
        for index in words.indices { words[index] = UInt64(index) &* 0x9E37_79B9_7F4A_7C15 }
    }
}
