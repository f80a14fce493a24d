import ControlPlane
import Cores
import Glibc
import Handoff
import HostProcess
import Hummingbird
import HummingbirdCore
import Logging
import Messages
import NIOCore
import NIOPosix
import Routing
import ServiceLifecycle
import Synchronization
import Telemetry
import Tokenization
import UnixSignals

/// A running router: HTTP server, control server, clock, and their orderly end.
struct RouterService {
    private let options: ServeOptions
    private let logger: Logger

    init(_ options: ServeOptions) {
        self.options = options
        let format = options.logFormat ?? (isatty(STDERR_FILENO) == 1 ? .text : .json)
        let level = options.logLevel.level
        logger = Logger(label: "router") { label in
            var handler = LineLogHandler(label: label, format: format)
            handler.logLevel = level
            return handler
        }
    }

    func run() async throws {
        let descriptors = HostProcess.prepare("router")
        // Whatever is said last is read by those who look for the reason.
        defer { LogQueue.standardError.flush(within: .seconds(1)) }
        if let problem = descriptors.problem { throw CommandError(problem) }
        // Loops only move bytes; the work is done elsewhere. One per core gets in the way of those who do it: on two
        // cores a token takes 0.09 ms with one loop, 0.09 to 0.17 with two (Benchmarks/run.py --only router).
        NIOSingletons.groupLoopCountSuggestion = max(1, System.coreCount / 2)
        let model = try RouterModel.load(path: options.model, name: options.modelName)
        let incarnation = Incarnation(UInt64.random(in: 1...UInt64.max))
        var settings = options.routingSettings
        // Any few tokens will do: a probe shows that pages travel and a token comes back.
        settings.probeTokens = probeTokens(model.prompts)
        let metrics = RouterMetrics()
        let router = Routing.Router(
            incarnation: incarnation, settings: settings, metrics: metrics, logger: logger)
        metrics.watch(router)
        guard let controlAddress = HostPort(options.control), let httpAddress = HostPort(options.http) else {
            throw CommandError("--control and --http must be HOST:PORT")
        }
        let control: ControlServer
        do throws(ControlError) {
            let expected = model.fingerprint
            control = try ControlServer(
                configuration: .init(address: controlAddress, router: incarnation), logger: logger,
                admit: { Admission.refusal(of: $0, expected: expected, attached: $1) },
                onEvent: { router.handle($0) })
        } catch {
            throw CommandError("--control \(options.control): \(error)")
        }
        let connections = Connections()
        let door = FrontDoor(
            router: router, prompts: model.prompts, settings: options.doorSettings, connections: connections,
            version: batonVersion, logger: logger, bodyBudget: BodyBudget(limit: options.doorSettings.bodyMemory))
        try await serve(door, control, router, httpAddress, clients: clientLimit(descriptors))
    }

    /// Connections at once: as many as were asked for, and as the process has descriptors for.
    private func clientLimit(_ descriptors: DescriptorBudget) -> Int {
        let clients = descriptors.clients(wanted: options.connections)
        if clients < options.connections {
            logger.warning(
                "fewer connections than --connections: the rest is kept for nodes and operators; raise the limit of open files",
                metadata: [
                    "connections": "\(clients)", "wanted": "\(options.connections)",
                    "open_files": "\(descriptors.limit)",
                ])
        }
        return clients
    }

    private func probeTokens(_ prompts: PromptReader) -> [UInt32] {
        let tokens = prompts.tokenizer.encode("Are you ready?", addSpecial: true, parseSpecial: false)
        return tokens.isEmpty ? [0, 0] : tokens.prefix(16).compactMap { UInt32(exactly: $0) }
    }

    private func serve(
        _ door: FrontDoor, _ control: ControlServer, _ router: Routing.Router, _ address: HostPort,
        clients: Int
    ) async throws {
        let logger = logger
        let controlPort = control.port
        let stallTimeout = Duration.seconds(options.slowClientTimeout)
        let application = Application(
            responder: door,
            server: .http1(
                configuration: .init(
                    additionalChannelHandlers: [
                        ConnectionGuard(connections: door.connections, stallTimeout: stallTimeout)
                    ],
                    idleTimeout: .seconds(75))),
            configuration: .init(
                address: .hostname(address.host, port: address.port),
                availableConnectionsDelegate: MaximumAvailableConnections(clients, logger: logger)),
            onServerRunning: { channel in
                let port = channel.localAddress?.port ?? address.port
                logger.info(
                    "ready", metadata: ["http": "\(address.host):\(port)", "control_port": "\(controlPort)"])
            },
            // What it calls errors are connections that end, also when the router stops.
            logger: quiet(logger, .critical))
        var group = ServiceGroupConfiguration(
            services: [
                .init(service: ControlService(server: control)), .init(service: ClockService(router: router)),
                .init(service: application),
            ], logger: quiet(logger, .warning))
        // Connections that stay open do not keep the process: whoever is served was waited for before.
        group.maximumGracefulShutdownDuration = .seconds(3)
        group.maximumCancellationDuration = .seconds(2)
        let services = ServiceGroup(configuration: group)
        let limit = Duration.seconds(options.drainTimeout)
        let watchesParent = options.stopWithParent
        // A task of its own: it ends with the process, and must not keep the group from ending.
        let stopper = Task {
            await StopRequests(watchesParent: watchesParent).first(logger: logger)
            await router.drain(within: watchesParent ? min(limit, .seconds(1)) : limit)
            await services.triggerGracefulShutdown()
        }
        defer { stopper.cancel() }
        do {
            try await services.run()
        } catch let error as IOError {
            throw CommandError(
                "--http \(options.http): \(String(cString: strerror(error.errnoCode))); "
                    + "another address is chosen with --http")
        }
        logger.info("stopped")
    }

    /// The libraries' own chatter only matters when something is wrong.
    private func quiet(_ logger: Logger, _ level: Logger.Level) -> Logger {
        var logger = logger
        logger.logLevel = max(logger.logLevel, level)
        return logger
    }
}

struct ControlService: Service {
    let server: ControlServer

    func run() async throws {
        try await withGracefulShutdownHandler {
            try await server.run()
        } onGracefulShutdown: {
            server.stop()
        }
    }
}

struct ClockService: Service {
    let router: Routing.Router

    func run() async throws {
        await cancelWhenGracefulShutdown { await router.runClock() }
    }
}
