/// What a decode node does next; performed in order, outside the machine.
package enum DecodeAction: Sendable, Equatable {
    /// Let the lane's receive thread write the granted slots for this handoff in this epoch.
    case bindLane(GrantTerms)
    case sendGrant(GrantTerms)
    case sendRefused(HandoffID, RefusalReason)
    /// End the right to write; answered by `laneUnbound`.
    case unbindLane(HandoffID, LaneID, LaneEpoch)
    /// Make late writes impossible; answered by `laneClosed`.
    case fenceLane(LaneID)
    /// Compare the digests of what landed with the prefill node's; answered by `digestsVerified`.
    case verifyDigests(HandoffID, LaneID, LaneEpoch, expected: [UInt64])
    /// The slots are readable and belong to the engine from here on, one user each.
    case startSequence(HandoffID, [SlotRef])
    case sendSealed(HandoffID)
    case sendReclaimed(HandoffID, QuiescenceProof.Kind)
    case sendFailed(HandoffID, HandoffFailure)
    /// Pages whose digests differ. They are freed as soon as the lane is closed, which does not wait for this: who
    /// reads them looks at their state before and after.
    case dumpEvidence(HandoffID, [SlotRef])
    /// Stop the sequence within one step; answered by `finished`.
    case cancelSequence(HandoffID)
    case sendFinished(HandoffID, SequenceEnd)
    /// Finished for a sequence whose statistics are gone.
    case repeatFinished(HandoffID, SequenceEnd)
    case setDeadline(Deadline, HandoffID)
    case clearDeadline(Deadline, HandoffID)
    /// Forget whatever was kept for the handoff.
    case settled(HandoffID)
}

/// How a handoff ended on the decode node: the answer to every later message about it.
enum DecodeSettlement: Sendable, Equatable {
    case reclaimed(QuiescenceProof.Kind)
    case finished(SequenceEnd)
    /// The sequence was started and could not be run.
    case failed(HandoffFailure)
    /// Nothing was ever promised.
    case refused(RefusalReason)

    /// What the router is told, again and again.
    func answer(_ handoff: HandoffID) -> [DecodeAction] {
        switch self {
        case .reclaimed(let kind): [.sendReclaimed(handoff, kind)]
        case .finished(let end): [.repeatFinished(handoff, end)]
        case .refused(let reason): [.sendRefused(handoff, reason)]
        case .failed(let failure):
            [.sendFailed(handoff, failure), .repeatFinished(handoff, SequenceEnd(.cancelled, tokens: 0))]
        }
    }
}

/// One handoff on the decode node.
///
///     granted ──completion──▶ verifying ──digests──▶ sealed ──cancel──▶ ending
///        │                        │                    └───finished──┐    │ finished
///      abort                    abort                                ▼    ▼
///        ▼                        └──────────────▶ settled ◀───────────────
///     draining ──▶ unbinding ──▶ fencing ──▶ settled
///
/// Events that do not fit: from our own driver or engine they trap; from a peer they are counted as its fault;
/// late and repeated ones are counted and dropped.
struct DecodeHandoff: ~Copyable {
    enum State: ~Copyable {
        /// The lane may write the slots. Becomes verifying, draining, unbinding, fencing or settled.
        case granted(Grant)
        /// The completion record is in, so writing is over; digests are being compared. Becomes sealed, fencing
        /// (mismatch) or settled (abort: the record itself is the proof).
        case verifying(Grant)
        /// The engine has the slots. Becomes ending or settled.
        case sealed
        /// The engine was told to stop. Becomes settled.
        case ending
        /// Aborted; the prefill node may still write. Becomes unbinding, fencing or settled.
        case draining(Quarantine)
        /// The prefill node says it is done; the lane is being asked. Becomes fencing or settled.
        case unbinding(Quarantine)
        /// The lane is being closed. Becomes settled.
        case fencing(Quarantine)
        /// Nothing is held. Becomes nothing.
        case settled(DecodeSettlement)
    }

    typealias Phase = DecodePhase

    let terms: GrantTerms
    private var state: State

    init(grant: consuming Grant, terms: GrantTerms) {
        precondition(grant.handoff == terms.handoff && grant.slots == terms.slots, "terms of another grant")
        self.init(terms, .granted(grant))
    }

    private init(_ terms: GrantTerms, _ state: consuming State) {
        self.terms = terms
        self.state = state
    }

    private var id: HandoffID { terms.handoff }

    var phase: Phase {
        switch state {
        case .granted: .granted
        case .verifying: .verifying
        case .sealed: .sealed
        case .ending: .ending
        case .draining: .draining
        case .unbinding: .unbinding
        case .fencing: .fencing
        case .settled: .settled
        }
    }

    var settlement: DecodeSettlement? {
        switch state {
        case .settled(let settlement): settlement
        default: nil
        }
    }

    // MARK: The lane

