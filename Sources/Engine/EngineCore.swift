import Handoff
import Kernels
import Synchronization
import Threads

/// The engine loop's state and steps; lives on the loop's thread alone.
final class EngineCore {
    /// What the loop knows of a job beside its sequence.
    struct Job {
        var id: HandoffID
        /// Decode only.
        var sampler: Sampler?
        var received: ContinuousClock.Instant
        /// Prefill: when its pages were allocated. Decode: when its first token was there.
        var began: ContinuousClock.Instant?
        /// When its last token was delivered.
        var last: ContinuousClock.Instant?
        /// Tokens delivered.
        var generated = 0
        var speculation = SpeculationStats()
        /// An ending event went out; a prefill's pages are still pinned.
        var ended = false
    }

    let model: LoadedModel
    let memory: KVMemory
    let shared: EngineShared
    let onEvent: @Sendable (EngineEvent) -> Void
    let limits: Scheduler.Limits
    let pool: ComputePool
    let workspace: any ModelWorkspace
    let clock = ContinuousClock()
    var scheduler: Scheduler
    var plan = StepPlan()
    var batch = Batch()
    var handles: [HandoffID: SequenceHandle] = [:]
    /// By handle index.
    var jobs: [Job?] = []
    var samplerScratch: [SamplerScratch] = []
    /// What was drawn for each row with logits.
    var samples: [SampledToken] = []
    var drafting = Drafting()
    private var commands: [EngineShared.Command] = []
    /// Commands that came while a step was computing, and must wait for its end.
    private var deferred: [EngineShared.Command] = []
    private var stopping = false
    private var steps = 0

    init(
        model: LoadedModel, memory: KVMemory, options: EngineOptions, shared: EngineShared,
        onEvent: @escaping @Sendable (EngineEvent) -> Void
    ) throws(EngineError) {
        limits = try options.limits(model: model, memory: memory)
        self.model = model
        self.memory = memory
        self.shared = shared
        self.onEvent = onEvent
        pool = try ComputePool.make(threads: options.threads)
        let generating = limits.role == .decode ? limits.maxRunning : 0
        // Each sequence's own row, and one for each of its drafts.
        let logitRows = generating * (1 + limits.drafts)
        workspace = try model.model.makeWorkspace(
            rows: limits.chunkTokens + logitRows, logitRows: logitRows, pool: pool)
        if limits.role == .decode {
            samplerScratch = (0..<pool.threads).map { _ in SamplerScratch(vocabulary: model.facts.vocabularySize) }
            samples = Array(repeating: SampledToken(token: 0), count: logitRows)
        }
        scheduler = Scheduler(limits: limits)
    }

    /// The loop. Returns after a stop command, when every job has ended.
    func run() {
        while !stopping {
            shared.isWorking.store(true, ordering: .relaxed)
            shared.tick()
            applyCommands()
            if stopping { break }
            memory.pool.withLock { scheduler.plan(pool: &$0, into: &plan) }
            reportPlan()
            publish()
            if plan.chunks.isEmpty {
                // Pages that a decode node lacks may be freed by a handoff, which need not tell us.
                shared.isWorking.store(false, ordering: .relaxed)
                let hungry = limits.role == .decode && !handles.isEmpty
                shared.mailbox.wait(timeout: hungry ? .milliseconds(5) : nil)
            } else {
                step()
            }
        }
        failAll()
        publish()
        pool.shutdown()
    }

    // MARK: Commands

    private func applyCommands() {
        for command in deferred { apply(command) }
        deferred.removeAll(keepingCapacity: true)
        shared.mailbox.take(into: &commands)
        for command in commands { apply(command) }
    }

    private func apply(_ command: EngineShared.Command) {
        switch command {
        case .prefill(let job):
            accept(job)
        case .decode(let job):
            accept(job)
        case .cancel(let id):
            cancel(id)
        case .release(let id):
            guard let handle = handles[id] else { return }
            cancel(id)
            // A job without pages is gone already.
            if handles[id] == handle { remove(handle) }
        case .dropCache:
            let count = memory.pool.withLock { scheduler.dropCache(pool: &$0) }
            shared.snapshot.withLock { $0.evictedPagesTotal += UInt64(count) }
        case .hide(let slot):
            scheduler.hideFromCache(slot)
        case .stop:
            stopping = true
        }
    }

    private func accept(_ job: PrefillJob) {
        if let problem = check(job.id, tokens: job.tokens, role: .prefill) {
            onEvent(.failed(job.id, problem))
            return
        }
        remember(scheduler.add(job.id, tokens: job.tokens), Job(id: job.id, received: clock.now))
    }

