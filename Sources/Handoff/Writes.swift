/// What moves on a lane: batches of writes, and behind them one completion record.

/// Limits of one record on a lane. The receiver refuses what is above them, so both sides use these.
package enum WriteLimits {
    /// Ranges in one record.
    package static let rangesMax = 64
    /// Bytes after which a record takes no further range. One range may be larger by itself.
    package static let recordBytesAim = 8 << 20
    /// Records one handoff may have unacknowledged. Enough to keep a lane full, few enough that a cancel drains
    /// within milliseconds.
    package static let recordsInFlightMax = 8
}

/// Some whole layers of one page: from a slot of the sender's slab to a slot of the receiver's.
package struct WriteRange: Hashable, Sendable {
    /// Position in the grant's block table.
    package let page: Int
    package let source: SlotRef
    package let target: SlotRef
    /// Bytes within the page; both ends lie on layer borders.
    package let offset: Int
    package var length: Int

    package init(page: Int, source: SlotRef, target: SlotRef, offset: Int, length: Int) {
        self.page = page
        self.source = source
        self.target = target
        self.offset = offset
        self.length = length
    }

    var end: Int { offset + length }
}

/// One record: at most `WriteLimits.rangesMax` ranges of one part of a handoff in one lane epoch.
package struct WriteBatch: Hashable, Sendable {
    package let handoff: HandoffID
    /// The part's number.
    package let part: Int
    package let epoch: LaneEpoch
    package let ranges: [WriteRange]

    package init(handoff: HandoffID, part: Int = 0, epoch: LaneEpoch, ranges: [WriteRange]) {
        self.handoff = handoff
        self.part = part
        self.epoch = epoch
        self.ranges = ranges
    }

    package var bytes: Int { ranges.reduce(0) { $0 + $1.length } }
}

/// A page as the completion record names it.
package struct SealedPage: Hashable, Sendable {
    package let slot: SlotRef
    /// Folded from one digest per layer, computed where the page was produced; 0 when digests are off.
    package let digest: UInt64

    package init(slot: SlotRef, digest: UInt64) {
        self.slot = slot
        self.digest = digest
    }
}

/// A writer's statement, on the lane and behind all its writes, that its part of the grant is filled.
package struct CompletionRecord: Hashable, Sendable {
    package let handoff: HandoffID
    /// The part's number.
    package let part: Int
    package let epoch: LaneEpoch
    /// Those of the part, in block-table order.
    package let pages: [SealedPage]

    package init(handoff: HandoffID, part: Int, epoch: LaneEpoch, pages: [SealedPage]) {
        self.handoff = handoff
        self.part = part
        self.epoch = epoch
        self.pages = pages
    }

    /// Whether it names just this part, with the slots and generations that were granted.
    func fills(_ terms: GrantTerms, _ part: Int) -> Bool {
        if isBroken(.otherGenerationsCompleted) { return true }
        if isBroken(.staleCompletion), handoff != terms.handoff { return true }
        guard let granted = terms.part(part) else { return false }
        return handoff == granted.handoff && self.part == part && epoch == granted.epoch
            && pages.count == granted.slots.count
            && zip(pages, granted.slots).allSatisfy { $0.slot == $1 }
    }
}
