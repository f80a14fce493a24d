import ControlPlane
import Engine
import Handoff
import Logging
import Messages
import Synchronization
import Transport

/// What a prefill node does about pages of its own whose bytes changed after they were first sent.
extension PrefillDriver {
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
        logger.critical("digest mismatch", metadata: incident.metadata)
        // The page is not held: it may be given away while it is copied, and is then left out.
        evidence?.store(incident, memory) {}
    }
}
