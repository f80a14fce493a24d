import FoundationEssentials
import Glibc
import NIOHTTP1
import OrderedJSON
import Synchronization
import Testing

/// A router and its nodes as processes of their own on loopback, with small pages so that a test fills them.
final class Cluster: Sendable {
    let client: ClusterClient
    let httpPort: Int
    let controlPort: Int
    let folder: String
    let modelPath: String
    /// Where decode nodes take lanes.
    private let laneHost: String
    private let processes = Mutex<[String: ChildProcess]>([:])

    /// The model `make setup` fetched, or the one BATON_MODEL names.
    static let model: String = {
        if let named = ProcessInfo.processInfo.environment["BATON_MODEL"], !named.isEmpty { return named }
        return "\(root)/.cache/models/SmolLM2-135M-Instruct.Q4_1.gguf"
    }()

    /// An address of an RDMA device of this machine: BATON_RDMA_HOST, which `make test-rdma` sets.
    static let rdmaHost = ProcessInfo.processInfo.environment["BATON_RDMA_HOST"]

    /// The small GLM-5 model that comes with Baton.
    static let bundledModel = "\(root)/Models/glm5-nano"

    /// A small model that is not ``model``.
    static let otherModel = "\(root)/Tests/Fixtures/tiny-llama"

    private static let root =
        #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3).joined(separator: "/")

    /// A folder for logs that is kept only if a test fails; the name is in the failure's text.
    private static func scratchFolder() throws -> String {
        var template = Array("/tmp/baton-cluster-XXXXXX".utf8CString)
        guard let path = mkdtemp(&template) else { throw ChildProcess.LaunchFailure(description: "mkdtemp failed") }
        return String(cString: path)
    }

    private init(modelPath: String, laneHost: String) throws {
        guard FileManager.default.fileExists(atPath: modelPath) else {
            throw ChildProcess.LaunchFailure(description: "\(modelPath) is missing; run `make setup`")
        }
        self.modelPath = modelPath
        self.laneHost = laneHost
        folder = try Self.scratchFolder()
        httpPort = try freePort()
        controlPort = try freePort()
        client = ClusterClient(port: httpPort)
    }

    /// Starts a router and its nodes `prefill-1…`, `decode-1…`, and waits until a round trip has succeeded; with
    /// nodes of one role only, or none, until they are attached. `options` go to all nodes, `decodeOptions` to decode
    /// nodes besides.
    static func start(
        model: String = model, prefill: Int = 1, decode: Int = 1, options: [String] = [],
        decodeOptions: [String] = [], laneHost: String = "127.0.0.1"
    ) async throws -> Cluster {
        let cluster = try Cluster(modelPath: model, laneHost: laneHost)
        try cluster.launchRouter()
        for number in stride(from: 1, through: prefill, by: 1) { try cluster.launch("prefill-\(number)", options) }
        for number in stride(from: 1, through: decode, by: 1) {
            try cluster.launch("decode-\(number)", options + decodeOptions)
        }
        try await cluster.waitUntilReady(nodes: prefill + decode, pairs: prefill > 0 && decode > 0)
        return cluster
    }

    func launchRouter() throws { try launchRouter("router", http: httpPort, control: controlPort) }

    private func launchRouter(_ name: String, http: Int, control: Int) throws {
        let arguments = [
            "serve", "--model", modelPath, "--http", "127.0.0.1:\(http)", "--control", "127.0.0.1:\(control)",
            "--stop-with-parent",
        ]
        try add(ChildProcess("router", arguments, name: name, logPath: "\(folder)/\(name).log"))
    }

    /// A router of its own beside the first. Nodes attach to it too if they are launched with its `options`.
    struct OtherRouter: Sendable {
        let client: ClusterClient
        let options: [String]
    }

    func launchOtherRouter() throws -> OtherRouter {
        let (http, control) = (try freePort(), try freePort())
        try launchRouter("router-b", http: http, control: control)
        return OtherRouter(client: ClusterClient(port: http), options: ["--router", "127.0.0.1:\(control)"])
    }

