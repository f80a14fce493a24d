import Glibc
import Handoff
import Testing
import Threads

@testable import Transport

/// All suites here, one test after the other: some watch memory or count the process's file descriptors.
@Suite(.serialized) enum Lanes {}

let decodeNode = Incarnation(0xD0)
let prefillNode = Incarnation(0x10)

/// Pages of 4 layers, 16 KiB each.
let testShape = PageShape(layers: 4, layerBytes: 16 << 10)

/// A slab of its own, unmapped at the end.
final class TestSlab: Sendable {
    let region: SlabRegion
    private let bytes: Int

    init(slots: Int, shape: PageShape = testShape) {
        bytes = slots * shape.pageBytes
        let base = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let base, base != MAP_FAILED else { fatalError("no memory for a test slab") }
        region = SlabRegion(base: base, slotCount: slots, shape: shape)
    }

    deinit { munmap(region.base, bytes) }

    func page(_ slot: Int) -> UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(
            start: region.base + slot * region.shape.pageBytes, count: region.shape.pageBytes)
    }

    func start(of slot: Int) -> UnsafeRawPointer {
        UnsafeRawPointer(region.base + slot * region.shape.pageBytes)
    }

    /// Bytes that differ between slots and positions.
    func fillWithPattern(_ salt: UInt64) {
        for slot in 0..<region.slotCount {
            let words = page(slot).bindMemory(to: UInt64.self)
            for index in words.indices {
                words[index] = (UInt64(slot) << 32 | UInt64(index)) &* 0x9E37_79B9_7F4A_7C15 ^ salt
            }
        }
    }

    func fill(_ slot: Int, with byte: UInt8) {
        memset(region.base + slot * region.shape.pageBytes, Int32(byte), region.shape.pageBytes)
    }

    func isFilled(_ slot: Int, with byte: UInt8) -> Bool {
        let first = region.base + slot * region.shape.pageBytes
        return page(slot)[0] == byte && memcmp(first, first + 1, region.shape.pageBytes - 1) == 0
    }
}

/// Events in the order they came, to wait for.
final class EventLog<Event: Sendable>: Sendable {
    private let events = Monitor<[Event]>([])

    func append(_ event: Event) { events.update { $0.append(event) } }

    var all: [Event] { events.withLock { $0 } }

    /// The first event that matches, waited for.
    func first<Result>(within time: Duration = .seconds(20), _ match: (Event) -> Result?) -> Result? {
        events.wait(until: .after(time)) { events in
            for event in events { if let result = match(event) { return result } }
            return nil
        }
    }

}

/// Waits until something has come true, which must be in time: counters and lists tell nobody when they change.
func wait(
    _ what: Comment, within time: Duration = .seconds(20), sourceLocation: SourceLocation = #_sourceLocation,
    until condition: () -> Bool
) {
    let deadline = Instant.after(time)
    while !condition(), !deadline.hasPassed {
        // Between looks.
        usleep(1000)
    }
    #expect(condition(), what, sourceLocation: sourceLocation)
}

/// A decode node's listener and a prefill node's pool over loopback.
final class LaneHarness {
    let source: TestSlab
    let target: TestSlab
    let listener: LaneListener
    let pool: LanePool
    let received = EventLog<LaneListenerEvent>()
    let sent = EventLog<LanePoolEvent>()

    init(
        slots: Int = 32, lanes: Int = 1, host: String = "127.0.0.1", over transport: LaneTransport = .tcp,
        windows: RDMAWindows = .auto, digests: DigestMode = .sealed, senderDigests: DigestMode? = nil,
        table: DigestTable? = nil, from: RDMAChoice? = nil,
        configure: (inout LaneListener.Configuration) -> Void = { _ in }
    ) throws {
        source = TestSlab(slots: slots)
        target = TestSlab(slots: slots)
        source.fillWithPattern(1)
        var configuration = LaneListener.Configuration(host: host, port: 0)
        configuration.digests = digests
        configuration.rdma = transport == .rdma ? .auto : .off
        configuration.rdmaWindows = windows
        configure(&configuration)
        let (received, sent) = (received, sent)
        listener = try LaneListener(
            configuration: configuration, slab: target.region, incarnation: decodeNode
        ) { received.append($0) }
        var poolConfiguration = LanePool.Configuration()
        poolConfiguration.lanesPerPeer = lanes
        poolConfiguration.reconnectPause = .milliseconds(1)
        poolConfiguration.digests = senderDigests ?? digests
        poolConfiguration.table = table
        poolConfiguration.rdma = from ?? configuration.rdma
        poolConfiguration.rdmaRetryMin = .milliseconds(50)
        poolConfiguration.rdmaRetryMax = .milliseconds(500)
        pool = LanePool(configuration: poolConfiguration, slab: source.region, incarnation: prefillNode) {
            sent.append($0)
        }
    }

