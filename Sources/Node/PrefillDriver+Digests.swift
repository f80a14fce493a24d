import ControlPlane
import Engine
import Handoff
import Logging
import Synchronization
import Transport

/// What a prefill node does about pages of its own whose bytes changed after they were first sent.
extension PrefillDriver {
    /// The last thing that can fail: what was started before it is stopped again.
    func startScrubber(_ configuration: NodeConfiguration) throws(NodeError) {
        guard configuration.digests == .scrub else { return }
        var settings = PageScrubber.Settings()
        settings.bytesPerSecond = configuration.scrubBytesPerSecond
        do throws(TransportError) {
            let memory = memory
            scrubber.bind(
                try PageScrubber(
                    slab: memory.region, table: table, settings: settings,
                    isOwned: { slot in
                        let state = memory.pool.withLock { $0.state(of: slot) }
                        return state == .inUse || state == .cached
                    },
                    onMismatch: { [weak self] in self?.changed(.scrub, $0.handoff, $0.slot, $1) }))
        } catch {
            shutDown()
            throw .lanes(error)
        }
    }

    /// A page is not what it was when it was computed. No later prompt gets it from the prefix cache. Those that have
    /// it now fail at their decode node, which is told the digests of then, and are tried again.
    func changed(
        _ place: MismatchIncident.Place, _ handoff: HandoffID, _ slot: SlotRef, _ mismatches: [DigestMismatch]
    ) {
        let pages = mismatches.first.map { [$0.page: slot] } ?? [:]
        let incident = MismatchIncident(place: place, handoff: handoff, mismatches: mismatches, pages: pages)
        decide { state in
            state.mismatches[place] += 1
            state.lastError = incident.text
            state.effects.append(.hideFromCache(slot))
            state.effects.append(.dump(incident))
            return []
        }
    }

    func dump(_ incident: MismatchIncident) {
        logger.critical(
            "digest mismatch",
            metadata: [
                "where": "\(incident.place.rawValue)", "handoff": "\(incident.handoff.text)",
                "what": "\(incident.text)",
            ])
        // The page is not held: it may be given away while it is copied, and is then left out.
        evidence?.store(incident, memory) {}
    }
}
