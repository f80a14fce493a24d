import ControlPlane
import Engine
import Handoff
import Logging
import Messages
import Transport

extension LaneListener {
    /// Listens for lanes as a decode node is configured to, and says over what.
    static func start(
        _ configuration: NodeConfiguration, _ memory: KVMemory, _ incarnation: Incarnation, _ logger: Logger,
        onEvent: @escaping @Sendable (LaneListenerEvent) -> Void
    ) throws(NodeError) -> LaneListener {
        do throws(TransportError) {
            var lanes = LaneListener.Configuration(
                host: configuration.lane.host, port: UInt16(clamping: configuration.lane.port))
            lanes.lanesMax = 4096
            lanes.digests = configuration.digests
            lanes.rdma = configuration.rdmaOfListener
            lanes.rdmaWindows = configuration.rdmaWindows
            let listener = try LaneListener(
                configuration: lanes, slab: memory.region, incarnation: incarnation, onEvent: onEvent)
            if let absence = listener.rdmaAbsence {
                // Asked for by name, or just not there.
                let level: Logger.Level = if case .device = configuration.rdma { .warning } else { .info }
                logger.log(level: level, "lanes over TCP only", metadata: ["reason": "\(absence)"])
            } else {
                logger.info(
                    "lanes over RDMA", metadata: ["addresses": "\(listener.rdmaAddresses.joined(separator: ", "))"])
            }
            for failure in listener.rdmaFailures {
                logger.warning("an adapter is not used", metadata: ["reason": "\(failure)"])
            }
            return listener
        } catch {
            throw .lanes(error)
        }
    }
}
