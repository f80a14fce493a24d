import ControlPlane
import Engine
import Handoff
import Kernels
import Messages
import Transport

// Between the engine's values and those of the control plane.

extension LoadedModel {
    var compatibility: ModelCompatibility {
        ModelCompatibility(
            fingerprint: fingerprint, pageLayout: layout.text, kvType: "\(layout.kvType)", isaClass: isa.rawValue,
            pageTokens: layout.pageTokens, pageBytes: layout.pageBytes)
    }

    /// Tokens of one sequence at most, on a node with this memory.
    func tokenLimit(_ memory: KVMemory) -> Int {
        min(facts.contextLimit, memory.pageCount * memory.layout.pageTokens)
    }

    /// Throws when a token is not of the vocabulary.
    func check(_ tokens: [UInt32]) throws(EngineError) {
        let count = UInt32(clamping: facts.vocabularySize)
        guard let wrong = tokens.first(where: { $0 >= count }) else { return }
        throw .invalid(field: "tokens", reason: "\(wrong) is not in 0..<\(count)")
    }
}

extension KVMemory {
    /// The slab as the lanes see it.
    var region: SlabRegion {
        SlabRegion(
            base: slab.base, slotCount: pageCount,
            shape: PageShape(layerBytes: (0..<layout.layerCount).map { layout.layerRange($0).count }))
    }
}

extension SamplingParameters {
    /// Takes over what came over the wire; the ranges are checked by `validate`.
    init(_ terms: SamplingTerms) throws(EngineError) {
        func token(_ value: UInt32, _ field: String) throws(EngineError) -> TokenID {
            guard let token = TokenID(exactly: value) else {
                throw .invalid(field: field, reason: "\(value) is no token")
            }
            return token
        }
        self.init()
        temperature = terms.temperature
        topK = terms.topK
        topP = terms.topP
        minP = terms.minP
        repetitionPenalty = terms.repetitionPenalty
        presencePenalty = terms.presencePenalty
        frequencyPenalty = terms.frequencyPenalty
        seed = terms.seed
        minTokens = terms.minTokens
        maxTokens = terms.maxTokens
        for entry in terms.logitBias { logitBias[try token(entry.token, "logit_bias")] = entry.bias }
        for stop in terms.stopTokens { stopTokens.append(try token(stop, "stop_token_ids")) }
        topLogprobs = terms.logprobs ? terms.topLogprobs : nil
    }
}

extension EngineError {
    /// Whether another node, or this one later, can do better.
    var isRetryable: Bool {
        switch self {
        case .memory, .shutDown: true
        case .model, .invalid, .tooLong: false
        }
    }
}

extension Engine.FinishReason {
    var label: String {
        switch self {
        case .stopToken: "stop"
        case .length: "length"
        case .cancelled: "cancelled"
        }
    }
}

extension FinishReport {
    init(_ handoff: HandoffID, _ reason: Engine.FinishReason, _ stats: DecodeStats) {
        let wireReason: Reason =
            switch reason {
            case .stopToken(let token): .stopToken(UInt32(bitPattern: token))
            case .length: .length
            case .cancelled: .cancelled
            }
        self.init(
            handoff: handoff, reason: wireReason, tokens: stats.generated, firstStep: stats.firstStep,
            decode: stats.decode, preemptions: stats.preemptions, speculation: Speculation(stats.speculation))
    }

    /// For a sequence whose statistics are gone: only how it ended.
    init(_ handoff: HandoffID, _ end: SequenceEnd) {
        self.init(
            handoff: handoff, reason: end.reason, tokens: end.tokens, firstStep: .zero, decode: .zero, preemptions: 0)
    }
}

extension Speculation {
    init(_ stats: SpeculationStats) {
        self.init(
            rounds: Int(clamping: stats.rounds), drafted: Int(clamping: stats.drafted),
            accepted: Int(clamping: stats.accepted))
    }
}

extension ExpertBalance {
    /// Nil where there are no experts, or nothing was computed.
    init?(_ loads: [ExpertLoad]) {
        let layers = loads.compactMap { load in load.imbalance.map { (load, $0) } }
        guard let worst = layers.max(by: { $0.1 < $1.1 }) else { return nil }
        self.init(
            meanImbalance: layers.reduce(0) { $0 + $1.1 } / Double(layers.count), worstImbalance: worst.1,
            worstLayer: worst.0.layer, worstExpert: worst.0.busiest)
    }
}

extension TokenBatch {
    /// A step's tokens, one batch per router. Nearly always there is one router.
    static func byRouter(_ runs: [Engine.TokenRun], sent: Duration) -> [(Incarnation, TokenBatch)] {
        var batches: [(Incarnation, TokenBatch)] = []
        for run in runs {
            let router = run.id.router
            let index: Int
            if let known = batches.firstIndex(where: { $0.0 == router }) {
                index = known
            } else {
                index = batches.count
                batches.append((router, TokenBatch(runs: [], sent: sent)))
                batches[index].1.runs.reserveCapacity(runs.count)
            }
            batches[index].1.runs.append(Messages.TokenRun(run))
        }
        return batches
    }
}

extension Messages.TokenRun {
    init(_ run: Engine.TokenRun) {
        self.init(
            handoff: run.id, firstIndex: run.firstIndex, tokens: run.tokens.map { UInt32(bitPattern: $0) },
            alternatives: run.logprobs.map { entries in
                entries.map {
                    Messages.TokenLogprob(token: UInt32(bitPattern: $0.token), logprob: $0.logprob)
                }
            })
    }
}

extension NodeLoad {
    init(engine: EngineSnapshot, lanes: LaneCounters) {
        self.init()
        slots = SlotCounts(engine.pages)
        running = engine.running
        waiting = engine.waiting
        queuedTokens = engine.queuedTokens
        preemptions = Int(clamping: engine.preemptionsTotal)
        speculation = Speculation(engine.speculation)
        experts = ExpertBalance(engine.expertLoads)
        staleWrites = lanes.staleWritesRejected
        contract.uncheckedSeals = lanes.uncheckedCompletions
    }

    mutating func note(_ counters: HandoffCounters, open: Int, lanes: (idle: Int, busy: Int)) {
        openHandoffs = open
        lanesIdle = lanes.idle
        lanesBusy = lanes.busy
        fences = counters.fences
        contract.proofsWriteComplete = counters.proofs[.writeComplete] ?? 0
        contract.proofsDrained = counters.proofs[.drained] ?? 0
        contract.proofsFenced = counters.proofs[.fenced] ?? 0
        contract.duplicateEvents = counters.duplicates
        contract.staleEvents = counters.stale
        contract.peerFaults = counters.peerFaults
    }

    mutating func note(_ mismatches: MismatchCounts, scrubPasses: UInt64) {
        digestMismatches = mismatches.total
        contract.scrubMismatches = mismatches[.scrub]
        contract.sendMismatches = mismatches[.send]
        contract.scrubPasses = Int(clamping: scrubPasses)
    }

    mutating func note(_ times: ReclaimTimes) {
        contract.reclaims = times.count
        contract.reclaimMedian = times.quantile(0.5)
        contract.reclaimP99 = times.quantile(0.99)
        contract.reclaimMax = times.longest
    }
}

extension PeerLanes {
    /// Whether two reports are of the same lanes, busy or not.
    func hasSameLanes(as other: PeerLanes) -> Bool {
        decode == other.decode && idle + busy == other.idle + other.busy && error == other.error
    }
}
