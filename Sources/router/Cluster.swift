import Glibc
import Logging
import OrderedJSON

/// A cluster of child processes: started in order, watched, and stopped without leaving anything behind.
struct Cluster {
    private let command: UpCommand
    private let model: String
    /// Tokens drafted ahead.
    private let speculate: Int
    private let directory: String
    private let keys: DoorKeys
    private let style = TerminalStyle(descriptor: STDERR_FILENO)

    /// What the supervising task waits for.
    private enum Event: Sendable {
        case child(ChildProcess.Event)
        case stop(String)
        case isReady
        case startTimeout
    }

    /// What became of a run.
    private enum Outcome {
        case stopped
        case failed(String)
    }

    init(_ command: UpCommand, model: String, speculate: Int, directory: String) {
        self.command = command
        self.model = model
        self.speculate = speculate
        self.directory = directory
        keys = DoorKeys(api: command.apiKey, admin: command.adminKey)
    }

    func run() async throws {
        signal(SIGPIPE, SIG_IGN)
        let (events, continuation) = AsyncStream<Event>.makeStream()
        let outcome = await withTaskGroup(of: Void.self) { group in
            let watch = Task {
                var logger = Logger(label: "up")
                logger.logLevel = .critical
                await StopRequests(watchesParent: command.stopWithParent).first(logger: logger)
                continuation.yield(.stop("stopping"))
            }
            let timeout = Task {
                try? await Task.sleep(for: .seconds(command.startTimeout))
                continuation.yield(.startTimeout)
            }
            defer {
                watch.cancel()
                timeout.cancel()
            }
            var supervisor = Supervisor(
                group: [], start: { child in continuation.yield(.child(child)) })
            let outcome = await supervise(&supervisor, events, continuation, &group)
            // Whoever has not ended by now is not waited for.
            group.cancelAll()
            return outcome
        }
        if case .failed(let reason) = outcome { throw CommandError(reason) }
    }

    /// The children there are, and how they report.
    private struct Supervisor {
        var group: [ChildProcess]
        let start: @Sendable (ChildProcess.Event) -> Void
        var url = ""
        var isReady = false

        var router: ChildProcess? { group.first { $0.name == "router" } }
    }

    // MARK: Life

    private func supervise(
        _ supervisor: inout Supervisor, _ events: AsyncStream<Event>,
        _ continuation: AsyncStream<Event>.Continuation, _ group: inout TaskGroup<Void>
    ) async -> Outcome {
        progress("starting the router")
        launch(routerProcess(), &supervisor, &group)
        var poll: Task<Void, Never>?
        defer { poll?.cancel() }
        var outcome = Outcome.stopped
        for await event in events {
            switch event {
            case .child(.ready(let child, let fields)) where child.name == "router":
                guard supervisor.url.isEmpty else { continue }
                supervisor.url = "http://\(Self.reachable(fields["http"]?.string ?? command.http))"
                launchNodes(controlPort: fields["control_port"].flatMap(Self.port) ?? 0, &supervisor, &group)
                poll = Task { [supervisor] in
                    await waitUntilReady(supervisor)
                    if !Task.isCancelled { continuation.yield(.isReady) }
                }
                continue
            case .child(.ready):
                continue
            case .isReady:
                supervisor.isReady = true
                clearProgress()
                emit("ready \(supervisor.url)  (logs in \(directory))")
                continue
            case .child(.ended(let child, let how)):
                let words = how.contains("status") ? lastWords(of: child) : ""
                let reason = "\(child.name) \(how)\(words); its log is \(child.logPath)"
                if supervisor.isReady, child.name != "router" {
                    report(style.paint(reason, .red))
                    continue
                }
                outcome = .failed(reason)
            case .startTimeout:
                guard !supervisor.isReady else { continue }
                outcome = .failed(
                    "not ready after \(Int(command.startTimeout)) s; the logs in \(directory) say why")
            case .stop:
                break
            }
            // Only what ends the cluster gets here.
            break
        }
        clearProgress()
        poll?.cancel()
        await stop(supervisor)
        return outcome
    }

    private func launch(_ child: ChildProcess, _ supervisor: inout Supervisor, _ group: inout TaskGroup<Void>) {
        supervisor.group.append(child)
        let start = supervisor.start
        group.addTask { await child.run(start) }
    }

