import ControlPlane
import Engine
import Handoff
import Logging
import Messages
import Synchronization
import Telemetry
import Transport

/// What a decode node does about pages whose bytes changed. They are kept from their next owner until they have been
/// copied as evidence, and nobody but the request they belong to is disturbed.
extension DecodeDriver {
    // MARK: At the seal

    /// What a comparison came to, and what the machine makes of it: pages that differ are held, and of pages that are
    /// sealed the digests are kept for the scrub.
    func note(
        _ verdict: DigestVerdict, of record: CompletionRecord, on lane: LaneID, _ actions: [ReceivingAction],
        _ state: inout State
    ) {
        for action in actions {
            switch (action, verdict) {
            case (.dumpEvidence, .mismatch(let mismatches)): hold(lane, of: record.handoff, mismatches, &state)
            case (.startSequence(_, let slots), .matching(let found)) where digests == .scrub:
                watch(record.handoff, slots, found, state)
            default: break
            }
        }
    }

    /// The handoff on this lane does not match: its pages stay in quarantine until evidence has been taken. Bounded by
    /// copying a few pages in memory; disks are not waited for.
    func hold(_ lane: LaneID, of handoff: HandoffID, _ mismatches: [DigestMismatch], _ state: inout State) {
        state.heldLanes[lane] = HeldLane(handoff: handoff, mismatches: mismatches)
        state.jobs[handoff]?.aborted = now
        state.mismatches[.seal] += 1
    }

    func dump(_ handoff: HandoffID, _ slots: [SlotRef], _ state: inout State) {
        guard let (lane, held) = state.heldLanes.first(where: { $0.value.handoff == handoff }) else {
            preconditionFailure("evidence of \(handoff.text), whose lane is not held")
        }
        let incident = MismatchIncident(
            place: .seal, handoff: handoff, mismatches: held.mismatches,
            pages: Dictionary(uniqueKeysWithValues: slots.enumerated().map { ($0, $1) }))
        state.effects.append(.dump(incident, .lane(lane)))
    }

    // MARK: After the seal

    /// Has the scrub look at the pages of a sealed handoff that the engine does not write: those that end before the
    /// first position it writes itself.
    func watch(_ handoff: HandoffID, _ slots: [SlotRef], _ digests: [PageDigest], _ state: borrowing State) {
        guard let job = state.jobs[handoff] else { return }
        let count = Scheduler.firstWritten(tokens: job.tokenCount) / memory.layout.pageTokens
        // Of a handoff of several parts there are the digests of the last one only.
        guard count > 0, slots.count == digests.count, digests[0].layers.count == memory.layout.layerCount else {
            return
        }
        table.enter((0..<count).map { (slots[$0], $0, digests[$0]) }, of: handoff)
    }

    /// A page in use is not what was sealed. Its request ends with an error, for what it was told since may be wrong;
    /// nobody else reads the page.
    func scrubFound(_ entry: DigestTable.Entry, _ mismatches: [DigestMismatch]) {
        decide { state, pool in
            // The sequence may have ended since.
            guard pool.state(of: entry.slot) == .inUse, let job = state.jobs[entry.handoff], job.corruption == nil
            else { return [] }
            var pages: [Int: SlotRef] = [:]
            for (page, slot) in job.written.enumerated() where pool.state(of: slot) == .inUse {
                pool.retain(slot)
                pages[page] = slot
            }
            let incident = MismatchIncident(
                place: .scrub, handoff: entry.handoff, mismatches: mismatches, pages: pages)
            state.mismatches[.scrub] += 1
            state.jobs[entry.handoff]?.corruption = incident.text
            state.effects.append(.cancel(entry.handoff))
            state.effects.append(.dump(incident, .pages(pages.sorted { $0.key < $1.key }.map(\.value))))
            metrics.evidencePages.add(Double(pages.count))
            return []
        }
    }

    /// The tokens that may be sent: not those of sequences whose KV has changed.
    func sound(_ runs: [Engine.TokenRun], _ state: inout State) -> [Engine.TokenRun] {
        guard digests == .scrub else { return runs }
        var sound: [Engine.TokenRun] = []
        sound.reserveCapacity(runs.count)
        for run in runs where state.jobs[run.id]?.corruption == nil {
            state.jobs[run.id]?.hasDelivered = true
            sound.append(run)
        }
        return sound
    }

    /// Ends a handoff whose sequence was stopped because its KV had changed; nil when that was not so. Another attempt
    /// may answer the request if none of this one's tokens is with the client: those that are cannot be trusted.
    func endCorrupted(_ handoff: HandoffID, _ state: inout State) -> [ReceivingAction]? {
        guard let job = state.jobs[handoff], let corruption = job.corruption else { return nil }
        let text = job.hasDelivered ? corruption + "; tokens already sent may be wrong" : corruption
        state.jobs[handoff]?.details = text
        state.lastError = text
        return state.handoffs.sequenceFailed(handoff, .digestMismatch, retryable: !job.hasDelivered)
    }

    // MARK: Evidence

    func dump(_ incident: MismatchIncident, _ held: Held) {
        logger.critical("digest mismatch", metadata: incident.metadata)
        guard let evidence else { return evidenceTaken(held) }
        evidence.store(incident, memory) { [weak self] in self?.evidenceTaken(held) }
    }

    /// Gives back what was held.
    private func evidenceTaken(_ held: Held) {
        switch held {
        case .lane(let lane):
            decide { state, pool in
                guard let held = state.heldLanes.removeValue(forKey: lane) else { return [] }
                if held.hasClosed { return state.handoffs.laneClosed(lane, pool: &pool) }
                state.effects.append(.fence(lane))
                return []
            }
        case .pages(let slots):
            metrics.evidencePages.add(-Double(slots.count))
            memory.pool.withLock { pool in for slot in slots { pool.release(slot) } }
            engine.current?.wake()
        }
    }
}
