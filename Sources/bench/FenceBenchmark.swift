import ArgumentParser
import Glibc
import Handoff
import Threads
import Transport

/// How long a lane takes to be connected, and to be fenced while it is being written to.
struct FenceBenchmark: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "fences", abstract: "Lane set-up and fences under active writes, between two ends in one process.")

    @Option(help: "Fences.")
    var rounds = 200

    @Option(help: ArgumentHelp("Over RDMA, by the device with this address; default is TCP.", valueName: "address"))
    var rdma: String?

    @Option(help: "Memory windows of the device: auto, on or off.")
    var windows = RDMAWindows.auto

    func validate() throws {
        guard rounds > 0 else { throw ValidationError("--rounds must be positive.") }
    }

    func run() throws {
        let lanes = try FencedLanes(rdma: rdma, windows: windows)
        defer { lanes.shutdown() }
        var setUps: [Double] = []
        var fences: [Double] = []
        for round in 1...rounds {
            let (setUp, fence) = try lanes.round(UInt32(round))
            setUps.append(setUp)
            fences.append(fence)
        }
        func figures(_ seconds: [Double]) -> String {
            let sorted = seconds.sorted()
            func micros(_ index: Int) -> Double { (sorted[index] * 1e7).rounded() / 10 }
            return
                "{\"median\": \(micros(sorted.count / 2)), \"p99\": \(micros(sorted.count * 99 / 100)), \"max\": \(micros(sorted.count - 1))}"
        }
        print(
            """
            {"benchmark": "fences", "transport": "\(rdma == nil ? "tcp" : "rdma")", "windows": "\(windows.rawValue)", \
            "rounds": \(rounds), "fence_us": \(figures(fences)), "set_up_us": \(figures(setUps))}
            """)
    }
}

extension RDMAWindows: ExpressibleByArgument {}

/// A listener and a pool whose lane is fenced in the middle of a handoff, again and again.
private final class FencedLanes {
    private static let shape = PageShape(layers: 4, layerBytes: 64 << 10)
    private static let slots = 64
    private static let decode = Incarnation(2)

    private struct Seen: Sendable {
        var open: LaneID?
        var openedAt: Instant?
        var fence: Duration?
        var isClosedHere = true
        var acknowledged = 0
    }

    private let seen: Monitor<Seen>
    private let listener: LaneListener
    private let pool: LanePool
    private let peer: LanePeer

    init(rdma: String?, windows: RDMAWindows) throws {
        let seen = Monitor(Seen())
        self.seen = seen
        var configuration = LaneListener.Configuration(host: rdma ?? "127.0.0.1", port: 0)
        configuration.rdma = rdma == nil ? .off : .auto
        configuration.rdmaWindows = windows
        listener = try LaneListener(
            configuration: configuration, slab: try Self.slab(), incarnation: Self.decode
        ) { event in
            seen.update { seen in
                switch event {
                case .opened(let lane, _, _): (seen.open, seen.openedAt) = (lane, .now)
                case .closed(_, _, let fence): (seen.open, seen.fence) = (nil, fence)
                case .completion: break
                }
            }
        }
        if rdma != nil, let absence = listener.rdmaAbsence { throw LaneBenchmarkError(description: absence) }
        var pooling = LanePool.Configuration()
        pooling.lanesPerPeer = 1
        pooling.rdma = configuration.rdma
        pool = LanePool(configuration: pooling, slab: try Self.slab(), incarnation: Incarnation(1)) { event in
            seen.update { seen in
                switch event {
                case .opened: seen.isClosedHere = false
                case .closed: seen.isClosedHere = true
                case .acknowledged(_, _, _, let records): seen.acknowledged = records
                case .completionAcknowledged, .sourceChanged: break
                }
            }
        }
        peer = LanePeer(
            decode: Self.decode, address: "\(listener.host):\(listener.port)", name: "decode",
            rdmaAddresses: listener.rdmaAddresses)
    }

    func shutdown() {
        pool.shutdown()
        listener.shutdown()
    }

    private static func slab() throws -> SlabRegion {
        let bytes = slots * shape.pageBytes
        let base = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let base, base != MAP_FAILED else { throw LaneBenchmarkError(description: "no memory for a slab") }
        memset(base, 1, bytes)
        return SlabRegion(base: base, slotCount: slots, shape: shape)
    }

    private func wait<Result>(_ body: (Seen) -> Result?) throws -> Result {
        guard let result = seen.wait(until: .after(.seconds(20)), { body($0) }) else {
            throw LaneBenchmarkError(description: "nothing happened for 20 s")
        }
        return result
    }

    /// Seconds from wanting a lane to being able to grant it, and from the order to fence it to nothing being able to land.
    func round(_ number: UInt32) throws -> (setUp: Double, fence: Double) {
        seen.update { $0 = Seen() }
        let start = Instant.now
        pool.setPeers([peer])
        let (lane, opened) = try wait { seen in seen.open.flatMap { lane in seen.openedAt.map { (lane, $0) } } }
        let terms = PartTerms(
            handoff: HandoffID(router: Incarnation(1), request: UInt64(number), attempt: 1), decode: Self.decode,
            lane: lane, epoch: LaneEpoch(1),
            slots: (0..<Self.slots).map { SlotRef(index: UInt32($0), generation: Generation(number)) },
            layers: Self.shape.layerCount)
        guard listener.bind(terms) else { throw LaneBenchmarkError(description: "the lane takes no grant") }
        for layer in 0..<Self.shape.layerCount {
            let bytes = Self.shape.bytes(of: layer..<layer + 1)
            let ranges = (0..<Self.slots).map { page in
                WriteRange(
                    page: page, source: SlotRef(index: UInt32(page), generation: Generation(1)),
                    target: terms.slots[page], offset: bytes.lowerBound, length: bytes.count)
            }
            pool.post(
                LaneKey(decode: Self.decode, lane: lane),
                WriteBatch(handoff: terms.handoff, epoch: terms.epoch, ranges: ranges))
        }
        // The first record has landed, others are on their way.
        _ = try wait { $0.acknowledged > 0 ? true : nil }
        listener.fence(lane)
        let fence = try wait(\.fence)
        pool.setPeers([])
        _ = try wait { $0.isClosedHere ? true : nil }
        return ((opened - start) / .seconds(1), fence / .seconds(1))
    }
}
