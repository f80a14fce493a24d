import Handoff
import SeededRandom
import Testing

@Suite struct SlotPoolTests {
    @Test func generationsChangeWheneverASlotLeavesItsOwner() throws {
        var pool = SlotPool(slotCount: 1)
        let leased = try need(pool.lease(1))
        #expect(leased[0].generation == Generation(1))
        pool.release(leased[0])
        let again = try need(pool.lease(1))
        #expect(again[0].index == leased[0].index)
        #expect(again[0].generation == Generation(2))
        #expect(pool.state(of: leased[0]) == nil)
        #expect(pool.state(of: again[0]) == .inUse)
    }

    /// The slot that has been free longest is next, whatever was freed since.
    @Test func slotsAreGivenFirstInFirstOut() throws {
        var pool = SlotPool(slotCount: 3)
        let first = try need(pool.lease(2))
        #expect(first.map(\.index) == [0, 1])
        pool.release(first[1])
        pool.release(first[0])
        var taken: [UInt32] = []
        for _ in 0..<20 {
            let slot = try need(pool.lease(1))[0]
            taken.append(slot.index)
            pool.release(slot)
        }
        #expect(taken.prefix(7) == [2, 1, 0, 2, 1, 0, 2])
    }

    @Test func aPoolGivesAllOrNothing() {
        var pool = SlotPool(slotCount: 3)
        let tooMany = pool.lease(4) == nil
        #expect(tooMany)
        let all = pool.lease(3)?.count
        #expect(all == 3)
        let none = pool.lease(0)?.count
        #expect(none == 0)
        let noGrant = pool.grant(1, to: handoff(1)) == nil
        #expect(noGrant)
    }

    @Test func cachedSlotsAreFreeOnlyAfterEviction() throws {
        var pool = SlotPool(slotCount: 1)
        let slot = try need(pool.lease(1))[0]
        pool.keep(slot)
        pool.release(slot)
        #expect(pool.counts.cached == 1)
        pool.retain(slot)
        pool.evict(slot)
        #expect(pool.counts.inUse == 1)
        pool.release(slot)
        #expect(pool.counts.free == 1)
    }

    /// The pool against the plainest model there is, over random operations.
    @Test(arguments: 0..<40 as Range<UInt64>)
    func agreesWithAModel(seed: UInt64) {
        var random = SplitMix64(state: seed &* 0x9E37_79B9_7F4A_7C15)
        var pool = SlotPool(slotCount: 8)
        var model = PoolModel(count: 8)
        for _ in 0..<2000 {
            switch Int.random(in: 0..<7, using: &random) {
            case 0, 1:
                let count = Int.random(in: 0..<4, using: &random)
                let slots = pool.lease(count)
                #expect((slots != nil) == (count <= model.count(.free)))
                for slot in slots ?? [] { model.take(slot) }
            case 2:
                model.pick(.inUse, &random).map {
                    model.users[$0.index, default: 0] += 1
                    pool.retain($0)
                }
            case 3:
                guard let slot = model.pick(.inUse, &random) ?? nil else { continue }
                pool.release(slot)
                model.release(slot)
            case 4:
                guard let slot = model.pick(.inUse, &random), !model.kept.contains(slot.index) else { continue }
                pool.keep(slot)
                model.kept.insert(slot.index)
            case 5:
                guard let slot = model.pick(.cached, &random) else { continue }
                pool.evict(slot)
                model.kept.remove(slot.index)
                model.free(slot)
            default:
                guard let slot = model.pick(.cached, &random) else { continue }
                pool.retain(slot)
                model.states[slot.index] = .inUse
                model.users[slot.index] = 1
            }
            for state in SlotPool.State.allCases { #expect(pool.counts[state] == model.count(state)) }
            #expect(pool.counts.total == 8)
            for index in 0..<UInt32(8) { #expect(pool.generation(at: index)?.value == model.generations[index]) }
        }
    }
}

private struct PoolModel {
    var states: [UInt32: SlotPool.State]
    var generations: [UInt32: UInt32]
    var users: [UInt32: Int] = [:]
    var kept: Set<UInt32> = []

    init(count: UInt32) {
        states = Dictionary(uniqueKeysWithValues: (0..<count).map { ($0, .free) })
        generations = Dictionary(uniqueKeysWithValues: (0..<count).map { ($0, 1) })
    }

    func count(_ state: SlotPool.State) -> Int { states.values.count { $0 == state } }

    func pick(_ state: SlotPool.State, _ random: inout SplitMix64) -> SlotRef? {
        let all = states.filter { $0.value == state }.keys.sorted()
        guard !all.isEmpty else { return nil }
        let index = all[Int.random(in: 0..<all.count, using: &random)]
        return SlotRef(index: index, generation: Generation(generations[index] ?? 0))
    }

    mutating func take(_ slot: SlotRef) {
        #expect(states[slot.index] == .free && generations[slot.index] == slot.generation.value)
        states[slot.index] = .inUse
        users[slot.index] = 1
    }

    mutating func release(_ slot: SlotRef) {
        users[slot.index, default: 0] -= 1
        guard users[slot.index] == 0 else { return }
        if kept.contains(slot.index) { states[slot.index] = .cached } else { free(slot) }
    }

    mutating func free(_ slot: SlotRef) {
        states[slot.index] = .free
        generations[slot.index, default: 0] += 1
    }
}
