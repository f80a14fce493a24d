import Handoff
import Testing

private let prefillQ = Incarnation(0x2)
private let layers = 4

/// How two writers share a handoff of four pages.
enum Split: CaseIterable {
    case byLayers, byPages

    var shares: [Share] {
        switch self {
        case .byLayers:
            [Share(writer: prefillP, layers: 0..<3), Share(writer: prefillQ, layers: 3..<Share.last)]
        case .byPages: [Share(writer: prefillP, pages: 0..<2), Share(writer: prefillQ, pages: 2..<Share.last)]
        }
    }
}

/// A decode node with lanes of two prefill nodes.
private struct Decode: ~Copyable {
    var pool = SlotPool(slotCount: 8)
    var handoffs = ReceivingHandoffs(incarnation: decodeD, layers: layers)
    let id = handoff(1)

    init() {
        handoffs.laneOpened(LaneID(1), peer: prefillP)
        handoffs.laneOpened(LaneID(2), peer: prefillQ)
    }

    mutating func grant(_ shares: [Share], lending: [SlotRef] = []) -> GrantTerms? {
        let actions = handoffs.reserve(id, pages: 4, shares: shares, lending: lending, pool: &pool)
        guard case .sendGrant(let terms)? = actions.last else { return nil }
        #expect(actions.dropLast() == terms.parts.indices.compactMap { terms.part($0).map { .bindLane($0) } }[...])
        return terms
    }

    mutating func complete(_ terms: GrantTerms, _ part: Int, _ record: CompletionRecord? = nil) -> [ReceivingAction] {
        handoffs.completion(
            terms.parts[part].lane, terms.parts[part].epoch, record ?? HandoffTests.record(terms, part: part),
            matching: true, pool: &pool)
    }

    mutating func unbound(_ terms: GrantTerms, _ part: Int, _ answer: LaneUnbinding) -> [ReceivingAction] {
        handoffs.laneUnbound(terms.handoff, terms.parts[part].lane, terms.parts[part].epoch, answer, pool: &pool)
    }
}

private func reclaimed(_ id: HandoffID, _ kind: QuiescenceProof.Kind) -> [ReceivingAction] {
    [.clearDeadline(.drainBudget, id), .sendReclaimed(id, kind), .settled(id)]
}

@Suite struct PartsTests {
    @Test(arguments: Split.allCases)
    func aSealNeedsEveryPart(split: Split) throws {
        var node = Decode()
        let terms = try need(node.grant(split.shares))
        #expect(terms.areCovered(layers: layers) && terms.lent == 0 && terms.parts.map(\.lane.value) == [1, 2])
        #expect(terms.part(1)?.slots == (split == .byPages ? Array(terms.slots[2...]) : terms.slots))
        let second = node.complete(terms, 1)
        #expect(second.isEmpty && node.pool.counts.granted == 4)
        // The lane of a part that is complete serves others at once.
        #expect(node.handoffs.idleLanes(of: prefillQ) == 1 && node.handoffs.idleLanes(of: prefillP) == 0)
        let first = node.complete(terms, 0)
        #expect(first == [.startSequence(node.id, terms.slots), .sendSealed(node.id)])
        #expect(node.handoffs.counters.proofs == [.writeComplete: 1])
    }

    /// One writer dies: its lane closes, and the slots wait for the other, whatever the router knows.
    @Test(arguments: Split.allCases)
    func ofTwoWritersOneIsDead(split: Split) throws {
        var node = Decode()
        let terms = try need(node.grant(split.shares))
        let closed = node.handoffs.laneClosed(LaneID(1), pool: &node.pool)
        #expect(closed == [.sendFailed(node.id, HandoffFailure(.laneLost)), .setDeadline(.drainBudget, node.id)])
        #expect(node.pool.counts.quarantined == 4 && node.handoffs.rows.first?.phase == "draining")
        // The other had finished: that is a proof of its own part, and now of all.
        let late = node.complete(terms, 1)
        #expect(late == reclaimed(node.id, .fenced))
        #expect(node.pool.counts.free == 8)
    }

