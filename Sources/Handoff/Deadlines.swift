/// Every timeout of the contract, by name. The state machines read no clock: they ask for a deadline with an
/// action and get it back as an event. None of them frees memory: a deadline can resend a message, fail an
/// attempt, or start a fence.
package enum Deadline: String, Hashable, Sendable, CaseIterable {
    /// Router: Reserve → Grant or Refused. Then the attempt fails and the decode node is told to reclaim.
    case reserveAnswer
    /// Router: any message that wants an answer is sent again after this.
    case retransmit
    /// Router: while it waits for what a node says by itself (Written, Sealed, Tokens, Finished, Failed), it asks this
    /// often. Then the node repeats its last word, so that the loss of any message is made good.
    case inquiry
    /// Router and decode node: Cancel → Drained. Then the decode node fences the lane.
    case drainBudget
    /// Router: Written → Sealed. Then the attempt fails and the decode node is told to fence.
    case sealAnswer
    /// Prefill node: Cancel, or Release before it was due → last write acknowledged. Then it closes the lane, which
    /// ends all reading of the source pages.
    case laneDrain
}

/// How long each deadline is.
package struct DeadlineDurations: Sendable, Equatable {
    /// A decode node answers a reservation from memory, in microseconds; five seconds is a node that hangs but
    /// still holds its lease.
    package var reserveAnswer: Duration = .seconds(5)
    /// Far above a round trip, so that a duplicate is rare; short beside what waits for the answer.
    package var retransmit: Duration = .seconds(1)
    /// Below `sealAnswer`, so that a lost word costs less than the attempt; long enough that thousands of sequences
    /// ask for hundreds of messages a second, not thousands.
    package var inquiry: Duration = .seconds(5)
    /// What is in flight at a cancel (`WriteLimits`) drains in milliseconds. A prefill node that needs seconds
    /// is stuck, and fencing costs one reconnect.
    package var drainBudget: Duration = .seconds(2)
    /// Sealing is a comparison of digests; a decode node under load still does it within its step time.
    package var sealAnswer: Duration = .seconds(10)
    /// Twice the drain budget: by then the decode node has fenced its end if it lives.
    package var laneDrain: Duration = .seconds(4)

    package init() {}

    package subscript(_ deadline: Deadline) -> Duration {
        switch deadline {
        case .reserveAnswer: reserveAnswer
        case .retransmit: retransmit
        case .inquiry: inquiry
        case .drainBudget: drainBudget
        case .sealAnswer: sealAnswer
        case .laneDrain: laneDrain
        }
    }
}
