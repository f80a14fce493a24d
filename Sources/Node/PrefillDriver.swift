import ControlPlane
import Cores
package import Engine
package import Handoff
package import Logging
package import Messages
import Synchronization
import Telemetry
import Transport

/// A prefill node between control, engine and lanes: feeds the handoff state machine with what they say, and
/// performs what it answers. Writes are queued to the lanes' own threads, which bear the backpressure; neither
/// the engine nor the control streams ever wait for a lane.
package final class PrefillDriver: NodeDriver, ScrubbedNode {
    /// What is kept of an open handoff beside its state machine.
    struct Job {
        /// Until the engine has them.
        var tokens: [TokenID]
        let lane: LaneKey
        var cachedTokens = 0
        /// When the order came, the engine began, and the latest layer was ready. The engine's own figures come
        /// after the last layer, which may already be written and acknowledged by then.
        var received: Duration
        var started: Duration?
        var computed: Duration?
        var firstPost: Duration?
        /// Once all is written: what the router was told.
        var report: WriteReport?
        var details = ""
    }

    enum Effect: Sendable {
        case send(NodeMessage, to: Incarnation)
        case sendToAll(NodeMessage)
        case submit(PrefillJob)
        case cancel(HandoffID)
        case release(HandoffID)
        case post(LaneKey, WriteBatch)
        case postCompletion(LaneKey, PartTerms)
        case closeLane(LaneKey)
        case calledOff(LaneKey)
        case setPeers([LanePeer])
        case hideFromCache(SlotRef)
        case dump(MismatchIncident)
    }

    struct State: ~Copyable {
        var handoffs: SendingHandoffs
        var jobs: [HandoffID: Job] = [:]
        var deadlines = DeadlineTable()
        var effects = EffectQueue<Effect>()
        /// Decode nodes by the router that named them.
        var peers: [Incarnation: [PeerAddress]] = [:]
        /// What the routers were told last; nil when it is to be told again.
        var reported: [PeerLanes]?
        var rate = RateMeter()
        var mismatches = MismatchCounts()
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
    let table: DigestTable
    let scrubber = LateBound<PageScrubber>()
    private let durations = DeadlineDurations()
    private let start = ContinuousClock.now
    private let state: Mutex<State>
    private let watch = Mutex(EngineWatch())
    private let engine = LateBound<EngineLoop>()
    private let lanes = LateBound<LanePool>()

    /// Starts the engine; lanes are dialed once a router names decode nodes. Blocks while the engine allocates.
    package init(
        configuration: NodeConfiguration, incarnation: Incarnation, model: LoadedModel, memory: KVMemory,
        links: RouterLinks, metrics: NodeMetrics, logger: Logger
    ) throws(NodeError) {
        self.model = model
        self.memory = memory
        self.links = links
        self.metrics = metrics
        self.logger = logger
        evidence = configuration.evidenceDirectory.map { EvidenceStore(directory: $0) }
        table = DigestTable(slotCount: memory.pageCount, layerCount: memory.layout.layerCount)
        state = Mutex(State(handoffs: SendingHandoffs(shape: memory.region.shape)))
        registration = Registration(
            name: configuration.name, role: .prefill, incarnation: incarnation, compatibility: model.compatibility,
            model: model.facts.name, slots: memory.pageCount, contextLimit: model.tokenLimit(memory),
            maxRunning: configuration.maxRunning, version: ProcessVersion.text,
            lanesPerPeer: configuration.lanesPerPeer)

        let late = LateBound<PrefillDriver>()
        do throws(EngineError) {
            engine.bind(
                try EngineLoop(
                    model: model, memory: memory,
                    options: EngineOptions(
                        role: .prefill, maxRunning: configuration.maxRunning, chunkTokens: configuration.chunkTokens,
                        threads: configuration.threads),
                    onEvent: { late.current?.handle($0) }))
        } catch {
            throw .engine(error)
        }
        var dialing = LanePool.Configuration()
        dialing.lanesPerPeer = configuration.lanesPerPeer
        dialing.digests = configuration.digests
        dialing.table = table
        dialing.rdma = configuration.rdma
        lanes.bind(
            LanePool(
                configuration: dialing, slab: memory.region, incarnation: incarnation,
                onEvent: { late.current?.handle($0) }))
        late.bind(self)
        try startScrubber(configuration, of: [.inUse, .cached]) { [weak self] in
            self?.changed(.scrub, $0.handoff, $0.slot, $1)
        }
        metrics.registry.onCollect { [weak self] in self?.collect() }
    }

    private var now: Duration { ContinuousClock.now - start }

    // MARK: NodeDriver

    package var isIdle: Bool { state.withLock { $0.handoffs.openCount == 0 } }

    package func load() -> NodeLoad {
        let engine = engine.current?.snapshot() ?? EngineSnapshot(pages: memory.counts)
        let counters = lanes.current?.tally.total ?? LaneCounters()
        let report = laneReport()
        let now = now
        var load = NodeLoad(engine: engine, lanes: counters)
        return state.withLock { state in
            load.note(
                state.handoffs.counters, open: state.handoffs.openCount,
                lanes: (report.reduce(0) { $0 + $1.idle }, report.reduce(0) { $0 + $1.busy }))
            load.note(state.mismatches, scrubPasses: table.passes)
            load.tokensTotal = Int(clamping: engine.prefillTokensTotal)
            load.tokensPerSecond = state.rate.note(engine.prefillTokensTotal, now: now)
            load.isDraining = state.isDraining
            load.engineStalled = watch.withLock(\.stalled)
            load.lastError = state.lastError
            return load
        }
    }

    package func attached(_ router: Incarnation) {
        if state.withLock({ $0.isDraining }) { links.send(.draining, to: router) }
        links.send(.lanes(laneReport()), to: router)
        // A tick may have sent a newer report before this one.
        state.withLock { $0.reported = nil }
    }

    package func received(_ message: RouterMessage, from router: Incarnation) {
        switch message {
        case .prefill(let order): prefill(order, from: router)
        case .cancel(let handoff): end(handoff, from: router) { $0.cancel(handoff) }
        case .release(let handoff): end(handoff, from: router) { $0.release(handoff) }
        case .query(let handoff): decide { $0.handoffs.query(handoff) }
        case .peers(let peers): setPeers(peers, of: router)
        case .listHandoffs: listHandoffs(router)
        case .drain: drain()
        case .reserve, .reclaim, .fence:
            logger.warning("a message for a decode node", metadata: ["router": "\(router.text)"])
        }
    }

    package func lost(_ router: Incarnation) {
        logger.warning("router lost, its handoffs end", metadata: ["router": "\(router.text)"])
        decide { $0.handoffs.routerLost(router) }
        setPeers(nil, of: router)
    }

    package func tick() {
        let now = now
        if let pulse = engine.current?.pulse {
            watch.withLock { $0.look(ticks: pulse.ticks, hasWork: pulse.hasWork, now: now) }
        }
        for key in state.withLock({ $0.deadlines.takePassed(now: now) }) {
            decide { $0.handoffs.deadlinePassed(key.deadline, key.handoff) }
        }
        lanes.current?.retryDialing()
        // Which lanes there are, not which are busy: that changes with every request.
        let report = laneReport()
        decide { state in
            let isNews = !(state.reported?.elementsEqual(report) { $0.hasSameLanes(as: $1) } ?? false)
            state.reported = report
            if isNews { state.effects.append(.sendToAll(.lanes(report))) }
            return []
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
        // The lanes next: they read the slab, and their closing ends what the engine still pins.
        lanes.current?.shutdown()
        engine.current?.shutdown()
        _ = lanes.release()
        _ = engine.release()
    }

    // MARK: Messages of the router

    private func prefill(_ order: PrefillOrder, from router: Incarnation) {
        let handoff = order.grant.handoff
        guard let terms = order.grant.part(order.part) else {
            logger.warning("an order for a part that its grant has not", metadata: ["handoff": "\(handoff.text)"])
            return
        }
        let pages = memory.layout.pages(for: order.tokens.count)
        let objection = objection(to: order, from: router)
        decide { state in
            // Of a known handoff the machine says what a repeated order gets: a refusal here would end it while it runs.
            if handoff.router == router, state.handoffs.isKnown(handoff) {
                return state.handoffs.prefill(terms, pages: pages)
            }
            let draining = (HandoffFailure(.computeFailed), "the node drains")
            if let (failure, details) = objection ?? (state.isDraining ? draining : nil) {
                state.effects.append(.send(.failed(handoff, failure, details: details), to: router))
                state.effects.append(.send(.drained(handoff, posted: 0, completed: 0), to: router))
                return []
            }
            let actions = state.handoffs.prefill(terms, pages: pages)
            if actions.contains(where: { if case .startCompute = $0 { true } else { false } }) {
                state.jobs[handoff] = Job(
                    tokens: order.tokens.map { TokenID(truncatingIfNeeded: $0) }, lane: terms.key, received: now)
            }
            return actions
        }
    }

    /// Why an order can never be carried out here, if so.
    private func objection(to order: PrefillOrder, from router: Incarnation) -> (HandoffFailure, String)? {
        guard order.grant.handoff.router == router else {
            return (HandoffFailure(.protocolError, retryable: false), "a handoff of another router")
        }
        do throws(EngineError) {
            try model.check(order.tokens)
            let limit = model.tokenLimit(memory)
            guard order.tokens.count <= limit else {
                throw .tooLong(tokens: order.tokens.count, limit: limit, what: "this node")
            }
            return nil
        } catch {
            return (HandoffFailure(.computeFailed, retryable: false), error.description)
        }
    }

    private func end(
        _ handoff: HandoffID, from router: Incarnation,
        _ event: @escaping @Sendable (inout SendingHandoffs) -> [SendingAction]
    ) {
        guard handoff.router == router || !links.attachedRouters.contains(handoff.router) else {
            logger.warning("an order for another router's handoff", metadata: ["handoff": "\(handoff.text)"])
            return
        }
        decide { event(&$0.handoffs) }
    }

    private func setPeers(_ peers: [PeerAddress]?, of router: Incarnation) {
        decide { state in
            state.peers[router] = peers
            let all = Set(state.peers.values.joined())
            state.effects.append(
                .setPeers(
                    all.map {
                        LanePeer(
                            decode: $0.incarnation, address: $0.laneAddress, name: $0.name,
                            rdmaAddresses: $0.rdmaAddresses)
                    }.sorted { $0.name < $1.name }))
            return []
        }
    }

    private func listHandoffs(_ router: Incarnation) {
        let attached = links.attachedRouters
        let open = state.withLock { $0.handoffs.open }.filter { handoff in
            handoff.router == router || !attached.contains(handoff.router)
        }
        links.send(.openHandoffs(open), to: router)
    }

    private func laneReport() -> [PeerLanes] {
        let peers = lanes.current?.snapshot() ?? []
        return state.withLock { state in
            peers.map { peer in
                let counts = state.handoffs.laneCounts(to: peer.decode)
                return PeerLanes(
                    decode: peer.decode, idle: counts.idle, busy: counts.busy, transport: peer.transport,
                    error: peer.lastError ?? "", reason: peer.reason ?? "")
            }
        }
    }

    // MARK: Lanes and engine

    private func handle(_ event: LanePoolEvent) {
        switch event {
        case .opened(let lane):
            decide { state in
                state.handoffs.laneOpened(lane)
                return []
            }
        case .closed(let lane, let reason):
            logger.info(
                "lane closed",
                metadata: ["lane": "\(lane.lane.value)", "decode": "\(lane.decode.text)", "reason": "\(reason)"])
            decide { state in
                if reason.kind != .shutdown { state.lastError = "lane \(lane.lane.value) closed: \(reason)" }
                return state.handoffs.laneClosed(lane)
            }
        case .acknowledged(let lane, let handoff, let epoch, let records):
            decide { $0.handoffs.acknowledged(lane, handoff, epoch, records: records) }
        case .completionAcknowledged(let lane, let handoff, let epoch):
            decide { $0.handoffs.completionAcknowledged(lane, handoff, epoch) }
        case .sourceChanged(let handoff, let slot, let mismatches):
            if table.report(slot) { return changed(.send, handoff, slot, mismatches) }
            // Known already, but it may have come into the cache since.
            engine.current?.hideFromCache(slot)
        }
    }

    private func handle(_ event: EngineEvent) {
        switch event {
        case .started(let handoff, let cachedTokens, let slots):
            decide { state in
                state.jobs[handoff]?.cachedTokens = cachedTokens
                state.jobs[handoff]?.started = now
                return state.handoffs.started(handoff, sources: slots)
            }
        case .pagesReady(let handoff, let layers, let pages):
            decide { state in
                state.jobs[handoff]?.computed = now
                return state.handoffs.pagesReady(handoff, layers: layers, pages: pages)
            }
        case .prefilled(_, let stats):
            metrics.prefillQueue.observe(stats.queued)
            metrics.prefillCompute.observe(stats.compute)
        case .failed(let handoff, let error):
            logger.error("prefill failed", metadata: ["handoff": "\(handoff.text)", "error": "\(error)"])
            decide { state in
                state.jobs[handoff]?.details = error.description
                state.lastError = error.description
                return state.handoffs.computeFailed(handoff, retryable: error.isRetryable)
            }
        case .finished, .tokens:
            break
        }
    }

    // MARK: Deciding and performing

    /// Runs one event of the machine under the lock, then performs what was decided.
    func decide(_ event: @Sendable (inout State) -> [SendingAction]) {
        let isMyTurn = state.withLock { state in
            let actions = event(&state)
            for action in actions { take(action, &state) }
            return state.effects.begin()
        }
        guard isMyTurn else { return }
        while let effects = state.withLock({ $0.effects.next() }) {
            for effect in effects { perform(effect) }
        }
    }

    private func take(_ action: SendingAction, _ state: inout State) {
        switch action {
        case .startCompute(let handoff):
            let tokens = state.jobs[handoff]?.tokens ?? []
            state.jobs[handoff]?.tokens = []
            state.effects.append(.submit(PrefillJob(id: handoff, tokens: tokens)))
        case .cancelCompute(let handoff):
            state.effects.append(.cancel(handoff))
            if let lane = state.jobs[handoff]?.lane { state.effects.append(.calledOff(lane)) }
        case .post(let lane, let batch):
            if state.jobs[batch.handoff]?.firstPost == nil { state.jobs[batch.handoff]?.firstPost = now }
            state.effects.append(.post(lane, batch))
        case .postCompletion(let lane, let terms):
            state.effects.append(.postCompletion(lane, terms))
        case .sendWritten(let handoff, let bytes):
            written(handoff, bytes: bytes, &state)
        case .sendAccepted(let handoff):
            state.effects.append(.send(.accepted(handoff), to: handoff.router))
        case .sendDrained(let handoff, let posted, let completed):
            state.effects.append(
                .send(
                    .drained(handoff, posted: UInt64(posted), completed: UInt64(completed)), to: handoff.router))
        case .sendFailed(let handoff, let failure):
            let details = state.jobs[handoff]?.details ?? ""
            state.lastError = details.isEmpty ? failure.message : details
            state.effects.append(
                .send(
                    .failed(handoff, failure, details: details.isEmpty ? failure.message : details),
                    to: handoff.router))
        case .unpin(let handoff):
            state.effects.append(.release(handoff))
        case .closeLane(let lane):
            state.effects.append(.closeLane(lane))
        case .setDeadline(let deadline, let handoff):
            state.deadlines.set(deadline, handoff, at: now + durations[deadline])
        case .clearDeadline(let deadline, let handoff):
            state.deadlines.clear(deadline, handoff)
        case .settled(let handoff):
            state.jobs[handoff] = nil
        }
    }

    private func written(_ handoff: HandoffID, bytes: Int, _ state: inout State) {
        guard let job = state.jobs[handoff] else { return }
        if let report = job.report {
            state.effects.append(.send(.written(report), to: handoff.router))
            return
        }
        let now = now
        let started = job.started ?? now
        let computed = job.computed ?? now
        let transfer = now - computed
        metrics.transferLatency.observe(transfer / .milliseconds(1))
        if let first = job.firstPost, now > first {
            metrics.transferSpeed.observe(Double(bytes) / 1e9 / ((now - first) / .seconds(1)))
        }
        let report = WriteReport(
            handoff: handoff, cachedTokens: job.cachedTokens, queue: started - job.received,
            compute: computed - started, transfer: transfer, bytes: UInt64(bytes))
        state.jobs[handoff]?.report = report
        state.effects.append(.send(.written(report), to: handoff.router))
    }

    private func perform(_ effect: Effect) {
        switch effect {
        case .send(let message, let router):
            links.send(message, to: router)
            if case .written(let report) = message { log(report) }
        case .sendToAll(let message): links.sendToAll(message)
        case .submit(let job): engine.current?.submit(job)
        case .cancel(let handoff): engine.current?.cancel(handoff)
        case .release(let handoff): engine.current?.releasePrefill(handoff)
        case .post(let lane, let batch): lanes.current?.post(lane, batch)
        case .postCompletion(let lane, let terms): lanes.current?.postCompletion(lane, terms)
        case .closeLane(let lane): lanes.current?.close(lane)
        case .calledOff(let lane): lanes.current?.calledOff(lane)
        case .setPeers(let peers): lanes.current?.setPeers(peers)
        case .hideFromCache(let slot): engine.current?.hideFromCache(slot)
        case .dump(let incident): dump(incident)
        }
    }

    private func log(_ report: WriteReport) {
        logger.info(
            "prompt handed over",
            metadata: [
                "handoff": "\(report.handoff.text)", "request": "\(report.handoff.request)",
                "bytes": "\(report.bytes)", "cached": "\(report.cachedTokens)",
                "compute_ms": "\((report.compute / .milliseconds(1)).rounded())",
                "transfer_ms": "\((report.transfer / .milliseconds(1)).rounded())",
            ])
    }

    private func collect() {
        if let snapshot = engine.current?.snapshot() { metrics.update(snapshot) }
        if let tally = lanes.current?.tally { metrics.lanes.update(tally) }
        if let scrubber = scrubber.current { metrics.update(scrubber.counters, passes: table.passes) }
        let report = laneReport()
        state.withLock { state in
            metrics.update(state.mismatches)
            metrics.update(
                state.handoffs.counters, open: state.handoffs.openCount,
                idleLanes: report.reduce(0) { $0 + $1.idle }, busyLanes: report.reduce(0) { $0 + $1.busy })
        }
    }
}
