package import Cores
import GRPCCore
import GRPCNIOTransportHTTP2
import Glibc
package import Handoff
package import Logging
package import Messages
import Synchronization

/// What happens to the nodes of a router.
package enum NodeEvent: Sendable {
    case joined(AttachedNode)
    case message(AttachedNode, NodeMessage)
    case left(AttachedNode, LeaveReason)
}

/// The router's end of the control plane: the gRPC service that nodes attach to, with the registry inside.
///
/// Events come through one closure, on the tasks of the streams: for one node in order, `joined` first and
/// `left` last and exactly once; for different nodes at the same time. The closure must not block.
package final class ControlServer: Sendable {
    package struct Configuration: Sendable {
        package var address: HostPort
        /// The incarnation of this router.
        package var router: Incarnation
        package var heartbeat = Duration.milliseconds(500)
        /// A node that has sent nothing for this long is taken out.
        package var lease = Duration.seconds(3)

        package init(address: HostPort, router: Incarnation) {
            self.address = address
            self.router = router
        }

        package init(
            host: String, port: Int, router: Incarnation, heartbeat: Duration = .milliseconds(500),
            lease: Duration = .seconds(3)
        ) {
            self.address = HostPort(host: host, port: port)
            self.router = router
            self.heartbeat = heartbeat
            self.lease = lease
        }
    }

    /// The port listened on, also when the configuration asked for port 0.
    package let port: Int
    private let core: ServerCore
    private let server: GRPCServer<HTTP2ServerTransport.Posix>
    private let socket: ListeningSocket
    private let hasRun = Mutex(false)

    /// Binds the port at once.
    /// - Parameters:
    ///   - admit: the router's own policy: why a registration is refused, given those attached, or nil.
    ///   - onEvent: see above.
    package init(
        configuration: Configuration, logger: Logger,
        admit: @escaping @Sendable (Registration, [Registration]) -> String? = { _, _ in nil },
        onEvent: @escaping @Sendable (NodeEvent) -> Void
    ) throws(ControlError) {
        socket = try ListeningSocket(configuration.address)
        port = socket.port
        core = ServerCore(configuration: configuration, logger: logger, admit: admit, onEvent: onEvent)
        let transport = HTTP2ServerTransport.Posix(
            listeningSocketDescriptor: Int(socket.descriptor), transportSecurity: .plaintext,
            config: .defaults { config in
                config.rpc.maxRequestPayloadSize = ControlLimits.messageBytes
                config.http2.targetWindowSize = 1 << 20
                config.http2.maxConcurrentStreams = 16
                config.connection.maxIdleTime = .seconds(30)
                config.connection.keepalive.time = .seconds(10)
                config.connection.keepalive.timeout = .seconds(5)
                config.connection.keepalive.clientBehavior.allowWithoutCalls = true
                config.connection.keepalive.clientBehavior.minPingIntervalWithoutCalls = .seconds(1)
                // A step's tokens are one message already, and every 100 µs shows in the time per token.
                config.connection.flushCoalescing = nil
            })
        server = GRPCServer(transport: transport, services: [AttachService(core: core)])
    }

    deinit {
        if !hasRun.withLock({ $0 }) { close(socket.descriptor) }
    }

    /// Serves until `stop` or until the task is cancelled. To be called once.
    package func run() async throws {
        let isFirst = hasRun.withLock { hasRun in
            defer { hasRun = true }
            return !hasRun
        }
        precondition(isFirst, "a control server runs once")
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await self.server.serve() }
            group.addTask { await self.core.watchLeases() }
            defer { core.stop() }
            try await group.next()
            group.cancelAll()
        }
    }

    /// Detaches all nodes and stops listening.
    package func stop() {
        core.stop()
        if hasRun.withLock({ $0 }) { server.beginGracefulShutdown() }
    }

    /// All attached nodes, by name.
    package var nodes: [AttachedNode] { core.nodes }

    package func node(named name: String) -> AttachedNode? { nodes.first { $0.name == name } }

    package func node(_ incarnation: Incarnation) -> AttachedNode? { nodes.first { $0.incarnation == incarnation } }
}
