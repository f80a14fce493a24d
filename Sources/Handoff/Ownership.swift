/// The three values whose ownership is the safety argument. None can be copied, and only this module makes them.

/// The receiver's right to let the writers of one handoff write some slots. Ends in exactly one of `SlotPool.seal`
/// and `SlotPool.quarantine`.
package struct Grant: ~Copyable {
    package let handoff: HandoffID
    /// Pages that the node has and that are read behind the seal, each with one user more until the handoff ends.
    package let lent: [SlotRef]
    package let slots: [SlotRef]

    init(handoff: HandoffID, lent: [SlotRef], slots: [SlotRef]) {
        self.handoff = handoff
        self.lent = lent
        self.slots = slots
    }
}

/// Slots that left a handoff without a seal and may still be written. Ends in `SlotPool.recycle`.
package struct Quarantine: ~Copyable {
    package let handoff: HandoffID
    package let lent: [SlotRef]
    package let slots: [SlotRef]

    init(handoff: HandoffID, lent: [SlotRef], slots: [SlotRef]) {
        self.handoff = handoff
        self.lent = lent
        self.slots = slots
    }
}

/// A lane's answer when a right to write on it has been ended.
package enum LaneUnbinding: Sendable, Hashable, CaseIterable {
    /// Nothing can land any more.
    case quiet
    /// The peer is in the middle of a write: only a fence helps.
    case writing
    /// The lane cannot say, or not yet, as over an adapter that lets the peer write for as long as the lane lives:
    /// only a fence helps.
    case unknown
}

/// Evidence that no write of a handoff can land any more. The only thing that makes a granted slot readable or
/// a quarantined slot free. A timeout is not evidence: it can only start a fence.
package struct QuiescenceProof: ~Copyable {
    /// Of one part; of a whole handoff, that of the part with the weakest: the last of these.
    package enum Kind: String, Sendable, CaseIterable {
        /// The completion record arrived on the lane behind all the writes.
        case writeComplete
        /// The sender said that every write it posted has completed and it will post no more.
        case drained
        /// The receiver closed the lane and no receive into the slab is in progress.
        case fenced
    }

    package let handoff: HandoffID
    package let kind: Kind

    fileprivate init(handoff: HandoffID, kind: Kind) {
        self.handoff = handoff
        self.kind = kind
    }
}

/// The proofs of a handoff's parts as they come in. Only when all are there do they prove the handoff.
struct PartProofs: Sendable {
    let handoff: HandoffID
    private var kinds: [QuiescenceProof.Kind?]

    init(handoff: HandoffID, parts: Int) {
        precondition(parts >= 1, "a grant without parts")
        self.handoff = handoff
        kinds = Array(repeating: nil, count: parts)
    }

    func has(_ part: Int) -> Bool { kinds[part] != nil }

    mutating func add(_ kind: QuiescenceProof.Kind, of part: Int) {
        precondition(kinds[part] == nil, "part \(part) of \(handoff) is proven twice")
        kinds[part] = kind
    }

    /// The proof of the handoff; nil while that of a part is missing, unless the rule that asks for it is broken.
    func whole(_ rule: BrokenRule) -> QuiescenceProof? {
        let found = kinds.compactMap { $0 }
        let missing = kinds.count - found.count
        guard missing == 0 || missing == 1 && isBroken(rule),
            let weakest = found.max(by: { $0.weakness < $1.weakness })
        else { return nil }
        return QuiescenceProof(handoff: handoff, kind: weakest)
    }
}

extension QuiescenceProof.Kind {
    fileprivate var weakness: Int {
        switch self {
        case .writeComplete: 0
        case .drained: 1
        case .fenced: 2
        }
    }
}
