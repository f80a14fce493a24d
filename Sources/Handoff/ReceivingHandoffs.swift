/// All handoffs of a receiver, with the lanes they use. Sits behind the node's one mutex, beside the slot pool
/// that every event takes `inout`. O(1) per event, except the loss of a router.
package struct ReceivingHandoffs: ~Copyable {
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
        package let lanes: [LaneID]
        package let pages: Int
    }

    /// What a lane carries.
    private struct Use: Equatable {
        let handoff: HandoffID
        let part: Int
    }

    private struct Lane {
        let peer: Incarnation
        var epoch = LaneEpoch(0)
        var user: Use?
        /// A fence is under way: it serves nobody any more.
        var closing = false
        /// Grows with each lane that becomes idle.
        var idleSince = 0
    }

    private let incarnation: Incarnation
    /// Layers of a page.
    private let layers: Int
    private let limits: Limits
    private var handoffs: [HandoffID: Box<ReceivingHandoff>] = [:]
    private var lanes: [LaneID: Lane] = [:]
    private var idled = 0
    private var settled: SettledMemory<ReceivingSettlement>
    package private(set) var counters = HandoffCounters()

    package init(incarnation: Incarnation, layers: Int, limits: Limits = Limits()) {
        precondition(layers >= 1, "pages of \(layers) layers")
        self.incarnation = incarnation
        self.layers = layers
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
                id: id, phase: box?.value.phase.rawValue ?? "settled",
                lanes: box?.value.terms.parts.map(\.lane) ?? [], pages: box?.value.terms.slots.count ?? 0)
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

    /// A sender connected a lane.
    package mutating func laneOpened(_ lane: LaneID, peer: Incarnation) {
        precondition(lanes[lane] == nil, "lane \(lane) opened twice")
        idled += 1
        lanes[lane] = Lane(peer: peer, idleSince: idled)
    }

    /// The lane is closed, by whichever side, and its receive thread has left the slab.
    package mutating func laneClosed(_ lane: LaneID, pool: inout SlotPool) -> [ReceivingAction] {
        guard let closed = lanes.removeValue(forKey: lane) else {
            counters.stale += 1
            return []
        }
        guard let user = closed.user else { return [] }
        return apply(user.handoff) { $0.laneClosed(user.part, pool: &pool, counters: &$1) }
    }

    /// The answer to `unbindLane`.
    package mutating func laneUnbound(
        _ handoff: HandoffID, _ lane: LaneID, _ epoch: LaneEpoch, _ answer: LaneUnbinding, pool: inout SlotPool
    ) -> [ReceivingAction] {
        let parts = handoffs[handoff]?.value.terms.parts ?? []
        guard let part = parts.firstIndex(where: { $0.lane == lane && $0.epoch == epoch }) else {
            counters.stale += 1
            return []
        }
        return apply(handoff) { $0.laneUnbound(part, answer, pool: &pool, counters: &$1) }
    }

    /// A completion record arrived on a lane. `matching`: whether the digests of what landed are those it has.
    package mutating func completion(
        _ lane: LaneID, _ epoch: LaneEpoch, _ record: CompletionRecord, matching: Bool, pool: inout SlotPool
    ) -> [ReceivingAction] {
        guard let use = lanes[lane], use.epoch == epoch || isBroken(.staleCompletion), let user = use.user else {
            counters.stale += 1
            return []
        }
        return apply(user.handoff) {
            $0.completion(user.part, record, matching: matching, pool: &pool, counters: &$1)
        }
    }

    // MARK: The router

    /// How many of the first pages can be lent to a handoff: each writer has at least one page to write.
    package static func lendable(pages: Int, _ shares: [Share]) -> Int {
        shares.reduce(pages) { min($0, max(0, $1.pages.clamped(to: 0..<pages).upperBound - 1)) }
    }

    /// Promises what a block table of `pages` needs: the shares, which cover all layers of all its pages, each to its
    /// writer on one of its idle lanes; or says why not. `lending`: pages that the node has from the front of that table,
    /// in use or cached; as many of them are lent as can be.
    package mutating func reserve(
        _ handoff: HandoffID, pages: Int, shares: [Share], lending: [SlotRef] = [], pool: inout SlotPool
    ) -> [ReceivingAction] {
        if let answer = repeatedReserve(handoff) { return answer }
        if let reason = refusal(pages: pages, shares: shares, pool: pool) { return refuse(handoff, reason) }
        let lent = min(lending.count, Self.lendable(pages: pages, shares))
        var lanesTaken: [LaneID] = []
        for share in shares {
            guard let lane = longestIdle(of: share.writer) else { return refuse(handoff, .noLane) }
            lanesTaken.append(lane)
        }
        guard let grant = pool.grant(pages - lent, lending: Array(lending[..<lent]), to: handoff) else {
            return refuse(handoff, .noPages)
        }
        counters.grants += 1
        let parts = zip(shares, lanesTaken).enumerated().map { number, pair in
            let epoch = take(pair.1, for: Use(handoff: handoff, part: number))
            return GrantPart(
                writer: pair.0.writer, lane: pair.1, epoch: epoch,
                pages: pair.0.pages.clamped(to: lent..<pages), layers: pair.0.layers.clamped(to: 0..<layers))
        }
        let terms = GrantTerms(
            handoff: handoff, decode: incarnation, slots: grant.lent + grant.slots, lent: lent, parts: parts)
        handoffs[handoff] = Box(ReceivingHandoff(grant: grant, terms: terms))
        return parts.indices.compactMap { terms.part($0).map { .bindLane($0) } } + [.sendGrant(terms)]
    }

    /// Ends a handoff; before the seal its slots wait for a proof.
    package mutating func cancel(_ handoff: HandoffID, pool: inout SlotPool) -> [ReceivingAction] {
        abort(handoff, .cancel, pool: &pool)
    }

    /// The router has the word of these parts' writers that they have drained (or never asked them to write).
    package mutating func reclaim(
        _ handoff: HandoffID, _ parts: PartSet = .all, pool: inout SlotPool
    ) -> [ReceivingAction] {
        abort(handoff, .drained(parts), pool: &pool)
    }

    /// The router wants the slots back without the help of these parts' writers.
    package mutating func fence(
        _ handoff: HandoffID, _ parts: PartSet = .all, pool: inout SlotPool
    ) -> [ReceivingAction] {
        abort(handoff, .fence(parts), pool: &pool)
    }

    /// The router waits and asks what has become of a handoff: the last word on it is said again.
    package func query(_ handoff: HandoffID) -> [ReceivingAction] {
        if let box = handoffs[handoff] {
            switch box.value.phase {
            case .sealed, .ending: return [.sendSealed(handoff)]
            // The router has the grant, or it would not ask; of these it will hear.
            case .granted, .draining, .unbinding, .fencing, .settled: return []
            }
        }
        // What is not even remembered holds nothing.
        return settled[handoff]?.answer(handoff) ?? [.sendReclaimed(handoff, .drained)]
    }

    /// Nobody will read or reclaim this router's handoffs any more: fence what is not sealed, end what is.
    package mutating func routerLost(_ router: Incarnation, pool: inout SlotPool) -> [ReceivingAction] {
        if isBroken(.routerLossIgnored) { return [] }
        return open.filter { $0.router == router || isBroken(.receiverEndsOthers) }.flatMap { handoff in
            apply(handoff) { $0.abort(.fence(.all), pool: &pool, counters: &$1) }
        }
    }

    /// A deadline set by an action passed.
    package mutating func deadlinePassed(
        _ deadline: Deadline, _ handoff: HandoffID, pool: inout SlotPool
    ) -> [ReceivingAction] {
        guard deadline == .drainBudget, let phase = handoffs[handoff]?.value.phase,
            phase == .draining || phase == .unbinding
        else { return [] }
        if isBroken(.quarantineWithoutEnd) { return [] }
        if isBroken(.freeOnTimeout) {
            let parts = handoffs[handoff]?.value.terms.parts.indices ?? 0..<0
            return parts.flatMap { part in
                handoffs[handoff] == nil ? [] : apply(handoff) { $0.laneClosed(part, pool: &pool, counters: &$1) }
            }
        }
        return apply(handoff) { $0.abort(.fence(.all), pool: &pool, counters: &$1) }
    }

    // MARK: The engine

    /// A started sequence ended.
    package mutating func finished(_ handoff: HandoffID, _ end: SequenceEnd) -> [ReceivingAction] {
        apply(handoff) { machine, _ in machine.finished(.finished(end), [.sendFinished(handoff, end)]) }
    }

    /// A started sequence could not be run, or not to its end.
    package mutating func sequenceFailed(
        _ handoff: HandoffID, _ cause: HandoffFailure.Cause = .computeFailed, retryable: Bool = true
    ) -> [ReceivingAction] {
        apply(handoff) { machine, counters in
            counters.failures[cause, default: 0] += 1
            let settlement = ReceivingSettlement.failed(HandoffFailure(cause, retryable: retryable))
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

    /// The next use of a lane begins.
    private mutating func take(_ lane: LaneID, for use: Use) -> LaneEpoch {
        let epoch = (lanes[lane]?.epoch ?? LaneEpoch(0)).next
        lanes[lane]?.epoch = epoch
        lanes[lane]?.user = use
        return epoch
    }

    private func refusal(pages: Int, shares: [Share], pool: borrowing SlotPool) -> RefusalReason? {
        if pages < 1 { return .invalid }
        if pages > pool.slotCount { return .tooLong }
        let areas = shares.map { ($0.pages.clamped(to: 0..<pages), $0.layers.clamped(to: 0..<layers)) }
        guard shares.count <= GrantTerms.partsMax, Set(shares.map(\.writer)).count == shares.count,
            Rectangles.areTiling(areas, pages: 0..<pages, layers: 0..<layers)
        else { return .invalid }
        return handoffs.count >= limits.openMax ? .busy : nil
    }

    /// Refuses a handoff that is not known yet. For good: a repeated Reserve that came after its refusal would be
    /// granted what nobody waits for. For the driver's own reasons too, which this machine does not see.
    package mutating func refuse(_ handoff: HandoffID, _ reason: RefusalReason) -> [ReceivingAction] {
        if isBroken(.reserveGrantsTwice), handoffs[handoff] != nil { return [] }
        precondition(handoffs[handoff] == nil, "\(handoff) is granted and can't be refused")
        counters.refusals[reason, default: 0] += 1
        settled.remember(handoff, .refused(reason))
        return [.sendRefused(handoff, reason)]
    }

    /// Whether a reservation of this handoff was answered before: then the machine answers it again.
    package func isKnown(_ handoff: HandoffID) -> Bool { handoffs[handoff] != nil || settled[handoff] != nil }

    /// The answer to a Reserve of a handoff that is known already.
    private mutating func repeatedReserve(_ handoff: HandoffID) -> [ReceivingAction]? {
        if let machine = handoffs[handoff], !isBroken(.reserveGrantsTwice) {
            counters.duplicates += 1
            return machine.value.phase == .granted ? [.sendGrant(machine.value.terms)] : []
        }
        return repeatSettlement(handoff)
    }

    private mutating func repeatSettlement(_ handoff: HandoffID) -> [ReceivingAction]? {
        guard let settlement = settled[handoff] else { return nil }
        counters.duplicates += 1
        return settlement.answer(handoff)
    }

    private mutating func abort(
        _ handoff: HandoffID, _ kind: ReceivingHandoff.Abort, pool: inout SlotPool
    ) -> [ReceivingAction] {
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
        _ handoff: HandoffID, _ event: (inout ReceivingHandoff, inout HandoffCounters) -> [ReceivingAction]
    ) -> [ReceivingAction] {
        guard let box = handoffs[handoff] else {
            counters.stale += 1
            return []
        }
        let before = box.value.phase
        let actions = event(&box.value, &counters)
        before.checkSuccessor(box.value.phase, of: handoff)
        for (number, part) in box.value.terms.parts.enumerated() {
            guard lanes[part.lane]?.user == Use(handoff: handoff, part: number) else { continue }
            switch (box.value.phase, box.value.parts[number]) {
            case (.sealed, _), (.ending, _), (.settled, _), (_, .proven):
                idled += 1
                lanes[part.lane]?.user = nil
                lanes[part.lane]?.idleSince = idled
            case (_, .fencing):
                if lanes[part.lane]?.closing == false {
                    lanes[part.lane]?.closing = true
                    counters.fences += 1
                }
            case (_, .writing), (_, .unbinding):
                break
            }
        }
        if let settlement = box.value.settlement {
            handoffs[handoff] = nil
            settled.remember(handoff, settlement)
        }
        return actions
    }
}
