import Handoff

/// An engine that hangs while its node keeps its lease answers nothing and loses nothing. So the phases whose
/// length is compute, which the ledger can not know, have a deadline here: prefilling and decoding.
extension RoutingCore {
    /// The prompt was ordered: its turn comes after the tokens that the prefill node already has.
    mutating func expectWritten(_ handoff: HandoffID, on prefill: Incarnation, now: Duration) {
        let queued = nodes[prefill].map { PairPolicy.pendingTokens($0) } ?? 0
        let own = placements[handoff]?.tokens.count ?? 0
        let limit = now + allowance(for: max(queued, own))
        placements[handoff]?.progressBy = limit
    }

    /// The sequence is sealed, or some of its tokens came: more must follow, or at least tokens of others, for a
    /// decode node short of pages may go on with a sequence only after others have ended.
    mutating func expectTokens(_ handoff: HandoffID, now: Duration) {
        guard let placement = placements[handoff] else { return }
        let node = nodes[placement.pair.decode]
        let held = node.map { PairPolicy.heldTokens($0) } ?? 0
        let limit = now + allowance(for: max(held, placement.decodeTokens))
        placements[handoff]?.progressBy = limit
        placements[handoff]?.workSeen = node?.workDone
    }

    /// Fails the attempts that are overdue; each is tried again like any other that failed.
    mutating func failStalled(now: Duration) {
        let overdue = placements.filter { handoff, placement in
            placement.progressBy.map { $0 <= now } ?? false
        }
        // In a fixed order: what happens must not depend on hashing.
        for handoff in overdue.keys.sorted() {
            placements[handoff]?.progressBy = nil
            guard run(of: handoff) != nil else { continue }
            if let seen = overdue[handoff]?.workSeen, let decode = overdue[handoff]?.pair.decode,
                let node = nodes[decode], node.workDone != seen
            {
                expectTokens(handoff, now: now)
                continue
            }
            runs[handoff.request]?.failureText = "the node made no progress in time"
            perform(ledger.fail(handoff, HandoffFailure(.computeFailed)), now: now)
        }
    }

    /// Fails what waits for this node's engine; what a prefill node has written already needs it no more.
    mutating func failStalled(on id: Incarnation, now: Duration) {
        let waiting = placements.filter { _, placement in
            placement.pair.decode == id || placement.pair.prefill == id && placement.prefillTokens > 0
        }
        for handoff in waiting.keys.sorted() where run(of: handoff) != nil {
            placements[handoff]?.progressBy = nil
            runs[handoff.request]?.failureText = "the engine of \(nodes[id]?.name ?? "its node") does not move"
            perform(ledger.fail(handoff, HandoffFailure(.computeFailed)), now: now)
        }
    }

    private func allowance(for tokens: Int) -> Duration {
        // A day is more than any node may take, and keeps what heartbeats claim from overflowing.
        min(settings.progressTimeout + settings.progressTimePerToken * min(tokens, 1 << 32), .seconds(86_400))
    }
}
