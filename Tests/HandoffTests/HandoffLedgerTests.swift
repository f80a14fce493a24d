import Handoff
import Testing

private let id = handoff(1)
private let terms = GrantTerms(
    handoff: id, decode: decodeD, slots: [SlotRef(index: 0, generation: Generation(1))], lent: 0,
    parts: [GrantPart(writer: prefillP, lane: LaneID(1), epoch: LaneEpoch(1), pages: 0..<1, layers: 0..<4)])

/// A ledger with one row brought into a phase.
private func ledger(_ phase: String, delivered: Int = 0) -> HandoffLedger {
    var ledger = HandoffLedger(router: routerA)
    _ = ledger.open(id, prefills: [prefillP], decode: decodeD, delivered: delivered)
    if phase != "reserving" { _ = ledger.granted(terms, from: decodeD) }
    switch phase {
    case "written": _ = ledger.written(id, from: prefillP)
    case "decoding": _ = ledger.sealed(id, from: decodeD)
    case "draining": _ = ledger.cancel(id)
    case "reclaiming":
        _ = ledger.cancel(id)
        _ = ledger.drained(id, posted: 1, completed: 1, from: prefillP)
    case "fencing":
        _ = ledger.cancel(id)
        _ = ledger.deadlinePassed(.drainBudget, id)
    case "cancelling":
        _ = ledger.sealed(id, from: decodeD)
        _ = ledger.cancel(id)
    case "releasing":
        _ = ledger.sealed(id, from: decodeD)
        _ = ledger.finished(id, tokens: 0, from: decodeD)
    default: break
    }
    #expect(ledger.rows.first?.phase == phase)
    return ledger
}

private let allPhases = [
    "reserving", "prefilling", "written", "decoding", "draining", "reclaiming", "fencing", "cancelling", "releasing",
]

