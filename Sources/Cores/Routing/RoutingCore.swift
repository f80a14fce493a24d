package import API
package import Handoff
package import Messages

/// The router's brain: which requests wait, which handoffs run where, what every message means. A pure state
/// machine: events go in with the time they happen at, effects come out to be performed in order. It does no
/// I/O, reads no clock and draws no randomness, so a simulation can drive the very code a cluster runs.
///
///     submit ──▶ waiting ──pair found──▶ active ──finished──▶ ended
///                  ▲                       │
///                  └── failed, retryable ──┘         cancel, or too many failures: ended at once
///
/// A run ends exactly once. The ledger's row of its last handoff may outlive it: reclaiming goes on.
package struct RoutingCore: ~Copyable {
    /// Performed in order by the shell.
    package enum Effect: Sendable {
        case send(RouterMessage, to: Incarnation)
        case deliver(RunEvent, run: UInt64)
        case note(RoutingNote)
    }

    /// A run the router is working on.
    struct Run: Sendable {
        let id: UInt64
        var request: RunRequest
        /// Tokens delivered so far, over all attempts.
        var completion: [UInt32] = []
        var attempt: UInt32 = 0
        var handoff: HandoffID?
        /// It was taken while no pair of nodes was there: it waits for one until this.
        var attachBy: Duration?
        /// When it began to wait for a pair; a refusal does not start this anew, a failed attempt does.
        var waitingSince = Duration.zero
        var failures = 0
        var firstFailure: Duration?
        /// What the decode node said the end was.
        var reported: FinishReport.Reason?
        /// The answer is whole, and its end waits for the prefill node's report.
        var ending: Ending?
        /// What a node said of a failure that the ledger is about to hand out.
        var failureText: String?
        var avoided: Set<Incarnation> = []
        var excluded: Set<Incarnation> = []

        var job: PairPolicy.Job {
            var job = PairPolicy.Job(tokens: request.prompt.count + completion.count)
            job.prefixHashes = request.prefixHashes
            job.avoided = avoided
            job.excluded = excluded
            job.pinned = request.pinned
            return job
        }
    }

    struct Ending: Sendable {
        let reason: FinishReason
        let by: Duration
    }

    /// What an open handoff takes on its nodes, so that the same is given back when it ends.
    struct Placement: Sendable {
        let run: UInt64
        let pair: PairPolicy.Pair
        /// Prompt tokens counted at the prefill node; 0 once they are written.
        var prefillTokens: Int
        var decodeTokens: Int
        var decodePages: Int
        var holdsLane = true
        var isSealed = false
        /// False once the decode node has left.
        var isCountedOnDecode = true
        /// Kept until the grant: what the prefill node is to compute.
        var tokens: [UInt32]
        /// The attempt fails unless something of it is heard before this; nil while the ledger has a deadline
        /// of its own for the next answer.
        var progressBy: Duration?
        /// While decoding: what the decode node had done when that was set.
        var workSeen: Int?
    }

    struct DeadlineKey: Hashable {
        var name: Deadline
        var handoff: HandoffID
    }

    package let settings: RoutingSettings
    package let incarnation: Incarnation
    package internal(set) var nodes = NodeTable()
    package internal(set) var probes = ProbePlan()
    /// The router takes no new requests and lets the running ones finish.
    package private(set) var isDraining = false
    package internal(set) var ledger: HandoffLedger
    package internal(set) var affinity = PrefixAffinity()
    var waiting = WaitQueue()
    var runs: [UInt64: Run] = [:]
    var placements: [HandoffID: Placement] = [:]
    var deadlines: [DeadlineKey: Duration] = [:]
    var durations = DeadlineDurations()
    var lastRun: UInt64 = 0
    /// Requests wait for nodes until this, although there is no pair.
    var attachUntil: Duration
    /// Filled by the event being handled; taken by the caller.
    private var effects: [Effect] = []

    package init(incarnation: Incarnation, settings: RoutingSettings) {
        self.incarnation = incarnation
        self.settings = settings
        attachUntil = settings.attachPatience
        ledger = HandoffLedger(router: incarnation)
    }

    // MARK: Requests

    /// Takes in a client's runs, all or none. They wait at most `queueTimeout` for a pair.
    package mutating func submit(_ requests: [RunRequest], now: Duration) throws(APIError) -> [UInt64] {
        guard !isDraining else {
            throw .unavailable("The router is shutting down.", code: "draining", retryAfter: .seconds(5))
        }
        for request in requests {
            var job = PairPolicy.Job(tokens: request.prompt.count)
            job.pinned = request.pinned
            switch PairPolicy.choose(job, nodes: nodes, affinity: affinity, now: now) {
            case .noPair where nodes.lacksRole && now < attachUntil: break
            case .noPair(let missing):
                throw .unavailable("Nothing can serve this: \(missing).", code: "no_nodes", retryAfter: .seconds(2))
            case .tooLong(let limit):
                throw .contextLength(limit: limit, prompt: request.prompt.count, completion: nil, param: "prompt")
            case .pair, .wait: break
            }
        }
        // Behind others that wait, these would wait too: refused before any node hears of them.
        if waiting.freshCount > 0, waiting.freshCount + requests.count > settings.queueLimit {
            throw .queueFull(limit: settings.queueLimit, retryAfter: .seconds(2))
        }
        var numbers: [UInt64] = []
        for request in requests { numbers.append(enqueue(request, now: now)) }
        dispatch(now: now)
        // Those that found a pair at once never waited: only the rest counts against the bound.
        if waiting.freshCount > settings.queueLimit {
            for number in numbers { end(number, cancelling: true, now: now) }
            throw .queueFull(limit: settings.queueLimit, retryAfter: .seconds(2))
        }
        return numbers
    }

    /// The client is gone: both legs stop, whatever the phase. Unknown runs are ignored.
    package mutating func cancel(_ number: UInt64, now: Duration) {
        guard let run = runs[number] else { return }
        note(.ended(number, .cancelled, run.request, run.completion.count))
        end(number, cancelling: true, now: now)
        dispatch(now: now)
    }

    /// The client has all it wants (a stop string): the run is complete, and the decode node stops.
    package mutating func complete(_ number: UInt64, now: Duration) {
        finish(number, .stop, isEarly: true, now: now)
        dispatch(now: now)
    }

    private mutating func enqueue(_ request: RunRequest, now: Duration) -> UInt64 {
        lastRun += 1
        var run = Run(id: lastRun, request: request)
        run.request.times.queued = now
        run.request.times.promptTokens = request.prompt.count
        run.waitingSince = now
        if nodes.lacksRole { run.attachBy = attachUntil }
        runs[lastRun] = run
        waiting.insert(lastRun, since: now, notBefore: .zero, isRetry: false)
        return lastRun
    }

    /// Forgets a run, and stops its handoff where one is open.
    mutating func end(_ number: UInt64, cancelling: Bool, now: Duration) {
        guard let run = runs.removeValue(forKey: number) else { return }
        waiting.remove(number)
        if cancelling, let handoff = run.handoff { perform(ledger.cancel(handoff), now: now) }
    }

    // MARK: Shutdown

    /// Refuses new requests from now on.
    package mutating func beginDrain() { isDraining = true }

    /// Ends every run with a 503; the ledger goes on reclaiming.
    package mutating func cancelAll(now: Duration) {
        for number in runs.keys.sorted() {
            fail(
                number, .unavailable("The router is shutting down.", code: "draining", retryAfter: .seconds(5)),
                now: now)
        }
    }

    /// Nothing runs, waits or is still being reclaimed.
    package var isIdle: Bool { runs.isEmpty && ledger.unsettledCount == 0 }
    package var runningCount: Int { runs.count - waiting.count }
    package var waitingCount: Int { waiting.count }
    package var unsettledCount: Int { ledger.unsettledCount }

    // MARK: What is shown

    /// Counts of ledger rows by phase; phases without rows are 0.
    package var handoffStates: [(String, Int)] {
        var counts = Dictionary(HandoffLedger.phases.map { ($0, 0) }, uniquingKeysWith: { first, _ in first })
        for row in ledger.rows { counts[row.phase, default: 0] += 1 }
        return counts.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
    }

    /// Why `/ready` says no; nil when it says yes.
    package func unreadyReason() -> String? {
        if isDraining { return "the router is shutting down" }
        if probes.isReady { return nil }
        var job = PairPolicy.Job(tokens: 1)
        job.pinned = nil
        if case .noPair(let missing) = PairPolicy.choose(job, nodes: nodes, affinity: affinity, now: .zero) {
            return missing
        }
        if let failure = probes.lastFailure { return "no round trip has succeeded: \(failure)" }
        return "no round trip from prefill to decode has succeeded yet"
    }

    // MARK: Effects

    mutating func emit(_ effect: Effect) { effects.append(effect) }
    mutating func note(_ note: RoutingNote) { effects.append(.note(note)) }

    /// What to perform for the events handled since the last call, in order.
    package mutating func takeEffects() -> [Effect] {
        defer { effects.removeAll(keepingCapacity: true) }
        return effects
    }
}
