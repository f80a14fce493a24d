import Glibc
import Handoff
import Synchronization
import Threads
import Transport

/// How fast KV pages go from one process to another over a lane: the shipping lanes driven by the shipping
/// state machines, from the first posted write to the acknowledged completion record, sealed on the other side.
///
/// The receiver is a second process: this executable again, with `laneReceiverCommand` as its first argument.
struct LaneBenchmark {
    var pageBytes: Int
    var totalBytes: Int
    var iterations: Int
    var digests: DigestMode
    var layers = 1
    /// The address of an RDMA device for lanes over it; nil: over TCP, on loopback.
    var rdmaHost: String?
    var windows = RDMAWindows.auto

    var pages: Int { totalBytes / pageBytes }
    var shape: PageShape { PageShape(layers: layers, layerBytes: pageBytes / layers) }
    /// Twice what moves, so that pages are scattered.
    var slots: Int { max(2 * pages, 2) }

    /// Seconds of every handoff, and CPU seconds of both processes over all of them.
    func measure() throws -> (seconds: [Double], cpu: Double) { try LaneSender(self).run() }
}

struct LaneBenchmarkError: Error, CustomStringConvertible {
    let description: String
}

let laneReceiverCommand = "lane-benchmark-receiver"
private let warmups = 2

/// Runs as the receiver when the arguments (without the executable) say so; `main` calls it before all else.
func runLaneReceiverIfAsked(_ arguments: [String]) -> Bool {
    guard arguments.first == laneReceiverCommand else { return false }
    let numbers = arguments.dropFirst().compactMap { Int($0) }
    let words = Array(arguments.suffix(3))
    guard numbers.count == 4, numbers[0] > 0, numbers[1] >= numbers[0], words.count == 3,
        let digests = DigestMode(rawValue: words[0]), let windows = RDMAWindows(rawValue: words[2])
    else { return false }
    let host = words[1]
    let benchmark = LaneBenchmark(
        pageBytes: numbers[0], totalBytes: numbers[1], iterations: numbers[2], digests: digests, layers: numbers[3],
        rdmaHost: host == "-" ? nil : host, windows: windows)
    do {
        try LaneReceiver(benchmark).run()
    } catch {
        print("lane benchmark: \(error)")
    }
    return true
}

/// Measures and prints one line of JSON: GB/s (10^9 bytes), microseconds of a handoff, and CPU seconds of both processes
/// per GB.
@discardableResult
func runLaneBenchmark(
    pageBytes: Int, totalBytes: Int, iterations: Int, digests: DigestMode, rdmaHost: String? = nil,
    windows: RDMAWindows = .auto
) throws -> String {
    let benchmark = LaneBenchmark(
        pageBytes: pageBytes, totalBytes: totalBytes, iterations: iterations, digests: digests, rdmaHost: rdmaHost,
        windows: windows)
    let (seconds, cpu) = try benchmark.measure()
    let bytes = Double(benchmark.pages * pageBytes)
    let rates = seconds.map { bytes / $0 / 1e9 }.sorted()
    let micros = seconds.map { $0 * 1e6 }.sorted()
    func three(_ value: Double) -> String { "\((value * 1000).rounded() / 1000)" }
    let json = """
        {"benchmark": "lane", "transport": "\(rdmaHost == nil ? "tcp" : "rdma")", "page_bytes": \(pageBytes), "pages": \(benchmark.pages), \
        "iterations": \(iterations), "digests": "\(digests.rawValue)", "gb_per_second": {"min": \(three(rates[0])), \
        "median": \(three(rates[rates.count / 2])), "max": \(three(rates[rates.count - 1]))}, \
        "microseconds": {"median": \(three(micros[micros.count / 2])), "p99": \(three(micros[micros.count * 99 / 100]))}, \
        "cpu_seconds_per_gb": \(three(cpu / (bytes * Double(iterations) / 1e9)))}
        """
    print(json)
    return json
}

/// Of a clock that both processes share.
private func monotonicSeconds() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

