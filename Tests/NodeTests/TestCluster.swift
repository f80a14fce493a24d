import ControlPlane
import Engine
import Handoff
import Kernels
import Logging
import Messages
import Synchronization
import Testing

@testable import Node

struct TimedOut: Error, CustomStringConvertible {
    var what: String
    var description: String { "timed out: \(what)" }
}

func eventually(_ what: @autoclosure () -> String, _ condition: @Sendable () -> Bool) async throws {
    let deadline = ContinuousClock.now + .seconds(30)
    while !condition() {
        guard ContinuousClock.now < deadline else { throw TimedOut(what: what()) }
        try await Task.sleep(for: .milliseconds(2))
    }
}

/// A prefill node and a decode node in this process, over real gRPC and real lanes, and a router that a test
/// scripts by hand.
final class TestCluster: Sendable {
    static let model: Result<LoadedModel, any Error> = Result {
        let path = String(#filePath.dropLast("NodeTests/TestCluster.swift".count)) + "Fixtures/tiny-llama"
        var options = LoadOptions()
        options.pageTokens = 16
        options.threads = 1
        return try LoadedModel.load(path: path, options: options)
    }

    /// A node of either role and what a test looks at.
    struct Part {
        let driver: any NodeDriver
        let memory: KVMemory
        let metrics: NodeMetrics
        let runtime: NodeRuntime
        let task: Task<Void, any Error>
    }

    let model: LoadedModel
    let router: ScriptedRouter
    let prefill: Part
    let decode: Part

    static func with(
        pages: Int = 64, maxRunning: Int = 32, lanes: Int = 4,
        configure: (NodeRole, inout NodeConfiguration) -> Void = { _, _ in },
        _ body: @Sendable (TestCluster) async throws -> Void
    ) async throws {
        let cluster = try TestCluster(pages: pages, maxRunning: maxRunning, configure)
        do {
            try await cluster.router.bothAttached(lanes: lanes)
            try await body(cluster)
        } catch {
            cluster.stop()
            throw error
        }
        cluster.stop()
        try await cluster.prefill.task.value
        try await cluster.decode.task.value
        try await cluster.router.task.value
    }

    private init(pages: Int, maxRunning: Int, _ configure: (NodeRole, inout NodeConfiguration) -> Void) throws {
        model = try Self.model.get()
        router = try ScriptedRouter()
        prefill = try Self.start(.prefill, model, pages, maxRunning, router.server.port, configure)
        decode = try Self.start(.decode, model, pages, maxRunning, router.server.port, configure)
    }

    private static func start(
        _ role: NodeRole, _ model: LoadedModel, _ pages: Int, _ maxRunning: Int, _ port: Int,
        _ configure: (NodeRole, inout NodeConfiguration) -> Void
    ) throws -> Part {
        var configuration = NodeConfiguration(name: "\(role)-1", modelPath: "")
        configuration.routers = [HostPort(host: "127.0.0.1", port: port)]
        configuration.maxRunning = maxRunning
        configuration.threads = 1
        configuration.lanesPerPeer = 4
        if role == .prefill { configuration.chunkTokens = 32 }
        configure(role, &configuration)
        let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        let links = RouterLinks()
        let metrics = NodeMetrics()
        let memory = try KVMemory(layout: model.layout, pageCount: pages)
        let incarnation = Incarnation.random()
        let driver: any NodeDriver =
            switch role {
            case .prefill:
                try PrefillDriver(
                    configuration: configuration, incarnation: incarnation, model: model, memory: memory,
                    links: links, metrics: metrics, logger: logger)
            case .decode:
                try DecodeDriver(
                    configuration: configuration, incarnation: incarnation, model: model, memory: memory,
                    links: links, metrics: metrics, logger: logger)
            }
        let runtime = NodeRuntime(
            configuration: configuration, driver: driver, links: links, metrics: metrics, logger: logger)
        return Part(
            driver: driver, memory: memory, metrics: metrics, runtime: runtime, task: Task { try await runtime.run() })
    }

    private func stop() {
        prefill.runtime.stop(within: .zero)
        decode.runtime.stop(within: .zero)
        router.server.stop()
    }

    /// No request in flight: every page of both nodes is free or cached, and no handoff is open.
    func expectSettled() async throws {
        for part in [prefill, decode] {
            let name = part.driver.registration.name
            try await eventually("\(name) settles: \(part.memory.counts)") {
                let counts = part.memory.counts
                return counts.free + counts.cached == counts.total && part.driver.isIdle
            }
        }
        #expect(decode.memory.counts.cached == 0)
    }

    /// The engine's own greedy continuation, in this process, without any handoff.
    func greedy(_ prompt: [UInt32], _ count: Int) async throws -> [UInt32] {
        let memory = try KVMemory(layout: model.layout, pageCount: 128)
        let result = Mutex<([UInt32], Bool)>(([], false))
        let shared = SharedResult(result)
        let engine = try EngineLoop(
            model: model, memory: memory, options: EngineOptions(role: .decode, threads: 1),
            onEvent: { event in
                switch event {
                case .tokens(let runs):
                    for run in runs { shared.append(run.tokens.map { UInt32(bitPattern: $0) }) }
                case .finished, .failed: shared.finish()
                default: break
                }
            })
        defer { engine.shutdown() }
        var sampling = SamplingParameters()
        sampling.temperature = 0
        sampling.maxTokens = count
        engine.start(
            DecodeJob(
                id: HandoffID(router: Incarnation(1), request: 1, attempt: 1), tokens: prompt.map { TokenID($0) },
                sampling: sampling, slots: []))
        try await eventually("the engine's own continuation") { shared.isFinished }
        return shared.tokens
    }
}

private final class SharedResult: Sendable {
    private let state: Mutex<([UInt32], Bool)>
    init(_ state: consuming Mutex<([UInt32], Bool)>) { self.state = state }
    func append(_ tokens: [UInt32]) { state.withLock { $0.0 += tokens } }
    func finish() { state.withLock { $0.1 = true } }
    var isFinished: Bool { state.withLock { $0.1 } }
    var tokens: [UInt32] { state.withLock { $0.0 } }
}

/// A router that only keeps what it is told, and sends what a test says.
final class ScriptedRouter: Sendable {
    private final class Log: Sendable {
        let messages = Mutex<[NodeMessage]>([])
    }

