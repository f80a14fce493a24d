/// All handoffs of a decode node, with the lanes they use. Sits behind the node's one mutex, beside the slot pool
/// that every event takes `inout`. O(1) per event, except the loss of a router.
package struct DecodeHandoffs: ~Copyable {
    package struct Limits: Sendable {
        /// Handoffs open at once, those whose sequence is running included.
        package var openMax: Int
        /// Settled handoffs whose answer is remembered.
        package var settledMax: Int

        package init(openMax: Int = 4096, settledMax: Int = 8192) {
            self.openMax = openMax
            self.settledMax = settledMax
        }
    }

    /// One handoff as an operator sees it.
    package struct Row: Sendable, Equatable {
        package let id: HandoffID
        package let phase: String
        package let lane: LaneID
        package let pages: Int
    }

    private struct Lane {
        let peer: Incarnation
        var epoch = LaneEpoch(0)
        var user: HandoffID?
        /// A fence is under way: it serves nobody any more.
        var closing = false
        /// Grows with each lane that becomes idle.
        var idleSince = 0
    }

    private let incarnation: Incarnation
    private let limits: Limits
    private var handoffs: [HandoffID: Box<DecodeHandoff>] = [:]
    private var lanes: [LaneID: Lane] = [:]
    private var idled = 0
    private var settled: SettledMemory<DecodeSettlement>
    package private(set) var counters = HandoffCounters()

    package init(incarnation: Incarnation, limits: Limits = Limits()) {
        self.incarnation = incarnation
        self.limits = limits
        settled = SettledMemory(capacity: limits.settledMax)
    }

    // MARK: Queries

    package var openCount: Int { handoffs.count }
    package var open: [HandoffID] { handoffs.keys.sorted() }

    package var rows: [Row] {
        open.map { id in
            let box = handoffs[id]
            return Row(
                id: id, phase: box?.value.phase.rawValue ?? "settled", lane: box?.value.terms.lane ?? LaneID(0),
                pages: box?.value.terms.slots.count ?? 0)
        }
    }

    /// Lanes that could serve a reservation now, and lanes that serve one or are being closed.
    package var laneCounts: (idle: Int, busy: Int) {
        let idle = lanes.values.count { $0.user == nil && !$0.closing }
        return (idle, lanes.count - idle)
    }

    package func idleLanes(of peer: Incarnation) -> Int {
        lanes.values.count { $0.peer == peer && $0.user == nil && !$0.closing }
    }

    // MARK: Lanes

    /// A prefill node connected a lane.
    package mutating func laneOpened(_ lane: LaneID, peer: Incarnation) {
        precondition(lanes[lane] == nil, "lane \(lane) opened twice")
        idled += 1
        lanes[lane] = Lane(peer: peer, idleSince: idled)
    }

    /// The lane is closed, by whichever side, and its receive thread has left the slab.
    package mutating func laneClosed(_ lane: LaneID, pool: inout SlotPool) -> [DecodeAction] {
        guard let closed = lanes.removeValue(forKey: lane) else {
            counters.stale += 1
            return []
        }
        guard let user = closed.user else { return [] }
        return apply(user) { $0.laneClosed(pool: &pool, counters: &$1) }
    }

    /// The answer to `unbindLane`.
    package mutating func laneUnbound(
        _ handoff: HandoffID, _ lane: LaneID, _ epoch: LaneEpoch, _ answer: LaneUnbinding, pool: inout SlotPool
    ) -> [DecodeAction] {
        guard let machine = handoffs[handoff], machine.value.terms.epoch == epoch, machine.value.terms.lane == lane
        else {
            counters.stale += 1
            return []
        }
        return apply(handoff) { $0.laneUnbound(answer, pool: &pool, counters: &$1) }
    }

    /// A completion record arrived on a lane.
    package mutating func completion(
        _ lane: LaneID, _ epoch: LaneEpoch, _ record: CompletionRecord, pool: inout SlotPool
    ) -> [DecodeAction] {
        guard let use = lanes[lane], use.epoch == epoch || isBroken(.staleCompletion), let user = use.user else {
            counters.stale += 1
            return []
        }
        return apply(user) { $0.completion(record, pool: &pool, counters: &$1) }
    }

    /// The answer to `verifyDigests`.
    package mutating func digestsVerified(
        _ handoff: HandoffID, matching: Bool, pool: inout SlotPool
    ) -> [DecodeAction] {
        let actions = apply(handoff) { $0.digestsVerified(matching: matching, pool: &pool, counters: &$1) }
        guard let box = handoffs[handoff], box.value.phase == .fencing, lanes[box.value.terms.lane] == nil
        else { return actions }
        // The lane closed while the digests were compared: it is fenced, and nobody would say so again.
        return actions + apply(handoff) { $0.laneClosed(pool: &pool, counters: &$1) }
    }

    // MARK: The router

    /// Promises `pages` slots, writable by `prefill` on one of its idle lanes; or says why not.
    package mutating func reserve(
        _ handoff: HandoffID, pages: Int, prefill: Incarnation, pool: inout SlotPool
    ) -> [DecodeAction] {
        if let answer = repeatedReserve(handoff) { return answer }
        if let reason = refusal(pages: pages, pool: pool) { return refuse(handoff, reason) }
        guard let lane = longestIdle(of: prefill), var use = lanes[lane] else { return refuse(handoff, .noLane) }
        guard let grant = pool.grant(pages, to: handoff) else { return refuse(handoff, .noPages) }
        use.epoch = use.epoch.next
        use.user = handoff
        lanes[lane] = use
        counters.grants += 1
        let terms = GrantTerms(
            handoff: handoff, decode: incarnation, lane: lane, epoch: use.epoch, slots: grant.slots)
        handoffs[handoff] = Box(DecodeHandoff(grant: grant, terms: terms))
        return [.bindLane(terms), .sendGrant(terms)]
    }

    /// Ends a handoff; before the seal its slots wait for a proof.
    package mutating func cancel(_ handoff: HandoffID, pool: inout SlotPool) -> [DecodeAction] {
        abort(handoff, .cancel, pool: &pool)
    }

    /// The router has the prefill node's word that it has drained (or never asked it to write).
    package mutating func reclaim(_ handoff: HandoffID, pool: inout SlotPool) -> [DecodeAction] {
        abort(handoff, .drained, pool: &pool)
    }

    /// The router wants the slots back without the prefill node's help.
    package mutating func fence(_ handoff: HandoffID, pool: inout SlotPool) -> [DecodeAction] {
        abort(handoff, .fence, pool: &pool)
    }

    /// The router waits and asks what has become of a handoff: the last word on it is said again.
    package func query(_ handoff: HandoffID) -> [DecodeAction] {
        if let box = handoffs[handoff] {
            switch box.value.phase {
            case .sealed, .ending: return [.sendSealed(handoff)]
            // The router has the grant, or it would not ask; of these it will hear.
            case .granted, .verifying, .draining, .unbinding, .fencing, .settled: return []
            }
        }
        // What is not even remembered holds nothing.
        return settled[handoff]?.answer(handoff) ?? [.sendReclaimed(handoff, .drained)]
    }

    /// Nobody will read or reclaim this router's handoffs any more: fence what is not sealed, end what is.
    package mutating func routerLost(_ router: Incarnation, pool: inout SlotPool) -> [DecodeAction] {
        if isBroken(.routerLossIgnored) { return [] }
        return open.filter { $0.router == router || isBroken(.decodeEndsOthers) }.flatMap { handoff in
            apply(handoff) { $0.abort(.fence, pool: &pool, counters: &$1) }
        }
    }

    /// A deadline set by an action passed.
    package mutating func deadlinePassed(
        _ deadline: Deadline, _ handoff: HandoffID, pool: inout SlotPool
    ) -> [DecodeAction] {
        guard deadline == .drainBudget, let phase = handoffs[handoff]?.value.phase,
            phase == .draining || phase == .unbinding
        else { return [] }
        if isBroken(.quarantineWithoutEnd) { return [] }
        if isBroken(.freeOnTimeout) { return apply(handoff) { $0.laneClosed(pool: &pool, counters: &$1) } }
        return apply(handoff) { $0.abort(.fence, pool: &pool, counters: &$1) }
    }

    // MARK: The engine

    /// A started sequence ended.
    package mutating func finished(_ handoff: HandoffID, _ end: SequenceEnd) -> [DecodeAction] {
        apply(handoff) { machine, _ in machine.finished(.finished(end), [.sendFinished(handoff, end)]) }
    }

    /// A started sequence could not be run, or not to its end.
    package mutating func sequenceFailed(
        _ handoff: HandoffID, _ cause: HandoffFailure.Cause = .computeFailed, retryable: Bool = true
    ) -> [DecodeAction] {
        apply(handoff) { machine, counters in
            counters.failures[cause, default: 0] += 1
            let settlement = DecodeSettlement.failed(HandoffFailure(cause, retryable: retryable))
            return machine.finished(settlement, settlement.answer(handoff))
        }
    }

    // MARK: Private

    /// The lane of a peer that has been idle longest: a late write on it has had the most time to show itself.
    private func longestIdle(of peer: Incarnation) -> LaneID? {
        lanes.filter {
            $0.value.peer == peer && ($0.value.user == nil || isBroken(.laneReusedUnsettled)) && !$0.value.closing
        }.min { $0.value.idleSince < $1.value.idleSince }?.key
    }

    private func refusal(pages: Int, pool: borrowing SlotPool) -> RefusalReason? {
        if pages < 1 { return .invalid }
        if pages > pool.slotCount { return .tooLong }
        return handoffs.count >= limits.openMax ? .busy : nil
    }

    /// Refuses a handoff that is not known yet. For good: a repeated Reserve that came after its refusal would be
    /// granted what nobody waits for. For the driver's own reasons too, which this machine does not see.
    package mutating func refuse(_ handoff: HandoffID, _ reason: RefusalReason) -> [DecodeAction] {
        precondition(handoffs[handoff] == nil, "\(handoff) is granted and can't be refused")
        counters.refusals[reason, default: 0] += 1
        settled.remember(handoff, .refused(reason))
        return [.sendRefused(handoff, reason)]
    }

    /// Whether a reservation of this handoff was answered before: then the machine answers it again.
    package func isKnown(_ handoff: HandoffID) -> Bool { handoffs[handoff] != nil || settled[handoff] != nil }

    /// The answer to a Reserve of a handoff that is known already.
    private mutating func repeatedReserve(_ handoff: HandoffID) -> [DecodeAction]? {
        if let machine = handoffs[handoff], !isBroken(.reserveGrantsTwice) {
            counters.duplicates += 1
            return machine.value.phase == .granted ? [.sendGrant(machine.value.terms)] : []
        }
        return repeatSettlement(handoff)
    }

    private mutating func repeatSettlement(_ handoff: HandoffID) -> [DecodeAction]? {
        guard let settlement = settled[handoff] else { return nil }
        counters.duplicates += 1
        return settlement.answer(handoff)
    }

    private mutating func abort(
        _ handoff: HandoffID, _ kind: DecodeHandoff.Abort, pool: inout SlotPool
    ) -> [DecodeAction] {
        if handoffs[handoff] != nil { return apply(handoff) { $0.abort(kind, pool: &pool, counters: &$1) } }
        switch settled[handoff] {
        case .refused, nil: break
        case .reclaimed, .finished, .failed: return repeatSettlement(handoff) ?? []
        }
        // It overtook its Reserve, or the Reserve was refused. Nothing was ever promised, so nothing can be
        // written; and nothing may be promised from now on.
        settled.remember(handoff, .reclaimed(.drained))
        return [.sendReclaimed(handoff, .drained)]
    }

    /// Runs one event of one handoff, then keeps the lane table and the memory of settled ones in step with it.
    private mutating func apply(
        _ handoff: HandoffID, _ event: (inout DecodeHandoff, inout HandoffCounters) -> [DecodeAction]
    ) -> [DecodeAction] {
        guard let box = handoffs[handoff] else {
            counters.stale += 1
            return []
        }
        let before = box.value.phase
        let actions = event(&box.value, &counters)
        before.checkSuccessor(box.value.phase, of: handoff)
        let terms = box.value.terms
        switch box.value.phase {
        case .granted, .verifying, .draining, .unbinding:
            break
        case .fencing:
            if lanes[terms.lane]?.closing == false {
                lanes[terms.lane]?.closing = true
                counters.fences += 1
            }
        case .sealed, .ending, .settled:
            if lanes[terms.lane]?.user == handoff {
                idled += 1
                lanes[terms.lane]?.user = nil
                lanes[terms.lane]?.idleSince = idled
            }
        }
        if let settlement = box.value.settlement {
            handoffs[handoff] = nil
            settled.remember(handoff, settlement)
        }
        return actions
    }
}