private func cpuSeconds() -> Double {
    var usage = rusage()
    getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
    return Double(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
        + Double(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6
}

private func makeSlab(_ benchmark: LaneBenchmark) throws -> SlabRegion {
    let bytes = benchmark.slots * benchmark.pageBytes
    let base = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    guard let base, base != MAP_FAILED else {
        throw LaneBenchmarkError(description: "no memory for a slab of \(bytes) bytes")
    }
    memset(base, 1, bytes)
    return SlabRegion(base: base, slotCount: benchmark.slots, shape: benchmark.shape)
}

/// Fixed-size values over the pipes between the two processes.
private func send<Value: BitwiseCopyable>(_ values: [Value], to pipe: Int32) throws {
    try values.withUnsafeBytes { bytes in
        var done = 0
        while done < bytes.count {
            let count = write(pipe, bytes.baseAddress.map { $0 + done }, bytes.count - done)
            guard count > 0 else { throw LaneBenchmarkError(description: "the other process is gone") }
            done += count
        }
    }
}

private func receive<Value: BitwiseCopyable>(_ count: Int, of zero: Value, from pipe: Int32) throws -> [Value] {
    var values = Array(repeating: zero, count: count)
    try values.withUnsafeMutableBytes { bytes in
        var done = 0
        while done < bytes.count {
            let count = read(pipe, bytes.baseAddress.map { $0 + done }, bytes.count - done)
            guard count > 0 else { throw LaneBenchmarkError(description: "the other process is gone") }
            done += count
        }
    }
    return values
}

// MARK: Receiver

/// The decode side: grants what it is asked for, seals it, and frees it again in random order.
private struct LaneReceiver {
    private struct State: ~Copyable {
        var pool: SlotPool
        var handoffs: ReceivingHandoffs
        var lanes = 0
        /// When the last handoff was.
        var sealedAt = 0.0
    }

    private final class Shared: Sendable {
        let state: Mutex<State>
        let incarnation = Incarnation(UInt64(getpid()))
        init(slots: Int, layers: Int) {
            let handoffs = ReceivingHandoffs(incarnation: Incarnation(UInt64(getpid())), layers: layers)
            state = Mutex(State(pool: SlotPool(slotCount: slots), handoffs: handoffs))
        }
    }

    private let benchmark: LaneBenchmark
    private let shared: Shared
    private let listener: LaneListener

    init(_ benchmark: LaneBenchmark) throws {
        self.benchmark = benchmark
        let shared = Shared(slots: benchmark.slots, layers: benchmark.layers)
        self.shared = shared
        let reference = Mutex<LaneListener?>(nil)
        let box = ListenerBox(reference)
        var configuration = LaneListener.Configuration(host: benchmark.rdmaHost ?? "127.0.0.1", port: 0)
        configuration.digests = benchmark.digests
        configuration.rdma = benchmark.rdmaHost == nil ? .off : .auto
        configuration.rdmaWindows = benchmark.windows
        listener = try LaneListener(
            configuration: configuration, slab: try makeSlab(benchmark), incarnation: shared.incarnation
        ) { event in LaneReceiver.handle(event, shared, box) }
        box.listener.withLock { $0 = listener }
        if let absence = listener.rdmaAbsence, benchmark.rdmaHost != nil {
            throw LaneBenchmarkError(description: absence)
        }
    }

    private final class ListenerBox: Sendable {
        let listener: Mutex<LaneListener?>
        init(_ listener: consuming Mutex<LaneListener?>) { self.listener = listener }
    }

    func run() throws {
        try send([UInt64(listener.port), shared.incarnation.value], to: STDOUT_FILENO)
        while let request = try? receive(1, of: UInt64(0), from: STDIN_FILENO)[0] {
            let terms = try grant(request)
            try send([cpuSeconds(), shared.state.withLock { $0.sealedAt }], to: STDOUT_FILENO)
            try send([terms.lane.value, terms.epoch.value, UInt32(terms.slots.count)], to: STDOUT_FILENO)
            try send(terms.slots.flatMap { [$0.index, $0.generation.value] }, to: STDOUT_FILENO)
        }
        listener.shutdown()
    }

    /// Reserves for a request, once everything of the one before is free again and the lane is there.
    private func grant(_ request: UInt64) throws -> PartTerms {
        let id = HandoffID(router: Incarnation(1), request: request, attempt: 1)
        for _ in 0..<10_000 {
            let actions = shared.state.withLock { state in
                // A refusal would be final, so nothing is asked before it can be granted.
                state.handoffs.idleLanes(of: Incarnation(2)) == 0 || state.pool.counts.free < benchmark.pages
                    ? []
                    : state.handoffs.reserve(
                        id, pages: benchmark.pages, shares: [Share(writer: Incarnation(2))], pool: &state.pool)
            }
            if case .bindLane(let terms)? = actions.first, listener.bind(terms) { return terms }
            // The lanes connect on their own threads; the machine says so only when asked.
            usleep(1000)
        }
        throw LaneBenchmarkError(description: "no lane or no pages within ten seconds")
    }

    private static func handle(_ event: LaneListenerEvent, _ shared: Shared, _ box: ListenerBox) {
        shared.state.withLock { state in
            switch event {
            case .opened(let lane, let peer, _):
                state.handoffs.laneOpened(lane, peer: peer)
                state.lanes += 1
            case .closed(let lane, let reason, _):
                // What the other process sees of it is that it is closed.
                if reason.kind != .peerClosed, reason.kind != .shutdown {
                    let text = Array("lane benchmark, receiver: the lane ended: \(reason)\n".utf8)
                    _ = write(STDERR_FILENO, text, text.count)
                }
                _ = state.handoffs.laneClosed(lane, pool: &state.pool)
                state.lanes -= 1
            case .completion(let lane, let epoch, let record):
                let listener = box.listener.withLock { $0 }
                let verdict = listener?.verifyDigests(
                    lane: lane, epoch: epoch, expected: record.pages.map(\.digest))
                let actions = state.handoffs.completion(
                    lane, epoch, record, matching: verdict?.allowsSeal ?? false, pool: &state.pool)
                guard case .startSequence(let id, let slots)? = actions.first else { return }
                state.sealedAt = monotonicSeconds()
                for slot in slots.shuffled() { state.pool.release(slot) }
                _ = state.handoffs.finished(id, SequenceEnd(.length, tokens: 0))
            }
        }
    }
}

// MARK: Sender

/// The prefill side: posts whole pages as fast as acknowledgements allow.
private struct LaneSender {
    private struct State: ~Copyable {
        var handoffs: SendingHandoffs
    }

    private struct Progress: Sendable {
        var written = 0
        var failed = false
        /// Why the latest lane ended.
        var closed: LaneCloseReason?
    }

    private final class Shared: Sendable {
        let state: Mutex<State>
        let pool = Mutex<LanePool?>(nil)
        let progress = Monitor(Progress())
        init(_ shape: PageShape) { state = Mutex(State(handoffs: SendingHandoffs(shape: shape))) }

        /// Asks the state machine and does what it says before anybody asks it again: records are posted in its order.
        func perform(_ decide: (inout State) -> [SendingAction]) {
            let pool = pool.withLock { $0 }
            state.withLock { state in
                for action in decide(&state) {
                    switch action {
                    case .post(let lane, let batch): pool?.post(lane, batch)
                    case .postCompletion(let lane, let terms): pool?.postCompletion(lane, terms)
                    case .sendWritten: progress.update { $0.written += 1 }
                    case .sendFailed: progress.update { $0.failed = true }
                    default: break
                    }
                }
            }
        }
    }

    private let benchmark: LaneBenchmark
    private let shared: Shared

    init(_ benchmark: LaneBenchmark) throws {
        guard benchmark.pageBytes > 0, benchmark.pages > 0, benchmark.iterations > 0 else {
            throw LaneBenchmarkError(description: "nothing to measure")
        }
        self.benchmark = benchmark
        shared = Shared(benchmark.shape)
    }

    /// Seconds of every iteration, and CPU seconds of both processes over all of them.
    func run() throws -> (seconds: [Double], cpu: Double) {
        let receiver = try ReceiverProcess(benchmark)
        defer { receiver.end() }
        let hello = try receive(2, of: UInt64(0), from: receiver.output)
        let decode = Incarnation(hello[1])
        let shared = self.shared
        var configuration = LanePool.Configuration()
        configuration.lanesPerPeer = 1
        configuration.digests = benchmark.digests
        configuration.rdma = benchmark.rdmaHost == nil ? .off : .auto
        let pool = LanePool(
            configuration: configuration, slab: try makeSlab(benchmark), incarnation: Incarnation(2)
        ) { event in LaneSender.handle(event, shared) }
        shared.pool.withLock { $0 = pool }
        defer {
            shared.pool.withLock { $0 = nil }
            pool.shutdown()
        }
        let address = "\(benchmark.rdmaHost ?? "127.0.0.1"):\(hello[0])"
        pool.setPeers([
            LanePeer(
                decode: decode, address: address, name: "receiver",
                rdmaAddresses: benchmark.rdmaHost == nil ? [] : [address])
        ])

        let order = (0..<UInt32(benchmark.slots)).shuffled().prefix(benchmark.pages)
        let sources = order.map { SlotRef(index: $0, generation: Generation(1)) }
        var seconds: [Double] = []
        var cpuStart = 0.0
        var start = 0.0
        var written = 0.0
        for iteration in 0...(warmups + benchmark.iterations) {
            // One may have been sealed before its sender knew, or after.
            let (terms, childCPU, sealed) = try askForGrant(UInt64(iteration + 1), receiver, decode)
            if iteration > warmups { seconds.append(max(written, sealed) - start) }
            if iteration == warmups { cpuStart = cpuSeconds() + childCPU }
            if iteration == warmups + benchmark.iterations { return (seconds, cpuSeconds() + childCPU - cpuStart) }
            // A grant comes by way of the router, which takes longer than what the decode node still does for it meanwhile.
            usleep(2000)
            start = monotonicSeconds()
            try transfer(terms, sources, number: iteration + 1)
            written = monotonicSeconds()
        }
        return (seconds, 0)
    }

    private func askForGrant(
        _ request: UInt64, _ receiver: ReceiverProcess, _ decode: Incarnation
    ) throws -> (PartTerms, cpu: Double, sealed: Double) {
        try send([request], to: receiver.input)
        let last = try receive(2, of: 0.0, from: receiver.output)
        let head = try receive(3, of: UInt32(0), from: receiver.output)
        let numbers = try receive(2 * Int(head[2]), of: UInt32(0), from: receiver.output)
        let slots = stride(from: 0, to: numbers.count, by: 2).map {
            SlotRef(index: numbers[$0], generation: Generation(numbers[$0 + 1]))
        }
        let id = HandoffID(router: Incarnation(1), request: request, attempt: 1)
        let terms = PartTerms(
            handoff: id, decode: decode, lane: LaneID(head[0]), epoch: LaneEpoch(head[1]), slots: slots,
            layers: benchmark.layers)
        return (terms, last[0], last[1])
    }

    private func transfer(_ terms: PartTerms, _ sources: [SlotRef], number: Int) throws {
        shared.perform { state in
            _ = state.handoffs.prefill(terms, pages: sources.count)
            _ = state.handoffs.started(terms.handoff, sources: sources)
            return state.handoffs.pagesReady(terms.handoff, layers: 0..<benchmark.layers, pages: 0..<sources.count)
        }
        let progress = shared.progress.wait(until: .after(.seconds(120))) { progress in
            progress.failed || progress.written >= number ? progress : nil
        }
        guard let progress, !progress.failed else {
            let reason = progress?.closed?.description ?? "it took two minutes"
            throw LaneBenchmarkError(description: "the handoff failed: \(reason)")
        }
        shared.perform { $0.handoffs.release(terms.handoff) }
    }

    private static func handle(_ event: LanePoolEvent, _ shared: Shared) {
        shared.perform { state in
            switch event {
            case .opened(let lane):
                state.handoffs.laneOpened(lane)
                return []
            case .closed(let lane, let reason):
                shared.progress.update { $0.closed = reason }
                return state.handoffs.laneClosed(lane)
            case .acknowledged(let lane, let id, let epoch, let records):
                return state.handoffs.acknowledged(lane, id, epoch, records: records)
            case .completionAcknowledged(let lane, let id, let epoch):
                return state.handoffs.completionAcknowledged(lane, id, epoch)
            case .sourceChanged: return []
            }
        }
    }
}

/// This executable again, as the receiver, with a pipe each way.
private struct ReceiverProcess {
    let input: Int32
    let output: Int32
    private let process: pid_t

    init(_ benchmark: LaneBenchmark) throws {
        var down: [Int32] = [-1, -1]
        var up: [Int32] = [-1, -1]
        guard pipe(&down) == 0, pipe(&up) == 0 else { throw LaneBenchmarkError(description: "no pipes") }
        for end in [down[1], up[0]] { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        posix_spawn_file_actions_adddup2(&actions, down[0], STDIN_FILENO)
        posix_spawn_file_actions_adddup2(&actions, up[1], STDOUT_FILENO)
        posix_spawn_file_actions_addclose(&actions, down[0])
        posix_spawn_file_actions_addclose(&actions, up[1])
        defer { posix_spawn_file_actions_destroy(&actions) }
        let words = [
            "bench", laneReceiverCommand, "\(benchmark.pageBytes)", "\(benchmark.totalBytes)",
            "\(benchmark.iterations)", "\(benchmark.layers)", benchmark.digests.rawValue,
            benchmark.rdmaHost ?? "-", benchmark.windows.rawValue,
        ]
        var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) }
        defer { for argument in arguments { free(argument) } }
        arguments.append(nil)
        var child: pid_t = 0
        let result = posix_spawn(&child, "/proc/self/exe", &actions, nil, arguments, environ)
        close(down[0])
        close(up[1])
        guard result == 0 else { throw LaneBenchmarkError(description: "can't start the receiver: errno \(result)") }
        (process, input, output) = (child, down[1], up[0])
    }

    /// The receiver ends when its input does.
    func end() {
        close(input)
        var status: Int32 = 0
        waitpid(process, &status, 0)
        close(output)
    }
}
