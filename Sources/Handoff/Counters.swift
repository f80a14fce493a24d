/// What the state machines met that was not the straight path. Every event that is refused or dropped is here.
package struct HandoffCounters: Sendable, Equatable {
    /// Repeats of a message already acted on: answered again or dropped.
    package var duplicates = 0
    /// Events for a handoff, lane or epoch that is over.
    package var stale = 0
    /// Events that only a faulty or foreign peer can cause.
    package var peerFaults = 0
    /// Attempts that failed, by cause.
    package var failures: [HandoffFailure.Cause: Int] = [:]

    // Decode node.
    package var grants = 0
    package var seals = 0
    package var refusals: [RefusalReason: Int] = [:]
    /// Proofs that made slots readable (`writeComplete` with a seal) or free, by kind.
    package var proofs: [QuiescenceProof.Kind: Int] = [:]
    package var fences = 0
    package var digestMismatches = 0

    // Prefill node.
    package var recordsPosted = 0
    package var bytesPosted = 0
    package var unpins = 0

    // Router.
    package var retransmissions = 0
    package var tokensDropped = 0

    package init() {}
}