    private func accept(_ job: DecodeJob) {
        var problem = check(job.id, tokens: job.tokens, role: .decode)
        if problem == nil { problem = check(job) }
        if let problem {
            memory.pool.withLock { pool in for slot in job.slots { pool.release(slot) } }
            onEvent(.failed(job.id, problem))
            return
        }
        let sampler = Sampler(job.sampling, tokens: job.tokens, delivered: job.delivered)
        let handle =
            job.slots.isEmpty
            ? scheduler.add(job.id, tokens: job.tokens)
            : scheduler.add(job.id, tokens: job.tokens, slots: job.slots)
        remember(handle, Job(id: job.id, sampler: sampler, received: clock.now))
        if job.delivered >= job.sampling.maxTokens { finish(handle, .length) }
    }

    private func remember(_ handle: SequenceHandle, _ job: Job) {
        while jobs.count <= handle.index { jobs.append(nil) }
        jobs[handle.index] = job
        handles[job.id] = handle
    }

    private func check(_ id: HandoffID, tokens: [TokenID], role: Scheduler.Role) -> EngineError? {
        guard role == limits.role else {
            return .invalid(field: "job", reason: "a \(role) job on a \(limits.role) engine")
        }
        guard handles[id] == nil else { return .invalid(field: "handoff", reason: "the id is in use") }
        guard !tokens.isEmpty else { return .invalid(field: "tokens", reason: "there are none") }
        guard tokens.count <= limits.tokenLimit else {
            let what = limits.tokenLimit < model.facts.contextLimit ? "the KV memory" : "the context"
            return .tooLong(tokens: tokens.count, limit: limits.tokenLimit, what: what)
        }
        let vocabulary = TokenID(model.facts.vocabularySize)
        if let wrong = tokens.first(where: { $0 < 0 || $0 >= vocabulary }) {
            return .invalid(field: "tokens", reason: "\(wrong) is not in 0..<\(vocabulary)")
        }
        return nil
    }

    private func check(_ job: DecodeJob) -> EngineError? {
        guard job.delivered >= 0, job.delivered < job.tokens.count else {
            return .invalid(field: "delivered", reason: "\(job.delivered) of \(job.tokens.count) tokens")
        }
        guard job.slots.isEmpty || job.slots.count == memory.layout.pages(for: job.tokens.count) else {
            return .invalid(
                field: "slots", reason: "\(job.slots.count) pages for \(job.tokens.count) tokens")
        }
        do throws(EngineError) {
            try job.sampling.validate(vocabulary: model.facts.vocabularySize)
            return nil
        } catch {
            return error
        }
    }

    /// Ends a job that has not ended. A decode job's pages go at once; a prefill's stay until they are released.
    private func cancel(_ id: HandoffID) {
        guard let handle = handles[id], let job = jobs[handle.index], !job.ended else { return }
        if limits.role == .decode {
            finish(handle, .cancelled)
            return
        }
        let hasPages = !scheduler[handle].slots.isEmpty
        jobs[handle.index]?.ended = true
        scheduler.stop(handle)
        onEvent(.finished(id, .cancelled, DecodeStats()))
        if !hasPages { remove(handle) }
    }

    /// Forgets a sequence and its job; its pages are free or cached now.
    private func remove(_ handle: SequenceHandle) {
        if let job = jobs[handle.index] { handles[job.id] = nil }
        jobs[handle.index] = nil
        memory.pool.withLock { scheduler.remove(handle, pool: &$0) }
    }

    private func failAll() {
        for (id, handle) in handles {
            guard let job = jobs[handle.index], !job.ended else { continue }
            if limits.role == .decode || scheduler[handle].slots.isEmpty {
                remove(handle)
            } else {
                jobs[handle.index]?.ended = true
                scheduler.stop(handle)
            }
            onEvent(.failed(id, .shutDown))
        }
        // What was sent while the loop ended: its senders get their answers and the pool its pages.
        shared.mailbox.take(into: &commands)
        for command in commands {
            switch command {
            case .prefill(let job):
                onEvent(.failed(job.id, .shutDown))
            case .decode(let job):
                memory.pool.withLock { pool in for slot in job.slots { pool.release(slot) } }
                onEvent(.failed(job.id, .shutDown))
            case .cancel, .release, .dropCache, .hide, .stop:
                break
            }
        }
    }

    // MARK: Steps