@Suite struct HandoffLedgerTests {
    @Test func theStraightPath() {
        var ledger = HandoffLedger(router: routerA)
        let open = ledger.open(id, prefills: [prefillP], decode: decodeD, delivered: 0)
        #expect(
            open == [.sendReserve(id, to: decodeD), .setDeadline(.reserveAnswer, id), .setDeadline(.retransmit, id)])
        let granted = ledger.granted(terms, from: decodeD)
        #expect(granted.contains(.sendPrefill(terms, part: 0, to: prefillP)))
        let accepted = ledger.accepted(id, from: prefillP)
        #expect(accepted == [.clearDeadline(.retransmit, id)])
        let written = ledger.written(id, from: prefillP)
        #expect(written.last == .setDeadline(.sealAnswer, id))
        let sealed = ledger.sealed(id, from: decodeD)
        #expect(sealed.contains(.sendRelease(id, to: prefillP)))
        let drained = ledger.drained(id, posted: 3, completed: 3, from: prefillP)
        #expect(drained.isEmpty)
        #expect(ledger.acceptTokens(id, firstIndex: 0, count: 4) == .deliver(0..<4))
        let finished = ledger.finished(id, tokens: 4, from: decodeD)
        #expect(finished.first == .deliver(id, .finished))
        #expect(finished.last == .settled(id))
        #expect(ledger.isSettled(request: 1) == true)
    }

    @Test func aFinishedRequestWaitsForItsSourcePages() {
        var ledger = ledger("releasing")
        #expect(ledger.isSettled(request: 1) == false)
        let again = ledger.deadlinePassed(.retransmit, id)
        #expect(again == [.sendRelease(id, to: prefillP), .setDeadline(.retransmit, id)])
        let drained = ledger.drained(id, posted: 1, completed: 1, from: prefillP)
        #expect(drained.last == .settled(id))
    }

    @Test func anAbortGoesThroughDrainedAndReclaimed() {
        var ledger = ledger("prefilling")
        let cancel = ledger.cancel(id)
        #expect(cancel.first == .deliver(id, .cancelled))
        #expect(cancel.contains(.sendCancel(id, to: prefillP)) && cancel.contains(.sendCancel(id, to: decodeD)))
        #expect(cancel.contains(.setDeadline(.drainBudget, id)))
        let drained = ledger.drained(id, posted: 5, completed: 5, from: prefillP)
        #expect(drained.contains(.sendReclaim(id, PartSet(0), to: decodeD)))
        let reclaimed = ledger.reclaimed(id, .drained, from: decodeD)
        #expect(reclaimed.last == .settled(id))
    }

    @Test func withoutAWholeDrainedThereIsAFence() {
        var ledger = ledger("draining")
        let partial = ledger.drained(id, posted: 5, completed: 4, from: prefillP)
        #expect(partial.contains(.sendFence(id, PartSet(0), to: decodeD)))
        var silent = HandoffLedger(router: routerA)
        _ = silent.open(id, prefills: [prefillP], decode: decodeD, delivered: 0)
        _ = silent.granted(terms, from: decodeD)
        _ = silent.cancel(id)
        let budget = silent.deadlinePassed(.drainBudget, id)
        #expect(budget.contains(.sendFence(id, PartSet(0), to: decodeD)))
        let lost = silent.nodeLost(prefillP)
        #expect(lost.isEmpty)
        let reclaimed = silent.reclaimed(id, .fenced, from: decodeD)
        #expect(reclaimed.last == .settled(id))
    }

    @Test func aRefusalIsTheOutcome() {
        var ledger = ledger("reserving")
        let refused = ledger.refused(id, .noPages, from: decodeD)
        #expect(refused.first == .deliver(id, .refused(.noPages)))
        #expect(refused.last == .settled(id))
    }

    @Test func anUnansweredReservationIsReclaimed() {
        var ledger = ledger("reserving")
        let late = ledger.deadlinePassed(.reserveAnswer, id)
        #expect(late.first == .deliver(id, .failed(HandoffFailure(.reserveTimeout))))
        #expect(late.contains(.sendReclaim(id, .all, to: decodeD)))
        let grant = ledger.granted(terms, from: decodeD)
        #expect(grant.isEmpty)
        let reclaimed = ledger.reclaimed(id, .drained, from: decodeD)
        #expect(reclaimed.last == .settled(id))
    }

    /// Whatever the phase, a lost pair settles the row, with one outcome.
    @Test(arguments: allPhases)
    func losingBothNodesSettlesEveryPhase(phase: String) {
        for order in [[prefillP, decodeD], [decodeD, prefillP]] {
            var ledger = ledger(phase)
            let delivered = ledger.rows[0].outcomeDelivered
            let actions = order.flatMap { ledger.nodeLost($0) }
            let outcomes = actions.count { if case .deliver = $0 { true } else { false } }
            #expect(outcomes == (delivered ? 0 : 1))
            #expect(ledger.isSettled(request: 1) == true)
        }
    }

    /// Whatever the phase, a cancel followed by the nodes' answers settles the row, with one outcome.
    @Test(arguments: allPhases)
    func aCancelSettlesEveryPhase(phase: String) {
        var ledger = ledger(phase)
        let delivered = ledger.rows[0].outcomeDelivered
        var actions = ledger.cancel(id)
        actions += ledger.drained(id, posted: 2, completed: 2, from: prefillP)
        actions += ledger.reclaimed(id, .drained, from: decodeD)
        actions += ledger.finished(id, tokens: 0, from: decodeD)
        let outcomes = actions.count { if case .deliver = $0 { true } else { false } }
        #expect(outcomes == (delivered ? 0 : 1))
        #expect(ledger.isSettled(request: 1) == true)
    }

    @Test func thePrefillNodeMayDieOnceAllIsWritten() {
        var ledger = ledger("written")
        let lost = ledger.nodeLost(prefillP)
        #expect(lost.isEmpty)
        let sealed = ledger.sealed(id, from: decodeD)
        #expect(!sealed.contains(.sendRelease(id, to: prefillP)))
        #expect(ledger.rows.first?.phase == "decoding")
    }

    @Test func aSealThatWinsAgainstTheAbort() {
        var ledger = ledger("draining")
        let sealed = ledger.sealed(id, from: decodeD)
        #expect(sealed.contains(.sendCancel(id, to: decodeD)))
        let finished = ledger.finished(id, tokens: 0, from: decodeD)
        #expect(!finished.contains { if case .deliver = $0 { true } else { false } })
        let drained = ledger.drained(id, posted: 1, completed: 1, from: prefillP)
        #expect(drained.last == .settled(id))
    }

    @Test func tokensAreDeliveredAtMostOnceAndWithoutGaps() {
        var ledger = ledger("decoding", delivered: 10)
        #expect(ledger.acceptTokens(id, firstIndex: 8, count: 4) == .deliver(2..<4))
        #expect(ledger.acceptTokens(id, firstIndex: 8, count: 4) == .drop)
        #expect(ledger.acceptTokens(id, firstIndex: 13, count: 1) == .gap)
        #expect(ledger.acceptTokens(id, firstIndex: 12, count: 1) == .deliver(0..<1))
        let failed = ledger.fail(id, HandoffFailure(.tokenGap))
        #expect(failed.first == .deliver(id, .failed(HandoffFailure(.tokenGap))))
        #expect(ledger.acceptTokens(id, firstIndex: 13, count: 1) == .drop)
        #expect(ledger.acceptTokens(handoff(9), firstIndex: 0, count: 1) == .drop)
    }

    @Test func aSequenceThatFinishedWithTokensMissingIsNotFinished() {
        var whole = ledger("decoding", delivered: 3)
        _ = whole.acceptTokens(id, firstIndex: 3, count: 2)
        let finished = whole.finished(id, tokens: 2, from: decodeD)
        #expect(finished.first == .deliver(id, .finished))
        var lossy = ledger("decoding", delivered: 3)
        _ = lossy.acceptTokens(id, firstIndex: 3, count: 2)
        let failed = lossy.finished(id, tokens: 4, from: decodeD)
        #expect(failed.first == .deliver(id, .failed(HandoffFailure(.tokenGap))))
    }

    @Test func aSequenceThatWasCutShortIsNotFinished() {
        var ledger = ledger("decoding", delivered: 3)
        let ended = ledger.finished(id, tokens: nil, from: decodeD)
        #expect(ended.first == .deliver(id, .failed(HandoffFailure(.computeFailed))))
    }

    @Test func prefillIsRepeatedUntilItIsAccepted() {
        var ledger = HandoffLedger(router: routerA)
        _ = ledger.open(id, prefills: [prefillP], decode: decodeD, delivered: 0)
        _ = ledger.granted(terms, from: decodeD)
        let again = ledger.deadlinePassed(.retransmit, id)
        #expect(again == [.sendPrefill(terms, part: 0, to: prefillP), .setDeadline(.retransmit, id)])
        let accepted = ledger.accepted(id, from: prefillP)
        #expect(accepted == [.clearDeadline(.retransmit, id)])
        let quiet = ledger.deadlinePassed(.retransmit, id)
        #expect(quiet.isEmpty)
        let repeated = ledger.accepted(id, from: prefillP)
        #expect(repeated.isEmpty && ledger.counters.duplicates == 1)
    }

    /// What a node says by itself may be lost; while the router waits for it, it asks.
    @Test(arguments: allPhases)
    func aRouterThatWaitsAsks(phase: String) {
        var ledger = ledger(phase)
        let asked = ledger.deadlinePassed(.inquiry, id)
        switch phase {
        case "prefilling", "written", "decoding":
            #expect(asked == [.sendQuery(id, to: decodeD), .setDeadline(.inquiry, id)])
        default:
            #expect(asked.isEmpty)
        }
    }

    @Test func anAcceptedPromptIsAskedForToo() {
        var ledger = ledger("prefilling")
        _ = ledger.accepted(id, from: prefillP)
        let asked = ledger.deadlinePassed(.inquiry, id)
        #expect(
            asked == [.sendQuery(id, to: prefillP), .sendQuery(id, to: decodeD), .setDeadline(.inquiry, id)])
    }

    @Test func tokensShowThatItSealed() {
        var ledger = ledger("written")
        _ = ledger.acceptTokens(id, firstIndex: 0, count: 2)
        let passed = ledger.deadlinePassed(.sealAnswer, id)
        #expect(passed.contains(.sendRelease(id, to: prefillP)))
        #expect(ledger.rows.first?.phase == "decoding")
    }

    @Test func whatNobodyKnowsIsEnded() {
        var ledger = HandoffLedger(router: routerA)
        let grant = ledger.granted(terms, from: decodeD)
        #expect(grant == [.sendFence(id, .all, to: decodeD)])
        let sealed = ledger.sealed(id, from: decodeD)
        #expect(sealed == [.sendCancel(id, to: decodeD)])
        let foreign = handoff(1, router: Incarnation(0xB))
        let open = ledger.nodeAttached(decodeD, open: [id, foreign], isDecode: true)
        #expect(open == [.sendFence(id, .all, to: decodeD)])
        let source = ledger.nodeAttached(prefillP, open: [id, foreign], isDecode: false)
        #expect(source == [.sendCancel(id, to: prefillP)])
    }

    /// A router alone gave a node up and settled its leg with it; the node comes back and still holds it.
    @Test func aLegWrittenOffWithItsNodeIsEndedWhenTheNodeComesBack() {
        var decodeBack = ledger("prefilling")
        _ = decodeBack.nodeLost(decodeD)
        #expect(decodeBack.rows.first?.phase == "releasing")
        let fence = decodeBack.nodeAttached(decodeD, open: [id], isDecode: true)
        #expect(fence == [.sendFence(id, .all, to: decodeD)])

        var prefillBack = ledger("decoding")
        _ = prefillBack.nodeLost(prefillP)
        let cancel = prefillBack.nodeAttached(prefillP, open: [id], isDecode: false)
        #expect(cancel == [.sendCancel(id, to: prefillP)])

        var neverLost = ledger("draining")
        let decodeOpen = neverLost.nodeAttached(decodeD, open: [id], isDecode: true)
        let prefillOpen = neverLost.nodeAttached(prefillP, open: [id], isDecode: false)
        #expect(decodeOpen.isEmpty && prefillOpen.isEmpty)
    }

    @Test func messagesFromTheWrongNodeAreNotBelieved() {
        var ledger = ledger("draining")
        let drained = ledger.drained(id, posted: 0, completed: 0, from: Incarnation(99))
        #expect(drained.isEmpty)
        let reclaimed = ledger.reclaimed(id, .drained, from: prefillP)
        #expect(reclaimed.isEmpty)
        #expect(ledger.rows.first?.phase == "draining")
        #expect(ledger.counters.peerFaults == 2)
    }
}
