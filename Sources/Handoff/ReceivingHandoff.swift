/// What a receiver does next; performed in order, outside the machine.
package enum ReceivingAction: Sendable, Equatable {
    /// Let the part's lane write its slots for this handoff in this epoch.
    case bindLane(PartTerms)
    case sendGrant(GrantTerms)
    case sendRefused(HandoffID, RefusalReason)
    /// End the right to write; answered by `laneUnbound`.
    case unbindLane(HandoffID, LaneID, LaneEpoch)
    /// Make late writes impossible; answered by `laneClosed`.
    case fenceLane(LaneID)
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

/// How a handoff ended on the receiver: the answer to every later message about it.
enum ReceivingSettlement: Sendable, Equatable {
    case reclaimed(QuiescenceProof.Kind)
    case finished(SequenceEnd)
    /// The sequence was started and could not be run.
    case failed(HandoffFailure)
    /// Nothing was ever promised.
    case refused(RefusalReason)

    /// What the router is told, again and again.
    func answer(_ handoff: HandoffID) -> [ReceivingAction] {
        switch self {
        case .reclaimed(let kind): [.sendReclaimed(handoff, kind)]
        case .finished(let end): [.repeatFinished(handoff, end)]
        case .refused(let reason): [.sendRefused(handoff, reason)]
        case .failed(let failure):
            [.sendFailed(handoff, failure), .repeatFinished(handoff, SequenceEnd(.cancelled, tokens: 0))]
        }
    }
}

/// One handoff on the receiver.
///
///     granted ──every part complete──▶ sealed ──cancel──▶ ending
///        │                               └───finished──┐    │ finished
///      abort, or one part fails                        ▼    ▼
///        ▼                                            settled
///     draining ──▶ unbinding ──▶ fencing ──every part proven──▲
///
/// Each part ends by itself; while a handoff is quarantined its phase is that of the part that is farthest from its
/// proof. Events that do not fit: from our own driver or engine they trap; from a peer they are counted as its fault;
/// late and repeated ones are counted and dropped.
struct ReceivingHandoff: ~Copyable {
    /// Where one part is on its way to its proof.
    enum Part: Sendable {
        /// Its lane may write.
        case writing
        /// Its writer says that it is done; the lane is being asked.
        case unbinding
        /// Its lane is being closed.
        case fencing
        /// None of its writes can land any more.
        case proven
    }

    typealias Phase = ReceivingPhase

    let terms: GrantTerms
    private(set) var parts: [Part]
    private(set) var phase = Phase.granted
    private(set) var settlement: ReceivingSettlement?
    private var proofs: PartProofs
    /// While granted.
    private var grant: Grant?
    /// From the abort until every part is proven.
    private var quarantine: Quarantine?
    /// Whether the drain budget runs.
    private var isBudgetSet = false

    init(grant: consuming Grant, terms: GrantTerms) {
        precondition(
            grant.handoff == terms.handoff && grant.lent + grant.slots == terms.slots, "terms of another grant")
        self.terms = terms
        parts = Array(repeating: .writing, count: terms.parts.count)
        proofs = PartProofs(handoff: terms.handoff, parts: terms.parts.count)
        self.grant = consume grant
    }

    private var id: HandoffID { terms.handoff }

    // MARK: The lanes

    /// The completion record of a part arrived behind all its writes; the lane has closed its gate by itself.
    /// `matching`: whether the digests of what landed are those of the record.
    mutating func completion(
        _ part: Int, _ record: CompletionRecord, matching: Bool, pool: inout SlotPool, counters: inout HandoffCounters
    ) -> [ReceivingAction] {
        let isForeign = isBroken(.recordOfAnotherPart) && parts.indices.contains(record.part)
        let part = isForeign ? record.part : part
        guard case .writing = parts[part], phase != .sealed, phase != .ending else {
            counters.stale += 1
            return []
        }
        let lane = terms.parts[part].lane
        guard record.fills(terms, part) else {
            counters.peerFaults += 1
            let failed = fail(.protocolError, pool: &pool, &counters)
            parts[part] = .fencing
            return failed + [.fenceLane(lane)] + advance(pool: &pool, &counters)
        }
        guard matching || isBroken(.digestsIgnored) else {
            counters.digestMismatches += 1
            let failed = fail(.digestMismatch, pool: &pool, &counters)
            parts[part] = .fencing
            let evidence: [ReceivingAction] = failed.isEmpty ? [] : [.dumpEvidence(id, terms.slots)]
            return [.fenceLane(lane)] + failed + evidence + advance(pool: &pool, &counters)
        }
        prove(part, .writeComplete)
        return advance(pool: &pool, &counters)
    }

    /// The lane's answer to `unbindLane`.
    mutating func laneUnbound(
        _ part: Int, _ answer: LaneUnbinding, pool: inout SlotPool, counters: inout HandoffCounters
    ) -> [ReceivingAction] {
        switch parts[part] {
        case .unbinding where answer == .quiet || answer == .unknown && isBroken(.unknownCountsAsDrained):
            prove(part, .drained)
            return advance(pool: &pool, &counters)
        case .unbinding:
            // It said that it had drained, and is still writing; or nobody can say, and then its word is no proof.
            if answer == .writing { counters.peerFaults += 1 }
            parts[part] = .fencing
            return [.fenceLane(terms.parts[part].lane)] + advance(pool: &pool, &counters)
        case .fencing, .proven:
            return []
        case .writing:
            preconditionFailure("the lane of part \(part) of \(id) was unbound, but nobody asked")
        }
    }

    /// A part's lane is closed and its receive thread has left the slab.
    mutating func laneClosed(
        _ part: Int, pool: inout SlotPool, counters: inout HandoffCounters
    ) -> [ReceivingAction] {
        if case .proven = parts[part] { return [] }
        let failed = fail(.laneLost, pool: &pool, &counters)
        prove(part, .fenced)
        return failed + advance(pool: &pool, &counters)
    }

    // MARK: The router

    /// How the router, or its loss, ends a handoff.
    enum Abort {
        /// Cancel: the senders are asked to drain.
        case cancel
        /// Reclaim: the writers of these parts have drained.
        case drained(PartSet)
        /// Fence, a lost router, or a drain budget that passed: no help from the writers of these parts.
        case fence(PartSet)
    }

    mutating func abort(
        _ abort: Abort, pool: inout SlotPool, counters: inout HandoffCounters
    ) -> [ReceivingAction] {
        switch phase {
        case .granted:
            giveUp(pool: &pool)
            return end(abort) + advance(pool: &pool, &counters)
        case .draining, .unbinding, .fencing:
            let actions = end(abort)
            if actions.isEmpty { counters.duplicates += 1 }
            return actions + advance(pool: &pool, &counters)
        case .sealed:
            phase = .ending
            return [.cancelSequence(id)]
        case .ending, .settled:
            counters.duplicates += 1
            return []
        }
    }

    // MARK: The engine

    /// The sequence ended, for whatever reason.
    mutating func finished(_ settlement: ReceivingSettlement, _ actions: [ReceivingAction]) -> [ReceivingAction] {
        precondition(phase == .sealed || phase == .ending, "\(id) finished, but was never started")
        settle(settlement)
        return actions + [.settled(id)]
    }

    // MARK: Private

    /// What an abort makes of parts that may still be written.
    private mutating func end(_ abort: Abort) -> [ReceivingAction] {
        var actions: [ReceivingAction] = []
        for (number, part) in terms.parts.enumerated() {
            switch (abort, parts[number]) {
            case (.drained(let set), .writing) where set.has(number) && isBroken(.reclaimWithoutLane):
                prove(number, .drained)
            case (.drained(let set), .writing) where set.has(number):
                parts[number] = .unbinding
                actions.append(.unbindLane(id, part.lane, part.epoch))
            case (.fence(let set), .writing) where set.has(number),
                (.fence(let set), .unbinding) where set.has(number):
                parts[number] = .fencing
                actions.append(.fenceLane(part.lane))
            default:
                break
            }
        }
        return actions
    }

    /// Ends the grant, for this reason, unless it has ended: then there is nobody to tell.
    private mutating func fail(
        _ cause: HandoffFailure.Cause, pool: inout SlotPool, _ counters: inout HandoffCounters
    ) -> [ReceivingAction] {
        guard phase == .granted else { return [] }
        giveUp(pool: &pool)
        return [.sendFailed(id, failure(cause, &counters))]
    }

    private mutating func giveUp(pool: inout SlotPool) {
        guard let grant = grant.take() else { preconditionFailure("\(id) is granted and has no grant") }
        quarantine = pool.quarantine(grant)
    }

    private mutating func prove(_ part: Int, _ kind: QuiescenceProof.Kind) {
        parts[part] = .proven
        proofs.add(kind, of: part)
    }

    /// Where the parts have brought the handoff: the one place where granted slots become readable, and the one where
    /// quarantined slots become free.
    private mutating func advance(pool: inout SlotPool, _ counters: inout HandoffCounters) -> [ReceivingAction] {
        if let grant = grant.take() {
            guard let proof = proofs.whole(.sealWithOnePartMissing) else {
                self.grant = consume grant
                return []
            }
            counters.seals += 1
            counters.proofs[proof.kind, default: 0] += 1
            let slots = pool.seal(grant, proof: proof)
            phase = .sealed
            return [.startSequence(id, slots), .sendSealed(id)]
        }
        guard let quarantine = quarantine.take() else { return [] }
        if let proof = proofs.whole(.reclaimWithOnePartUnproven) {
            let kind = proof.kind
            counters.proofs[kind, default: 0] += 1
            pool.recycle(quarantine, proof: proof)
            settle(.reclaimed(kind))
            return [.clearDeadline(.drainBudget, id), .sendReclaimed(id, kind), .settled(id)]
        }
        self.quarantine = consume quarantine
        phase = farthest
        guard phase == .draining, !isBudgetSet else { return [] }
        isBudgetSet = true
        return [.setDeadline(.drainBudget, id)]
    }

    /// Of the parts that are not proven.
    private var farthest: Phase {
        var phase = Phase.fencing
        for part in parts {
            switch part {
            case .writing: return .draining
            case .unbinding: phase = .unbinding
            case .fencing, .proven: break
            }
        }
        return phase
    }

    private mutating func settle(_ settlement: ReceivingSettlement) {
        phase = .settled
        self.settlement = settlement
    }
}

/// A failure, counted.
func failure(_ cause: HandoffFailure.Cause, _ counters: inout HandoffCounters) -> HandoffFailure {
    counters.failures[cause, default: 0] += 1
    return HandoffFailure(cause)
}