    var address: String { Endpoint(host: listener.host, port: listener.port).description }

    var peer: LanePeer {
        LanePeer(decode: decodeNode, address: address, name: "decode", rdmaAddresses: listener.rdmaAddresses)
    }

    func connect() throws -> LaneKey {
        pool.setPeers([peer])
        return try #require(openLane())
    }

    /// The pool's next lane with a number above `last`, open on both sides.
    func openLane(after last: LaneID = LaneID(0)) -> LaneKey? {
        let lane = received.first { event in
            if case .opened(let lane, prefillNode, _) = event, lane > last { lane } else { nil }
        }
        return lane.map { LaneKey(decode: decodeNode, lane: $0) }
    }

    /// This many lanes, open on both sides. They may open in another order than that of their numbers.
    func openLanes(_ count: Int) -> [LaneKey] {
        var keys: [LaneKey] {
            received.all.compactMap {
                if case .opened(let lane, prefillNode, _) = $0 { LaneKey(decode: decodeNode, lane: lane) } else { nil }
            }
        }
        wait("\(count) lanes to open") { keys.count >= count }
        return keys
    }

    func waitForClose(_ lane: LaneID) -> (reason: LaneCloseReason, fence: Duration?)? {
        received.first { event in
            if case .closed(lane, let reason, let fence) = event { (reason, fence) } else { nil }
        }
    }

    /// How many microseconds a write of all pages takes that nothing disturbs: the shortest of three, for the first
    /// meets memory that is not there yet. And the lane after which to open the next.
    func undisturbedWrite(slots: Range<Int>) throws -> (time: UInt32, last: LaneID) {
        var (shortest, last) = (Duration.seconds(60), LaneID(0))
        for request in 1...3 as ClosedRange<UInt64> {
            let key = try #require(openLane(after: last))
            last = key.lane
            let grant = terms(key.lane, slots: slots, generation: UInt32(1_000_000 + request), request: 1000 + request)
            #expect(listener.bind(grant))
            let start = ContinuousClock.now
            for layer in 0..<testShape.layerCount { pool.post(key, batch(grant, layers: layer..<layer + 1)) }
            let hasLanded = sent.first {
                if case .acknowledged(key, grant.handoff, _, testShape.layerCount) = $0 { true } else { nil }
            }
            try #require(hasLanded == true)
            shortest = min(shortest, ContinuousClock.now - start)
            listener.fence(key.lane)
            _ = try #require(waitForClose(key.lane))
        }
        return (UInt32(shortest / .microseconds(1)), last)
    }

    /// Whether a write of all layers of this page, which was 0xFF before, has begun and not ended.
    func isInTheMiddle(of slot: Int) -> Bool {
        let page = target.page(slot)
        func isWritten(_ layer: Int) -> Bool {
            page[testShape.bytes(of: layer..<layer + 1)].contains { $0 != 0xFF }
        }
        return isWritten(0) && !isWritten(testShape.layerCount - 1)
    }

    func shutdown() {
        pool.shutdown()
        listener.shutdown()
    }
}

func terms(_ lane: LaneID, epoch: UInt32 = 1, slots: Range<Int>, generation: UInt32 = 1, request: UInt64 = 1)
    -> PartTerms
{
    PartTerms(
        handoff: HandoffID(router: Incarnation(1), request: request, attempt: 1), decode: decodeNode, lane: lane,
        epoch: LaneEpoch(epoch),
        slots: slots.map { SlotRef(index: UInt32($0), generation: Generation(generation)) },
        layers: testShape.layerCount)
}

/// One record with some layers of all pages of a grant; page i is read from source slot i.
func batch(_ terms: PartTerms, layers: Range<Int>, pages: Range<Int>? = nil) -> WriteBatch {
    let bytes = testShape.bytes(of: layers)
    let ranges = (pages ?? 0..<terms.slots.count).map { page in
        WriteRange(
            page: page, source: SlotRef(index: UInt32(page), generation: Generation(1)), target: terms.slots[page],
            offset: bytes.lowerBound, length: bytes.count)
    }
    return WriteBatch(handoff: terms.handoff, epoch: terms.epoch, ranges: ranges)
}

