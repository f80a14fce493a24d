import ControlPlane
import Glibc
import Hummingbird
import Logging
import Messages
import NIOCore
import Telemetry

/// `/health`, `/ready` and `/metrics` of a node.
struct HealthServer: Sendable {
    let address: HostPort
    let metrics: MetricsRegistry
    let logger: Logger
    /// Whether the node can be given work, and if not, why.
    let readiness: @Sendable () -> String?

    /// Serves until the task is cancelled. `onBound` gets the port.
    func run(onBound: @escaping @Sendable (Int) -> Void) async throws(NodeError) {
        let router = Router()
        router.get("/health") { _, _ in "ok\n" }
        router.get("/ready") { _, _ in
            let problem = readiness()
            return Self.text("\(problem ?? "ready")\n", status: problem == nil ? .ok : .serviceUnavailable)
        }
        router.get("/metrics") { _, _ in
            Self.text(metrics.exposition(), type: MetricsRegistry.contentType)
        }
        var quiet = logger
        // What it calls errors are connections that end when the node stops.
        quiet.logLevel = .critical
        let application = Application(
            router: router,
            configuration: .init(address: .hostname(address.host, port: address.port), serverName: "baton"),
            onServerRunning: { channel in onBound(channel.localAddress?.port ?? address.port) },
            logger: quiet)
        do {
            try await application.run()
        } catch is CancellationError {
            return
        } catch let error as IOError {
            throw .http(address: address.description, reason: Self.reason(error))
        } catch {
            throw .http(address: address.description, reason: "\(error)")
        }
    }

    private static func text(
        _ body: String, status: HTTPResponse.Status = .ok, type: String = "text/plain; charset=utf-8"
    ) -> Response {
        Response(status: status, headers: [.contentType: type], body: .init(byteBuffer: ByteBuffer(string: body)))
    }

    private static func reason(_ error: IOError) -> String {
        String(cString: strerror(error.errnoCode))
    }
}
