import Handoff
import Testing

/// A decode node with one lane of `prefillP`, driven by hand.
private struct Decode: ~Copyable {
    var pool = SlotPool(slotCount: 8)
    var handoffs = ReceivingHandoffs(incarnation: decodeD, layers: 4)
    let id = handoff(1)
    let lane = LaneID(7)

    init() { handoffs.laneOpened(lane, peer: prefillP) }

    mutating func grant(_ id: HandoffID? = nil, pages: Int = 3) -> GrantTerms? {
        let actions = handoffs.reserve(id ?? self.id, pages: pages, shares: [Share(writer: prefillP)], pool: &pool)
        guard case .sendGrant(let terms)? = actions.last, let part = terms.whole, actions.first == .bindLane(part)
        else { return nil }
        return terms
    }

    mutating func seal(_ terms: GrantTerms, matching: Bool = true) -> [ReceivingAction] {
        handoffs.completion(terms.lane, terms.epoch, record(terms), matching: matching, pool: &pool)
    }

    /// Brings the handoff into a phase.
    mutating func enter(_ phase: String) throws -> GrantTerms {
        let terms = try need(grant())
        switch phase {
        case "sealed": _ = seal(terms)
        case "ending":
            _ = seal(terms)
            _ = handoffs.cancel(id, pool: &pool)
        case "draining": _ = handoffs.cancel(id, pool: &pool)
        case "unbinding": _ = handoffs.reclaim(id, pool: &pool)
        case "fencing": _ = handoffs.fence(id, pool: &pool)
        default: break
        }
        #expect(handoffs.rows.first?.phase == phase)
        return terms
    }
}

private func reclaimed(_ id: HandoffID, _ kind: QuiescenceProof.Kind) -> [ReceivingAction] {
    [.clearDeadline(.drainBudget, id), .sendReclaimed(id, kind), .settled(id)]
}

@Suite struct ReceivingHandoffsTests {
    @Test func theStraightPath() throws {
        var node = Decode()
        let id = node.id
        let terms = try need(node.grant())
        #expect(terms.slots.count == 3 && terms.epoch == LaneEpoch(1) && terms.decode == decodeD)
        #expect(node.pool.counts.granted == 3)
        let seal = node.seal(terms)
        #expect(seal == [.startSequence(id, terms.slots), .sendSealed(id)])
        #expect(node.pool.counts.inUse == 3)
        #expect(node.handoffs.laneCounts.idle == 1)
        let end = SequenceEnd(.length, tokens: 7)
        let ended = node.handoffs.finished(id, end)
        #expect(ended == [.sendFinished(id, end), .settled(id)])
        #expect(node.handoffs.openCount == 0)
        #expect(node.handoffs.counters.proofs == [.writeComplete: 1])
    }

    @Test func refusals() throws {
        var node = Decode()
        func reason(_ actions: [ReceivingAction]) -> RefusalReason? {
            if case .sendRefused(_, let reason)? = actions.first { reason } else { nil }
        }
        let none = node.handoffs.reserve(handoff(2), pages: 0, shares: [Share(writer: prefillP)], pool: &node.pool)
        #expect(reason(none) == .invalid)
        let long = node.handoffs.reserve(handoff(3), pages: 9, shares: [Share(writer: prefillP)], pool: &node.pool)
        #expect(reason(long) == .tooLong)
        let foreign = node.handoffs.reserve(
            handoff(4), pages: 1, shares: [Share(writer: Incarnation(9))], pool: &node.pool)
        #expect(reason(foreign) == .noLane)
        _ = try need(node.grant(pages: 6))
        let busyLane = node.handoffs.reserve(handoff(5), pages: 1, shares: [Share(writer: prefillP)], pool: &node.pool)
        #expect(reason(busyLane) == .noLane)
        node.handoffs.laneOpened(LaneID(8), peer: prefillP)
        let noPages = node.handoffs.reserve(handoff(6), pages: 3, shares: [Share(writer: prefillP)], pool: &node.pool)
        #expect(reason(noPages) == .noPages)
        #expect(node.pool.counts.granted == 6)
    }

