import Engine
import Handoff
import SeededRandom
import Testing

@Suite struct SchedulerTests {
    private static let page = 16

    private func id(_ request: Int) -> HandoffID {
        HandoffID(router: Incarnation(1), request: UInt64(request), attempt: 1)
    }

    private func limits(_ role: Scheduler.Role, chunk: Int = 64, running: Int = 8) -> Scheduler.Limits {
        .init(role: role, maxRunning: running, chunkTokens: chunk, pageTokens: Self.page, tokenLimit: 1 << 16)
    }

    private func tokens(_ count: Int, first: Int = 0) -> [TokenID] { (0..<count).map { TokenID(first + $0) } }

    // MARK: Prefill

    @Test func chunksEndAtPageBorders() {
        var pool = SlotPool(slotCount: 64)
        var scheduler = Scheduler(limits: limits(.prefill))
        var plan = StepPlan()
        let handle = scheduler.add(id(1), tokens: tokens(150))
        var ends: [Int] = []
        while true {
            scheduler.plan(pool: &pool, into: &plan)
            guard let chunk = plan.chunks.first else { break }
            ends.append(chunk.positions.upperBound)
            #expect(!chunk.wantsLogits)
            _ = scheduler.complete(plan, pool: &pool)
        }
        #expect(ends == [64, 128, 150])
        #expect(scheduler[handle].phase == .pinned)
        #expect(scheduler[handle].slots.count == 10)
    }

    @Test func aShortPromptDoesNotWaitBehindALongOne() {
        var pool = SlotPool(slotCount: 1024)
        var scheduler = Scheduler(limits: limits(.prefill, chunk: 128))
        var plan = StepPlan()
        let long = scheduler.add(id(1), tokens: tokens(8000))
        let short = scheduler.add(id(2), tokens: tokens(40, first: 9000))
        scheduler.plan(pool: &pool, into: &plan)
        #expect(plan.chunks.contains { $0.sequence == short && $0.positions == 0..<40 })
        // What the short one leaves goes to the long one.
        #expect(plan.chunks.first == StepChunk(sequence: long, positions: 0..<80, wantsLogits: false))
        #expect(plan.rowCount <= 128)
    }

    @Test func theOldestPromptAlwaysGetsHalf() {
        var pool = SlotPool(slotCount: 4096)
        var scheduler = Scheduler(limits: limits(.prefill, chunk: 128))
        var plan = StepPlan()
        let long = scheduler.add(id(1), tokens: tokens(1000))
        var next = 2
        var steps = 0
        while scheduler[long].phase != .pinned {
            // Short prompts keep coming.
            for _ in 0..<4 {
                _ = scheduler.add(id(next), tokens: tokens(100, first: next * 1000))
                next += 1
            }
            scheduler.plan(pool: &pool, into: &plan)
            for done in scheduler.complete(plan, pool: &pool) where done != long {
                scheduler.remove(done, pool: &pool)
            }
            steps += 1
        }
        #expect(steps <= 1000 / 64 + 1)
    }

    @Test func aSecondPromptTakesThePagesOfTheFirst() {
        var pool = SlotPool(slotCount: 64)
        var scheduler = Scheduler(limits: limits(.prefill, chunk: 256))
        var plan = StepPlan()
        let first = scheduler.add(id(1), tokens: tokens(100))
        scheduler.plan(pool: &pool, into: &plan)
        #expect(scheduler.complete(plan, pool: &pool) == [first])
        let second = scheduler.add(id(2), tokens: tokens(70) + [9, 9, 9])
        scheduler.plan(pool: &pool, into: &plan)
        #expect(scheduler[second].cachedTokens == 64)
        #expect(scheduler[second].slots.prefix(4) == scheduler[first].slots.prefix(4))
        #expect(plan.chunks == [StepChunk(sequence: second, positions: 64..<73, wantsLogits: false)])
        _ = scheduler.complete(plan, pool: &pool)
        // All of it in whole pages: nothing to compute.
        let third = scheduler.add(id(3), tokens: tokens(96))
        scheduler.plan(pool: &pool, into: &plan)
        #expect(plan.chunks.isEmpty && plan.alreadyComputed == [third])
        for handle in [first, second, third] { scheduler.remove(handle, pool: &pool) }
        #expect(pool.counts.cached == 6 && pool.counts.free == 58)
        #expect(scheduler.dropCache(pool: &pool) == 6)
        #expect(pool.counts.free == 64)
    }

