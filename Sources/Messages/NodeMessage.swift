package import Handoff

/// What a node tells a router after it has attached. Every value that came over the wire is within
/// `ControlLimits`.
package enum NodeMessage: Sendable, Equatable {
    case heartbeat(NodeLoad)
    // Decode node.
    case granted(GrantTerms)
    case refused(Refusal)
    /// `sealTime`: from the completion record to the seal, digest check included.
    case sealed(HandoffID, sealTime: Duration)
    case reclaimed(HandoffID, QuiescenceProof.Kind)
    case tokens(TokenBatch)
    case finished(FinishReport)
    // Prefill node.
    case written(WriteReport)
    /// Answer to a cancel: this many writes were posted and this many have completed; no more will be posted.
    /// The order to compute has arrived.
    case accepted(HandoffID)
    case drained(HandoffID, posted: UInt64, completed: UInt64)
    // Both.
    /// The text has details for people.
    case failed(HandoffID, HandoffFailure, details: String)
    case openHandoffs([HandoffID])
    case draining
    case lanes([PeerLanes])
}

/// A decode node's answer to a reservation that it does not grant.
package struct Refusal: Sendable, Equatable {
    package var handoff: HandoffID
    package var reason: RefusalReason
    package var message: String

    package init(handoff: HandoffID, reason: RefusalReason, message: String) {
        self.handoff = handoff
        self.reason = reason
        self.message = message
    }
}

/// A token and the natural logarithm of its probability.
package struct TokenLogprob: Sendable, Equatable {
    package var token: UInt32
    package var logprob: Float

    package init(token: UInt32, logprob: Float) {
        self.token = token
        self.logprob = logprob
    }
}

/// What an engine step decided for one request.
package struct TokenRun: Sendable, Equatable {
    package var handoff: HandoffID
    /// Position of `tokens[0]` in the completion of the request, tokens of earlier attempts included.
    package var firstIndex: Int
    package var tokens: [UInt32]
    /// One entry per token when log probabilities were asked for, else empty: the chosen token, then the likely.
    package var alternatives: [[TokenLogprob]]

    package init(handoff: HandoffID, firstIndex: Int, tokens: [UInt32], alternatives: [[TokenLogprob]] = []) {
        self.handoff = handoff
        self.firstIndex = firstIndex
        self.tokens = tokens
        self.alternatives = alternatives
    }
}

/// One engine step's tokens for all requests of one router.
package struct TokenBatch: Sendable, Equatable {
    package var runs: [TokenRun]
    /// Monotonic clock of the sending host, since its start.
    package var sent: Duration

    package init(runs: [TokenRun], sent: Duration) {
        self.runs = runs
        self.sent = sent
    }
}

/// A sequence has ended, and how long it took.
package struct FinishReport: Sendable, Equatable {
    package typealias Reason = SequenceEnd.Reason

    package var handoff: HandoffID
    package var reason: Reason
    /// Delivered by this attempt, so without a stop token.
    package var tokens: Int
    /// Seal to first token.
    package var firstStep: Duration
    /// First to last token.
    package var decode: Duration
    package var preemptions: Int
    package var speculation: Speculation

    package init(
        handoff: HandoffID, reason: Reason, tokens: Int, firstStep: Duration, decode: Duration, preemptions: Int,
        speculation: Speculation = Speculation()
    ) {
        self.speculation = speculation
        self.handoff = handoff
        self.reason = reason
        self.tokens = tokens
        self.firstStep = firstStep
        self.decode = decode
        self.preemptions = preemptions
    }
}

/// All writes of a handoff have landed.
package struct WriteReport: Sendable, Equatable {
    package var handoff: HandoffID
    /// Prompt tokens taken from the prefix cache.
    package var cachedTokens: Int
    /// Arrival to first compute.
    package var queue: Duration
    /// First compute to last layer.
    package var compute: Duration
    /// Last layer to last acknowledged write.
    package var transfer: Duration
    package var bytes: UInt64

    package init(
        handoff: HandoffID, cachedTokens: Int, queue: Duration, compute: Duration, transfer: Duration, bytes: UInt64
    ) {
        self.handoff = handoff
        self.cachedTokens = cachedTokens
        self.queue = queue
        self.compute = compute
        self.transfer = transfer
        self.bytes = bytes
    }
}

/// The lanes between a prefill node and one decode node.
package struct PeerLanes: Sendable, Equatable {
    package var decode: Incarnation
    package var idle: Int
    package var busy: Int
    /// `rdma`, `tcp`, or both while one replaces the other.
    package var transport: String
    /// Why there are none, or fewer than wanted; empty when there are enough.
    package var error: String
    /// Why it is not RDMA; empty when it is.
    package var reason: String

    package init(
        decode: Incarnation, idle: Int, busy: Int, transport: String, error: String, reason: String = ""
    ) {
        self.decode = decode
        self.idle = idle
        self.busy = busy
        self.transport = transport
        self.error = error
        self.reason = reason
    }
}