    /// The completion record arrived behind all the writes; the lane has closed its gate by itself.
    mutating func completion(
        _ record: CompletionRecord, pool: inout SlotPool, counters: inout HandoffCounters
    ) -> [DecodeAction] {
        let terms = self.terms
        let honest = record.fills(terms)
        switch consume self.state {
        case .granted(let grant):
            guard honest else {
                counters.peerFaults += 1
                self = Self(terms, .fencing(pool.quarantine(grant)))
                return [.sendFailed(terms.handoff, failure(.protocolError, &counters)), .fenceLane(terms.lane)]
            }
            self = Self(terms, .verifying(grant))
            return [.verifyDigests(terms.handoff, terms.lane, terms.epoch, expected: record.pages.map(\.digest))]
        case .draining(let quarantine):
            guard honest else {
                counters.peerFaults += 1
                self = Self(terms, .fencing(quarantine))
                return [.fenceLane(terms.lane)]
            }
            self = Self(terms, .settled(.reclaimed(.writeComplete)))
            return Self.free(quarantine, by: .writeComplete, pool: &pool, counters: &counters)
        case .unbinding(let quarantine):
            counters.stale += 1
            self = Self(terms, .unbinding(quarantine))
        case .fencing(let quarantine):
            counters.stale += 1
            self = Self(terms, .fencing(quarantine))
        case .verifying(let grant):
            counters.peerFaults += 1
            self = Self(terms, .verifying(grant))
        case .sealed:
            counters.peerFaults += 1
            self = Self(terms, .sealed)
        case .ending:
            counters.peerFaults += 1
            self = Self(terms, .ending)
        case .settled(let settlement):
            counters.stale += 1
            self = Self(terms, .settled(settlement))
        }
        return []
    }

    /// The digests were compared.
    mutating func digestsVerified(
        matching: Bool, pool: inout SlotPool, counters: inout HandoffCounters
    ) -> [DecodeAction] {
        let terms = self.terms
        switch consume self.state {
        case .verifying(let grant):
            guard matching || isBroken(.digestsIgnored) else {
                counters.digestMismatches += 1
                self = Self(terms, .fencing(pool.quarantine(grant)))
                return [
                    .fenceLane(terms.lane),
                    .sendFailed(terms.handoff, failure(.digestMismatch, &counters)),
                    .dumpEvidence(terms.handoff, terms.slots),
                ]
            }
            counters.seals += 1
            counters.proofs[.writeComplete, default: 0] += 1
            let proof = QuiescenceProof(handoff: terms.handoff, kind: .writeComplete)
            let slots = pool.seal(grant, proof: proof)
            self = Self(terms, .sealed)
            return [.startSequence(terms.handoff, slots), .sendSealed(terms.handoff)]
        case .settled(let settlement):
            counters.stale += 1
            self = Self(terms, .settled(settlement))
            return []
        default:
            preconditionFailure("digests of \(terms.handoff) verified, but nobody asked")
        }
    }

    /// The lane's answer to `unbindLane`.
    mutating func laneUnbound(
        _ answer: LaneUnbinding, pool: inout SlotPool, counters: inout HandoffCounters
    ) -> [DecodeAction] {
        let terms = self.terms
        switch consume self.state {
        case .unbinding(let quarantine):
            if answer == .quiet || answer == .unknown && isBroken(.unknownCountsAsDrained) {
                self = Self(terms, .settled(.reclaimed(.drained)))
                return Self.free(quarantine, by: .drained, pool: &pool, counters: &counters)
            }
            // It said that it had drained, and is still writing; or nobody can say, and then its word is no proof.
            if answer == .writing { counters.peerFaults += 1 }
            self = Self(terms, .fencing(quarantine))
            return [.fenceLane(terms.lane)]
        case .fencing(let quarantine):
            self = Self(terms, .fencing(quarantine))
            return []
        case .settled(let settlement):
            self = Self(terms, .settled(settlement))
            return []
        default:
            preconditionFailure("the lane of \(terms.handoff) was unbound, but nobody asked")
        }
    }

    /// The lane is closed and its receive thread has left the slab.
    mutating func laneClosed(pool: inout SlotPool, counters: inout HandoffCounters) -> [DecodeAction] {
        let terms = self.terms
        switch consume self.state {
        case .granted(let grant):
            let failed = DecodeAction.sendFailed(terms.handoff, failure(.laneLost, &counters))
            let quarantine = pool.quarantine(grant)
            self = Self(terms, .settled(.reclaimed(.fenced)))
            return [failed] + Self.free(quarantine, by: .fenced, pool: &pool, counters: &counters)
        case .draining(let quarantine):
            self = Self(terms, .settled(.reclaimed(.fenced)))
            return Self.free(quarantine, by: .fenced, pool: &pool, counters: &counters)
        case .unbinding(let quarantine):
            self = Self(terms, .settled(.reclaimed(.fenced)))
            return Self.free(quarantine, by: .fenced, pool: &pool, counters: &counters)
        case .fencing(let quarantine):
            self = Self(terms, .settled(.reclaimed(.fenced)))
            return Self.free(quarantine, by: .fenced, pool: &pool, counters: &counters)
        case .verifying(let grant):
            // All writes had landed before; the lane is not needed any more.
            self = Self(terms, .verifying(grant))
        case .sealed:
            self = Self(terms, .sealed)
        case .ending:
            self = Self(terms, .ending)
        case .settled(let settlement):
            self = Self(terms, .settled(settlement))
        }
        return []
    }

