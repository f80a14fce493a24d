import Handoff
import Testing

private struct Prefill: ~Copyable {
    static let layers = 4
    var handoffs = SendingHandoffs(shape: PageShape(layers: Prefill.layers, layerBytes: 100))
    let lane = LaneKey(decode: decodeD, lane: LaneID(3))
    let id = handoff(1)
    let terms: PartTerms
    let sources: [SlotRef]

    init(pages: UInt32 = 2, layers: Int = Prefill.layers) {
        let slots = (0..<pages).map { SlotRef(index: $0 + 10, generation: Generation(5)) }
        sources = (0..<pages).map { SlotRef(index: $0, generation: Generation(1)) }
        terms = PartTerms(
            handoff: id, decode: decodeD, lane: lane.lane, epoch: LaneEpoch(2), slots: slots, layers: layers)
        handoffs.laneOpened(lane)
    }

    var pages: Range<Int> { 0..<terms.slots.count }

    mutating func start() {
        let actions = handoffs.prefill(terms, pages: terms.slots.count)
        #expect(actions == [.sendAccepted(id), .startCompute(id)])
        _ = handoffs.started(id, sources: sources)
    }

    mutating func ready(_ layers: Range<Int>) -> [SendingAction] {
        handoffs.pagesReady(id, layers: layers, pages: pages)
    }

    mutating func acknowledge(_ records: Int) -> [SendingAction] {
        handoffs.acknowledged(lane, id, terms.epoch, records: records)
    }

    func drained(_ posted: Int, _ completed: Int, isUnpinned: Bool = false) -> [SendingAction] {
        [.clearDeadline(.laneDrain, id)] + (isUnpinned ? [] : [.unpin(id)])
            + [.sendDrained(id, posted: posted, completed: completed), .settled(id)]
    }
}

@Suite struct SendingHandoffsTests {
    @Test func theStraightPath() {
        var node = Prefill()
        node.start()
        for layer in 0..<Prefill.layers {
            let actions = node.ready(layer..<layer + 1)
            guard case .post(let lane, let batch)? = actions.first else {
                Issue.record("nothing posted for layer \(layer)")
                return
            }
            #expect(lane == node.lane && batch.epoch == node.terms.epoch && batch.bytes == 200)
            #expect(batch.ranges.map(\.offset) == [layer * 100, layer * 100])
            #expect(batch.ranges.map(\.target) == node.terms.slots && batch.ranges.map(\.source) == node.sources)
            let last = layer == Prefill.layers - 1
            #expect(actions.dropFirst() == (last ? [.postCompletion(node.lane, node.terms)] : []))
        }
        let acknowledged = node.acknowledge(4)
        #expect(acknowledged.isEmpty)
        let written = node.handoffs.completionAcknowledged(node.lane, node.id, node.terms.epoch)
        #expect(written == [.unpin(node.id), .sendWritten(node.id, bytes: 800)])
        #expect(node.handoffs.laneCounts(to: decodeD).idle == 1)
        let released = node.handoffs.release(node.id)
        #expect(released == node.drained(4, 4, isUnpinned: true))
        let again = node.handoffs.release(node.id)
        #expect(again == [.sendDrained(node.id, posted: 4, completed: 4)])
        #expect(node.handoffs.counters.unpins == 1)
    }

    @Test func writesInFlightAreBoundedAndWhatWaitsIsMerged() {
        let layers = WriteLimits.recordsInFlightMax + 3
        var handoffs = SendingHandoffs(shape: PageShape(layers: layers, layerBytes: 100))
        let model = Prefill(pages: 1, layers: layers)
        handoffs.laneOpened(model.lane)
        _ = handoffs.prefill(model.terms, pages: 1)
        _ = handoffs.started(model.id, sources: model.sources)
        var posted = 0
        for layer in 0..<layers {
            posted += handoffs.pagesReady(model.id, layers: layer..<layer + 1, pages: 0..<1).count
        }
        #expect(posted == WriteLimits.recordsInFlightMax)
        let more = handoffs.acknowledged(model.lane, model.id, model.terms.epoch, records: 1)
        guard case .post(_, let batch)? = more.first else {
            Issue.record("an acknowledgement posts what waits")
            return
        }
        #expect(batch.ranges.map(\.length) == [300])
        #expect(more.last == .postCompletion(model.lane, model.terms))
    }