    @Test func theLaneThatIsIdleLongestIsNext() throws {
        var node = Decode()
        node.handoffs.laneOpened(LaneID(3), peer: prefillP)
        var given: [UInt32] = []
        for request in 10..<15 as Range<UInt64> {
            let terms = try need(node.grant(handoff(request), pages: 1))
            given.append(terms.lane.value)
            _ = node.handoffs.cancel(handoff(request), pool: &node.pool)
            _ = node.seal(terms)
        }
        #expect(given == [7, 3, 7, 3, 7])
    }

    /// A refusal is the answer for good: a repeated Reserve that comes when there is room is not granted.
    @Test func whatWasRefusedStaysRefused() throws {
        var node = Decode()
        let terms = try need(node.grant())
        let refused = node.handoffs.reserve(handoff(2), pages: 1, shares: [Share(writer: prefillP)], pool: &node.pool)
        #expect(refused == [.sendRefused(handoff(2), .noLane)])
        _ = node.handoffs.laneClosed(terms.lane, pool: &node.pool)
        node.handoffs.laneOpened(LaneID(8), peer: prefillP)
        let again = node.handoffs.reserve(handoff(2), pages: 1, shares: [Share(writer: prefillP)], pool: &node.pool)
        #expect(again == refused)
        let reclaim = node.handoffs.reclaim(handoff(2), pool: &node.pool)
        #expect(reclaim == [.sendReclaimed(handoff(2), .drained)])
        #expect(node.handoffs.openCount == 0)
    }

    @Test func anAbortBeforeTheSealWaitsForItsProof() throws {
        var node = Decode()
        let terms = try node.enter("draining")
        let id = node.id
        #expect(node.pool.counts.quarantined == 3)
        let unbind = node.handoffs.reclaim(id, pool: &node.pool)
        #expect(unbind == [.unbindLane(id, node.lane, terms.epoch)])
        #expect(node.pool.counts.quarantined == 3)
        let quiet = node.handoffs.laneUnbound(id, node.lane, terms.epoch, .quiet, pool: &node.pool)
        #expect(quiet == reclaimed(id, .drained))
        #expect(node.pool.counts.free == 8)
        #expect(node.handoffs.laneCounts.idle == 1)
        let reused = try need(node.grant(handoff(2), pages: 8))
        #expect(reused.epoch == LaneEpoch(2))
        for slot in terms.slots {
            #expect(reused.slots.contains(SlotRef(index: slot.index, generation: Generation(2))))
        }
    }

    @Test func aWordOfDrainedThatIsNotTrueFences() throws {
        var node = Decode()
        let terms = try node.enter("unbinding")
        let loud = node.handoffs.laneUnbound(node.id, node.lane, terms.epoch, .writing, pool: &node.pool)
        #expect(loud == [.fenceLane(node.lane)])
        #expect(node.pool.counts.quarantined == 3)
        let closed = node.handoffs.laneClosed(node.lane, pool: &node.pool)
        #expect(closed == reclaimed(node.id, .fenced))
        #expect(node.handoffs.counters.peerFaults == 1)
    }

    /// Over RDMA without memory windows nobody can say whether writes still land: the word of the peer is no proof.
    @Test func aLaneThatCannotSayIsFencedAndItsPeerNotBlamed() throws {
        var node = Decode()
        let terms = try node.enter("unbinding")
        let unknown = node.handoffs.laneUnbound(node.id, node.lane, terms.epoch, .unknown, pool: &node.pool)
        #expect(unknown == [.fenceLane(node.lane)])
        #expect(node.pool.counts.quarantined == 3 && node.handoffs.laneCounts.idle == 0)
        let closed = node.handoffs.laneClosed(node.lane, pool: &node.pool)
        #expect(closed == reclaimed(node.id, .fenced))
        #expect(node.handoffs.counters.proofs == [.fenced: 1] && node.handoffs.counters.peerFaults == 0)
    }

