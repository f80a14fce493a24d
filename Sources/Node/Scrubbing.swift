import Engine
import Handoff
import Synchronization
import Transport

/// A node whose pages in use are checked against their digests in the background.
protocol ScrubbedNode: NodeDriver {
    var memory: KVMemory { get }
    var table: DigestTable { get }
    var scrubber: LateBound<PageScrubber> { get }
}

extension ScrubbedNode {
    /// Has the scrub look at a node's pages in these states, when it is configured to. The last thing of a driver's
    /// start that can fail: what was started before it is stopped again.
    func startScrubber(
        _ configuration: NodeConfiguration, of states: Set<SlotPool.State>,
        onMismatch: @escaping @Sendable (DigestTable.Entry, [DigestMismatch]) -> Void
    ) throws(NodeError) {
        guard configuration.digests == .scrub else { return }
        var settings = PageScrubber.Settings()
        settings.bytesPerSecond = configuration.scrubBytesPerSecond
        let memory = memory
        do throws(TransportError) {
            scrubber.bind(
                try PageScrubber(
                    slab: memory.region, table: table, settings: settings,
                    isOwned: { slot in memory.pool.withLock { $0.state(of: slot).map(states.contains) ?? false } },
                    onMismatch: onMismatch))
        } catch {
            shutDown()
            throw .lanes(error)
        }
    }
}
