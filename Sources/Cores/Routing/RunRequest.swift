package import API
package import Messages

/// One sequence to generate: a choice of a client's request, or a probe.
package struct RunRequest: Sendable {
    package var prompt: [UInt32]
    package var prefixHashes: [UInt64]
    package var sampling: SamplingTerms
    package var times: RunTimeline
    /// Only this pair will do: a readiness probe.
    package var pinned: PairPolicy.Pair?

    package init(prompt: [UInt32], sampling: SamplingTerms, times: RunTimeline, pinned: PairPolicy.Pair? = nil) {
        self.prompt = prompt
        prefixHashes = PrefixAffinity.hashes(of: prompt)
        self.sampling = sampling
        self.times = times
        self.pinned = pinned
    }

    package var isProbe: Bool { pinned != nil }
}

/// What happens to a run, for the client that waits for it.
package enum RunEvent: Sendable {
    /// Tokens in order, each delivered once. `alternatives` has one entry per token when logprobs were asked for.
    case tokens([UInt32], alternatives: [[TokenLogprob]])
    /// Nothing follows.
    case ended(RunEnding)
}

/// How a run ended, for the client; and what it took.
package struct RunEnding: Sendable {
    package var result: Result<FinishReason, APIError>
    package var times: RunTimeline
}

/// Where a run's time went. Instants are durations since the router started; those from `reserved` to `sealed`
/// and what nodes measured are of the last attempt, the others of the whole run.
package struct RunTimeline: Sendable {
    /// The request's head was read.
    package var received = Duration.zero
    /// Its prompt was tokenised.
    package var tokenised = Duration.zero
    /// It asked for a pair the first time.
    package var queued = Duration.zero
    /// Reserve went out.
    package var reserved: Duration?
    /// The grant came and Prefill went out.
    package var granted: Duration?
    package var written: Duration?
    package var sealed: Duration?
    /// The first token of all reached the router.
    package var firstToken: Duration?
    package var lastToken: Duration?
    package var ended: Duration?

    /// As the prefill node measured them: waiting for compute, computing, and writing what was not yet
    /// written when the computing ended (most of the transfer hides behind it).
    package var prefillQueue: Duration?
    package var prefillCompute: Duration?
    package var transferTail: Duration?
    package var transferBytes: UInt64 = 0
    /// As the decode node measured them.
    package var sealing: Duration?
    package var firstStep: Duration?
    package var decoding: Duration?
    package var speculation = Speculation()

    package var promptTokens = 0
    package var cachedTokens = 0
    package var completionTokens = 0
    package var attempts = 0
    package var prefillNode = ""
    package var decodeNode = ""

    package init() {}

    /// Another attempt starts: what was measured of the one before it is void.
    mutating func beginAttempt(now: Duration) {
        attempts += 1
        reserved = now
        granted = nil
        written = nil
        sealed = nil
        prefillQueue = nil
        prefillCompute = nil
        transferTail = nil
        transferBytes = 0
        sealing = nil
        firstStep = nil
        decoding = nil
        speculation = Speculation()
        cachedTokens = 0
    }
}