    /// Tells what was decided before computing.
    private func reportPlan() {
        if !plan.preempted.isEmpty || plan.evictedPages > 0 {
            shared.snapshot.withLock { snapshot in
                snapshot.preemptionsTotal += UInt64(plan.preempted.count)
                snapshot.evictedPagesTotal += UInt64(plan.evictedPages)
            }
        }
        guard limits.role == .prefill else { return }
        for handle in plan.admitted {
            let sequence = scheduler[handle]
            jobs[handle.index]?.began = clock.now
            onEvent(.started(sequence.id, cachedTokens: sequence.cachedTokens, slots: sequence.slots))
            let cachedPages = sequence.cachedTokens / limits.pageTokens
            guard cachedPages > 0 else { continue }
            shared.snapshot.withLock { $0.cachedTokensTotal += UInt64(sequence.cachedTokens) }
            onEvent(.pagesReady(sequence.id, layers: 0..<memory.layout.layerCount, pages: 0..<cachedPages))
        }
        for handle in plan.alreadyComputed { endPrefill(handle) }
    }

    private func step() {
        let began = clock.now
        steps += 1
        batch.clear()
        for chunk in plan.chunks {
            let sequence = scheduler[chunk.sequence]
            batch.append(
                sequence: sequence.tokens, drafts: sequence.drafts, range: chunk.positions, slots: sequence.slots,
                memory: memory, logits: .end(chunk.logitRows))
        }
        var hooks = ForwardHooks()
        let tells = limits.role == .prefill
        hooks.layerStored = { layer in
            self.shared.tick()
            return tells ? self.layerStored(layer) : true
        }
        let whole = model.model.forward(batch, workspace: workspace, pool: pool, hooks: hooks)
        if whole {
            // The plan's drafts are gone from the sequences after this.
            if limits.role == .decode { drafting.note(plan, scheduler) }
            let done = memory.pool.withLock { scheduler.complete(plan, pool: &$0) }
            for handle in done { endPrefill(handle) }
            if limits.role == .decode { deliver() }
        }
        let seconds = began.duration(to: clock.now) / .seconds(1)
        let prompt = plan.chunks.reduce(0) { $0 + ($1.positions.count - $1.drafts > 1 ? $1.positions.count : 0) }
        shared.snapshot.withLock { snapshot in
            snapshot.stepsTotal += 1
            snapshot.stepTimes.record(seconds: seconds)
            if whole { snapshot.prefillTokensTotal += UInt64(limits.role == .prefill ? batch.rowCount : prompt) }
        }
    }

    /// A layer's KV is there: tells so for every job that still lives, and looks for cancels. False when no job of
    /// the batch lives any more.
    private func layerStored(_ layer: Int) -> Bool {
        shared.mailbox.take(into: &commands)
        for command in commands {
            if case .cancel(let id) = command, let handle = handles[id], !scheduler[handle].slots.isEmpty {
                cancel(id)
            } else {
                deferred.append(command)
            }
        }
        var lives = false
        for chunk in plan.chunks {
            guard let job = jobs[chunk.sequence.index], !job.ended else { continue }
            lives = true
            let pageTokens = limits.pageTokens
            let pages = chunk.positions.lowerBound / pageTokens..<memory.layout.pages(for: chunk.positions.upperBound)
            onEvent(.pagesReady(job.id, layers: layer..<layer + 1, pages: pages))
        }
        return lives
    }

    private func endPrefill(_ handle: SequenceHandle) {
        guard let job = jobs[handle.index], !job.ended else { return }
        jobs[handle.index]?.ended = true
        let began = job.began ?? job.received
        let stats = PrefillStats(
            cachedTokens: scheduler[handle].cachedTokens, queued: job.received.duration(to: began),
            compute: began.duration(to: clock.now))
        onEvent(.prefilled(job.id, stats))
    }

    /// Ends a decode job: pages first, then the event.
    func finish(_ handle: SequenceHandle, _ reason: FinishReason) {
        guard let job = jobs[handle.index] else { return }
        let first = job.began ?? clock.now
        let stats = DecodeStats(
            generated: job.generated, firstStep: job.received.duration(to: first),
            decode: first.duration(to: job.last ?? first), preemptions: scheduler[handle].preemptions,
            speculation: job.speculation)
        remove(handle)
        onEvent(.finished(job.id, reason, stats))
    }

    /// Brings the numbers that everybody sees up to date.
    private func publish() {
        let wanted = scheduler.pagesWanted
        shared.pagesWanted.store(wanted, ordering: .relaxed)
        // Not in every step: as long as somebody has a copy, counting on costs another one.
        let loads = plan.chunks.isEmpty || steps % 64 == 0 ? workspace.expertLoads : nil
        let preempted = scheduler.waiting.reduce(0) { $0 + (scheduler[$1].preemptions > 0 ? 1 : 0) }
        shared.snapshot.withLock { snapshot in
            snapshot.running = scheduler.running.count
            snapshot.waiting = scheduler.waiting.count
            snapshot.preempted = preempted
            snapshot.queuedTokens = scheduler.queuedTokens
            snapshot.pinnedJobs = scheduler.pinnedCount
            snapshot.pagesWanted = wanted
            if let loads { snapshot.expertLoads = loads }
        }
    }
}
