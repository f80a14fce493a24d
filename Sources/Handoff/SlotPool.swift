/// Who owns each slot of a slab, and the only code that can make a slot free again.
///
///     free ──lease──▶ inUse ──release──▶ free (generation + 1), or cached while a prefix tree keeps it
///     free ──grant──▶ granted ──seal──▶ inUse               (lent slots: inUse throughout)
///                        └──abort──▶ quarantined ──QuiescenceProof──▶ free (generation + 1)
///
/// Pure: no I/O, no clock, no lock. A node keeps it behind one mutex; the simulation drives it directly.
/// Every operation is O(slots touched). A call that does not fit a slot's state is our own bug and traps.
package struct SlotPool: ~Copyable {
    package enum State: UInt8, Sendable, CaseIterable {
        case free, inUse, granted, quarantined
        /// No sequence uses it, a prefix tree keeps its contents, `evict` makes it free.
        case cached
    }

    /// Slots by state; they always add up to `total`.
    package struct Counts: Equatable, Sendable {
        package var free = 0
        package var inUse = 0
        package var granted = 0
        package var quarantined = 0
        package var cached = 0
        package var total: Int { free + inUse + granted + quarantined + cached }
    }

    private struct Slot {
        var state = State.free
        var keptByCache = false
        var generation = Generation(1)
        var users: UInt32 = 0
    }

    private var slots: [Slot]
    /// Free slot indices from `freeHead` on, the one free longest first. It is handed out next: who still holds an old
    /// promise of a slot then has the greatest chance to be seen.
    private var freeList: [UInt32]
    private var freeHead = 0
    package private(set) var counts: Counts

    package init(slotCount: Int) {
        precondition(slotCount > 0 && slotCount <= Int(UInt32.max), "slot count \(slotCount) out of range")
        slots = Array(repeating: Slot(), count: slotCount)
        freeList = Array(0..<UInt32(slotCount))
        counts = Counts(free: slotCount)
    }

    package var slotCount: Int { slots.count }

    package func state(of slot: SlotRef) -> State? {
        let entry = slots[Int(slot.index)]
        return entry.generation == slot.generation ? entry.state : nil
    }

    /// The current generation at an index that came from outside; nil when the index is no slot.
    package func generation(at index: UInt32) -> Generation? {
        Int(index) < slots.count ? slots[Int(index)].generation : nil
    }

    // MARK: Use by the engine

    /// Takes `count` free slots for this node's own sequences, each with one user; nil when fewer are free.
    package mutating func lease(_ count: Int) -> [SlotRef]? {
        take(count, as: .inUse)
    }

    /// One more user of a slot that is in use or cached.
    package mutating func retain(_ slot: SlotRef) {
        update(slot) { entry in
            precondition(entry.state == .inUse || entry.state == .cached, "retain of a \(entry.state) slot")
            entry.users += 1
            entry.state = .inUse
        }
    }

    /// One user fewer. The last one's leaving frees the slot, or leaves it cached when a prefix tree keeps it.
    package mutating func release(_ slot: SlotRef) {
        var freed = false
        update(slot) { entry in
            precondition(entry.state == .inUse && entry.users > 0, "release of a \(entry.state) slot")
            entry.users -= 1
            guard entry.users == 0 else { return }
            entry.state = entry.keptByCache ? .cached : .free
            freed = !entry.keptByCache
        }
        if freed { becomeFree(slot) }
    }

    /// A prefix tree keeps this slot's contents after its last user leaves.
    package mutating func keep(_ slot: SlotRef) {
        update(slot) { entry in
            precondition(entry.state == .inUse, "keep of a \(entry.state) slot")
            entry.keptByCache = true
        }
    }

    /// The prefix tree lets go of a slot: free at once when nobody uses it, else when its last user leaves.
    package mutating func evict(_ slot: SlotRef) {
        var freed = false
        update(slot) { entry in
            precondition(entry.keptByCache, "evict of a slot no cache keeps")
            entry.keptByCache = false
            guard entry.state == .cached else { return }
            entry.state = .free
            freed = true
        }
        if freed { becomeFree(slot) }
    }

    // MARK: Use by a handoff

    /// Promises `count` free slots to a handoff; nil when fewer are free. In the same step it gets one user more of the
    /// slots that it is lent, which are in use or cached, and keeps it until it ends.
    package mutating func grant(_ count: Int, lending lent: [SlotRef] = [], to handoff: HandoffID) -> Grant? {
        guard let slots = take(count, as: .granted) else { return nil }
        if !isBroken(.loanNotRetained) { for slot in lent { retain(slot) } }
        return Grant(handoff: handoff, lent: lent, slots: slots)
    }

    /// Ends the right to write, makes the slots readable, and hands them to the engine with those that were lent (one
    /// user each). Takes a proof, for a slot that can still be written is not readable.
    package mutating func seal(_ grant: consuming Grant, proof: consuming QuiescenceProof) -> [SlotRef] {
        precondition(proof.handoff == grant.handoff, "a proof for another handoff")
        precondition(proof.kind == .writeComplete, "only complete writes can be sealed")
        let sealed = grant.slots
        for slot in sealed {
            update(slot) { entry in
                precondition(entry.state == .granted, "seal of a \(entry.state) slot")
                entry.state = .inUse
                entry.users = 1
            }
        }
        return grant.lent + sealed
    }

    /// Ends a grant without a seal. The slots may still be written, so nobody gets them until there is proof.
    package mutating func quarantine(_ grant: consuming Grant) -> Quarantine {
        for slot in grant.slots {
            update(slot) { entry in
                precondition(entry.state == .granted, "quarantine of a \(entry.state) slot")
                entry.state = .quarantined
            }
            if isBroken(.grantFromQuarantine) { freeList.append(slot.index) }
        }
        return Quarantine(handoff: grant.handoff, lent: grant.lent, slots: grant.slots)
    }

    /// Frees quarantined slots, at the next generation, and ends the loan. The proof is consumed: without one this does
    /// not compile.
    package mutating func recycle(_ quarantine: consuming Quarantine, proof: consuming QuiescenceProof) {
        precondition(proof.handoff == quarantine.handoff, "a proof for another handoff")
        for slot in quarantine.slots {
            update(slot) { entry in
                precondition(entry.state == .quarantined, "recycle of a \(entry.state) slot")
                entry.state = .free
            }
            becomeFree(slot)
        }
        if !isBroken(.loanNotRetained) { for slot in quarantine.lent { release(slot) } }
    }

    // MARK: Private

    private mutating func take(_ count: Int, as state: State) -> [SlotRef]? {
        precondition(count >= 0, "negative slot count")
        guard count <= freeList.count - freeHead else { return nil }
        var taken: [SlotRef] = []
        taken.reserveCapacity(count)
        for _ in 0..<count {
            let index = freeList[freeHead]
            freeHead += 1
            let slot = SlotRef(index: index, generation: slots[Int(index)].generation)
            update(slot) { entry in
                entry.state = state
                entry.users = state == .inUse ? 1 : 0
            }
            taken.append(slot)
        }
        if freeHead > slots.count {
            freeList.removeFirst(freeHead)
            freeHead = 0
        }
        return taken
    }

    private mutating func becomeFree(_ slot: SlotRef) {
        if !isBroken(.generationKept) { slots[Int(slot.index)].generation = slot.generation.next }
        slots[Int(slot.index)].users = 0
        freeList.append(slot.index)
    }

    private mutating func update(_ slot: SlotRef, _ change: (inout Slot) -> Void) {
        let index = Int(slot.index)
        precondition(slots[index].generation == slot.generation, "a slot reference of an older generation")
        let before = slots[index].state
        change(&slots[index])
        let after = slots[index].state
        guard before != after else { return }
        counts[before] -= 1
        counts[after] += 1
    }
}

extension SlotPool.Counts {
    package subscript(state: SlotPool.State) -> Int {
        get {
            switch state {
            case .free: free
            case .inUse: inUse
            case .granted: granted
            case .quarantined: quarantined
            case .cached: cached
            }
        }
        set {
            switch state {
            case .free: free = newValue
            case .inUse: inUse = newValue
            case .granted: granted = newValue
            case .quarantined: quarantined = newValue
            case .cached: cached = newValue
            }
        }
    }
}