    @Test(arguments: ["granted", "draining", "unbinding"])
    func aFenceFreesOnlyWhenTheLaneIsClosed(phase: String) throws {
        var node = Decode()
        _ = try node.enter(phase)
        let fence = node.handoffs.fence(node.id, pool: &node.pool)
        #expect(fence == [.fenceLane(node.lane)])
        #expect(node.pool.counts.quarantined == 3)
        #expect(node.handoffs.laneCounts.busy == 1)
        let again = node.handoffs.fence(node.id, pool: &node.pool)
        #expect(again.isEmpty)
        let closed = node.handoffs.laneClosed(node.lane, pool: &node.pool)
        #expect(closed == reclaimed(node.id, .fenced))
        #expect(node.pool.counts.free == 8)
    }

    @Test func aDrainBudgetThatPassesOnlyStartsAFence() throws {
        var node = Decode()
        _ = try node.enter("draining")
        let fence = node.handoffs.deadlinePassed(.drainBudget, node.id, pool: &node.pool)
        #expect(fence == [.fenceLane(node.lane)])
        #expect(node.pool.counts.quarantined == 3)
    }

    @Test func aLaneLostWhileGrantedFailsTheHandoffAndFreesIt() throws {
        var node = Decode()
        _ = try node.enter("granted")
        let closed = node.handoffs.laneClosed(node.lane, pool: &node.pool)
        #expect(closed == [.sendFailed(node.id, HandoffFailure(.laneLost))] + reclaimed(node.id, .fenced))
    }

    @Test(arguments: ["sealed", "ending"])
    func aLaneLostAfterTheRecordChangesNothing(phase: String) throws {
        var node = Decode()
        _ = try node.enter(phase)
        let closed = node.handoffs.laneClosed(node.lane, pool: &node.pool)
        #expect(closed.isEmpty)
        #expect(node.handoffs.rows.first?.phase == phase)
    }