    @Test func recordsHaveBoundedRanges() {
        var node = Prefill(pages: 150)
        node.start()
        let actions = node.ready(0..<Prefill.layers)
        let counts = actions.compactMap { if case .post(_, let batch) = $0 { batch.ranges.count } else { nil } }
        #expect(counts == [64, 64, 22])
    }

    @Test func aCancelDrainsBeforeItUnpins() {
        var node = Prefill()
        node.start()
        _ = node.ready(0..<1)
        _ = node.ready(1..<2)
        let cancel = node.handoffs.cancel(node.id)
        #expect(cancel == [.cancelCompute(node.id), .setDeadline(.laneDrain, node.id)])
        let late = node.ready(2..<3)
        #expect(late.isEmpty)
        let one = node.acknowledge(1)
        #expect(one.isEmpty)
        let two = node.acknowledge(2)
        #expect(two == node.drained(2, 2))
        let again = node.handoffs.cancel(node.id)
        #expect(again == [.sendDrained(node.id, posted: 2, completed: 2)])
    }

    @Test func aCancelWithTheRecordUnderWayWaitsForIt() {
        var node = Prefill()
        node.start()
        _ = node.ready(0..<Prefill.layers)
        _ = node.handoffs.cancel(node.id)
        let data = node.acknowledge(1)
        #expect(data.isEmpty)
        let record = node.handoffs.completionAcknowledged(node.lane, node.id, node.terms.epoch)
        #expect(record == node.drained(1, 1))
    }

    @Test func aCancelBeforeAnythingIsPosted() {
        var node = Prefill()
        node.start()
        let cancel = node.handoffs.cancel(node.id)
        #expect(cancel == [.cancelCompute(node.id)] + node.drained(0, 0))
        let late = node.handoffs.prefill(node.terms, pages: 2)
        #expect(late == [.sendDrained(node.id, posted: 0, completed: 0)])
        var early = Prefill()
        let overtaking = early.handoffs.cancel(early.id)
        #expect(overtaking == [.sendDrained(early.id, posted: 0, completed: 0)])
        let prefill = early.handoffs.prefill(early.terms, pages: 2)
        #expect(prefill == [.sendDrained(early.id, posted: 0, completed: 0)])
    }

