/// All handoffs of a sender, with the lanes they use. Sits behind the node's one mutex. O(1) per event and
/// posted range, except the loss of a router.
package struct SendingHandoffs: ~Copyable {
    package struct Limits: Sendable {
        package var openMax: Int
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
        package let lane: LaneKey
        package let pages: Int
    }

    private let shape: PageShape
    private let limits: Limits
    private var handoffs: [HandoffID: Box<SendingHandoff>] = [:]
    /// Open lanes and the handoffs with writes on them: one, or a new one behind one that only awaits its last
    /// acknowledgement.
    private var lanes: [LaneKey: [HandoffID]] = [:]
    private var settled: SettledMemory<(posted: Int, completed: Int)>
    package private(set) var counters = HandoffCounters()

    package init(shape: PageShape, limits: Limits = Limits()) {
        self.shape = shape
        self.limits = limits
        settled = SettledMemory(capacity: limits.settledMax)
    }

    // MARK: Queries

    package var openCount: Int { handoffs.count }
    package var open: [HandoffID] { handoffs.keys.sorted() }

    /// Whether an order for this handoff was taken, or answered not long ago.
    package func isKnown(_ handoff: HandoffID) -> Bool { handoffs[handoff] != nil || settled[handoff] != nil }

    package var rows: [Row] {
        open.compactMap { id in
            guard let box = handoffs[id] else { return nil }
            let terms = box.value.terms
            return Row(
                id: id, phase: box.value.phase.rawValue, lane: terms.key, pages: terms.tablePages)
        }
    }

    /// Lanes to this receiver that no handoff writes on, and those that one does.
    package func laneCounts(to decode: Incarnation) -> (idle: Int, busy: Int) {
        let all = lanes.filter { $0.key.decode == decode }
        let idle = all.count { $0.value.isEmpty }
        return (idle, all.count - idle)
    }

    // MARK: Lanes

    package mutating func laneOpened(_ lane: LaneKey) {
        precondition(lanes[lane] == nil, "lane \(lane) opened twice")
        lanes[lane] = []
    }

    /// The lane is closed, by whichever side, and its sender has left the slab.
    package mutating func laneClosed(_ lane: LaneKey) -> [SendingAction] {
        guard let users = lanes.removeValue(forKey: lane) else {
            counters.stale += 1
            return []
        }
        return users.flatMap { user in apply(user) { $0.laneClosed(counters: &$1) } }
    }

    /// The receiver has landed `records` records of the handoff, counted from its first.
    package mutating func acknowledged(
        _ lane: LaneKey, _ handoff: HandoffID, _ epoch: LaneEpoch, records: Int
    ) -> [SendingAction] {
        let handoff = isBroken(.answerOfAnotherUse) ? lanes[lane]?.last ?? handoff : handoff
        guard isCurrent(lane, handoff, epoch) else { return [] }
        return apply(handoff) { $0.acknowledged(records: records, counters: &$1) }
    }

    /// The receiver has the handoff's completion record.
    package mutating func completionAcknowledged(
        _ lane: LaneKey, _ handoff: HandoffID, _ epoch: LaneEpoch
    ) -> [SendingAction] {
        let handoff = isBroken(.answerOfAnotherUse) ? lanes[lane]?.last ?? handoff : handoff
        guard isCurrent(lane, handoff, epoch) else { return [] }
        return apply(handoff) { $0.completionAcknowledged(counters: &$1) }
    }

    // MARK: The router

    /// Computes a prompt of `pages` pages and writes its part of it where the grant says.
    package mutating func prefill(_ terms: PartTerms, pages: Int) -> [SendingAction] {
        let id = terms.handoff
        if handoffs[id] != nil {
            counters.duplicates += 1
            return [.sendAccepted(id)]
        }
        if let answer = repeatSettlement(id) { return answer }
        if let failure = refusal(terms, pages: pages) {
            counters.failures[failure.cause, default: 0] += 1
            settled.remember(id, (0, 0))
            return [.sendFailed(id, failure), .sendDrained(id, posted: 0, completed: 0), .settled(id)]
        }
        lanes[terms.key, default: []].append(id)
        handoffs[id] = Box(SendingHandoff(terms: terms, layers: shape.layerCount))
        return [.sendAccepted(id), .startCompute(id)]
    }

    /// Stops the handoff; answered by Drained once no write is under way.
    package mutating func cancel(_ handoff: HandoffID) -> [SendingAction] {
        if handoffs[handoff] != nil {
            return apply(handoff) { $0.stop([.cancelCompute(handoff)], counters: &$1) }
        }
        if let answer = repeatSettlement(handoff) { return answer }
        // It overtook its Prefill, which must not start any more.
        if !isBroken(.startsAfterCancel) { settled.remember(handoff, (0, 0)) }
        return [.sendDrained(handoff, posted: 0, completed: 0)]
    }

    /// The receiver has sealed; answered by Drained too.
    package mutating func release(_ handoff: HandoffID) -> [SendingAction] {
        if handoffs[handoff] != nil { return apply(handoff) { $0.release(counters: &$1) } }
        return repeatSettlement(handoff) ?? [.sendDrained(handoff, posted: 0, completed: 0)]
    }

    /// The router waits and asks what has become of a handoff it knows was accepted: the last word on it is said
    /// again.
    package func query(_ handoff: HandoffID) -> [SendingAction] {
        if let box = handoffs[handoff] { return box.value.query() }
        let (posted, completed) = settled[handoff] ?? (0, 0)
        return [.sendDrained(handoff, posted: posted, completed: completed)]
    }

    /// Nobody will cancel or release this router's handoffs any more.
    package mutating func routerLost(_ router: Incarnation) -> [SendingAction] {
        if isBroken(.routerLossIgnored) { return [] }
        return open.filter { $0.router == router || isBroken(.senderEndsOthers) }.flatMap { handoff in
            apply(handoff) { $0.stop([.cancelCompute(handoff)], counters: &$1) }
        }
    }

    /// A deadline set by an action passed.
    package mutating func deadlinePassed(_ deadline: Deadline, _ handoff: HandoffID) -> [SendingAction] {
        guard deadline == .laneDrain, !isBroken(.laneDrainWithoutEnd), let box = handoffs[handoff],
            box.value.awaitsOnlyAcknowledgements
        else { return [] }
        return [.closeLane(box.value.terms.key)]
    }

    // MARK: The engine

    /// The engine has a block table for the prompt.
    package mutating func started(_ handoff: HandoffID, sources: [SlotRef]) -> [SendingAction] {
        apply(handoff) { machine, counters in
            machine.started(sources: sources, counters: &counters)
            return []
        }
    }

    /// Some layers of some pages (positions in the block table) are final. Layers of a page come in order.
    package mutating func pagesReady(
        _ handoff: HandoffID, layers: Range<Int>, pages: Range<Int>
    ) -> [SendingAction] {
        let shape = self.shape
        return apply(handoff) { $0.pagesReady(layers: layers, pages: pages, shape: shape, counters: &$1) }
    }

    /// The engine gave up on the prompt.
    package mutating func computeFailed(_ handoff: HandoffID, retryable: Bool) -> [SendingAction] {
        apply(handoff) { machine, counters in
            guard machine.phase == .computing || machine.phase == .writing else {
                counters.stale += 1
                return []
            }
            counters.failures[.computeFailed, default: 0] += 1
            let failure = HandoffFailure(.computeFailed, retryable: retryable)
            return machine.stop([.sendFailed(handoff, failure)], counters: &counters)
        }
    }

    // MARK: Private

    private func refusal(_ terms: PartTerms, pages: Int) -> HandoffFailure? {
        guard pages >= 1, terms.tablePages == pages, !terms.pages.isEmpty, terms.pages.upperBound <= pages,
            !terms.layers.isEmpty, terms.layers.upperBound <= shape.layerCount
        else { return HandoffFailure(.badGrant, retryable: false) }
        guard let users = lanes[terms.key] else {
            return HandoffFailure(.laneLost)
        }
        guard handoffs.count < limits.openMax else { return HandoffFailure(.computeFailed) }
        let over: Set<SendingHandoff.Phase> = [.completing, .draining]
        let free = users.allSatisfy { user in handoffs[user].map { over.contains($0.value.phase) } ?? true }
        return free ? nil : HandoffFailure(.badGrant)
    }

    private mutating func repeatSettlement(_ handoff: HandoffID) -> [SendingAction]? {
        guard let (posted, completed) = settled[handoff] else { return nil }
        counters.duplicates += 1
        return [.sendDrained(handoff, posted: posted, completed: completed)]
    }

    private mutating func isCurrent(_ lane: LaneKey, _ handoff: HandoffID, _ epoch: LaneEpoch) -> Bool {
        guard let terms = handoffs[handoff]?.value.terms, terms.lane == lane.lane, terms.decode == lane.decode,
            terms.epoch == epoch || isBroken(.answerOfAnotherUse)
        else {
            counters.stale += 1
            return false
        }
        return true
    }

    /// Runs one event of one handoff, then keeps the lane table and the memory of settled ones in step with it.
    private mutating func apply(
        _ handoff: HandoffID, _ event: (inout SendingHandoff, inout HandoffCounters) -> [SendingAction]
    ) -> [SendingAction] {
        guard let box = handoffs[handoff] else {
            counters.stale += 1
            return []
        }
        let before = box.value.phase
        let actions = event(&box.value, &counters)
        before.checkSuccessor(box.value.phase, of: handoff)
        let terms = box.value.terms
        let phase = box.value.phase
        if phase == .written || phase == .settled {
            lanes[terms.key]?.removeAll { $0 == handoff }
        }
        if let settlement = box.value.settlement {
            handoffs[handoff] = nil
            settled.remember(handoff, settlement)
        }
        return actions
    }
}
