package import Handoff

/// A prompt to prefill. Its KV is computed for every token of it.
package struct PrefillJob: Sendable {
    package var id: HandoffID
    package var tokens: [TokenID]

    package init(id: HandoffID, tokens: [TokenID]) {
        self.id = id
        self.tokens = tokens
    }
}

/// A sequence to continue. `slots` holds the KV of all its tokens, sealed and with one user each; from `start`
/// on they belong to the engine, which releases them when the job ends, also when it ends with an error.
package struct DecodeJob: Sendable {
    package var id: HandoffID
    /// The prompt, then what earlier attempts delivered.
    package var tokens: [TokenID]
    /// How many of `tokens`, at the end, were delivered by earlier attempts.
    package var delivered: Int
    package var sampling: SamplingParameters
    /// Block table: slot i holds positions [i·pageTokens, (i+1)·pageTokens). Empty: the engine prefills by itself.
    package var slots: [SlotRef]

    package init(
        id: HandoffID, tokens: [TokenID], delivered: Int = 0, sampling: SamplingParameters, slots: [SlotRef]
    ) {
        self.id = id
        self.tokens = tokens
        self.delivered = delivered
        self.sampling = sampling
        self.slots = slots
    }
}

/// A token and the natural logarithm of its probability.
package struct TokenLogprob: Sendable, Equatable {
    package var token: TokenID
    package var logprob: Float

    package init(token: TokenID, logprob: Float) {
        self.token = token
        self.logprob = logprob
    }
}

/// What a step decided for one request.
package struct TokenRun: Sendable, Equatable {
    package var id: HandoffID
    /// Index in the completion of `tokens[0]`; the first new token has index `delivered`.
    package var firstIndex: Int
    package var tokens: [TokenID]
    /// One entry per token when log probabilities were asked for, else empty: the chosen token first, then the
    /// most likely ones in descending order (the chosen one among them again when it is one of them).
    package var logprobs: [[TokenLogprob]]

    package init(id: HandoffID, firstIndex: Int, tokens: [TokenID], logprobs: [[TokenLogprob]]) {
        self.id = id
        self.firstIndex = firstIndex
        self.tokens = tokens
        self.logprobs = logprobs
    }
}

/// Why a completion ended without an error.
package enum FinishReason: Sendable, Equatable {
    /// The stop token is not delivered in a `TokenRun`.
    case stopToken(TokenID)
    /// `maxTokens`, or the context limit.
    case length
    case cancelled
}

/// Where the time of a prefill went.
package struct PrefillStats: Sendable, Equatable {
    /// Prompt tokens taken from the prefix cache.
    package var cachedTokens = 0
    /// Submit to first compute.
    package var queued = Duration.zero
    /// First compute to last layer.
    package var compute = Duration.zero

    package init(cachedTokens: Int = 0, queued: Duration = .zero, compute: Duration = .zero) {
        self.cachedTokens = cachedTokens
        self.queued = queued
        self.compute = compute
    }
}

/// What speculative decoding came to, of one sequence or of a node.
///
/// A round verifies at least one drafted token. It accepts those that the sampler draws too, up to the first that it
/// does not, and always delivers one token more, which the sampler drew itself.
package struct SpeculationStats: Sendable, Equatable {
    package var rounds: UInt64 = 0
    /// Tokens drafted and verified.
    package var drafted: UInt64 = 0
    /// Those that were right.
    package var accepted: UInt64 = 0

    package init() {}

    /// Tokens per round, the sampler's own included; nil before the first round.
    package var acceptLength: Double? { rounds == 0 ? nil : 1 + Double(accepted) / Double(rounds) }
    /// The share of drafted tokens that were right.
    package var acceptRate: Double? { drafted == 0 ? nil : Double(accepted) / Double(drafted) }

    package mutating func count(drafted: Int, accepted: Int) {
        guard drafted > 0 else { return }
        rounds += 1
        self.drafted += UInt64(drafted)
        self.accepted += UInt64(accepted)
    }

    package static func += (sum: inout SpeculationStats, more: SpeculationStats) {
        sum.rounds += more.rounds
        sum.drafted += more.drafted
        sum.accepted += more.accepted
    }
}

