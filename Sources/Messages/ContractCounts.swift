/// What the handoff contract did on a node since its start.
package struct ContractCounts: Sendable, Equatable {
    /// Quiescence proofs by kind.
    package var proofsWriteComplete = 0
    package var proofsDrained = 0
    package var proofsFenced = 0
    /// Messages and events that were never acted on.
    package var duplicateEvents = 0
    package var staleEvents = 0
    package var peerFaults = 0
    /// Of `digestMismatches`, those that the scrub found, and those found as a cached page was sent again.
    package var scrubMismatches = 0
    package var sendMismatches = 0
    /// Handoffs sealed without digests, because both ends have them off.
    package var uncheckedSeals = 0
    package var scrubPasses = 0
    /// Handoffs given up before their seal whose pages are free again.
    package var reclaims = 0
    /// Abort to free pages: half, and 99 of 100, took at most this long.
    package var reclaimMedian = Duration.zero
    package var reclaimP99 = Duration.zero
    package var reclaimMax = Duration.zero

    package init() {}
}
