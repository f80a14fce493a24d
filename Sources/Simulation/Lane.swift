import Handoff

/// One lane: what is posted, what is on its way, and the decode node's gate. Its two ends belong to two processes
/// that may die, stop and close it on their own; what was sent may land as late as it likes.
struct Lane {
    enum Item {
        case batch(WriteBatch)
        case completion(CompletionRecord)
    }

    enum Answer {
        case landed(HandoffID, LaneEpoch, records: Int)
        case complete(HandoffID, LaneEpoch)
    }

    enum Posted {
        case batch(WriteBatch)
        case completion(GrantTerms)
    }

    let id: LaneID
    let prefill: Incarnation
    let decode: Incarnation
    var key: LaneKey { LaneKey(decode: decode, lane: id) }
    /// Its bytes land by themselves, as over an adapter without memory windows: nobody looks at them, nobody can say
    /// whether more come, and its sender is told that they have left, not that they are in place.
    let isBlind: Bool

    // The prefill node's end.
    var posted: [Posted] = []
    var isSenderOpen = true
    /// Its machine went dark: nothing tells the other end.
    var isSenderDark = false
    var isSendPlanned = false
    /// The last record of each of the last two uses.
    var sent: [WriteBatch] = []
    /// Records that the sender was or is being told of, in its latest use.
    var acknowledged = (epoch: LaneEpoch(0), records: 0)
    // Between.
    var wire: [Item] = []
    var answers: [Answer] = []
    var isAnswerPlanned = false
    var slowness = 1
    // The decode node's end.
    var isReceiverOpen = true
    /// Whether the machine knows the lane yet, and still.
    var isKnown = false
    var isFencing = false
    var isLandPlanned = false
    var landing: (batch: WriteBatch, next: Int)?
    var gate = Gate()

    /// Ends the right to write, and says what is known then. Behind a completion record nothing comes, blind or not.
    mutating func unbind(_ epoch: LaneEpoch) -> LaneUnbinding {
        let isOpen = gate.bound?.epoch == epoch
        if !gate.unbind(epoch) { return isBlind ? .unknown : .writing }
        return isBlind && isOpen ? .unknown : .quiet
    }
}

/// What a lane lets in: the shipping transport's gate in a few lines (`LaneGate` in Transport, which the cluster
/// tests cover).
struct Gate {
    struct Completed {
        let handoff: HandoffID
        let epoch: LaneEpoch
        let isMatching: Bool
    }

    private(set) var bound: GrantTerms?
    private(set) var epoch = LaneEpoch(0)
    /// Bytes of each page that have landed.
    var landed: [Int] = []
    var isLanding = false
    private(set) var completed: Completed?
    /// The last completion record, whose digests `completed` stands for while the lane is not used again.
    private(set) var record: CompletionRecord?

    mutating func bind(_ terms: GrantTerms) -> Bool {
        guard terms.epoch.value > epoch.value, bound == nil, !isLanding else { return false }
        bound = terms
        epoch = terms.epoch
        landed = Array(repeating: 0, count: terms.slots.count)
        completed = nil
        return true
    }

    /// Ends the right to write; false while a record is landing.
    mutating func unbind(_ epoch: LaneEpoch) -> Bool {
        if epoch.value < self.epoch.value { return true }
        if isLanding { return false }
        self.epoch = epoch
        bound = nil
        completed = nil
        return true
    }

    /// Whether every range is the next whole layers of a granted page at its granted generation.
    func admits(_ batch: WriteBatch) -> Bool {
        guard let bound, batch.handoff == bound.handoff, batch.epoch == bound.epoch else { return false }
        var next = landed
        for range in batch.ranges {
            guard range.page < bound.slots.count, bound.slots[range.page] == range.target,
                range.offset == next[range.page]
            else { return false }
            next[range.page] += range.length
        }
        return true
    }

    /// Whether a completion record is due now. That it names the right generations is left to the machine here.
    func admits(_ record: CompletionRecord, pageBytes: Int) -> Bool {
        guard let bound, record.handoff == bound.handoff, record.epoch == bound.epoch else { return false }
        return record.pages.count == bound.slots.count && landed.allSatisfy { $0 == pageBytes }
    }

    mutating func complete(_ record: CompletionRecord, isMatching: Bool) {
        bound = nil
        completed = Completed(handoff: record.handoff, epoch: record.epoch, isMatching: isMatching)
        self.record = record
    }

    mutating func close() {
        bound = nil
        isLanding = false
    }

    /// The handoff that may write on the lane.
    var user: HandoffID? { bound?.handoff }

    /// Whether a write of this handoff could still land.
    func lets(_ handoff: HandoffID) -> Bool { bound?.handoff == handoff }
}