/// What a decode job came to, and where its time went.
package struct DecodeStats: Sendable, Equatable {
    /// Tokens that this job delivered; a stop token is not delivered.
    package var generated = 0
    /// `start` to the first token, delivered or not.
    package var firstStep = Duration.zero
    /// First to last token delivered.
    package var decode = Duration.zero
    package var preemptions = 0
    package var speculation = SpeculationStats()

    package init(
        generated: Int = 0, firstStep: Duration = .zero, decode: Duration = .zero, preemptions: Int = 0,
        speculation: SpeculationStats = SpeculationStats()
    ) {
        self.speculation = speculation
        self.generated = generated
        self.firstStep = firstStep
        self.decode = decode
        self.preemptions = preemptions
    }
}

/// What the engine loop tells, on its own thread, through its one closure. The closure must not block.
/// Every job accepted gets exactly one of the ending events, and nothing after it.
package enum EngineEvent: Sendable {
    /// Prefill: pages are allocated; the first `cachedTokens` (whole pages) were in the prefix cache.
    case started(HandoffID, cachedTokens: Int, slots: [SlotRef])
    /// Prefill: the KV of these pages (indices into the block table) is final for these layers.
    case pagesReady(HandoffID, layers: Range<Int>, pages: Range<Int>)
    /// Prefill, ending: all layers of all pages are ready.
    case prefilled(HandoffID, PrefillStats)
    /// Decode: one event per step, for all requests that got a token.
    case tokens([TokenRun])
    /// Decode, ending. Pages are released already. Also ends a cancelled prefill (`.cancelled`), whose pages
    /// stay pinned until `releasePrefill`.
    case finished(HandoffID, FinishReason, DecodeStats)
    /// Ending: the job was refused or cannot go on.
    case failed(HandoffID, EngineError)
}

/// The state of an engine loop at one moment, for heartbeats and metrics. Totals count from the start.
package struct EngineSnapshot: Sendable {
    /// Sequences that take part in steps.
    package var running = 0
    /// Jobs that wait for pages or for a place in the batch, preempted ones included.
    package var waiting = 0
    package var preempted = 0
    /// Prompt tokens not yet computed, of running and waiting jobs.
    package var queuedTokens = 0
    /// Prefilled jobs whose pages are still pinned.
    package var pinnedJobs = 0
    /// Pages the engine needs soon (preempted sequences, growth). A decode node leaves that many free when it
    /// grants, or new requests would starve those it already has.
    package var pagesWanted = 0
    package var pages: SlotPool.Counts
    package var prefillTokensTotal: UInt64 = 0
    package var cachedTokensTotal: UInt64 = 0
    package var generatedTokensTotal: UInt64 = 0
    package var preemptionsTotal: UInt64 = 0
    package var evictedPagesTotal: UInt64 = 0
    package var speculation = SpeculationStats()
    /// Brought up to date now and then; empty for models without experts.
    package var expertLoads: [ExpertLoad] = []
    package var stepsTotal: UInt64 = 0
    package var stepTimes = StepHistogram()

    package init(pages: SlotPool.Counts) { self.pages = pages }
}

/// Step durations in fixed buckets, as a Prometheus histogram wants them (counts here are not cumulative).
package struct StepHistogram: Sendable, Equatable {
    /// Upper bounds in seconds; one more bucket holds what is above the last.
    package static let boundsSeconds: [Double] = [
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
    ]
    package private(set) var counts = Array(repeating: UInt64(0), count: boundsSeconds.count + 1)
    package private(set) var sumSeconds = 0.0

    package init() {}

    package mutating func record(seconds: Double) {
        counts[Self.boundsSeconds.firstIndex { seconds <= $0 } ?? Self.boundsSeconds.count] += 1
        sumSeconds += seconds
    }
}