    @Test func aDeadWriterAfterTheOtherIsComplete() throws {
        var node = Decode()
        let terms = try need(node.grant(Split.byLayers.shares))
        _ = node.complete(terms, 1)
        let fence = node.handoffs.fence(node.id, PartSet(0), pool: &node.pool)
        #expect(fence == [.fenceLane(LaneID(1))])
        #expect(node.pool.counts.quarantined == 4)
        let closed = node.handoffs.laneClosed(LaneID(1), pool: &node.pool)
        #expect(closed == reclaimed(node.id, .fenced))
        #expect(node.handoffs.idleLanes(of: prefillQ) == 1)
    }

    /// The handoff is proven when its last part is, whatever the order, and by the weakest of the proofs.
    @Test(arguments: [[0, 1, 2], [2, 1, 0], [1, 0, 2], [2, 0, 1]])
    func partsEndInDifferentWays(order: [Int]) throws {
        var node = Decode()
        let third = Incarnation(0x3)
        node.handoffs.laneOpened(LaneID(3), peer: third)
        let terms = try need(
            node.grant([
                Share(writer: prefillP, layers: 0..<1), Share(writer: prefillQ, layers: 1..<2),
                Share(writer: third, layers: 2..<Share.last),
            ]))
        let cancel = node.handoffs.cancel(node.id, pool: &node.pool)
        #expect(cancel == [.setDeadline(.drainBudget, node.id)])
        let asked = node.handoffs.reclaim(node.id, PartSet(1), pool: &node.pool)
        #expect(asked == [.unbindLane(node.id, LaneID(2), LaneEpoch(1))])
        let fenced = node.handoffs.fence(node.id, PartSet(2), pool: &node.pool)
        #expect(fenced == [.fenceLane(LaneID(3))])
        #expect(node.handoffs.rows.first?.phase == "draining")
        for (count, part) in order.enumerated() {
            #expect(node.pool.counts.quarantined == 4)
            let actions =
                switch part {
                case 0: node.complete(terms, 0)
                case 1: node.unbound(terms, 1, .quiet)
                default: node.handoffs.laneClosed(LaneID(3), pool: &node.pool)
                }
            #expect(actions == (count == 2 ? reclaimed(node.id, .fenced) : []))
        }
        #expect(node.pool.counts.free == 8 && node.handoffs.counters.proofs == [.fenced: 1])
    }

