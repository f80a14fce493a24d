import ArgumentParser
import ControlPlane
import Cores
import Handoff
import Logging
import Messages
import Routing
import Telemetry

/// `router serve`: the router itself.
struct ServeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve", abstract: "Run the router.",
        discussion: """
            Nodes dial --control; clients talk HTTP to --http. SIGTERM finishes the running requests and stops; \
            so does SIGINT, and a second one stops at once.
            """)

    @OptionGroup var options: ServeOptions

    func run() async throws {
        try await RouterService(options).run()
    }
}

/// The flags of the router, also taken by `router up`.
struct ServeOptions: ParsableArguments {
    @Option(help: "The model: a GGUF file, or a safetensors folder. Its tokenizer and chat template are used.")
    var model: String

    @Option(help: "What clients call the model (default: the file's name).")
    var modelName: String?

    @Option(help: "HOST:PORT for clients; port 0 takes a free one.")
    var http = "127.0.0.1:8080"

    @Option(help: "HOST:PORT for nodes; port 0 takes a free one.")
    var control = "127.0.0.1:7070"

    @Option(
        help: """
            A key clients must send as `Authorization: Bearer KEY`. May be repeated. Keys in $BATON_API_KEYS, one \
            per line, count too, and other users of this host do not see those.
            """)
    var apiKey: [String] = []

    @Option(
        help: """
            A key that opens /admin from anywhere (default: $BATON_ADMIN_KEY; without either, /admin is open from \
            this host only).
            """)
    var adminKey: String?

    @Option(help: "Requests that may wait for nodes; one more gets 429.")
    var queue = 1024

    @Option(help: "Seconds a request may wait for nodes before it gets 503.")
    var queueTimeout = 60.0

    @Option(help: "Failed attempts after which a request fails.")
    var attempts = 4

    @Option(
        help: """
            Seconds a node's engine may have work and not move before its requests go elsewhere. It moves with every layer
            of a step.
            """)
    var engineStallTimeout = 5.0

    @Option(help: "Largest request body in MiB.")
    var bodyLimit = 32

    @Option(help: "MiB that request bodies may take together; one more gets 503.")
    var bodyMemory = 512

    @Option(help: "Connections at once.")
    var connections = 4096

    @Option(help: "Seconds after which a client is cut off that does not read its answer.")
    var slowClientTimeout = 30.0

    @Option(help: "Seconds running requests get to finish after SIGTERM.")
    var drainTimeout = 30.0

    @Option(help: "The least severe messages to log.")
    var logLevel = LogLevel.info

    @Option(help: "json or text (default: text on a terminal, else json).")
    var logFormat: LogFormat?

    @Flag(help: "Stop when standard input ends: for whoever starts this as a child process.")
    var stopWithParent = false

    func validate() throws {
        guard HostPort(http) != nil else { throw ValidationError("--http \(http): expected HOST:PORT.") }
        guard HostPort(control) != nil else { throw ValidationError("--control \(control): expected HOST:PORT.") }
        if let problem = DoorKeys.problem(api: apiKey, admin: adminKey) { throw ValidationError(problem) }
        guard (1...1_000_000).contains(queue) else { throw ValidationError("--queue must be 1 to 1000000.") }
        guard (1...100).contains(attempts) else { throw ValidationError("--attempts must be 1 to 100.") }
        guard (1...1024).contains(bodyLimit) else { throw ValidationError("--body-limit must be 1 to 1024 MiB.") }
        guard (bodyLimit...1 << 20).contains(bodyMemory) else {
            throw ValidationError("--body-memory must be --body-limit (\(bodyLimit)) to 1048576 MiB.")
        }
        guard (1...1_000_000).contains(connections) else {
            throw ValidationError("--connections must be 1 to 1000000.")
        }
        for (name, value) in [
            ("--queue-timeout", queueTimeout), ("--slow-client-timeout", slowClientTimeout),
            ("--drain-timeout", drainTimeout), ("--engine-stall-timeout", engineStallTimeout),
        ] where !(0.0...86_400.0).contains(value) {
            throw ValidationError("\(name) must be 0 to 86400 seconds.")
        }
    }

    var routingSettings: RoutingSettings {
        var settings = RoutingSettings()
        settings.queueLimit = queue
        settings.queueTimeout = .seconds(queueTimeout)
        settings.failuresMax = attempts
        settings.engineStallTimeout = .seconds(engineStallTimeout)
        settings.slowClientTimeout = .seconds(slowClientTimeout)
        return settings
    }

    var doorSettings: FrontDoorSettings {
        var settings = FrontDoorSettings()
        settings.bodyLimit = bodyLimit << 20
        settings.bodyMemory = bodyMemory << 20
        let keys = DoorKeys(api: apiKey, admin: adminKey)
        settings.apiKeys = keys.api
        settings.adminKey = keys.admin
        return settings
    }
}

/// The levels of swift-log, as a flag's values.
enum LogLevel: String, CaseIterable, ExpressibleByArgument {
    case trace, debug, info, notice, warning, error, critical

    var level: Logger.Level { Logger.Level(rawValue: rawValue) ?? .info }
}

extension LogFormat: ExpressibleByArgument {}
