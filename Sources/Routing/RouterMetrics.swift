import API
import Cores
package import Telemetry

/// The router's Prometheus metrics, under the names operators know.
package final class RouterMetrics: Sendable {
    package let registry: MetricsRegistry
    private let firstToken: Histogram
    private let interToken: Histogram
    private let endToEnd: Histogram
    private let queueTime: Histogram
    private let outcomes: CounterFamily
    private let failures: CounterFamily
    private let retries: Counter
    private let refusals: CounterFamily
    private let nodesLeft: Counter
    private let promptTokens: Counter
    private let cachedTokens: Counter
    private let generatedTokens: Counter
    private let probes: CounterFamily
    private let transferTime: Histogram
    private let transferBytes: Counter
    package let slowClients: Counter
    /// From the request's head to Reserve, less the wait for a pair.
    private let dispatch: Histogram
    /// From a decode step's message to its text handed to the client's connection.
    package let forward: Histogram
    /// From the same to the bytes in the client's socket.
    package let send: Histogram
    private let runningRequests: Gauge
    private let waitingRequests: Gauge
    private let openHandoffs: GaugeFamily
    private let attachedNodes: GaugeFamily
    private let ready: Gauge

    /// Dense around the 0.1 ms the router may add to a token, so that its median can be read off.
    private static let forwardBounds: [Double] = [
        10e-6, 20e-6, 30e-6, 40e-6, 50e-6, 60e-6, 70e-6, 80e-6, 90e-6, 100e-6, 120e-6, 150e-6, 200e-6, 300e-6, 500e-6,
        1e-3, 2.5e-3, 5e-3, 10e-3, 50e-3, 100e-3, 1,
    ]

    package init(registry: MetricsRegistry = MetricsRegistry()) {
        self.registry = registry
        let fine = HistogramBounds.fine
        firstToken = registry.histogram("time_to_first_token_seconds", "From a request's head to its first token.")
        interToken = registry.histogram(
            "inter_token_latency_seconds", "Between two tokens of a request; per token where several come at once.")
        endToEnd = registry.histogram("e2e_request_latency_seconds", "From a request's head to its last token.")
        queueTime = registry.histogram("queue_time_seconds", "Waiting for a pair of nodes.")
        outcomes = registry.counters("requests_total", "Sequences that ended, by outcome.", labels: ["outcome"])
        failures = registry.counters("request_failures_total", "Sequences that failed, by code.", labels: ["code"])
        retries = registry.counter("retries_total", "Attempts that failed and were followed by another.")
        refusals = registry.counters("refusals_total", "Reservations refused, by reason.", labels: ["reason"])
        nodesLeft = registry.counter("nodes_left_total", "Nodes that detached or lost their lease.")
        promptTokens = registry.counter("prompt_tokens_total", "Prompt tokens of ended sequences.")
        cachedTokens = registry.counter("cached_tokens_total", "Prompt tokens served from a prefix cache.")
        generatedTokens = registry.counter("generation_tokens_total", "Tokens delivered to clients.")
        probes = registry.counters("probes_total", "Readiness round trips, by result.", labels: ["result"])
        transferTime = registry.histogram(
            "kv_transfer_tail_seconds", "Writing KV pages after the last layer was computed.", bounds: fine)
        transferBytes = registry.counter("kv_transfer_bytes_total", "KV bytes written from node to node.")
        slowClients = registry.counter("slow_clients_total", "Clients cut off because they did not read.")
        dispatch = registry.histogram(
            "router_dispatch_seconds", "The router's own time before the first token: parsing, tokenising, placing.",
            bounds: fine)
        forward = registry.histogram(
            "router_forward_seconds", "From a token's arrival at the router to its text given to the connection.",
            bounds: Self.forwardBounds)
        send = registry.histogram(
            "router_send_seconds", "From a token's arrival at the router to its bytes in the client's socket.",
            bounds: Self.forwardBounds)
        runningRequests = registry.gauge("num_running_reqs", "Sequences with an open handoff or decoding.")
        waitingRequests = registry.gauge("num_queue_reqs", "Sequences that wait for a pair of nodes.")
        openHandoffs = registry.gauges("open_handoffs", "Rows of the handoff ledger, by state.", labels: ["state"])
        attachedNodes = registry.gauges("nodes", "Attached nodes, by role.", labels: ["role"])
        ready = registry.gauge("ready", "1 when a pair of nodes has shown a round trip.")
        for outcome in RoutingNote.Outcome.allCases { outcomes.with(outcome.rawValue).add(0) }
    }

    /// Fills the gauges from the router before each exposition.
    package func watch(_ router: Router) {
        registry.watch()
        registry.onCollect { [weak router] in
            guard let router else { return }
            self.collect(router)
        }
    }

    private func collect(_ router: Router) {
        let now = router.inspect { core in
            (
                core.runningCount, core.waitingCount, core.handoffStates, core.nodes.prefills.count,
                core.nodes.decodes.count, core.probes.isReady
            )
        }
        runningRequests.set(now.0)
        waitingRequests.set(now.1)
        for (state, count) in now.2 { openHandoffs.with(state).set(count) }
        attachedNodes.with("prefill").set(now.3)
        attachedNodes.with("decode").set(now.4)
        ready.set(now.5 ? 1 : 0)
    }

    func count(_ note: RoutingNote) {
        switch note {
        case .ended(_, let outcome, let request, let tokens): ended(outcome, request.times, tokens)
        case .runFailed(_, let error): failures.with(error.code ?? "other").add()
        case .retrying: retries.add()
        case .refused(_, let reason, _): refusals.with(reason).add()
        case .nodeLeft: nodesLeft.add()
        case .probed(_, _, let failure): probes.with(failure == nil ? "ok" : "failed").add()
        case .tokenGap(let gap, let tokens): interToken.observe(gap / max(1, tokens))
        case .firstToken(_, let times):
            firstToken.observe((times.firstToken ?? .zero) - times.received)
            if let reserved = times.reserved {
                queueTime.observe(reserved - times.queued)
                if times.attempts == 1 { dispatch.observe(times.queued - times.received) }
            }
        case .nodeJoined, .engineStalled, .settled: break
        }
    }

    private func ended(_ outcome: RoutingNote.Outcome, _ times: RunTimeline, _ tokens: Int) {
        outcomes.with(outcome.rawValue).add()
        promptTokens.add(times.promptTokens)
        cachedTokens.add(times.cachedTokens)
        generatedTokens.add(tokens)
        transferBytes.add(Int(clamping: times.transferBytes))
        if let tail = times.transferTail { transferTime.observe(tail) }
        if outcome == .completed, let ended = times.ended { endToEnd.observe(ended - times.received) }
    }
}