    static let incarnation = Incarnation(0x7E57)
    let server: ControlServer
    let task: Task<Void, any Error>
    private let log: Log

    init() throws {
        let log = Log()
        self.log = log
        let server = try ControlServer(
            configuration: .init(
                host: "127.0.0.1", port: 0, router: Self.incarnation, heartbeat: .milliseconds(50), lease: .seconds(20)),
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
            onEvent: { event in
                guard case .message(_, let message) = event else { return }
                if case .heartbeat = message { return }
                log.messages.withLock { $0.append(message) }
            })
        self.server = server
        task = Task { try await server.run() }
    }

    var messages: [NodeMessage] { log.messages.withLock { $0 } }

    func toPrefill(_ message: RouterMessage) { server.node(named: "prefill-1")?.send(message) }
    func toDecode(_ message: RouterMessage) { server.node(named: "decode-1")?.send(message) }

    /// Waits for both nodes, introduces them, and waits for lanes.
    func bothAttached(lanes: Int = 4) async throws {
        try await eventually("both nodes attach") { self.server.nodes.count == 2 }
        let decode = try #require(server.node(named: "decode-1"))
        toPrefill(
            .peers([
                PeerAddress(
                    incarnation: decode.incarnation, laneAddress: decode.registration.laneAddress, name: decode.name)
            ]))
        try await lanesIdle(lanes)
    }

    func lanesIdle(_ count: Int) async throws {
        try await eventually("\(count) lanes: \(server.nodes.map { ($0.name, $0.load) })") {
            ["prefill-1", "decode-1"].allSatisfy { self.server.node(named: $0)?.load?.lanesIdle == count }
        }
    }

