import Engine
import Handoff
package import Telemetry
import Transport

/// The metrics of a node of either role, under the names the field knows.
package final class NodeMetrics: Sendable {
    package let registry: MetricsRegistry
    let lanes: LaneMetrics
    // Handoffs.
    let transferLatency: Histogram
    let transferSpeed: Histogram
    let timeToSafeReclaim: HistogramFamily
    let sealTime: Histogram
    let fenceTime: Histogram
    private let proofs: CounterFamily
    private let refusals: CounterFamily
    private let failures: CounterFamily
    private let events: CounterFamily
    private let fences: Counter
    private let digestMismatches: CounterFamily
    private let scrubbedBytes: Counter
    private let scrubbedPages: Counter
    private let scrubPasses: Counter
    let evidencePages: Gauge
    private let grants: Counter
    private let seals: Counter
    // Requests.
    let finished: CounterFamily
    let timePerOutputToken: Histogram
    let firstStep: Histogram
    let prefillQueue: Histogram
    let prefillCompute: Histogram
    private let running: Gauge
    private let queued: Gauge
    private let queuedTokens: Gauge
    private let tokenUsage: Gauge
    private let cacheHitRate: Gauge
    private let pages: GaugeFamily
    private let laneStates: GaugeFamily
    private let openHandoffs: Gauge
    // Engine.
    private let generatedTokens: Counter
    private let prefillTokens: Counter
    private let cachedTokens: Counter
    private let preemptions: Counter
    private let draftRounds: Counter
    private let draftTokens: Counter
    private let acceptedTokens: Counter
    private let acceptRate: Gauge
    private let acceptLength: Gauge
    let requestAcceptLength: Histogram
    private let expertImbalance: GaugeFamily
    private let evictions: Counter
    private let stepTime: Histogram

    package init(registry: MetricsRegistry = MetricsRegistry()) {
        self.registry = registry
        lanes = LaneMetrics(registry)
        transferLatency = registry.histogram(
            "kv_transfer_latency_ms", "Last layer computed to all KV landed, in ms.",
            bounds: HistogramBounds.milliseconds)
        transferSpeed = registry.histogram(
            "kv_transfer_speed_gb_s", "KV bytes of a handoff by the time from its first write to its last, in GB/s.",
            bounds: [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100])
        timeToSafeReclaim = registry.histograms(
            "time_to_safe_reclaim_seconds", "Abort of a handoff to its pages being free, by the proof that freed them.",
            labels: ["proof"])
        sealTime = registry.histogram(
            "seal_seconds", "Completion record to seal, digest check included.", bounds: HistogramBounds.fine)
        fenceTime = registry.histogram(
            "fence_seconds", "Order to fence a lane to the lane being closed.", bounds: HistogramBounds.fine)
        proofs = registry.counters("quiescence_proofs_total", "Proofs that ended handoffs, by kind.", labels: ["kind"])
        refusals = registry.counters("reservations_refused_total", "Reservations refused.", labels: ["reason"])
        failures = registry.counters("handoff_failures_total", "Handoffs that failed, by cause.", labels: ["cause"])
        events = registry.counters(
            "handoff_events_dropped_total", "Duplicate, stale and faulty messages, never acted on.", labels: ["kind"])
        fences = registry.counter("fences_total", "Lanes fenced.")
        digestMismatches = registry.counters(
            "digest_mismatches_total", "Handoffs or cached pages whose bytes had changed, by where it was found.",
            labels: ["where"])
        scrubbedBytes = registry.counter("scrubbed_bytes_total", "Bytes that the scrub read.")
        scrubbedPages = registry.counter("scrubbed_pages_total", "Pages that the scrub compared.")
        scrubPasses = registry.counter("scrub_passes_total", "How often the scrub came round.")
        evidencePages = registry.gauge("evidence_pages", "Pages in use that are held until copied as evidence.")
        grants = registry.counter("grants_total", "Reservations granted.")
        seals = registry.counter("seals_total", "Handoffs sealed.")
        finished = registry.counters("requests_finished_total", "Sequences that ended here.", labels: ["reason"])
        timePerOutputToken = registry.histogram(
            "time_per_output_token_seconds", "Mean time per token of a finished sequence, after its first.",
            bounds: HistogramBounds.seconds)
        firstStep = registry.histogram("first_decode_step_seconds", "Seal to first token.")
        prefillQueue = registry.histogram("queue_time_seconds", "Arrival of a prompt to its first compute.")
        prefillCompute = registry.histogram("prefill_compute_seconds", "First compute of a prompt to its last layer.")
        running = registry.gauge("num_running_reqs", "Sequences that take part in engine steps.")
        queued = registry.gauge("num_queue_reqs", "Sequences that wait.")
        queuedTokens = registry.gauge("num_queue_tokens", "Prompt tokens not yet computed.")
        tokenUsage = registry.gauge("token_usage", "Share of KV pages that are not free.")
        cacheHitRate = registry.gauge("cache_hit_rate", "Share of prompt tokens taken from the prefix cache.")
        pages = registry.gauges("kv_pages", "KV pages by state.", labels: ["state"])
        laneStates = registry.gauges("lanes", "Lanes by state.", labels: ["state"])
        openHandoffs = registry.gauge("open_handoffs", "Handoffs not settled.")
        generatedTokens = registry.counter("generation_tokens_total", "Tokens generated.")
        prefillTokens = registry.counter("prompt_tokens_total", "Prompt tokens computed.")
        cachedTokens = registry.counter("cached_tokens_total", "Prompt tokens taken from the prefix cache.")
        preemptions = registry.counter("preemptions_total", "Sequences that gave back their pages for a while.")
        draftRounds = registry.counter("spec_rounds_total", "Steps of sequences that verified drafted tokens.")
        draftTokens = registry.counter("spec_draft_tokens_total", "Tokens drafted and verified.")
        acceptedTokens = registry.counter("spec_accepted_tokens_total", "Drafted tokens that were right.")
        acceptRate = registry.gauge("spec_accept_rate", "Share of drafted tokens that were right, since the start.")
        acceptLength = registry.gauge(
            "spec_accept_length", "Tokens per round of verification, 1 + accepted / rounds, since the start.")
        requestAcceptLength = registry.histogram(
            "spec_request_accept_length", "Tokens per round of verification of a finished sequence.",
            bounds: [1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 8, 12, 17])
        expertImbalance = registry.gauges(
            "expert_imbalance", "Tokens of a layer's busiest expert over those of an even spread, since the start.",
            labels: ["layer"])
        evictions = registry.counter("evicted_pages_total", "Cached pages given up.")
        stepTime = registry.histogram(
            "engine_step_seconds", "Duration of engine steps.", bounds: StepHistogram.boundsSeconds)
    }

    func update(_ engine: EngineSnapshot) {
        running.set(engine.running)
        queued.set(engine.waiting)
        queuedTokens.set(engine.queuedTokens)
        let total = engine.pages.total
        tokenUsage.set(total == 0 ? 0 : Double(total - engine.pages.free) / Double(total))
        let prompts = engine.cachedTokensTotal + engine.prefillTokensTotal
        cacheHitRate.set(prompts == 0 ? 0 : Double(engine.cachedTokensTotal) / Double(prompts))
        for state in SlotPool.State.allCases { pages.with("\(state)").set(engine.pages[state]) }
        generatedTokens.raise(to: engine.generatedTokensTotal)
        prefillTokens.raise(to: engine.prefillTokensTotal)
        cachedTokens.raise(to: engine.cachedTokensTotal)
        preemptions.raise(to: engine.preemptionsTotal)
        evictions.raise(to: engine.evictedPagesTotal)
        draftRounds.raise(to: engine.speculation.rounds)
        draftTokens.raise(to: engine.speculation.drafted)
        acceptedTokens.raise(to: engine.speculation.accepted)
        if let rate = engine.speculation.acceptRate { acceptRate.set(rate) }
        if let length = engine.speculation.acceptLength { acceptLength.set(length) }
        for load in engine.expertLoads {
            if let imbalance = load.imbalance { expertImbalance.with("\(load.layer)").set(imbalance) }
        }
        stepTime.replace(counts: engine.stepTimes.counts, sum: engine.stepTimes.sumSeconds)
    }

    func update(_ counters: HandoffCounters, open: Int, idleLanes: Int, busyLanes: Int) {
        for kind in QuiescenceProof.Kind.allCases {
            proofs.with(kind.rawValue).raise(to: UInt64(counters.proofs[kind] ?? 0))
        }
        for (reason, count) in counters.refusals { refusals.with(reason.rawValue).raise(to: UInt64(count)) }
        for (cause, count) in counters.failures { failures.with(cause.rawValue).raise(to: UInt64(count)) }
        events.with("duplicate").raise(to: UInt64(counters.duplicates))
        events.with("stale").raise(to: UInt64(counters.stale))
        events.with("peer_fault").raise(to: UInt64(counters.peerFaults))
        fences.raise(to: UInt64(counters.fences))
        grants.raise(to: UInt64(counters.grants))
        seals.raise(to: UInt64(counters.seals))
        openHandoffs.set(open)
        laneStates.with("idle").set(idleLanes)
        laneStates.with("busy").set(busyLanes)
    }

    func update(_ mismatches: MismatchCounts) {
        for place in MismatchIncident.Place.allCases {
            digestMismatches.with(place.rawValue).raise(to: UInt64(mismatches[place]))
        }
    }

    func update(_ counters: PageScrubber.Counters, passes: UInt64) {
        scrubbedBytes.raise(to: counters.bytes)
        scrubbedPages.raise(to: counters.pages)
        scrubPasses.raise(to: passes)
    }
}