    /// Starts the node of this name; the part before the dash is its role.
    func launch(_ name: String, _ options: [String] = []) throws {
        let executable = name.hasPrefix("prefill") ? "prefill-node" : "decode-node"
        var arguments = [
            "--model", modelPath, "--router", "127.0.0.1:\(controlPort)", "--name", name, "--threads", "1",
            "--http", "127.0.0.1:0", "--pages", "192", "--stop-with-parent",
        ]
        arguments +=
            executable == "prefill-node" ? ["--chunk", "\(Workload.chunkTokens)"] : ["--lane", "\(laneHost):0"]
        let log = "\(folder)/\(name).log"
        try add(ChildProcess(executable, arguments + options, name: name, logPath: log))
    }

    private func add(_ process: ChildProcess) {
        processes.withLock { $0[process.name] = process }
    }

    func process(_ name: String) throws -> ChildProcess {
        try #require(processes.withLock { $0[name] })
    }

    var all: [ChildProcess] { processes.withLock { $0.values.sorted { $0.name < $1.name } } }

    /// Stops everything; removes the logs unless `keepLogs`.
    func stop(keepLogs: Bool = false) async {
        for process in all.reversed() { await process.stop() }
        await client.close()
        if !keepLogs { try? FileManager.default.removeItem(atPath: folder) }
    }

    /// What `router status --json` prints.
    func status() async throws -> ClusterStatus {
        ClusterStatus(try await client.json(ClusterStatus.path))
    }

    /// Waits until `condition` holds of the status; fails the test after `limit`.
    func wait(
        _ limit: Duration = .seconds(60), for what: String, sourceLocation: SourceLocation = #_sourceLocation,
        until condition: (ClusterStatus) -> Bool
    ) async throws {
        let deadline = ContinuousClock.now + limit
        var last: ClusterStatus?
        while ContinuousClock.now < deadline {
            if let status = try? await status() {
                if condition(status) { return }
                last = status
            }
            try await Task.sleep(for: .milliseconds(50))
        }
        Issue.record(
            "waited \(limit) for \(what); last status: \(last?.json.text() ?? "none"); logs in \(folder)",
            sourceLocation: sourceLocation)
        throw ChildProcess.LaunchFailure(description: "no \(what)")
    }

    /// Waits until the ledger has a handoff that this node works on. Heartbeats, from which the status is made, may all
    /// come between handoffs that are short.
    func waitForWork(on name: String) async throws {
        let isPrefill = name.hasPrefix("prefill")
        let deadline = ContinuousClock.now + .seconds(60)
        while ContinuousClock.now < deadline {
            let rows = try await client.json("/admin/handoffs").array ?? []
            let found = rows.contains { row in
                isPrefill
                    ? row["prefill"]?.string == name && row["state"]?.string == "prefilling"
                    : row["decode"]?.string == name
            }
            if found { return }
            try await Task.sleep(for: .milliseconds(5))
        }
        throw ChildProcess.LaunchFailure(description: "no work on \(name) in a minute; logs in \(folder)")
    }

    func waitUntilReady(nodes: Int, pairs: Bool = true) async throws {
        try await wait(for: "\(nodes) nodes") { $0.nodes.count == nodes }
        try await waitUntilReady(client, path: pairs ? "/ready" : "/health")
    }

    func waitUntilReady(_ router: ClusterClient, path: String = "/ready") async throws {
        let deadline = ContinuousClock.now + .seconds(60)
        while ContinuousClock.now < deadline {
            if let answer = try? await router.send(.GET, path), answer.status == 200 { return }
            try await Task.sleep(for: .milliseconds(50))
        }
        throw ChildProcess.LaunchFailure(description: "the cluster was not ready in a minute; logs in \(folder)")
    }

    /// Waits until nothing is in flight anywhere, and every page is free or cached.
    func waitUntilQuiet(sourceLocation: SourceLocation = #_sourceLocation) async throws {
        try await wait(for: "a quiet cluster", sourceLocation: sourceLocation) { $0.isQuiet }
    }
}
