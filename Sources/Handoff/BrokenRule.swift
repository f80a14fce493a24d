/// Every rule of the contract that a build for mutants can break, in the machines, the pool or the simulated lane.
/// Without `BATON_MUTANTS` there is no way to: `isBroken` is the constant false, and what hangs on it is not compiled.
package enum BrokenRule: String, CaseIterable, Sendable {
    // The slot pool and the receiver.
    case freeOnTimeout, generationKept, grantFromQuarantine, reserveGrantsTwice, laneReusedUnsettled
    case reclaimWithoutLane, quarantineWithoutEnd, otherGenerationsCompleted, staleCompletion, digestsIgnored
    case receiverEndsOthers, unknownCountsAsDrained
    case sealWithOnePartMissing, reclaimWithOnePartUnproven, recordOfAnotherPart, loanNotRetained
    // The sender.
    case drainedBeforeCompletions, unpinnedEarly, answerOfAnotherUse, startsAfterCancel, laneDrainWithoutEnd
    case senderEndsOthers
    // The router.
    case otherIncarnationBelieved, tokenOfOlderAttempt, positionTwice, lostTokensUnnoticed, outcomeTwice
    case rowDroppedEarly, neverAskedAgain, notReconciled, routerLossIgnored, drainBelievedUnquiet
    // The simulated lane.
    case fenceReportedEarly, unguardedLane, acknowledgedWhenSent, recordOvertakesWrites

    #if BATON_MUTANTS
    /// The rule that is broken in this task.
    @TaskLocal package static var current: BrokenRule?
    #endif
}

/// Whether this rule is broken. Only builds for mutants can break any.
@inline(__always)
package func isBroken(_ rule: BrokenRule) -> Bool {
    #if BATON_MUTANTS
    BrokenRule.current == rule
    #else
    false
    #endif
}
