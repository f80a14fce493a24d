import ControlPlane
import Glibc
import Handoff
package import Logging
import Messages
import Synchronization
import Telemetry
import Threads

/// Keeps a node running: control streams, health server, ticks, and an orderly end.
package final class NodeRuntime: Sendable {
    private enum Stop {
        case none
        /// Finish what runs, for at most this long.
        case draining(Duration)
    }

    private let configuration: NodeConfiguration
    private let driver: any NodeDriver
    private let links: RouterLinks
    private let metrics: NodeMetrics
    private let logger: Logger
    private let stopping = Mutex(Stop.none)

    package init(
        configuration: NodeConfiguration, driver: any NodeDriver, links: RouterLinks, metrics: NodeMetrics,
        logger: Logger
    ) {
        self.configuration = configuration
        self.driver = driver
        self.links = links
        self.metrics = metrics
        self.logger = logger
    }

    /// Takes no new work, lets what runs finish for at most `limit`, then ends `run`. May be called again with a
    /// shorter limit.
    package func stop(within limit: Duration) {
        stopping.withLock { $0 = .draining(limit) }
    }

    /// Runs until `stop`, or until something fails. All threads of the node are joined when it returns.
    package func run() async throws(NodeError) {
        let result: Result<Void, NodeError>
        do {
            try await serve()
            result = .success(())
        } catch let error as NodeError {
            result = .failure(error)
        } catch let error as ControlError {
            result = .failure(.control(error))
        } catch {
            result = .success(())
        }
        let driver = driver
        try await OwnThread.run("node-shutdown") { () throws(NodeError) in driver.shutDown() }
        try result.get()
    }

    private func serve() async throws {
        let (ports, portFound) = AsyncStream<Int>.makeStream(bufferingPolicy: .bufferingNewest(1))
        try await withThrowingTaskGroup(of: Void.self) { group in
            if let http = configuration.http {
                let server = HealthServer(address: http, metrics: metrics.registry, logger: logger) {
                    [links] in links.isAttached ? nil : "not attached to a router"
                }
                group.addTask { try await server.run { portFound.yield($0) } }
            } else {
                portFound.yield(0)
            }
            group.addTask { try await self.attach(ports) }
            group.addTask {
                while true {
                    try await Task.sleep(for: .milliseconds(50))
                    self.driver.tick()
                }
            }
            group.addTask { try await self.waitForStop() }
            // The first to end is the one that waits for the stop, or one that failed.
            defer { group.cancelAll() }
            try await group.next()
        }
    }

    private func attach(_ ports: AsyncStream<Int>) async throws {
        var registration = driver.registration
        guard let port = await ports.first(where: { _ in true }) else { return }
        if let http = configuration.http, port > 0 {
            registration.httpAddress =
                try configuration.advertised(HostPort(host: http.host, port: port)).description
        }
        logger.notice(
            "ready",
            metadata: [
                "node": "\(registration.name)", "role": "\(registration.role)",
                "incarnation": "\(registration.incarnation.text)", "http": "\(registration.httpAddress)",
                "lane": "\(registration.laneAddress)", "model": "\(registration.model)",
                "pages": "\(registration.slots)", "isa": "\(registration.compatibility.isaClass)",
            ])
        try await links.run(driver, registration: registration, routers: configuration.routers, logger: logger)
        // Without routers, and after the links have been stopped: until the task is cancelled.
        while true { try await Task.sleep(for: .seconds(3600)) }
    }

    private func waitForStop() async throws {
        var began: ContinuousClock.Instant?
        while true {
            try await Task.sleep(for: .milliseconds(20))
            guard case .draining(let limit) = stopping.withLock({ $0 }) else { continue }
            let start = began ?? .now
            if began == nil {
                began = start
                driver.drain()
                // The routers must hear of it before this node looks idle.
                try await Task.sleep(for: min(limit, .milliseconds(100)))
            }
            if driver.isIdle { break }
            if ContinuousClock.now - start >= limit {
                logger.warning("stopping with work unfinished", metadata: ["limit": "\(limit)"])
                break
            }
        }
        links.stop()
        // What is queued for the routers goes out, if they read it.
        let deadline = ContinuousClock.now + .seconds(1)
        while links.isAttached, ContinuousClock.now < deadline { try await Task.sleep(for: .milliseconds(5)) }
    }
}