extension CompletionLayout.Page {
    /// A page that claims this digest for every layer.
    init(_ slot: SlotRef, claiming digest: UInt64) {
        self.init(
            slot: slot, digest: PageDigest(layers: Array(repeating: digest, count: testShape.layerCount)))
    }
}

func openDescriptors() -> Int {
    guard let directory = opendir("/proc/self/fd") else { return -1 }
    defer { closedir(directory) }
    var count = 0
    while readdir(directory) != nil { count += 1 }
    return count
}

/// A peer that says what the test wants, byte for byte.
final class RawPeer {
    let socket: Socket
    private(set) var lane = LaneID(0)

    init(port: UInt16, hello: Bool = true, prefill: Incarnation = prefillNode, digests: Bool = true) throws {
        let address = try Endpoint(host: "127.0.0.1", port: port).resolve(passive: false)
        socket = try Socket.make(family: address.family)
        let result = address.withPointer { Glibc.connect(socket.descriptor, $0, $1) }
        try #require(result == 0)
        guard hello else { return }
        send {
            LaneHello(prefill: prefill, decode: decodeNode, shape: testShape, digests: digests).write(to: $0)
        }
        let answer = try #require(readAck())
        try #require(answer.status == LaneHelloAck.Status.accepted.rawValue)
        lane = answer.lane
        sendHeader(.ready)
    }

    /// A connection that the other side opened.
    init(adopting socket: Socket) { self.socket = socket }

    func sendAck(_ ack: LaneHelloAck) {
        withUnsafeTemporaryAllocation(byteCount: LaneWire.helloAckBytes, alignment: 8) { bytes in
            ack.write(to: bytes)
            _ = try? socket.write(UnsafeRawBufferPointer(bytes), until: .after(.seconds(10)))
        }
    }

    /// Reads that many bytes and forgets them.
    func skip(_ count: Int) {
        withUnsafeTemporaryAllocation(byteCount: count, alignment: 8) { bytes in
            _ = try? socket.read(into: bytes, until: .after(.seconds(10)))
        }
    }

    func readAck() -> LaneHelloAck? {
        withUnsafeTemporaryAllocation(byteCount: LaneWire.helloAckBytes, alignment: 8) { bytes in
            guard (try? socket.read(into: bytes, until: .after(.seconds(10)))) != nil else { return nil }
            return LaneHelloAck(reading: UnsafeRawBufferPointer(bytes))
        }
    }

    func readText(_ count: Int) -> String {
        withUnsafeTemporaryAllocation(byteCount: count, alignment: 8) { bytes in
            guard (try? socket.read(into: bytes, until: .after(.seconds(10)))) != nil else { return "" }
            return String(decoding: bytes, as: UTF8.self)
        }
    }

    /// Sends a hello-sized frame.
    func send(_ fill: (UnsafeMutableRawBufferPointer) -> Void) {
        withUnsafeTemporaryAllocation(byteCount: LaneWire.helloBytes, alignment: 8) { bytes in
            fill(bytes)
            _ = try? socket.write(UnsafeRawBufferPointer(bytes), until: .after(.seconds(10)))
        }
    }

    func send(_ bytes: [UInt8]) {
        bytes.withUnsafeBytes { _ = try? socket.write($0, until: .after(.seconds(10))) }
    }

    /// A frame with its ranges, or a completion record with its pages, whose digests are one number per layer.
    func sendHeader(
        _ header: FrameHeader, ranges: [WireRange] = [], pages: [CompletionLayout.Page] = [], digests: Bool = true
    ) {
        let layout = CompletionLayout(
            pages: pages.count, digests: digests, layers: 0..<testShape.layerCount)
        let count =
            LaneWire.headerBytes + ranges.count * LaneWire.rangeBytes
            + (header.kind == .completion ? layout.bytes : 0)
        let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 8)
        defer { bytes.deallocate() }
        header.write(to: bytes)
        var writer = WireWriter(UnsafeMutableRawBufferPointer(rebasing: bytes[LaneWire.headerBytes...]))
        for range in ranges { range.write(to: &writer) }
        if header.kind == .completion {
            layout.write(pages, to: UnsafeMutableRawBufferPointer(rebasing: bytes[LaneWire.headerBytes...]))
        }
        _ = try? socket.write(UnsafeRawBufferPointer(bytes), until: .after(.seconds(10)))
    }

    /// Whether the other side has closed.
    func isClosed() -> Bool {
        withUnsafeTemporaryAllocation(byteCount: 1, alignment: 1) { byte in
            do throws(Socket.Failure) {
                while true { try socket.read(into: byte, until: .after(.seconds(10))) }
            } catch {
                return error == .closed
            }
        }
    }
}
