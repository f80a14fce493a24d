import ControlPlane
import Cores
package import Engine
package import Handoff
package import Logging
package import Messages
import Synchronization
import Telemetry
import Transport

/// A decode node between control, lanes and engine: feeds the handoff state machine with what they say, and
/// performs what it answers.
///
/// One mutex holds the machine (the slot pool has its own, always taken second). Binding and unbinding lanes and
/// comparing digests happen inside it, everything else outside, in the order of the decisions.
package final class DecodeDriver: NodeDriver, ScrubbedNode {
    /// What is kept of an open handoff beside its state machine.
    struct Job {
        /// Until the sequence is started.
        var order: Reservation?
        var sampling: SamplingParameters
        /// Tokens of the sequence as it is started.
        let tokenCount: Int
        /// The slots that the prefill node filled; empty before the seal.
        var written: [SlotRef] = []
        /// When the handoff was given up before its seal.
        var aborted: Duration?
        /// What the scrub found: the sequence is being ended for it, and none of its tokens is sent any more.
        var corruption: String?
        /// Whether any token of this attempt was sent.
        var hasDelivered = false
        var report: FinishReport?
        var details = ""
    }

    enum Effect: Sendable {
        case send(NodeMessage, to: Incarnation)
        case start(DecodeJob)
        case cancel(HandoffID)
        case fence(LaneID)
        case wakeEngine
        case dump(MismatchIncident, Held)
    }

    /// What is kept from its next owner until evidence has been taken.
    enum Held: Sendable {
        /// The pages of a handoff that was not sealed: quarantined until its lane is fenced.
        case lane(LaneID)
        /// Pages that the engine had: one more user.
        case pages([SlotRef])
    }

    /// A lane whose handoff did not match. It is fenced, and its closing told, when evidence has been taken.
    struct HeldLane {
        let handoff: HandoffID
        let mismatches: [DigestMismatch]
        var hasClosed = false
    }

    struct State: ~Copyable {
        var handoffs: ReceivingHandoffs
        var jobs: [HandoffID: Job] = [:]
        var deadlines = DeadlineTable()
        var effects = EffectQueue<Effect>()
        var rate = RateMeter()
        var heldLanes: [LaneID: HeldLane] = [:]
        var mismatches = MismatchCounts()
        var reclaims = ReclaimTimes()
        /// When the completion record that is looked at arrived.
        var sealing = Duration.zero
        var isDraining = false
        var lastError = ""
    }

    package let registration: Registration
    let model: LoadedModel
    let memory: KVMemory
    let links: RouterLinks
    let metrics: NodeMetrics
    let logger: Logger
    let evidence: EvidenceStore?
    let digests: DigestMode
    let table: DigestTable
    let scrubber = LateBound<PageScrubber>()
    private let durations = DeadlineDurations()
    private let maxRunning: Int
    private let start = ContinuousClock.now
    private let state: Mutex<State>
    private let watch = Mutex(EngineWatch())
    let engine = LateBound<EngineLoop>()
    private let listener = LateBound<LaneListener>()

    /// Starts the lane listener and the engine. Blocks while the engine allocates.
    package init(
        configuration: NodeConfiguration, incarnation: Incarnation, model: LoadedModel, memory: KVMemory,
        links: RouterLinks, metrics: NodeMetrics, logger: Logger
    ) throws(NodeError) {
        // Before anything is started.
        _ = try configuration.advertised(configuration.lane)
        self.model = model
        self.memory = memory
        self.links = links
        self.metrics = metrics
        self.logger = logger
        maxRunning = configuration.maxRunning
        evidence = configuration.evidenceDirectory.map { EvidenceStore(directory: $0) }
        digests = configuration.digests
        table = DigestTable(slotCount: memory.pageCount, layerCount: memory.layout.layerCount)
        state = Mutex(State(handoffs: ReceivingHandoffs(incarnation: incarnation, layers: memory.layout.layerCount)))

        let late = LateBound<DecodeDriver>()
        let listener = try LaneListener.start(configuration, memory, incarnation, logger) { late.current?.handle($0) }
        do throws(EngineError) {
            let engine = try EngineLoop(
                model: model, memory: memory,
                options: EngineOptions(
                    role: .decode, maxRunning: configuration.maxRunning, chunkTokens: configuration.chunkTokens,
                    threads: configuration.threads, drafts: configuration.speculate),
                onEvent: { late.current?.handle($0) })
            self.engine.bind(engine)
        } catch {
            listener.shutdown()
            throw .engine(error)
        }
        self.listener.bind(listener)
        let lane = try configuration.advertised(HostPort(host: configuration.lane.host, port: Int(listener.port)))
        registration = Registration(
            name: configuration.name, role: .decode, incarnation: incarnation, compatibility: model.compatibility,
            model: model.facts.name, laneAddress: lane.description, slots: memory.pageCount,
            contextLimit: model.tokenLimit(memory), maxRunning: configuration.maxRunning,
            version: ProcessVersion.text, lanesPerPeer: configuration.lanesPerPeer,
            rdmaAddresses: Array(listener.rdmaAddresses.prefix(ControlLimits.adapters)))
        late.bind(self)
        try startScrubber(configuration, of: [.inUse]) { [weak self] in self?.scrubFound($0, $1) }
        metrics.registry.onCollect { [weak self] in self?.collect() }
    }

    var now: Duration { ContinuousClock.now - start }

    // MARK: NodeDriver

    package var isIdle: Bool { state.withLock { $0.handoffs.openCount == 0 } }

    package func load() -> NodeLoad {
        let engine = engine.current?.snapshot() ?? EngineSnapshot(pages: memory.counts)
        let lanes = listener.current?.tally.total ?? LaneCounters()
        let now = now
        var load = NodeLoad(engine: engine, lanes: lanes)
        return state.withLock { state in
            load.note(state.handoffs.counters, open: state.handoffs.openCount, lanes: state.handoffs.laneCounts)
            load.note(state.mismatches, scrubPasses: table.passes)
            load.note(state.reclaims)
            load.tokensTotal = Int(clamping: engine.generatedTokensTotal)
            load.tokensPerSecond = state.rate.note(engine.generatedTokensTotal, now: now)
            load.isDraining = state.isDraining
            load.engineStalled = watch.withLock(\.stalled)
            load.lastError = state.lastError
            return load
        }
    }

    package func attached(_ router: Incarnation) {
        if state.withLock({ $0.isDraining }) { links.send(.draining, to: router) }
    }

    package func received(_ message: RouterMessage, from router: Incarnation) {
        switch message {
        case .reserve(let order): reserve(order, from: router)
        case .cancel(let handoff): abort(handoff, from: router) { $0.cancel(handoff, pool: &$1) }
        case .reclaim(let handoff, let parts): abort(handoff, from: router) { $0.reclaim(handoff, parts, pool: &$1) }
        case .fence(let handoff, let parts): abort(handoff, from: router) { $0.fence(handoff, parts, pool: &$1) }
        case .query(let handoff): decide { state, _ in state.handoffs.query(handoff) }
        case .listHandoffs: listHandoffs(router)
        case .drain: drain()
        case .prefill, .release, .peers:
            logger.warning("a message for a prefill node", metadata: ["router": "\(router.text)"])
        }
    }

    package func lost(_ router: Incarnation) {
        let now = now
        logger.warning("router lost, its handoffs end", metadata: ["router": "\(router.text)"])
        decide { state, pool in
            for (handoff, job) in state.jobs where handoff.router == router && job.aborted == nil {
                state.jobs[handoff]?.aborted = now
            }
            return state.handoffs.routerLost(router, pool: &pool)
        }
    }

    package func tick() {
        let now = now
        if let pulse = engine.current?.pulse {
            watch.withLock { $0.look(ticks: pulse.ticks, hasWork: pulse.hasWork, now: now) }
        }
        for key in state.withLock({ $0.deadlines.takePassed(now: now) }) {
            decide { $0.handoffs.deadlinePassed(key.deadline, key.handoff, pool: &$1) }
        }
    }

    package func drain() {
        let isFirst = state.withLock { state in
            defer { state.isDraining = true }
            return !state.isDraining
        }
        guard isFirst else { return }
        logger.notice("draining")
        links.sendToAll(.draining)
    }

    package func shutDown() {
        scrubber.release()?.shutdown()
        listener.current?.shutdown()
        engine.current?.shutdown()
        _ = listener.release()
        _ = engine.release()
    }

    // MARK: Messages of the router

    private func reserve(_ order: Reservation, from router: Incarnation) {
        let handoff = order.handoff
        func refuse(_ reason: RefusalReason, _ message: String) {
            links.send(.refused(Refusal(handoff: handoff, reason: reason, message: message)), to: router)
        }
        guard handoff.router == router else { return refuse(.invalid, "a handoff of another router") }
        let sampling: SamplingParameters
        do throws(EngineError) {
            sampling = try SamplingParameters(order.sampling)
            try model.check(order.tokens)
            try sampling.validate(vocabulary: model.facts.vocabularySize)
        } catch {
            return refuse(.invalid, error.description)
        }
        let limit = model.tokenLimit(memory)
        guard order.tokens.count <= limit else {
            return refuse(.tooLong, "\(order.tokens.count) tokens, at most \(limit)")
        }
        let pages = memory.layout.pages(for: order.tokens.count)
        let wanted = engine.current?.pagesWanted ?? 0
        decide { state, pool in
            if !state.handoffs.isKnown(handoff),
                let (reason, message) = self.busy(state, free: pool.counts.free, pages: pages, wanted: wanted)
            {
                _ = state.handoffs.refuse(handoff, reason)
                let refusal = Refusal(handoff: handoff, reason: reason, message: message)
                state.effects.append(.send(.refused(refusal), to: router))
                return []
            }
            let actions = state.handoffs.reserve(handoff, pages: pages, shares: order.shares, pool: &pool)
            if actions.contains(where: { if case .bindLane = $0 { true } else { false } }) {
                state.jobs[handoff] = Job(order: order, sampling: sampling, tokenCount: order.tokens.count)
            }
            return actions
        }
    }

    /// Why a new reservation has to wait, if it has.
    private func busy(
        _ state: borrowing State, free: Int, pages: Int, wanted: Int
    ) -> (RefusalReason, String)? {
        if state.isDraining { return (.draining, "the node drains") }
        if state.handoffs.openCount >= maxRunning { return (.busy, "\(maxRunning) sequences, at most that many") }
        if free - wanted < pages { return (.noPages, "\(pages) pages wanted, \(max(0, free - wanted)) to give") }
        return nil
    }

    private func abort(
        _ handoff: HandoffID, from router: Incarnation,
        _ event: @escaping @Sendable (inout ReceivingHandoffs, inout SlotPool) -> [ReceivingAction]
    ) {
        // A router may end what a router before it left behind, but nothing of one that is attached.
        guard handoff.router == router || !links.attachedRouters.contains(handoff.router) else {
            logger.warning("an order for another router's handoff", metadata: ["handoff": "\(handoff.text)"])
            return
        }
        let now = now
        decide { state, pool in
            if state.jobs[handoff]?.order != nil, state.jobs[handoff]?.aborted == nil {
                state.jobs[handoff]?.aborted = now
            }
            return event(&state.handoffs, &pool)
        }
    }

    private func listHandoffs(_ router: Incarnation) {
        let attached = links.attachedRouters
        let open = state.withLock { $0.handoffs.open }.filter { handoff in
            handoff.router == router || !attached.contains(handoff.router)
        }
        links.send(.openHandoffs(open), to: router)
    }

    // MARK: Lanes

    private func handle(_ event: LaneListenerEvent) {
        switch event {
        case .opened(let lane, let peer, let address):
            logger.debug(
                "lane opened", metadata: ["lane": "\(lane.value)", "peer": "\(peer.text)", "address": "\(address)"])
            decide { state, _ in
                state.handoffs.laneOpened(lane, peer: peer)
                return []
            }
        case .completion(let lane, let epoch, let record):
            let now = now
            decide { state, pool in
                state.sealing = now
                let verdict =
                    self.listener.current?.verifyDigests(
                        lane: lane, epoch: epoch, expected: record.pages.map(\.digest)) ?? .mismatch([])
                let actions = state.handoffs.completion(
                    lane, epoch, record, matching: verdict.allowsSeal, pool: &pool)
                self.note(verdict, of: record, on: lane, actions, &state)
                return actions
            }
        case .closed(let lane, let reason, let fence):
            if let fence { metrics.fenceTime.observe(fence) }
            logger.info("lane closed", metadata: ["lane": "\(lane.value)", "reason": "\(reason)"])
            decide { state, pool in
                if reason.kind != .shutdown { state.lastError = "lane \(lane.value) closed: \(reason)" }
                if state.heldLanes[lane] != nil {
                    state.heldLanes[lane]?.hasClosed = true
                    return []
                }
                return state.handoffs.laneClosed(lane, pool: &pool)
            }
        }
    }

    // MARK: Engine

    private func handle(_ event: EngineEvent) {
        switch event {
        case .tokens(let runs):
            decide { state, _ in
                for (router, batch) in TokenBatch.byRouter(self.sound(runs, &state), sent: self.now) {
                    state.effects.append(.send(.tokens(batch), to: router))
                }
                return []
            }
        case .finished(let handoff, let reason, let stats):
            ended(handoff, reason, stats)
        case .failed(let handoff, let error):
            logger.error("sequence failed", metadata: ["handoff": "\(handoff.text)", "error": "\(error)"])
            decide { state, _ in
                if let ended = self.endCorrupted(handoff, &state) { return ended }
                state.jobs[handoff]?.details = error.description
                state.lastError = error.description
                return state.handoffs.sequenceFailed(handoff, retryable: error.isRetryable)
            }
        case .started, .pagesReady, .prefilled:
            break
        }
    }

    private func ended(_ handoff: HandoffID, _ reason: Engine.FinishReason, _ stats: DecodeStats) {
        metrics.finished.with(reason.label).add()
        if stats.generated > 0 { metrics.firstStep.observe(stats.firstStep) }
        if let length = stats.speculation.acceptLength { metrics.requestAcceptLength.observe(length) }
        if stats.generated > 1 { metrics.timePerOutputToken.observe(stats.decode / (stats.generated - 1)) }
        logger.info(
            "sequence ended",
            metadata: [
                "handoff": "\(handoff.text)", "request": "\(handoff.request)", "reason": "\(reason.label)",
                "tokens": "\(stats.generated)", "preemptions": "\(stats.preemptions)",
            ])
        let report = FinishReport(handoff, reason, stats)
        decide { state, _ in
            if let ended = self.endCorrupted(handoff, &state) { return ended }
            state.jobs[handoff]?.report = report
            return state.handoffs.finished(handoff, SequenceEnd(report.reason, tokens: report.tokens))
        }
    }

    // MARK: Deciding and performing

    /// Runs one event of the machine under the locks, then performs what was decided.
    func decide(_ event: @Sendable (inout State, inout SlotPool) -> [ReceivingAction]) {
        let isMyTurn = state.withLock { state in
            memory.pool.withLock { pool in
                let actions = event(&state, &pool)
                take(actions, &state, &pool)
            }
            return state.effects.begin()
        }
        guard isMyTurn else { return }
        while let effects = state.withLock({ $0.effects.next() }) {
            for effect in effects { perform(effect) }
        }
    }

    private func take(_ actions: [ReceivingAction], _ state: inout State, _ pool: inout SlotPool) {
        for action in actions {
            switch action {
            case .bindLane(let terms):
                // When the lane is gone, its closing is on its way.
                _ = listener.current?.bind(terms)
            case .unbindLane(let handoff, let lane, let epoch):
                let answer = listener.current?.unbind(lane, epoch) ?? .quiet
                let actions = state.handoffs.laneUnbound(handoff, lane, epoch, answer, pool: &pool)
                take(actions, &state, &pool)
            case .startSequence(let handoff, let slots):
                startSequence(handoff, slots, &state, &pool)
            case .fenceLane(let lane):
                if state.heldLanes[lane] == nil { state.effects.append(.fence(lane)) }
            case .dumpEvidence(let handoff, let slots):
                dump(handoff, slots, &state)
            case .cancelSequence(let handoff):
                state.effects.append(.cancel(handoff))
            case .setDeadline(let deadline, let handoff):
                state.deadlines.set(deadline, handoff, at: now + durations[deadline])
            case .clearDeadline(let deadline, let handoff):
                state.deadlines.clear(deadline, handoff)
            case .settled(let handoff):
                state.jobs[handoff] = nil
            case .sendGrant, .sendRefused, .sendSealed, .sendReclaimed, .sendFailed, .sendFinished, .repeatFinished:
                answer(action, &state)
            }
        }
    }

    private func startSequence(
        _ handoff: HandoffID, _ slots: [SlotRef], _ state: inout State, _ pool: inout SlotPool
    ) {
        guard let job = state.jobs[handoff], let order = job.order else {
            // Cannot happen: the job lives from the grant to the settlement. Without it nobody would own the slots.
            preconditionFailure("no reservation for the sealed handoff \(handoff.text)")
        }
        state.jobs[handoff]?.order = nil
        state.jobs[handoff]?.written = slots
        state.effects.append(
            .start(
                DecodeJob(
                    id: handoff, tokens: order.tokens.map { TokenID(truncatingIfNeeded: $0) },
                    delivered: order.delivered, sampling: job.sampling, slots: slots)))
    }

    /// The actions that are messages to the handoff's router.
    private func answer(_ action: ReceivingAction, _ state: inout State) {
        func send(_ message: NodeMessage, _ handoff: HandoffID) {
            state.effects.append(.send(message, to: handoff.router))
        }
        switch action {
        case .sendGrant(let terms):
            send(.granted(terms), terms.handoff)
        case .sendRefused(let handoff, let reason):
            let message = reason == .noLane ? "no idle lane from the prefill node" : reason.rawValue
            send(.refused(Refusal(handoff: handoff, reason: reason, message: message)), handoff)
        case .sendSealed(let handoff):
            let time = now - state.sealing
            metrics.sealTime.observe(time)
            send(.sealed(handoff, sealTime: time), handoff)
        case .sendReclaimed(let handoff, let kind):
            // Without a job it is an answer given before.
            if let job = state.jobs[handoff] {
                let time = job.aborted.map { now - $0 } ?? .zero
                metrics.timeToSafeReclaim.with(kind.rawValue).observe(time)
                state.reclaims.note(time)
            }
            state.effects.append(.wakeEngine)
            send(.reclaimed(handoff, kind), handoff)
        case .sendFailed(let handoff, let failure):
            let details = state.jobs[handoff]?.details ?? ""
            state.lastError = details.isEmpty ? failure.message : details
            send(.failed(handoff, failure, details: details.isEmpty ? failure.message : details), handoff)
        case .sendFinished(let handoff, let end):
            send(.finished(state.jobs[handoff]?.report ?? FinishReport(handoff, end)), handoff)
        case .repeatFinished(let handoff, let end):
            send(.finished(FinishReport(handoff, end)), handoff)
        default:
            break
        }
    }

    private func perform(_ effect: Effect) {
        switch effect {
        case .send(let message, let router): links.send(message, to: router)
        case .start(let job): engine.current?.start(job)
        case .cancel(let handoff): engine.current?.cancel(handoff)
        case .fence(let lane): listener.current?.fence(lane)
        case .wakeEngine: engine.current?.wake()
        case .dump(let incident, let held): dump(incident, held)
        }
    }

    private func collect() {
        if let snapshot = engine.current?.snapshot() { metrics.update(snapshot) }
        if let tally = listener.current?.tally { metrics.lanes.update(tally) }
        if let scrubber = scrubber.current { metrics.update(scrubber.counters, passes: table.passes) }
        state.withLock { state in
            metrics.update(state.mismatches)
            let lanes = state.handoffs.laneCounts
            metrics.update(
                state.handoffs.counters, open: state.handoffs.openCount, idleLanes: lanes.idle, busyLanes: lanes.busy)
        }
    }
}