    /// A record fills the part of the lane that it came on, and names just that.
    @Test(arguments: Split.allCases)
    func aRecordOfOnePartDoesNotFillAnother(split: Split) throws {
        var node = Decode()
        let terms = try need(node.grant(split.shares))
        let other = record(terms, part: 1)
        let actions = node.complete(terms, 0, other)
        #expect(
            actions == [
                .sendFailed(node.id, HandoffFailure(.protocolError)), .fenceLane(LaneID(1)),
                .setDeadline(.drainBudget, node.id),
            ])
        #expect(node.handoffs.counters.peerFaults == 1 && node.handoffs.counters.seals == 0)
    }

    @Test func aDrainBudgetFencesEveryPartThatIsNotProven() throws {
        var node = Decode()
        let terms = try need(node.grant(Split.byPages.shares))
        _ = node.complete(terms, 0)
        _ = node.handoffs.cancel(node.id, pool: &node.pool)
        let passed = node.handoffs.deadlinePassed(.drainBudget, node.id, pool: &node.pool)
        #expect(passed == [.fenceLane(LaneID(2))])
        #expect(node.pool.counts.quarantined == 4)
    }

    @Test(arguments: [
        [], [Share(writer: prefillP, layers: 0..<3)], [Share(writer: prefillP, pages: 1..<Share.last)],
        [Share(writer: prefillP, layers: 0..<3), Share(writer: prefillQ, layers: 2..<Share.last)],
        [Share(writer: prefillP, layers: 0..<2), Share(writer: prefillP, layers: 2..<Share.last)],
        [Share(writer: prefillP), Share(writer: prefillQ, pages: 4..<Share.last)],
    ])
    func sharesThatDoNotCoverOnceAreRefused(shares: [Share]) {
        var node = Decode()
        let actions = node.handoffs.reserve(node.id, pages: 4, shares: shares, pool: &node.pool)
        #expect(actions == [.sendRefused(node.id, .invalid)])
        #expect(node.pool.counts.free == 8 && node.handoffs.idleLanes(of: prefillP) == 1)
    }

    // MARK: The sending side

    @Test(arguments: Split.allCases)
    func aWriterWritesItsPartAlone(split: Split) throws {
        var node = Decode()
        let terms = try need(node.grant(split.shares))
        let shape = PageShape(layers: layers, layerBytes: 100)
        let sources = (0..<4 as Range<UInt32>).map { SlotRef(index: $0, generation: Generation(1)) }
        var written = Array(repeating: Array(repeating: 0, count: layers), count: 4)
        for number in 0..<2 {
            let part = try #require(terms.part(number))
            var writer = SendingHandoffs(shape: shape)
            writer.laneOpened(part.key)
            _ = writer.prefill(part, pages: 4)
            _ = writer.started(node.id, sources: sources)
            var actions: [SendingAction] = []
            for layer in 0..<layers { actions += writer.pagesReady(node.id, layers: layer..<layer + 1, pages: 0..<4) }
            #expect(actions.last == .postCompletion(part.key, part))
            // The engine is stopped where it would go on with what the other writes; nothing waits for the other.
            let done = writer.completionAcknowledged(part.key, node.id, part.epoch)
            #expect(done.first == (number == 0 ? .cancelCompute(node.id) : .unpin(node.id)))
            #expect(done.contains(.unpin(node.id)))
            for case .post(_, let batch) in actions {
                #expect(batch.part == number)
                for range in batch.ranges {
                    #expect(range.target == terms.slots[range.page] && range.source == sources[range.page])
                    for layer in range.offset / 100..<(range.offset + range.length) / 100 {
                        written[range.page][layer] += 1
                    }
                }
            }
        }
        #expect(written.allSatisfy { $0.allSatisfy { $0 == 1 } })
    }

    // MARK: Loans

    /// Two pages that a finished prompt left in the cache.
    private func cached(_ node: inout Decode) throws -> [SlotRef] {
        let slots = try need(node.pool.lease(2))
        for slot in slots {
            node.pool.keep(slot)
            node.pool.release(slot)
        }
        return slots
    }

    @Test func aLoanStaysThroughEvictionUntilTheSequenceEnds() throws {
        var node = Decode()
        let lent = try cached(&node)
        let terms = try need(node.grant(Split.byLayers.shares, lending: lent))
        #expect(terms.lent == 2 && Array(terms.slots[..<2]) == lent && terms.areCovered(layers: layers))
        #expect(node.pool.counts.inUse == 2 && node.pool.counts.granted == 2)
        // Wanted elsewhere: the cache gives way, and the loan does not.
        for slot in lent { node.pool.evict(slot) }
        let all = node.pool.lease(5)
        #expect(all == nil && node.pool.counts.inUse == 2)
        _ = node.complete(terms, 0)
        let sealed = node.complete(terms, 1)
        #expect(sealed.first == .startSequence(node.id, terms.slots))
        for slot in terms.slots { node.pool.release(slot) }
        #expect(node.pool.counts.free == 8)
    }

    /// The pages are lent from a sequence that ends before the handoff does; and the handoff is aborted.
    @Test func aLoanOutlivesItsOtherUserAndEndsWithTheHandoff() throws {
        var node = Decode()
        let used = try need(node.pool.lease(2))
        let terms = try need(node.grant(Split.byPages.shares, lending: used))
        // Each writer has a page to write, so not all of the first one's are lent.
        #expect(terms.lent == 1 && terms.parts[0].pages == 1..<2)
        for slot in used { node.pool.release(slot) }
        #expect(node.pool.state(of: used[0]) == .inUse && node.pool.state(of: used[1]) == nil)
        _ = node.handoffs.fence(node.id, pool: &node.pool)
        #expect(node.pool.state(of: used[0]) == .inUse && node.pool.counts.quarantined == 3)
        _ = node.handoffs.laneClosed(LaneID(1), pool: &node.pool)
        _ = node.handoffs.laneClosed(LaneID(2), pool: &node.pool)
        #expect(node.pool.counts.free == 8)
    }

    @Test func aGrantThatFailsLendsNothing() throws {
        var node = Decode()
        let lent = try cached(&node)
        _ = try need(node.pool.lease(5))
        let actions = node.handoffs.reserve(
            node.id, pages: 4, shares: Split.byLayers.shares, lending: lent, pool: &node.pool)
        #expect(actions == [.sendRefused(node.id, .noPages)])
        #expect(node.pool.counts.cached == 2)
    }

    // MARK: The router

    private func granted() throws -> GrantTerms {
        var node = Decode()
        return try need(node.grant(Split.byLayers.shares))
    }

    private func ledger(_ terms: GrantTerms) -> HandoffLedger {
        var ledger = HandoffLedger(router: routerA)
        _ = ledger.open(terms.handoff, prefills: [prefillP, prefillQ], decode: decodeD, delivered: 0)
        let orders = ledger.granted(terms, from: decodeD)
        #expect(orders.contains(.sendPrefill(terms, part: 0, to: prefillP)))
        #expect(orders.contains(.sendPrefill(terms, part: 1, to: prefillQ)))
        return ledger
    }

    @Test func everyWriterIsAskedUntilItAcceptsAndAllMustHaveWritten() throws {
        let terms = try granted()
        var ledger = ledger(terms)
        let id = terms.handoff
        let first = ledger.accepted(id, from: prefillP)
        #expect(first.isEmpty)
        let again = ledger.deadlinePassed(.retransmit, id)
        #expect(again == [.sendPrefill(terms, part: 1, to: prefillQ), .setDeadline(.retransmit, id)])
        _ = ledger.written(id, from: prefillP)
        #expect(ledger.rows.first?.phase == "prefilling")
        _ = ledger.written(id, from: prefillQ)
        #expect(ledger.rows.first?.phase == "written")
        let sealed = ledger.sealed(id, from: decodeD)
        #expect(sealed.contains(.sendRelease(id, to: prefillP)) && sealed.contains(.sendRelease(id, to: prefillQ)))
        _ = ledger.drained(id, posted: 1, completed: 1, from: prefillP)
        _ = ledger.finished(id, tokens: 0, from: decodeD)
        #expect(ledger.rows.first?.phase == "releasing")
        let drained = ledger.drained(id, posted: 1, completed: 1, from: prefillQ)
        #expect(drained.last == .settled(id))
    }

    @Test func eachPartIsReclaimedByWhatIsKnownOfItsWriter() throws {
        let terms = try granted()
        var ledger = ledger(terms)
        let id = terms.handoff
        let lost = ledger.nodeLost(prefillP)
        #expect(lost.first == .deliver(id, .failed(HandoffFailure(.nodeLost))))
        #expect(lost.contains(.sendCancel(id, to: prefillQ)) && !lost.contains(.sendCancel(id, to: prefillP)))
        let drained = ledger.drained(id, posted: 3, completed: 3, from: prefillQ)
        #expect(drained.contains(.sendReclaim(id, PartSet(1), to: decodeD)))
        #expect(drained.contains(.sendFence(id, PartSet(0), to: decodeD)))
        #expect(ledger.rows.first?.phase == "fencing")
        let settled = ledger.reclaimed(id, .fenced, from: decodeD)
        #expect(settled.last == .settled(id))
    }

    @Test func aGrantToOtherWritersIsGivenBack() throws {
        let terms = try granted()
        var other = HandoffLedger(router: routerA)
        _ = other.open(terms.handoff, prefills: [prefillQ, prefillP], decode: decodeD, delivered: 0)
        let actions = other.granted(terms, from: decodeD)
        #expect(actions.first == .deliver(terms.handoff, .failed(HandoffFailure(.protocolError))))
        #expect(actions.contains(.sendReclaim(terms.handoff, .all, to: decodeD)))
        #expect(other.counters.peerFaults == 1)
    }
}