    private func launchNodes(controlPort: Int, _ supervisor: inout Supervisor, _ group: inout TaskGroup<Void>) {
        let host = Self.host(of: command.control)
        for (role, count, flags) in [
            ("prefill", command.prefill, command.prefillFlags), ("decode", command.decode, command.decodeFlags),
        ] {
            for number in 1...count {
                var arguments = ["--model", model, "--router", "\(host):\(controlPort)"]
                arguments += ["--name", "\(role)-\(number)", "--http", "127.0.0.1:0"]
                if role == "decode" { arguments += ["--lane", "127.0.0.1:0", "--speculate", "\(speculate)"] }
                arguments += command.nodeOptions.arguments + childFlags
                arguments += flags.split(separator: " ").map(String.init)
                let child = ChildProcess(
                    name: "\(role)-\(number)", executable: Self.sibling("\(role)-node"), arguments: arguments,
                    environment: DoorKeys.noEnvironment, logDirectory: directory)
                launch(child, &supervisor, &group)
            }
        }
    }

    private func routerProcess() -> ChildProcess {
        var arguments = ["serve", "--model", model, "--http", command.http, "--control", command.control]
        if let name = command.modelName { arguments += ["--model-name", name] }
        if let queue = command.queue { arguments += ["--queue", "\(queue)"] }
        arguments += ["--drain-timeout", "\(command.drainTimeout)"] + childFlags
        return ChildProcess(
            name: "router", executable: Self.sibling("router"), arguments: arguments,
            environment: keys.environment, logDirectory: directory)
    }

    private var childFlags: [String] {
        ["--stop-with-parent", "--log-format", "json", "--log-level", command.logLevel.rawValue]
    }

    /// Until `/ready` says that a request went all the way through.
    private func waitUntilReady(_ supervisor: Supervisor) async {
        let client = AdminClient(base: supervisor.url, key: keys.admin ?? keys.api.first)
        let wanted = command.prefill + command.decode
        while !Task.isCancelled {
            if await client.status("/ready") == 200 {
                let nodes = (try? await client.get("/admin/nodes"))?.array?.count ?? 0
                if nodes >= wanted { return }
                progress("\(nodes) of \(wanted) nodes are attached")
            } else {
                let nodes = (try? await client.get("/admin/nodes"))?.array?.count ?? 0
                progress(
                    nodes < wanted ? "loading the model: \(nodes) of \(wanted) nodes are attached" : "first round trip")
            }
            try? await Task.sleep(for: .milliseconds(100))
        }
    }

    // MARK: End

    /// The router first, which finishes the running requests; then the nodes; then whatever has not ended.
    private func stop(_ supervisor: Supervisor) async {
        let nodes = supervisor.group.filter { $0.name != "router" }
        supervisor.router?.send(SIGTERM)
        await wait(for: supervisor.group.filter { $0.name == "router" }, .seconds(command.drainTimeout + 8))
        for node in nodes { node.send(SIGTERM) }
        await wait(for: nodes, .seconds(8))
        for child in supervisor.group where child.isRunning { child.send(SIGKILL) }
        await wait(for: supervisor.group, .seconds(5))
    }

    private func wait(for children: [ChildProcess], _ limit: Duration) async {
        let deadline = ContinuousClock.now + limit
        while children.contains(where: \.isRunning), ContinuousClock.now < deadline {
            try? await Task.sleep(for: .milliseconds(20))
        }
    }

    // MARK: Words

    /// A line that is redrawn on a terminal, and not shown elsewhere.
    private func progress(_ text: String) {
        guard style.isTerminal else { return }
        writeAll("\r\u{1b}[K\(style.paint(text, .dim))", to: STDERR_FILENO)
    }

    private func clearProgress() {
        guard style.isTerminal else { return }
        writeAll("\r\u{1b}[K", to: STDERR_FILENO)
    }

    private func lastWords(of child: ChildProcess) -> String {
        child.lastLines.last.map { " (\($0.trimmingWhitespace))" } ?? ""
    }

    private static func host(of address: String) -> String {
        guard let colon = address.lastIndex(of: ":") else { return address }
        let host = String(address[..<colon])
        switch host {
        case "", "0.0.0.0": return "127.0.0.1"
        case "[::]": return "[::1]"
        default: return host
        }
    }

    /// An address that is listened on, as it is dialled from this host.
    private static func reachable(_ address: String) -> String {
        guard let colon = address.lastIndex(of: ":") else { return address }
        return host(of: address) + address[colon...]
    }

    private static func port(_ value: JSON) -> Int? { value.int ?? value.string.flatMap { Int($0) } }

    /// The executable beside this one.
    private static func sibling(_ name: String) -> String {
        Executable.folder + "/" + name
    }
}

extension String {
    fileprivate var trimmingWhitespace: String {
        var text = Substring(self)
        while let last = text.last, last.isWhitespace { text.removeLast() }
        while let first = text.first, first.isWhitespace { text.removeFirst() }
        return String(text)
    }
}
