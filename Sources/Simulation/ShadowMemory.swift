import Handoff

/// What a layer of a slot holds: a part of which page of which handoff, and of which prompts that page is the same.
struct Tag: Equatable {
    let handoff: HandoffID
    let document: Int
    let page: Int
    var isCorrupt = false
}

/// A second account of a decode node's memory, kept from outside: who may write each slot, who reads it, and what
/// is in it. It believes nothing the machines say that it can see for itself.
struct ShadowMemory {
    struct Granted {
        let terms: GrantTerms
        let document: Int
        /// When the grant ended without a seal, in the node's awake time.
        var quarantined: Duration?
        /// By part: what came on its lane in its epoch.
        var records: [CompletionRecord?]
        /// Parts of which nothing can be written any more: their record came, or their lane says that it is quiet.
        var ended: PartSet = []

        /// The part that a lane carries in this epoch.
        func part(on lane: LaneID, _ epoch: LaneEpoch) -> Int? {
            terms.parts.firstIndex { $0.lane == lane && $0.epoch == epoch }
        }

        /// What speaks against a seal: each part has its own record.
        var unsealable: String? {
            for (number, record) in records.enumerated() {
                guard let record else {
                    return "2: \(terms.handoff.text) is sealed, and the record of part \(number) never came"
                }
                if record.part != number || record.pages.map(\.slot) != terms.part(number)?.slots {
                    return "2: \(terms.handoff.text) is sealed on a record that names other slots or generations"
                }
            }
            return nil
        }

        /// What is not lent.
        var slots: ArraySlice<SlotRef> { terms.slots[terms.lent...] }
    }

    /// Grants that are neither sealed nor free again.
    var grants: [Granted] = []
    var contents: [[Tag?]]
    /// The last generation of each slot that anybody was given.
    private var lastGeneration: [UInt32]

    init(slots: Int, layers: Int) {
        contents = Array(repeating: Array(repeating: nil, count: layers), count: slots)
        lastGeneration = Array(repeating: 0, count: slots)
    }

    func grant(of handoff: HandoffID) -> Granted? { grants.first { $0.terms.handoff == handoff } }

    /// A completion record of this handoff came on a lane.
    mutating func came(_ record: CompletionRecord, on lane: LaneID, _ epoch: LaneEpoch) {
        guard let index = grants.firstIndex(where: { $0.terms.handoff == record.handoff }),
            let part = grants[index].part(on: lane, epoch)
        else { return }
        grants[index].records[part] = record
        grants[index].ended.insert(PartSet(part))
    }

    /// A lane says that nothing of this handoff can come on it any more.
    mutating func ended(_ handoff: HandoffID, _ lane: LaneID, _ epoch: LaneEpoch) {
        guard let index = grants.firstIndex(where: { $0.terms.handoff == handoff }),
            let part = grants[index].part(on: lane, epoch)
        else { return }
        grants[index].ended.insert(PartSet(part))
    }

    /// A new promise; says what is wrong with it.
    mutating func grant(
        _ terms: GrantTerms, of document: Int, readers: [HandoffID: DecodeProcess.Sequence]
    ) -> String? {
        let id = terms.handoff
        if let other = grants.first(where: { $0.terms.handoff == id }) {
            return "1: \(id.text) is granted twice: \(TraceText.text(other.terms)) and \(TraceText.text(terms))"
        }
        for part in terms.parts {
            for other in grants {
                for (number, used) in other.terms.parts.enumerated()
                where used.lane == part.lane && !other.ended.has(number) {
                    return
                        "1: lane \(part.lane.value) is given to \(id.text) while \(other.terms.handoff.text) is unsettled"
                }
            }
        }
        for slot in terms.slots[terms.lent...] {
            if let other = grants.first(where: { $0.slots.contains { $0.index == slot.index } }) {
                let state = other.quarantined == nil ? "writable by" : "in quarantine for"
                return "1: slot \(slot.index) is granted to \(id.text) while it is \(state) \(other.terms.handoff.text)"
            }
            if readers.contains(where: { $0.value.slots.contains { $0.index == slot.index } }) {
                return "1: slot \(slot.index) is granted to \(id.text) while a sequence reads it"
            }
            guard slot.generation.value > lastGeneration[Int(slot.index)] else {
                return "1: slot \(slot.index) is granted at generation \(slot.generation.value) again"
            }
            lastGeneration[Int(slot.index)] = slot.generation.value
        }
        grants.append(Granted(terms: terms, document: document, records: terms.parts.map { _ in nil }))
        return nil
    }

    /// The node's own use.
    mutating func lease(_ slot: SlotRef) -> String? {
        if let other = grants.first(where: { $0.slots.contains { $0.index == slot.index } }) {
            return "1: slot \(slot.index) is leased while \(other.terms.handoff.text) may write it"
        }
        guard slot.generation.value > lastGeneration[Int(slot.index)] else {
            return "1: slot \(slot.index) is leased at generation \(slot.generation.value) again"
        }
        lastGeneration[Int(slot.index)] = slot.generation.value
        return nil
    }

    /// A part of a page lands.
    mutating func write(_ tag: Tag, _ target: SlotRef, layers: Range<Int>, part: Int) -> String? {
        let owner = grants.first { grant in
            guard grant.terms.handoff == tag.handoff, let part = grant.terms.part(part) else { return false }
            return part.slot(of: tag.page) == target && part.layers.contains(layers)
        }
        for layer in layers { contents[Int(target.index)][layer] = tag }
        if owner != nil { return nil }
        return
            "1: a write of \(tag.handoff.text) lands in slot \(target.index), generation \(target.generation.value), "
            + "which it may not write"
    }

    /// Whether the pages are whole and this handoff's, or where they are lent those of a prompt that begins in the same
    /// way; says what is not.
    func readable(_ handoff: HandoffID, _ slots: [SlotRef], lent: Int, of document: Int) -> String? {
        for (page, slot) in slots.enumerated() {
            let isWanted = { (tag: Tag?) -> Bool in
                guard let tag, !tag.isCorrupt, tag.page == page, tag.document == document else { return false }
                return page < lent || tag.handoff == handoff
            }
            if let other = contents[Int(slot.index)].first(where: { !isWanted($0) }) {
                let found = other.map {
                    "\($0.isCorrupt ? "corrupt bytes" : "page \($0.page)") of \($0.handoff.text)"
                }
                return "2: page \(page) of \(handoff.text) is read and holds \(found ?? "nothing")"
            }
        }
        return nil
    }
}
