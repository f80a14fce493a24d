package import Handoff

/// Decides what each step computes, and which sequence owns which pages. Pure: no I/O, clock, lock or randomness;
/// the same calls give the same plans.
///
/// Sequences are ordered by age. Rules that hold for both roles:
/// - The oldest sequence with work left always gets work, unless pages it needs are held outside this scheduler.
/// - A chunk ends at a page border or at the end of the sequence, so a page is final after one chunk.
/// - A sequence's tokens are never dropped: preemption gives back pages only, and it is computed again later.
package struct Scheduler: Sendable {
    package enum Role: Sendable {
        /// Computes whole prompts, keeps their pages in the prefix tree, gives no logits.
        case prefill
        /// Generates; computes prompts itself only for sequences that come without pages or lost them.
        case decode
    }

    package struct Limits: Sendable {
        package var role: Role
        /// Sequences with pages at once (prefill: prompts being computed), and rows with logits per step. More may
        /// come with pages of their own; the oldest ones generate then.
        package var maxRunning: Int
        /// Prompt positions per step, over all sequences.
        package var chunkTokens: Int
        package var pageTokens: Int
        /// Tokens of one sequence at most.
        package var tokenLimit: Int
        /// Tokens drafted ahead for each generating sequence; 0: none.
        package var drafts: Int

        package init(
            role: Role, maxRunning: Int, chunkTokens: Int, pageTokens: Int, tokenLimit: Int, drafts: Int = 0
        ) {
            precondition(chunkTokens >= pageTokens && chunkTokens % pageTokens == 0, "chunk of \(chunkTokens) tokens")
            precondition(maxRunning > 0 && tokenLimit > 0 && drafts >= 0)
            self.drafts = drafts
            self.role = role
            self.maxRunning = maxRunning
            self.chunkTokens = chunkTokens
            self.pageTokens = pageTokens
            self.tokenLimit = tokenLimit
        }

        func pages(_ tokens: Int) -> Int { (tokens + pageTokens - 1) / pageTokens }
    }

    package enum Phase: Sendable {
        /// Has no pages.
        case waiting
        /// Has pages and work.
        case running
        /// Prefilled or cancelled; its pages are still read by somebody.
        case pinned
    }

    package struct Sequence: Sendable {
        package let id: HandoffID
        package internal(set) var tokens: [TokenID]
        /// Tokens that may follow; those with a page are verified by the next step.
        package internal(set) var drafts: [TokenID] = []
        /// Positions whose KV is in `slots`.
        package internal(set) var computed = 0
        /// Block table.
        package internal(set) var slots: [SlotRef] = []
        package internal(set) var phase = Phase.waiting
        package internal(set) var preemptions = 0
        /// Tokens that the prefix tree had.
        package internal(set) var cachedTokens = 0
        var path = PrefixTree.Path()
        /// Age: lower is older.
        let order: UInt64

        var remaining: Int { tokens.count - computed }
    }

    package let limits: Limits
    private var sequences: [Sequence?] = []
    private var freeIndices: [Int] = []
    /// Both oldest first.
    package private(set) var running: [SequenceHandle] = []
    package private(set) var waiting: [SequenceHandle] = []
    package private(set) var pinnedCount = 0
    package private(set) var tree: PrefixTree
    private var nextOrder: UInt64 = 0
    private var shares: [(sequence: SequenceHandle, tokens: Int)] = []

    package init(limits: Limits) {
        self.limits = limits
        tree = PrefixTree(pageTokens: limits.pageTokens)
    }

    package subscript(_ handle: SequenceHandle) -> Sequence {
        guard let sequence = sequences[handle.index] else { preconditionFailure("a sequence that is gone") }
        return sequence
    }

    // MARK: Sequences come and go

    /// Enters a sequence without pages.
    package mutating func add(_ id: HandoffID, tokens: [TokenID]) -> SequenceHandle {
        precondition(!tokens.isEmpty && tokens.count <= limits.tokenLimit, "\(tokens.count) tokens")
        let handle = insert(Sequence(id: id, tokens: tokens, order: takeOrder()))
        waiting.append(handle)
        return handle
    }

    /// Enters a sequence with the KV of all its tokens; the last position will be computed again for its logits.
    package mutating func add(_ id: HandoffID, tokens: [TokenID], slots: [SlotRef]) -> SequenceHandle {
        precondition(!tokens.isEmpty && tokens.count <= limits.tokenLimit, "\(tokens.count) tokens")
        precondition(slots.count == limits.pages(tokens.count), "\(slots.count) pages for \(tokens.count) tokens")
        var sequence = Sequence(id: id, tokens: tokens, order: takeOrder())
        sequence.slots = slots
        sequence.computed = Self.firstWritten(tokens: tokens.count)
        sequence.phase = .running
        let handle = insert(sequence)
        running.append(handle)
        return handle
    }

    /// The next token of a sequence that generates: its computed positions are all its tokens, or more where the token
    /// was drafted.
    package mutating func append(_ token: TokenID, to handle: SequenceHandle) {
        update(handle) { sequence in
            sequence.computed = sequence.tokens.count
            sequence.tokens.append(token)
        }
    }

    /// Tokens that may follow those of a sequence that generates.
    package mutating func draft(_ tokens: [TokenID], for handle: SequenceHandle) {
        update(handle) { $0.drafts = tokens }
    }

    /// Takes a sequence out of the running or waiting ones; its pages stay with it until `remove`.
    package mutating func stop(_ handle: SequenceHandle) {
        guard self[handle].phase != .pinned else { return }
        running.removeAll { $0 == handle }
        waiting.removeAll { $0 == handle }
        update(handle) { $0.phase = .pinned }
        pinnedCount += 1
    }

    /// Gives a sequence's pages back and forgets it.
    package mutating func remove(_ handle: SequenceHandle, pool: inout SlotPool) {
        stop(handle)
        pinnedCount -= 1
        let sequence = self[handle]
        tree.release(sequence.path)
        for slot in sequence.slots { pool.release(slot) }
        sequences[handle.index] = nil
        freeIndices.append(handle.index)
    }

    /// Drops every page of the prefix tree that no sequence uses. Returns how many.
    package mutating func dropCache(pool: inout SlotPool) -> Int {
        let evicted = tree.evict(upTo: Int.max)
        for slot in evicted { pool.evict(slot) }
        return evicted.count
    }

    /// No later prompt takes this page from the prefix tree.
    package mutating func hideFromCache(_ slot: SlotRef) { tree.hide(slot) }

    /// The first position whose KV the engine writes for a sequence that came with the KV of all its tokens: the
    /// last one, computed again for its logits. Pages that end before it are never written while the sequence has them.
    package static func firstWritten(tokens: Int) -> Int { tokens - 1 }

    // MARK: Steps

    /// Decides the next step. An empty plan means that there is nothing to do, or that pages are missing which
    /// only others (handoffs, pinned sequences) can give back.
    package mutating func plan(pool: inout SlotPool, into plan: inout StepPlan) {
        plan.clear()
        if limits.role == .decode { planGeneration(pool: &pool, plan: &plan) }
        admit(pool: &pool, plan: &plan)
        planPrompts(pool: &pool, plan: &plan)
    }

    /// Says that the chunks of the plan were computed. Prefill: enters complete pages into the prefix tree, and
    /// returns the sequences that are complete now (pinned until `remove`).
    package mutating func complete(_ plan: StepPlan, pool: inout SlotPool) -> [SequenceHandle] {
        var done: [SequenceHandle] = []
        for chunk in plan.chunks {
            update(chunk.sequence) { sequence in
                sequence.computed = chunk.positions.upperBound - chunk.drafts
                sequence.drafts = []
            }
            guard limits.role == .prefill else { continue }
            remember(chunk.sequence, pool: &pool)
            if self[chunk.sequence].remaining == 0, self[chunk.sequence].phase == .running {
                stop(chunk.sequence)
                done.append(chunk.sequence)
            }
        }
        return done
    }

    /// Pages that waiting sequences need to run, and one for the growth of each running one.
    package var pagesWanted: Int {
        guard limits.role == .decode else { return 0 }
        return waiting.reduce(running.count) { $0 + limits.pages(self[$1].tokens.count) }
    }

    /// Prompt positions not yet computed, of running and waiting sequences.
    package var queuedTokens: Int {
        running.reduce(0) { $0 + max(0, self[$1].remaining - (limits.role == .decode ? 1 : 0)) }
            + waiting.reduce(0) { $0 + self[$1].remaining }
    }

    // MARK: Generation

    /// One position for every sequence that generates, oldest first; makes room by preempting the youngest.
    private mutating func planGeneration(pool: inout SlotPool, plan: inout StepPlan) {
        var at = 0
        while at < running.count, plan.chunks.count < limits.maxRunning {
            let handle = running[at]
            let (count, remaining) = (self[handle].tokens.count, self[handle].remaining)
            if remaining == 1, grow(handle, to: limits.pages(count), pool: &pool, plan: &plan) {
                plan.chunks.append(StepChunk(sequence: handle, positions: count - 1..<count, wantsLogits: true))
            }
            // A sequence that preempted itself is no longer at this place.
            if at < running.count, running[at] == handle { at += 1 }
        }
        // When all have what they need: drafts take nobody's pages.
        for index in plan.chunks.indices {
            let (chunk, drafts) = (plan.chunks[index], roomForDrafts(plan.chunks[index].sequence, pool: &pool))
            plan.chunks[index].positions = chunk.positions.lowerBound..<chunk.positions.upperBound + drafts
            plan.chunks[index].drafts = drafts
        }
    }

    /// How many of a sequence's drafts have a place in its pages. More pages are taken for these drafts and those after
    /// them, but only while enough others are free for what waits, and for the next page of each that runs or will.
    private mutating func roomForDrafts(_ handle: SequenceHandle, pool: inout SlotPool) -> Int {
        guard limits.drafts > 0 else { return 0 }
        let (count, drafts) = (self[handle].tokens.count, self[handle].drafts.count)
        let wanted = limits.pages(min(count + drafts + limits.drafts, limits.tokenLimit))
        let missing = wanted - self[handle].slots.count
        if missing > 0, pool.counts.free >= pagesWanted + waiting.count + missing, let slots = pool.lease(missing) {
            update(handle) { $0.slots += slots }
        }
        let room = min(self[handle].slots.count * limits.pageTokens, limits.tokenLimit) - count
        return max(0, min(drafts, room))
    }

    /// True when the sequence has that many pages now. When pages are missing the youngest sequence gives its own;
    /// if that is this one, it waits: as a preempted one, or as it is when it is alone.
    private mutating func grow(
        _ handle: SequenceHandle, to pages: Int, pool: inout SlotPool, plan: inout StepPlan
    ) -> Bool {
        while true {
            let missing = pages - self[handle].slots.count
            if missing <= 0 { return true }
            if let slots = pool.lease(missing) {
                update(handle) { $0.slots += slots }
                return true
            }
            guard running.count > 1, let youngest = running.last else { return false }
            preempt(youngest, pool: &pool, plan: &plan)
            if youngest == handle { return false }
        }
    }

    private mutating func preempt(_ handle: SequenceHandle, pool: inout SlotPool, plan: inout StepPlan) {
        for slot in self[handle].slots { pool.release(slot) }
        update(handle) { sequence in
            sequence.slots = []
            sequence.computed = 0
            sequence.drafts = []
            sequence.phase = .waiting
            sequence.preemptions += 1
        }
        running.removeAll { $0 == handle }
        insertByAge(handle, into: \.waiting)
        plan.preempted.append(handle)
    }

    // MARK: Admission

    /// Gives waiting sequences their pages, oldest first. Nobody overtakes one that lacks pages; one that waits for
    /// a page which another prompt is about to compute lets the others pass.
    private mutating func admit(pool: inout SlotPool, plan: inout StepPlan) {
        var at = 0
        while at < waiting.count, running.count < limits.maxRunning {
            let handle = waiting[at]
            if limits.role == .prefill, isBeingComputed(nextPageOf: handle) {
                at += 1
                continue
            }
            let fits =
                limits.role == .prefill
                ? admitPrompt(handle, pool: &pool, plan: &plan) : resume(handle, pool: &pool, plan: &plan)
            guard fits else { break }
            waiting.removeAll { $0 == handle }
            plan.admitted.append(handle)
            update(handle) { $0.phase = .running }
            insertByAge(handle, into: \.running)
            if limits.role == .prefill, self[handle].remaining == 0 {
                stop(handle)
                plan.alreadyComputed.append(handle)
            }
        }
    }

    /// Whether a running prompt is about to compute the first page of this one that the prefix tree lacks. Prompts
    /// that come together and begin alike (the n answers of one request) are then computed once.
    private func isBeingComputed(nextPageOf handle: SequenceHandle) -> Bool {
        let tokens = self[handle].tokens
        let end = (tree.cachedPages(tokens) + 1) * limits.pageTokens
        guard end <= tokens.count else { return false }
        return running.contains { other in
            let leader = self[other]
            return leader.computed < end && leader.tokens.count >= end
                && leader.tokens[..<end].elementsEqual(tokens[..<end])
        }
    }

    /// Pages for all of a prompt: those the prefix tree has, and new ones, for which unused ones are evicted.
    private mutating func admitPrompt(
        _ handle: SequenceHandle, pool: inout SlotPool, plan: inout StepPlan
    ) -> Bool {
        let tokens = self[handle].tokens
        let (path, cached) = tree.acquire(tokens)
        let missing = limits.pages(tokens.count) - cached.count
        guard missing <= pool.counts.free + tree.unusedCount else {
            tree.release(path)
            return false
        }
        for slot in cached { pool.retain(slot) }
        if missing > pool.counts.free {
            let evicted = tree.evict(upTo: missing - pool.counts.free)
            for slot in evicted { pool.evict(slot) }
            plan.evictedPages += evicted.count
        }
        guard let slots = pool.lease(missing) else { preconditionFailure("evicted pages are not free") }
        let cachedTokens = cached.count * limits.pageTokens
        update(handle) { sequence in
            sequence.path = path
            sequence.slots = cached + slots
            sequence.cachedTokens = cachedTokens
            sequence.computed = sequence.cachedTokens
        }
        return true
    }

    /// Pages for all tokens of a sequence that lost them or came without, and one to grow into, so that it is not
    /// preempted again at once. Younger sequences give way when that is enough.
    private mutating func resume(_ handle: SequenceHandle, pool: inout SlotPool, plan: inout StepPlan) -> Bool {
        let pages = limits.pages(self[handle].tokens.count)
        let order = self[handle].order
        let younger = running.reversed().prefix { self[$0].order > order }
        let reachable = younger.reduce(pool.counts.free) { $0 + self[$1].slots.count }
        let wanted = running.count > younger.count ? pages + 1 : pages
        guard wanted <= reachable else { return false }
        for victim in Array(younger) where pool.counts.free < wanted {
            preempt(victim, pool: &pool, plan: &plan)
            plan.chunks.removeAll { $0.sequence == victim }
        }
        guard let slots = pool.lease(pages) else { return false }
        update(handle) { $0.slots = slots }
        return true
    }

    // MARK: Prompts

    /// Shares the step's prompt positions: the oldest prompt gets at least half, so that all come to an end; the
    /// rest goes to the shortest ones first, so that short prompts do not wait behind long ones; what is left
    /// goes to the oldest again.
    private mutating func planPrompts(pool: inout SlotPool, plan: inout StepPlan) {
        let ready = limits.role == .decode ? 1 : 0
        // Kept from step to step for its capacity.
        var shares: [(sequence: SequenceHandle, tokens: Int)] = []
        swap(&shares, &self.shares)
        defer { self.shares = shares }
        shares.removeAll(keepingCapacity: true)
        for handle in running where self[handle].remaining > ready { shares.append((handle, 0)) }
        guard !shares.isEmpty else { return }
        var budget = limits.chunkTokens
        give(&shares[0], of: shares.count > 1 ? max(limits.pageTokens, budget / 2) : budget, budget: &budget)
        let others = shares.indices.dropFirst().sorted { a, b in
            (self[shares[a].sequence].remaining, a) < (self[shares[b].sequence].remaining, b)
        }
        for at in others { give(&shares[at], of: budget, budget: &budget) }
        give(&shares[0], of: budget, budget: &budget)
        var logitRows = plan.chunks.count
        for share in shares where share.tokens > 0 {
            let sequence = self[share.sequence]
            let end = sequence.computed + share.tokens
            let wantsLogits = limits.role == .decode && end == sequence.tokens.count
            if wantsLogits {
                // More sequences than the batch has rows for: this one's last chunk waits.
                guard logitRows < limits.maxRunning else { continue }
                logitRows += 1
                _ = roomForDrafts(share.sequence, pool: &pool)
            }
            plan.chunks.append(
                StepChunk(sequence: share.sequence, positions: sequence.computed..<end, wantsLogits: wantsLogits))
        }
    }

    /// Adds to a share as much of `offer` as the sequence can use, ending at a page border or the sequence's end.
    private func give(_ share: inout (sequence: SequenceHandle, tokens: Int), of offer: Int, budget: inout Int) {
        let sequence = self[share.sequence]
        let start = sequence.computed + share.tokens
        var end = min(start + offer, sequence.tokens.count)
        if end < sequence.tokens.count { end = end / limits.pageTokens * limits.pageTokens }
        guard end > start else { return }
        share.tokens += end - start
        budget -= end - start
    }

    /// Enters the pages of a sequence that became complete into the prefix tree.
    private mutating func remember(_ handle: SequenceHandle, pool: inout SlotPool) {
        var sequence = self[handle]
        while (sequence.path.pageCount + 1) * limits.pageTokens <= sequence.computed {
            let page = sequence.path.pageCount
            let tokens = sequence.tokens[page * limits.pageTokens..<(page + 1) * limits.pageTokens]
            let slot = sequence.slots[page]
            if tree.extend(&sequence.path, tokens: tokens, slot: slot) { pool.keep(slot) }
        }
        sequences[handle.index] = sequence
    }

    // MARK: Storage

    private mutating func takeOrder() -> UInt64 {
        nextOrder += 1
        return nextOrder
    }

    private mutating func insert(_ sequence: Sequence) -> SequenceHandle {
        if let index = freeIndices.popLast() {
            sequences[index] = sequence
            return SequenceHandle(index: index)
        }
        sequences.append(sequence)
        return SequenceHandle(index: sequences.count - 1)
    }

    private mutating func update(_ handle: SequenceHandle, _ change: (inout Sequence) -> Void) {
        precondition(sequences[handle.index] != nil, "a sequence that is gone")
        // Just checked; unwrapped in place, because taking it out would copy its tokens.
        change(&sequences[handle.index]!)
    }

    private mutating func insertByAge(_ handle: SequenceHandle, into list: WritableKeyPath<Self, [SequenceHandle]>) {
        let order = self[handle].order
        let place = self[keyPath: list].firstIndex { self[$0].order > order } ?? self[keyPath: list].count
        self[keyPath: list].insert(handle, at: place)
    }
}
