import ControlPlane
import Engine
import Glibc
import Handoff
import HostProcess
import Logging
package import Messages
import Synchronization
import Telemetry
import Threads
import UnixSignals

/// A whole node process, from checked flags to the exit status.
package enum NodeProcess {
    package static let version = ProcessVersion.text

    /// Runs a node of a role until it is told to stop.
    /// - Parameter adjust: the role's own flags.
    /// - Returns: the status to exit with: 0 after an orderly stop, 1 after an error, which is one line on
    ///   standard error.
    package static func run(
        _ role: NodeRole, _ options: NodeOptions,
        adjust: @Sendable (inout NodeConfiguration) throws(NodeError) -> Void = { _ in }
    ) async -> Int32 {
        let process = "\(role)-node"
        let descriptors = HostProcess.prepare(process)
        let logger = options.logger(process)
        // Whatever is said last is read by those who look for the reason.
        defer { LogQueue.standardError.flush(within: .seconds(1)) }
        do throws(NodeError) {
            if let problem = descriptors.problem { throw .resources(reason: problem) }
            let incarnation = Incarnation.random()
            var configuration = try options.configuration(role: role, incarnation: incarnation)
            try adjust(&configuration)
            try await run(role, configuration, incarnation, logger)
            logger.notice("stopped")
            return 0
        } catch {
            LogQueue.standardError.append("\(process): error: \(error)\n") { "\($0) log lines were dropped\n" }
            return 1
        }
    }

    private static func run(
        _ role: NodeRole, _ configuration: NodeConfiguration, _ incarnation: Incarnation, _ logger: Logger
    ) async throws(NodeError) {
        let links = RouterLinks()
        let metrics = NodeMetrics()
        metrics.registry.watch()
        let driver = try await OwnThread.run("node-start") { () throws(NodeError) -> any NodeDriver in
            let began = ContinuousClock.now
            let model = try configuration.loadModel()
            let memory = try configuration.makeMemory(for: model)
            logger.info(
                "model loaded",
                metadata: [
                    "model": "\(model.facts.name)", "fingerprint": "\(model.fingerprint)",
                    "seconds": "\((ContinuousClock.now - began) / .seconds(1))", "pages": "\(memory.pageCount)",
                    "slab": "\(SystemMemory.text(memory.slab.bytes))", "layout": "\(model.layout.text)",
                ])
            switch role {
            case .prefill:
                return try PrefillDriver(
                    configuration: configuration, incarnation: incarnation, model: model, memory: memory,
                    links: links, metrics: metrics, logger: logger)
            case .decode:
                return try DecodeDriver(
                    configuration: configuration, incarnation: incarnation, model: model, memory: memory,
                    links: links, metrics: metrics, logger: logger)
            }
        }
        let runtime = NodeRuntime(
            configuration: configuration, driver: driver, links: links, metrics: metrics, logger: logger)
        let signals = Task { await obeySignals(runtime, configuration, logger) }
        defer { signals.cancel() }
        if configuration.stopsWithParent { try watchParent(runtime, logger) }
        try await runtime.run()
    }

    /// SIGTERM, SIGHUP, SIGQUIT and the first SIGINT drain; whatever comes after a SIGINT ends the process at once.
    private static func obeySignals(
        _ runtime: NodeRuntime, _ configuration: NodeConfiguration, _ logger: Logger
    ) async {
        var interrupts = 0
        let hangup: [UnixSignal] = HostProcess.isHangupIgnored ? [] : [.sighup]
        for await signal in await UnixSignalsSequence(trapping: [.sigterm, .sigint, .sigquit] + hangup) {
            if signal == .sigint { interrupts += 1 }
            if interrupts > 1 {
                logger.warning("stopped at once")
                _exit(130)
            }
            logger.notice("stopping", metadata: ["signal": "\(signal)"])
            runtime.stop(within: configuration.drainTimeout)
        }
    }

    /// Whoever started the node holds the other end of its standard input; when that ends, so does the node.
    private static func watchParent(_ runtime: NodeRuntime, _ logger: Logger) throws(NodeError) {
        do throws(ThreadError) {
            try ParentWatch.start {
                logger.notice("stopping", metadata: ["reason": "standard input ended"])
                runtime.stop(within: .seconds(1))
            }
        } catch {
            throw .thread(reason: error.description)
        }
    }
}
