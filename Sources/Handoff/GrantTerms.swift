/// What one writer is asked to write of a handoff.
package struct Share: Hashable, Sendable {
    /// An upper bound that stands for however many pages or layers there are.
    package static let last = Int.max

    /// The incarnation of the node that writes.
    package let writer: Incarnation
    /// Positions in the block table.
    package let pages: Range<Int>
    package let layers: Range<Int>

    package init(writer: Incarnation, pages: Range<Int> = 0..<Share.last, layers: Range<Int> = 0..<Share.last) {
        self.writer = writer
        self.pages = pages
        self.layers = layers
    }
}

/// One writer's part of a grant: some layers of some pages, writable on one lane in one epoch. It ends by its own proof.
package struct GrantPart: Hashable, Sendable {
    package let writer: Incarnation
    package let lane: LaneID
    package let epoch: LaneEpoch
    /// Positions in the block table.
    package let pages: Range<Int>
    package let layers: Range<Int>

    package init(writer: Incarnation, lane: LaneID, epoch: LaneEpoch, pages: Range<Int>, layers: Range<Int>) {
        self.writer = writer
        self.lane = lane
        self.epoch = epoch
        self.pages = pages
        self.layers = layers
    }
}

/// What a receiver promises in answer to a reservation: a set of parts, each writable by its writer and nobody
/// else. They cover every layer of every page behind the lent ones, and no two overlap. It crosses processes, so it is
/// a plain value; the right itself is the `Grant` that stays on the receiver.
package struct GrantTerms: Hashable, Sendable {
    /// Parts of one grant.
    package static let partsMax = 32

    package let handoff: HandoffID
    package let decode: Incarnation
    /// In block-table order: slot i holds tokens [i·pageTokens, (i+1)·pageTokens).
    package let slots: [SlotRef]
    /// The first so many slots hold their pages already: the receiver lends them, and nobody writes them.
    package let lent: Int
    package let parts: [GrantPart]

    package init(handoff: HandoffID, decode: Incarnation, slots: [SlotRef], lent: Int, parts: [GrantPart]) {
        self.handoff = handoff
        self.decode = decode
        self.slots = slots
        self.lent = lent
        self.parts = parts
    }

    /// What the writer of a part is to know; nil when there is no such part.
    package func part(_ number: Int) -> PartTerms? {
        guard parts.indices.contains(number) else { return nil }
        return PartTerms(of: self, number, parts[number])
    }

    /// Whether the parts cover each layer of each page behind the lent ones once. O(parts²).
    package func areCovered(layers: Int) -> Bool {
        GrantTerms.areCovering(parts, pages: lent..<slots.count, layers: layers)
    }

    package static func areCovering(_ parts: [GrantPart], pages: Range<Int>, layers: Int) -> Bool {
        Rectangles.areTiling(parts.map { ($0.pages, $0.layers) }, pages: pages, layers: 0..<layers)
    }
}

/// A part of a grant as its writer and its lane know it.
package struct PartTerms: Hashable, Sendable {
    package let handoff: HandoffID
    package let decode: Incarnation
    /// Its place among the parts of the grant.
    package let number: Int
    package let lane: LaneID
    package let epoch: LaneEpoch
    /// Positions in the block table.
    package let pages: Range<Int>
    package let layers: Range<Int>
    /// Those of `pages`, in order.
    package let slots: [SlotRef]
    /// Pages of the whole block table.
    package let tablePages: Int

    fileprivate init(of grant: GrantTerms, _ number: Int, _ part: GrantPart) {
        handoff = grant.handoff
        decode = grant.decode
        self.number = number
        lane = part.lane
        epoch = part.epoch
        pages = part.pages
        layers = part.layers
        slots = Array(grant.slots[part.pages])
        tablePages = grant.slots.count
    }

    /// The only part of a grant for which nothing is lent.
    package init(
        handoff: HandoffID, decode: Incarnation, lane: LaneID, epoch: LaneEpoch, slots: [SlotRef], layers: Int
    ) {
        self.handoff = handoff
        self.decode = decode
        number = 0
        self.lane = lane
        self.epoch = epoch
        pages = 0..<slots.count
        self.layers = 0..<layers
        self.slots = slots
        tablePages = slots.count
    }

    package var key: LaneKey { LaneKey(decode: decode, lane: lane) }

    /// The slot of a page; nil when it is not of this part.
    package func slot(of page: Int) -> SlotRef? {
        pages.contains(page) ? slots[page - pages.lowerBound] : nil
    }
}

/// Some parts of a grant, by their numbers.
package struct PartSet: OptionSet, Hashable, Sendable {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }

    package init(_ part: Int) { self.init(rawValue: 1 << UInt32(part)) }

    /// However many there are.
    package static let all = PartSet(rawValue: .max)

    package func has(_ part: Int) -> Bool { rawValue >> UInt32(part) & 1 == 1 }
}

/// Pages × layers.
enum Rectangles {
    static func areTiling(
        _ parts: [(pages: Range<Int>, layers: Range<Int>)], pages: Range<Int>, layers: Range<Int>
    ) -> Bool {
        var area = 0
        for (index, part) in parts.enumerated() {
            guard !part.pages.isEmpty, !part.layers.isEmpty, pages.contains(part.pages), layers.contains(part.layers)
            else { return false }
            area += part.pages.count * part.layers.count
            for other in parts[..<index] where other.pages.overlaps(part.pages) && other.layers.overlaps(part.layers) {
                return false
            }
        }
        return area == pages.count * layers.count
    }
}
