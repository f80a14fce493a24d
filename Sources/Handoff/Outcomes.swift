/// Why a receiver does not grant.
package enum RefusalReason: String, Hashable, Sendable, CaseIterable {
    /// Fewer slots are free than the reservation wants.
    case noPages
    /// No idle lane from that sender.
    case noLane
    /// More slots than the node has.
    case tooLong
    /// The node takes no new work.
    case draining
    /// Malformed.
    case invalid
    /// As many handoffs are open as the node allows.
    case busy

    /// Whether asking again later, or another node, can help.
    package var isTransient: Bool {
        switch self {
        case .noPages, .noLane, .draining, .busy: true
        case .tooLong, .invalid: false
        }
    }
}

/// How a sequence ended on its receiver.
package struct SequenceEnd: Hashable, Sendable {
    package enum Reason: Hashable, Sendable {
        case stopToken(UInt32)
        case length
        /// Before its time: it was told to stop, or could not be run.
        case cancelled
    }

    package let reason: Reason
    /// Completion tokens this attempt generated for the client, so without a stop token.
    package let tokens: Int

    package init(_ reason: Reason, tokens: Int) {
        self.reason = reason
        self.tokens = tokens
    }
}

/// Why an attempt ended without its sequence having finished.
package struct HandoffFailure: Error, Hashable, Sendable {
    package enum Cause: String, Hashable, Sendable, CaseIterable {
        case laneLost, digestMismatch, computeFailed, nodeLost, reserveTimeout, sealTimeout, badGrant, routerLost
        case tokenGap, protocolError
    }

    package let cause: Cause
    /// Whether another attempt, on another pair, can succeed.
    package let retryable: Bool

    package init(_ cause: Cause, retryable: Bool = true) {
        self.cause = cause
        self.retryable = retryable
    }

    /// One sentence for logs and clients.
    package var message: String {
        switch cause {
        case .laneLost: "the lane between the nodes closed before the pages were sealed"
        case .digestMismatch: "a page's digest on the decode node is not the prefill node's"
        case .computeFailed: "the node could not compute the sequence"
        case .nodeLost: "a node of the pair was lost"
        case .reserveTimeout: "the decode node did not answer the reservation in time"
        case .sealTimeout: "the decode node did not seal in time after the last write"
        case .badGrant: "the grant does not fit the request or names a lane in use"
        case .routerLost: "the router was lost"
        case .tokenGap: "the decode node skipped token positions"
        case .protocolError: "a node broke the handoff protocol"
        }
    }
}