    // MARK: The router

    /// How the router, or its loss, ends a handoff.
    enum Abort {
        /// Cancel: the prefill node is asked to drain.
        case cancel
        /// Reclaim: the prefill node has drained.
        case drained
        /// Fence, a lost router, or a drain budget that passed: no help from the prefill node.
        case fence
    }

    mutating func abort(
        _ abort: Abort, pool: inout SlotPool, counters: inout HandoffCounters
    ) -> [DecodeAction] {
        let terms = self.terms
        var actions: [DecodeAction] = []
        switch consume self.state {
        case .granted(let grant):
            let quarantine = pool.quarantine(grant)
            self = Self.quarantined(quarantine, abort, of: terms, pool: &pool, &actions)
        case .verifying(let grant):
            // The completion record is all the evidence there can be.
            let quarantine = pool.quarantine(grant)
            self = Self(terms, .settled(.reclaimed(.writeComplete)))
            actions = Self.free(quarantine, by: .writeComplete, pool: &pool, counters: &counters)
        case .draining(let quarantine):
            if case .cancel = abort {
                counters.duplicates += 1
                self = Self(terms, .draining(quarantine))
            } else {
                self = Self.quarantined(quarantine, abort, of: terms, pool: &pool, &actions)
            }
        case .unbinding(let quarantine):
            if case .fence = abort {
                self = Self.quarantined(quarantine, abort, of: terms, pool: &pool, &actions)
            } else {
                counters.duplicates += 1
                self = Self(terms, .unbinding(quarantine))
            }
        case .fencing(let quarantine):
            counters.duplicates += 1
            self = Self(terms, .fencing(quarantine))
        case .sealed:
            actions.append(.cancelSequence(terms.handoff))
            self = Self(terms, .ending)
        case .ending:
            counters.duplicates += 1
            self = Self(terms, .ending)
        case .settled(let settlement):
            counters.duplicates += 1
            self = Self(terms, .settled(settlement))
        }
        return actions
    }

    // MARK: The engine

    /// The sequence ended, for whatever reason.
    mutating func finished(_ settlement: DecodeSettlement, _ actions: [DecodeAction]) -> [DecodeAction] {
        let terms = self.terms
        switch consume self.state {
        case .sealed:
            self = Self(terms, .settled(settlement))
        case .ending:
            self = Self(terms, .settled(settlement))
        default:
            preconditionFailure("\(terms.handoff) finished, but was never started")
        }
        return actions + [.settled(terms.handoff)]
    }

    // MARK: Private

    /// What an abort makes of slots that may still be written.
    private static func quarantined(
        _ quarantine: consuming Quarantine, _ abort: Abort, of terms: GrantTerms, pool: inout SlotPool,
        _ actions: inout [DecodeAction]
    ) -> Self {
        switch abort {
        case .cancel:
            actions.append(.setDeadline(.drainBudget, terms.handoff))
            return Self(terms, .draining(quarantine))
        case .drained where isBroken(.reclaimWithoutLane):
            actions += [.sendReclaimed(terms.handoff, .drained), .settled(terms.handoff)]
            pool.recycle(quarantine, proof: QuiescenceProof(handoff: terms.handoff, kind: .drained))
            return Self(terms, .settled(.reclaimed(.drained)))
        case .drained:
            actions.append(.unbindLane(terms.handoff, terms.lane, terms.epoch))
            return Self(terms, .unbinding(quarantine))
        case .fence:
            actions.append(.fenceLane(terms.lane))
            return Self(terms, .fencing(quarantine))
        }
    }

    /// The one place where quarantined slots become free.
    private static func free(
        _ quarantine: consuming Quarantine, by kind: QuiescenceProof.Kind, pool: inout SlotPool,
        counters: inout HandoffCounters
    ) -> [DecodeAction] {
        let handoff = quarantine.handoff
        counters.proofs[kind, default: 0] += 1
        pool.recycle(quarantine, proof: QuiescenceProof(handoff: handoff, kind: kind))
        return [.clearDeadline(.drainBudget, handoff), .sendReclaimed(handoff, kind), .settled(handoff)]
    }
}

/// A retryable failure, counted.
func failure(_ cause: HandoffFailure.Cause, _ counters: inout HandoffCounters) -> HandoffFailure {
    counters.failures[cause, default: 0] += 1
    return HandoffFailure(cause)
}
