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
        case completion(PartTerms)
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
    /// When the machine hears of the last completion record: the thread that brings it leaves behind that.
    var heard = Duration.zero
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
    private(set) var bound: PartTerms?
    private(set) var epoch = LaneEpoch(0)
    /// How far each page of the part has landed, in bytes of the page.
    private(set) var landed: [Int] = []
    private var end = 0
    var isLanding = false

    mutating func bind(_ terms: PartTerms, _ shape: PageShape) -> Bool {
        guard terms.epoch.value > epoch.value, bound == nil, !isLanding else { return false }
        bound = terms
        epoch = terms.epoch
        landed = Array(repeating: shape.layerStarts[terms.layers.lowerBound], count: terms.slots.count)
        end = shape.layerStarts[terms.layers.upperBound]
        return true
    }

    /// Ends the right to write; false while a record is landing.
    mutating func unbind(_ epoch: LaneEpoch) -> Bool {
        if epoch.value < self.epoch.value { return true }
        if isLanding { return false }
        self.epoch = epoch
        bound = nil
        return true
    }

    /// Whether every range is the next whole layers of a page of the part at its granted generation.
    func admits(_ batch: WriteBatch) -> Bool {
        guard let bound, batch.handoff == bound.handoff, batch.part == bound.number, batch.epoch == bound.epoch else {
            return false
        }
        var next = landed
        for range in batch.ranges {
            guard bound.slot(of: range.page) == range.target else { return false }
            let page = range.page - bound.pages.lowerBound
            guard range.offset == next[page], range.offset + range.length <= end else { return false }
            next[page] += range.length
        }
        return true
    }

    mutating func add(_ range: WriteRange) {
        guard let bound, bound.pages.contains(range.page) else { return }
        landed[range.page - bound.pages.lowerBound] += range.length
    }

    /// Whether a completion record is due now. That it names the right part and generations is left to the machine.
    func admits(_ record: CompletionRecord) -> Bool {
        guard let bound, record.handoff == bound.handoff else { return false }
        let isOther = record.part != bound.number
        return (isOther || record.epoch == bound.epoch && record.pages.count == bound.slots.count)
            && landed.allSatisfy { $0 == end }
    }

    mutating func complete() { bound = nil }

    mutating func close() {
        bound = nil
        isLanding = false
    }

    /// The handoff that may write on the lane.
    var user: HandoffID? { bound?.handoff }

    /// Whether a write of this handoff could still land.
    func lets(_ handoff: HandoffID) -> Bool { bound?.handoff == handoff }
}