    @Test func aDigestMismatchQuarantinesAndFences() throws {
        var node = Decode()
        let terms = try node.enter("granted")
        let mismatch = node.seal(terms, matching: false)
        let failed = HandoffFailure(.digestMismatch)
        #expect(
            mismatch == [
                .fenceLane(node.lane), .sendFailed(node.id, failed), .dumpEvidence(node.id, terms.slots),
            ])
        #expect(node.pool.counts.quarantined == 3)
        let closed = node.handoffs.laneClosed(node.lane, pool: &node.pool)
        #expect(closed == reclaimed(node.id, .fenced))
    }

    @Test func aCancelRacingWithTheRecord() throws {
        var node = Decode()
        let terms = try node.enter("draining")
        let late = node.seal(terms)
        #expect(late == reclaimed(node.id, .writeComplete))
        var other = Decode()
        let others = try other.enter("draining")
        let mismatch = other.seal(others, matching: false)
        #expect(mismatch == [.fenceLane(other.lane)])
        let closed = other.handoffs.laneClosed(other.lane, pool: &other.pool)
        #expect(closed == reclaimed(other.id, .fenced))
    }

    @Test func aRecordThatLies() throws {
        var node = Decode()
        let terms = try node.enter("granted")
        let stale = terms.slots.map { SlotRef(index: $0.index, generation: Generation(0)) }
        let lie = record(terms, slots: stale)
        let actions = node.handoffs.completion(node.lane, terms.epoch, lie, matching: true, pool: &node.pool)
        #expect(actions == [.sendFailed(node.id, HandoffFailure(.protocolError)), .fenceLane(node.lane)])
        let oldEpoch = node.handoffs.completion(
            node.lane, LaneEpoch(0), record(terms), matching: true, pool: &node.pool)
        #expect(oldEpoch.isEmpty)
        #expect(node.pool.counts.quarantined == 3)
    }

    @Test(arguments: ["cancel", "reclaim", "fence"])
    func anAbortAfterTheSealEndsTheSequence(kind: String) throws {
        var node = Decode()
        _ = try node.enter("sealed")
        let actions =
            switch kind {
            case "cancel": node.handoffs.cancel(node.id, pool: &node.pool)
            case "reclaim": node.handoffs.reclaim(node.id, pool: &node.pool)
            default: node.handoffs.fence(node.id, pool: &node.pool)
            }
        #expect(actions == [.cancelSequence(node.id)])
        let end = SequenceEnd(.cancelled, tokens: 3)
        let ended = node.handoffs.finished(node.id, end)
        #expect(ended == [.sendFinished(node.id, end), .settled(node.id)])
        let again = node.handoffs.cancel(node.id, pool: &node.pool)
        #expect(again == [.repeatFinished(node.id, end)])
    }

    @Test func aQueryGetsTheLastWordAgain() throws {
        var node = Decode()
        let id = node.id
        let terms = try need(node.grant())
        #expect(node.handoffs.query(id).isEmpty)
        _ = node.seal(terms)
        #expect(node.handoffs.query(id) == [.sendSealed(id)])
        _ = node.handoffs.sequenceFailed(id, retryable: false)
        let failed = HandoffFailure(.computeFailed, retryable: false)
        let cut = SequenceEnd(.cancelled, tokens: 0)
        #expect(node.handoffs.query(id) == [.sendFailed(id, failed), .repeatFinished(id, cut)])
        #expect(node.handoffs.query(handoff(77)) == [.sendReclaimed(handoff(77), .drained)])
    }

    @Test func repeatedMessagesGetTheirAnswerAgain() throws {
        var node = Decode()
        let terms = try node.enter("granted")
        let again = node.handoffs.reserve(node.id, pages: 3, shares: [Share(writer: prefillP)], pool: &node.pool)
        #expect(again == [.sendGrant(terms)])
        _ = node.handoffs.reclaim(node.id, pool: &node.pool)
        _ = node.handoffs.laneUnbound(node.id, node.lane, terms.epoch, .quiet, pool: &node.pool)
        for answer in [
            node.handoffs.cancel(node.id, pool: &node.pool), node.handoffs.reclaim(node.id, pool: &node.pool),
            node.handoffs.fence(node.id, pool: &node.pool),
            node.handoffs.reserve(node.id, pages: 3, shares: [Share(writer: prefillP)], pool: &node.pool),
        ] {
            #expect(answer == [.sendReclaimed(node.id, .drained)])
        }
        #expect(node.handoffs.counters.duplicates == 5)
    }

    @Test func aCancelThatOvertakesItsReserveForbidsIt() {
        var node = Decode()
        let cancel = node.handoffs.cancel(node.id, pool: &node.pool)
        #expect(cancel == [.sendReclaimed(node.id, .drained)])
        let reserve = node.handoffs.reserve(node.id, pages: 3, shares: [Share(writer: prefillP)], pool: &node.pool)
        #expect(reserve == [.sendReclaimed(node.id, .drained)])
        #expect(node.pool.counts.free == 8)
    }

    @Test func aLostRouterFencesItsOwnAndNoOthers() throws {
        var node = Decode()
        node.handoffs.laneOpened(LaneID(8), peer: prefillP)
        node.handoffs.laneOpened(LaneID(9), peer: prefillP)
        let other = handoff(1, router: Incarnation(0xB))
        let sealed = try need(node.grant(handoff(2), pages: 1))
        _ = node.seal(sealed)
        let mine = try need(node.grant(handoff(3), pages: 1))
        _ = try need(node.grant(other, pages: 1))
        let actions = node.handoffs.routerLost(routerA, pool: &node.pool)
        #expect(actions == [.cancelSequence(handoff(2)), .fenceLane(mine.lane)])
    }

    @Test func theMemoryOfSettledHandoffsIsBounded() {
        var pool = SlotPool(slotCount: 1)
        var handoffs = ReceivingHandoffs(incarnation: decodeD, layers: 4, limits: .init(openMax: 1, settledMax: 4))
        for request in 0..<10 as Range<UInt64> { _ = handoffs.cancel(handoff(request), pool: &pool) }
        let known = handoffs.counters.duplicates
        _ = handoffs.cancel(handoff(9), pool: &pool)
        #expect(handoffs.counters.duplicates == known + 1)
        _ = handoffs.cancel(handoff(0), pool: &pool)
        #expect(handoffs.counters.duplicates == known + 1)
    }
}