    @Test func aLostLaneFailsTheHandoffAndSaysWhatWasNotAcknowledged() {
        var node = Prefill()
        node.start()
        _ = node.ready(0..<1)
        let lost = node.handoffs.laneClosed(node.lane)
        #expect(
            lost == [.sendFailed(node.id, HandoffFailure(.laneLost)), .cancelCompute(node.id)] + node.drained(1, 0))
        var drainer = Prefill()
        drainer.start()
        _ = drainer.ready(0..<1)
        _ = drainer.handoffs.cancel(drainer.id)
        let timeout = drainer.handoffs.deadlinePassed(.laneDrain, drainer.id)
        #expect(timeout == [.closeLane(drainer.lane)])
        let closed = drainer.handoffs.laneClosed(drainer.lane)
        #expect(closed == drainer.drained(1, 0))
    }

    @Test func aHandoffIsKnownFromItsOrderOn() {
        var node = Prefill()
        let before = node.handoffs.isKnown(node.id)
        node.start()
        let open = node.handoffs.isKnown(node.id)
        _ = node.handoffs.computeFailed(node.id, retryable: true)
        _ = node.handoffs.laneClosed(node.lane)
        let after = node.handoffs.isKnown(node.id)
        #expect(!before && open && after)
        #expect(node.handoffs.openCount == 0)
    }

    @Test func badGrants() {
        var node = Prefill()
        let short = node.handoffs.prefill(node.terms, pages: 3)
        #expect(short.first == .sendFailed(node.id, HandoffFailure(.badGrant, retryable: false)))
        let elsewhere = PartTerms(
            handoff: handoff(2), decode: Incarnation(99), lane: node.lane.lane, epoch: LaneEpoch(1),
            slots: node.terms.slots, layers: Prefill.layers)
        let noLane = node.handoffs.prefill(elsewhere, pages: 2)
        #expect(noLane.first == .sendFailed(handoff(2), HandoffFailure(.laneLost)))
        let third = PartTerms(
            handoff: handoff(3), decode: decodeD, lane: node.lane.lane, epoch: LaneEpoch(3), slots: node.terms.slots,
            layers: Prefill.layers)
        let first = node.handoffs.prefill(third, pages: 2)
        #expect(first == [.sendAccepted(handoff(3)), .startCompute(handoff(3))])
        let fourth = PartTerms(
            handoff: handoff(4), decode: decodeD, lane: node.lane.lane, epoch: LaneEpoch(4), slots: node.terms.slots,
            layers: Prefill.layers)
        let twice = node.handoffs.prefill(fourth, pages: 2)
        #expect(twice.first == .sendFailed(handoff(4), HandoffFailure(.badGrant)))
    }

    @Test func aLaneIsTakenOverFromAHandoffThatAwaitsItsLastAcknowledgement() {
        var node = Prefill()
        node.start()
        _ = node.ready(0..<Prefill.layers)
        let next = PartTerms(
            handoff: handoff(2), decode: decodeD, lane: node.lane.lane, epoch: LaneEpoch(3), slots: node.terms.slots,
            layers: Prefill.layers)
        let actions = node.handoffs.prefill(next, pages: 2)
        #expect(actions == [.sendAccepted(handoff(2)), .startCompute(handoff(2))])
    }

    @Test func acknowledgementsOfWhatWasNeverPostedCloseTheLane() {
        var node = Prefill()
        node.start()
        _ = node.ready(0..<1)
        let tooMany = node.acknowledge(2)
        #expect(tooMany == [.closeLane(node.lane)])
        let record = node.handoffs.completionAcknowledged(node.lane, node.id, node.terms.epoch)
        #expect(record == [.closeLane(node.lane)])
        let oldEpoch = node.handoffs.acknowledged(node.lane, node.id, LaneEpoch(1), records: 1)
        #expect(oldEpoch.isEmpty)
        #expect(node.handoffs.counters.peerFaults == 2)
        #expect(node.handoffs.counters.stale == 1)
    }

    @Test func aReleaseThatOvertakesTheAcknowledgement() {
        var node = Prefill()
        node.start()
        _ = node.ready(0..<Prefill.layers)
        let tooSoon = node.handoffs.deadlinePassed(.laneDrain, node.id)
        #expect(tooSoon.isEmpty)
        let early = node.handoffs.release(node.id)
        #expect(early == [.setDeadline(.laneDrain, node.id)])
        let again = node.handoffs.release(node.id)
        #expect(again.isEmpty)
        // The path may have been cut without a word.
        let passed = node.handoffs.deadlinePassed(.laneDrain, node.id)
        #expect(passed == [.closeLane(node.lane)])
        let record = node.handoffs.completionAcknowledged(node.lane, node.id, node.terms.epoch)
        #expect(
            record
                == [.unpin(node.id), .sendWritten(node.id, bytes: 800)] + node.drained(1, 1, isUnpinned: true))
    }

    @Test func failedComputingIsReportedAndDrained() {
        var node = Prefill()
        node.start()
        _ = node.ready(0..<1)
        let failed = node.handoffs.computeFailed(node.id, retryable: false)
        let failure = HandoffFailure(.computeFailed, retryable: false)
        #expect(failed == [.sendFailed(node.id, failure), .setDeadline(.laneDrain, node.id)])
        let quiet = node.acknowledge(1)
        #expect(quiet == node.drained(1, 1))
    }
}