    /// The first message, from the start or after `index`, that `match` takes.
    func wait<Value: Sendable>(
        _ what: String, _ match: @escaping @Sendable (NodeMessage) -> Value?
    ) async throws -> Value {
        let found = Mutex<Value?>(nil)
        let box = Found(found)
        try await eventually(what) {
            guard let value = self.messages.lazy.compactMap(match).first else { return false }
            box.set(value)
            return true
        }
        return try #require(box.value)
    }

    private final class Found<Value: Sendable>: Sendable {
        private let state: Mutex<Value?>
        init(_ state: consuming Mutex<Value?>) { self.state = state }
        func set(_ value: Value) { state.withLock { $0 = value } }
        var value: Value? { state.withLock { $0 } }
    }

    // MARK: The steps of a handoff

    static func id(_ request: UInt64) -> HandoffID {
        HandoffID(router: incarnation, request: request, attempt: 1)
    }

    func reserve(_ handoff: HandoffID, _ prompt: [UInt32], maxTokens: Int) throws {
        var sampling = SamplingTerms()
        sampling.temperature = 0
        sampling.maxTokens = maxTokens
        let prefill = try #require(server.node(named: "prefill-1")).incarnation
        toDecode(
            .reserve(
                Reservation(
                    handoff: handoff, shares: [Share(writer: prefill)], tokens: prompt, delivered: 0, sampling: sampling
                )))
    }

    /// Reserves until it is granted; a lack of lanes or pages is tried again under the next number.
    func granted(_ handoff: HandoffID) async throws -> GrantTerms {
        try await wait("grant of \(handoff.request)") { message in
            if case .granted(let terms) = message, terms.handoff == handoff { terms } else { nil }
        }
    }

    func refusal(_ handoff: HandoffID) async throws -> Refusal {
        try await wait("refusal of \(handoff.request)") { message in
            if case .refused(let refusal) = message, refusal.handoff == handoff { refusal } else { nil }
        }
    }

    func sealed(_ handoff: HandoffID) async throws {
        _ = try await wait("seal of \(handoff.request)") { message in
            if case .sealed(handoff, _) = message { true } else { nil }
        }
    }

    func finished(_ handoff: HandoffID) async throws -> FinishReport {
        try await wait("finish of \(handoff.request)") { message in
            if case .finished(let report) = message, report.handoff == handoff { report } else { nil }
        }
    }

    func drained(_ handoff: HandoffID) async throws -> (posted: UInt64, completed: UInt64) {
        try await wait("drain of \(handoff.request)") { message in
            if case .drained(handoff, let posted, let completed) = message { (posted, completed) } else { nil }
        }
    }

    func reclaimed(_ handoff: HandoffID) async throws -> QuiescenceProof.Kind {
        try await wait("reclaim of \(handoff.request)") { message in
            if case .reclaimed(handoff, let kind) = message { kind } else { nil }
        }
    }

    func tokens(_ handoff: HandoffID) -> [UInt32] {
        var tokens: [UInt32] = []
        for case .tokens(let batch) in messages {
            for run in batch.runs where run.handoff == handoff {
                #expect(run.firstIndex == tokens.count)
                tokens += run.tokens
            }
        }
        return tokens
    }

    /// A request from Reserve to Finished; returns its tokens.
    func serve(_ request: UInt64, _ prompt: [UInt32], maxTokens: Int) async throws -> [UInt32] {
        let handoff = Self.id(request)
        try reserve(handoff, prompt, maxTokens: maxTokens)
        toPrefill(.prefill(PrefillOrder(grant: try await granted(handoff), tokens: prompt)))
        try await sealed(handoff)
        toPrefill(.release(handoff))
        let report = try await finished(handoff)
        #expect(report.reason == .length)
        #expect(report.tokens == maxTokens)
        _ = try await drained(handoff)
        return tokens(handoff)
    }
}
