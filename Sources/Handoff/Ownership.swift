/// The three values whose ownership is the safety argument. None can be copied, and only this module makes them.

/// The decode node's right to let one handoff write some slots. Ends in exactly one of `SlotPool.seal` and
/// `SlotPool.quarantine`.
package struct Grant: ~Copyable {
    package let handoff: HandoffID
    package let slots: [SlotRef]

    init(handoff: HandoffID, slots: [SlotRef]) {
        self.handoff = handoff
        self.slots = slots
    }
}

/// Slots that left a handoff without a seal and may still be written. Ends in `SlotPool.recycle`.
package struct Quarantine: ~Copyable {
    package let handoff: HandoffID
    package let slots: [SlotRef]

    init(handoff: HandoffID, slots: [SlotRef]) {
        self.handoff = handoff
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
    package enum Kind: String, Sendable, CaseIterable {
        /// The completion record arrived on the lane behind all the writes.
        case writeComplete
        /// The prefill node said that every write it posted has completed and it will post no more.
        case drained
        /// The decode node closed the lane and no receive into the slab is in progress.
        case fenced
    }

    package let handoff: HandoffID
    package let kind: Kind

    init(handoff: HandoffID, kind: Kind) {
        self.handoff = handoff
        self.kind = kind
    }
}