    @Test func promptsThatBeginAlikeAreComputedOnce() {
        var pool = SlotPool(slotCount: 64)
        var scheduler = Scheduler(limits: limits(.prefill, chunk: 32))
        var plan = StepPlan()
        let handles = (1...3).map { scheduler.add(id($0), tokens: tokens(80) + [TokenID(1000 + $0)]) }
        let other = scheduler.add(id(9), tokens: tokens(20, first: 5000))
        var computed = 0
        while !scheduler.running.isEmpty || !scheduler.waiting.isEmpty {
            scheduler.plan(pool: &pool, into: &plan)
            if computed == 0 { #expect(plan.admitted == [handles[0], other]) }
            computed += plan.rowCount
            _ = scheduler.complete(plan, pool: &pool)
        }
        #expect(computed == 81 + 1 + 1 + 20)
        #expect(handles.map { scheduler[$0].cachedTokens } == [0, 80, 80])
    }

    @Test func unusedCacheMakesRoom() {
        var pool = SlotPool(slotCount: 8)
        var scheduler = Scheduler(limits: limits(.prefill, chunk: 256))
        var plan = StepPlan()
        for round in 0..<5 {
            let handle = scheduler.add(id(round), tokens: tokens(128, first: 1000 * round))
            scheduler.plan(pool: &pool, into: &plan)
            #expect(plan.evictedPages == (round == 0 ? 0 : 8))
            #expect(scheduler.complete(plan, pool: &pool) == [handle])
            // Pinned pages are nobody else's.
            let waiting = scheduler.add(id(100 + round), tokens: tokens(16, first: 50_000))
            scheduler.plan(pool: &pool, into: &plan)
            #expect(plan.chunks.isEmpty && scheduler.waiting == [waiting])
            scheduler.remove(waiting, pool: &pool)
            scheduler.remove(handle, pool: &pool)
        }
    }

    // MARK: Decode

    @Test func theYoungestIsPreemptedAndComesBackWithAllItsTokens() {
        var pool = SlotPool(slotCount: 4)
        var scheduler = Scheduler(limits: limits(.decode))
        var plan = StepPlan()
        let older = scheduler.add(id(1), tokens: tokens(32), slots: pool.lease(2)!)
        let younger = scheduler.add(id(2), tokens: tokens(32, first: 100), slots: pool.lease(2)!)
        generate(&scheduler, &plan, &pool)
        // Both want a third page now.
        scheduler.plan(pool: &pool, into: &plan)
        #expect(plan.preempted == [younger])
        #expect(plan.chunks == [StepChunk(sequence: older, positions: 32..<33, wantsLogits: true)])
        #expect(scheduler[younger].tokens.count == 33 && scheduler[younger].slots.isEmpty)
        #expect(scheduler.pagesWanted == 3 + 1)
        complete(&scheduler, plan, &pool)
        scheduler.remove(older, pool: &pool)
        scheduler.plan(pool: &pool, into: &plan)
        #expect(plan.chunks == [StepChunk(sequence: younger, positions: 0..<33, wantsLogits: true)])
        #expect(scheduler[younger].preemptions == 1)
    }

    @Test func moreSequencesThanRowsTakeTurnsByAge() {
        var pool = SlotPool(slotCount: 16)
        var scheduler = Scheduler(limits: limits(.decode, running: 2))
        var plan = StepPlan()
        let handles = (1...4).map { scheduler.add(id($0), tokens: tokens(5), slots: pool.lease(1)!) }
        scheduler.plan(pool: &pool, into: &plan)
        #expect(plan.chunks.map(\.sequence) == Array(handles[0..<2]))
        scheduler.remove(handles[0], pool: &pool)
        scheduler.plan(pool: &pool, into: &plan)
        #expect(plan.chunks.map(\.sequence) == Array(handles[1..<3]))
    }

    @Test func anOlderSequenceThatWaitsTakesThePagesOfAYoungerOne() {
        var pool = SlotPool(slotCount: 4)
        var scheduler = Scheduler(limits: limits(.decode))
        var plan = StepPlan()
        let older = scheduler.add(id(1), tokens: tokens(40))
        let younger = scheduler.add(id(2), tokens: tokens(20), slots: pool.lease(2)!)
        scheduler.plan(pool: &pool, into: &plan)
        #expect(plan.preempted == [younger])
        #expect(plan.chunks == [StepChunk(sequence: older, positions: 0..<40, wantsLogits: true)])
    }

    /// Pages for drafts are taken while many are free, and left to those who need them while few are.
    @Test(arguments: [(slots: 8, drafts: 3), (slots: 3, drafts: 1)])
    func draftsTakeNobodysPages(memory: (slots: Int, drafts: Int)) {
        var pool = SlotPool(slotCount: memory.slots)
        var speculating = limits(.decode)
        speculating.drafts = 3
        var scheduler = Scheduler(limits: speculating)
        var plan = StepPlan()
        let older = scheduler.add(id(1), tokens: tokens(14), slots: pool.lease(1)!)
        let younger = scheduler.add(id(2), tokens: tokens(15, first: 100), slots: pool.lease(1)!)
        generate(&scheduler, &plan, &pool)
        scheduler.draft([1, 2, 3], for: older)
        // In what is left of its page, or beyond.
        scheduler.plan(pool: &pool, into: &plan)
        #expect(plan.chunks.first?.drafts == memory.drafts)
        complete(&scheduler, plan, &pool)
        // The younger one needs its second page now.
        #expect(scheduler[younger].tokens.count == 17)
        scheduler.plan(pool: &pool, into: &plan)
        #expect(plan.preempted.isEmpty && plan.chunks.contains { $0.sequence == younger })
    }

    @Test func aLoneSequenceWaitsForPagesThatOthersHold() {
        var pool = SlotPool(slotCount: 2)
        var scheduler = Scheduler(limits: limits(.decode))
        var plan = StepPlan()
        let handle = scheduler.add(id(1), tokens: tokens(16), slots: pool.lease(1)!)
        let elsewhere = pool.lease(1)!
        generate(&scheduler, &plan, &pool)
        scheduler.plan(pool: &pool, into: &plan)
        #expect(plan.chunks.isEmpty && plan.preempted.isEmpty)
        pool.release(elsewhere[0])
        scheduler.plan(pool: &pool, into: &plan)
        #expect(plan.chunks == [StepChunk(sequence: handle, positions: 16..<17, wantsLogits: true)])
    }

    /// Random arrivals, ends and grants on a memory that is too small: nobody starves or loses tokens, work on the
    /// oldest never stops, and at the end every page is free.
    @Test(arguments: UInt64(1)...30)
    func decodeSurvivesAMemoryThatIsTooSmall(seed: UInt64) {
        var random = SplitMix64(state: seed)
        let total = 24
        var pool = SlotPool(slotCount: total)
        var scheduler = Scheduler(limits: limits(.decode, running: 6))
        var plan = StepPlan()
        var lengths: [SequenceHandle: Int] = [:]
        var arrivals = 40
        var ended = 0
        var steps = 0
        var granted: [SlotRef] = []
        while ended < 40 {
            steps += 1
            #expect(steps < 20_000, "no progress")
            if steps >= 20_000 { return }
            if arrivals > 0, Int.random(in: 0..<4, using: &random) == 0 {
                let prompt = Int.random(in: 1...180, using: &random)
                let all = tokens(prompt, first: arrivals)
                // Half come sealed, as from a handoff; half prefill here.
                let slots = Bool.random(using: &random) ? pool.lease((prompt + 15) / 16) : nil
                let handle =
                    slots.map { scheduler.add(id(arrivals), tokens: all, slots: $0) }
                    ?? scheduler.add(id(arrivals), tokens: all)
                lengths[handle] = prompt + Int.random(in: 1...150, using: &random)
                arrivals -= 1
            }
            // Some pages come and go with handoffs that are still in flight.
            if granted.isEmpty, let some = pool.lease(min(2, pool.counts.free)) { granted = some }
            if Int.random(in: 0..<3, using: &random) == 0 {
                for slot in granted { pool.release(slot) }
                granted = []
            }
            let before = lengths.keys.map { ($0, scheduler[$0].tokens) }
            scheduler.plan(pool: &pool, into: &plan)
            for (handle, tokens) in before { #expect(scheduler[handle].tokens == tokens) }
            check(scheduler, plan)
            complete(&scheduler, plan, &pool)
            for (handle, length) in lengths where scheduler[handle].tokens.count >= length {
                scheduler.remove(handle, pool: &pool)
                lengths[handle] = nil
                ended += 1
            }
        }
        for slot in granted { pool.release(slot) }
        #expect(pool.counts.free == total)
    }

    @Test(arguments: UInt64(1)...20)
    func prefillEndsEveryPromptAndAccountsForEveryPage(seed: UInt64) {
        var random = SplitMix64(state: seed)
        let total = 40
        var pool = SlotPool(slotCount: total)
        var scheduler = Scheduler(limits: limits(.prefill, running: 5))
        var plan = StepPlan()
        var arrivals = 60
        var ended = 0
        var pinned: [SequenceHandle] = []
        var steps = 0
        while ended < 60 || !pinned.isEmpty {
            steps += 1
            #expect(steps < 20_000, "no progress")
            if steps >= 20_000 { return }
            if arrivals > 0, Bool.random(using: &random) {
                // Few distinct beginnings, so that prefixes are shared.
                let length = Int.random(in: 1...400, using: &random)
                let start = Int.random(in: 0..<3, using: &random) * 10_000
                let handle = scheduler.add(id(arrivals), tokens: tokens(length, first: start))
                arrivals -= 1
                if Int.random(in: 0..<8, using: &random) == 0 {
                    scheduler.remove(handle, pool: &pool)
                    ended += 1
                }
            }
            scheduler.plan(pool: &pool, into: &plan)
            #expect(plan.rowCount <= 64)
            pinned += plan.alreadyComputed
            ended += plan.alreadyComputed.count
            for chunk in plan.chunks {
                let end = chunk.positions.upperBound
                #expect(end % Self.page == 0 || end == scheduler[chunk.sequence].tokens.count)
                #expect(scheduler[chunk.sequence].slots.count * Self.page >= end)
            }
            let done = scheduler.complete(plan, pool: &pool)
            pinned += done
            ended += done.count
            if !pinned.isEmpty, Bool.random(using: &random) {
                scheduler.remove(pinned.remove(at: Int.random(in: 0..<pinned.count, using: &random)), pool: &pool)
            }
        }
        #expect(pool.counts.free + pool.counts.cached == total)
        #expect(pool.counts.cached == scheduler.tree.pageCount)
        _ = scheduler.dropCache(pool: &pool)
        #expect(pool.counts.free == total)
    }

    // MARK: Private

    private func check(_ scheduler: Scheduler, _ plan: StepPlan) {
        var seen = Set<SequenceHandle>()
        var used = Set<SlotRef>()
        for handle in scheduler.running {
            for slot in scheduler[handle].slots { #expect(used.insert(slot).inserted, "a page of two sequences") }
        }
        for chunk in plan.chunks {
            let sequence = scheduler[chunk.sequence]
            #expect(seen.insert(chunk.sequence).inserted, "a sequence twice in a step")
            #expect(sequence.phase == .running && chunk.positions.lowerBound == sequence.computed)
            #expect(sequence.slots.count * Self.page >= chunk.positions.upperBound)
            #expect(chunk.wantsLogits == (chunk.positions.upperBound == sequence.tokens.count))
        }
        if let oldest = scheduler.running.first, scheduler.running.count > 1 {
            #expect(seen.contains(oldest), "the oldest stands still")
        }
    }

    private func generate(_ scheduler: inout Scheduler, _ plan: inout StepPlan, _ pool: inout SlotPool) {
        scheduler.plan(pool: &pool, into: &plan)
        complete(&scheduler, plan, &pool)
    }

    /// Completes a step of the decode role; every row with logits gives a token.
    private func complete(_ scheduler: inout Scheduler, _ plan: StepPlan, _ pool: inout SlotPool) {
        _ = scheduler.complete(plan, pool: &pool)
        for chunk in plan.chunks where chunk.wantsLogits {
            scheduler.append(TokenID(chunk.positions.upperBound % 7), to: chunk.sequence)
        }
    }
}
