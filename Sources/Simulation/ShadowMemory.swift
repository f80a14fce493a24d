import Handoff

/// What a layer of a slot holds: a part of which page of which handoff.
struct Tag: Equatable {
    let handoff: HandoffID
    let page: Int
    var isCorrupt = false
}

/// A second account of a decode node's memory, kept from outside: who may write each slot, who reads it, and what
/// is in it. It believes nothing the machines say that it can see for itself.
struct ShadowMemory {
    struct Granted {
        let terms: GrantTerms
        /// When the grant ended without a seal, in the node's awake time.
        var quarantined: Duration?
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

    /// A new promise; says what is wrong with it.
    mutating func grant(_ terms: GrantTerms, readers: [HandoffID: DecodeProcess.Sequence]) -> String? {
        let id = terms.handoff
        if let other = grants.first(where: { $0.terms.handoff == id }) {
            return "1: \(id.text) is granted twice: \(TraceText.text(other.terms)) and \(TraceText.text(terms))"
        }
        if let other = grants.first(where: { $0.terms.lane == terms.lane }) {
            return "1: lane \(terms.lane.value) is given to \(id.text) while \(other.terms.handoff.text) is unsettled"
        }
        for slot in terms.slots {
            if let other = grants.first(where: { $0.terms.slots.contains { $0.index == slot.index } }) {
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
        grants.append(Granted(terms: terms))
        return nil
    }

    /// The node's own use.
    mutating func lease(_ slot: SlotRef) -> String? {
        if let other = grants.first(where: { $0.terms.slots.contains { $0.index == slot.index } }) {
            return "1: slot \(slot.index) is leased while \(other.terms.handoff.text) may write it"
        }
        guard slot.generation.value > lastGeneration[Int(slot.index)] else {
            return "1: slot \(slot.index) is leased at generation \(slot.generation.value) again"
        }
        lastGeneration[Int(slot.index)] = slot.generation.value
        return nil
    }

    /// A part of a page lands.
    mutating func write(_ tag: Tag, _ target: SlotRef, layers: Range<Int>) -> String? {
        let owner = grants.first { $0.terms.handoff == tag.handoff && $0.terms.slots.contains(target) }
        for layer in layers { contents[Int(target.index)][layer] = tag }
        if owner != nil { return nil }
        return
            "1: a write of \(tag.handoff.text) lands in slot \(target.index), generation \(target.generation.value), "
            + "which it may not write"
    }

    /// Whether the pages are whole and this handoff's; says what is not.
    func readable(_ handoff: HandoffID, _ slots: [SlotRef]) -> String? {
        for (page, slot) in slots.enumerated() {
            let wanted = Tag(handoff: handoff, page: page)
            if let other = contents[Int(slot.index)].first(where: { $0 != wanted }) {
                let found = other.map {
                    "\($0.isCorrupt ? "corrupt bytes" : "page \($0.page)") of \($0.handoff.text)"
                }
                return "2: page \(page) of \(handoff.text) is read and holds \(found ?? "nothing")"
            }
        }
        return nil
    }
}
