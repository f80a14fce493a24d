import Handoff

/// The fabric: lanes between prefill and decode nodes.
extension World {
    func performOnLane(_ event: Event) {
        switch event {
        case .dialLane(let prefill, let decode): dialLane(prefill, decode)
        case .laneReady(let lane): ready(lane)
        case .send(let lane): sendNext(lane)
        case .land(let lane): landNext(lane)
        case .answer(let lane): answerNext(lane)
        case .receiverLeaves(let lane): closeReceiver(lane)
        case .receiverLeft(let lane): receiverLeft(lane)
        case .senderHears(let lane): closeSender(lane)
        case .senderLeft(let lane): senderLeft(lane)
        case .completion(let lane, let record, let epoch, let matching): heard(lane, record, epoch, matching)
        case .unbound(let decode, let id, let lane, let epoch, let answer): unbound(decode, id, lane, epoch, answer)
        default: break
        }
    }

    /// The machine hears of a completion record.
    private func heard(_ index: Int, _ record: CompletionRecord, _ epoch: LaneEpoch, _ matching: Bool) {
        let lane = lanes[index].id
        let node = decodes[seat(of: lanes[index].decode).index]
        if let grant = node.shadow.grant(of: record.handoff), let part = grant.part(on: lane, epoch) {
            let isItsOwn = record.part == part && record.pages.map(\.slot) == grant.terms.part(part)?.slots
            if !isItsOwn { mark(.wrongRecord, record.handoff, only: .decode) }
            if isItsOwn, !matching { mark(.digestMismatch, record.handoff, only: .decode) }
        }
        node.shadow.came(record, on: lane, epoch)
        trace(node.host.seat, "hears of the record, digests \(matching ? "match" : "differ")")
        perform(
            node.handoffs.completion(lane, epoch, record, matching: matching, pool: &node.pool), node.host.seat.index)
    }

    // MARK: Opening

    func dialLanes(_ prefill: Int, _ decode: Int) {
        for _ in 0..<scenario.lanesPerPair {
            plan(.dialLane(prefill: prefill, decode: decode), on: prefills[prefill].host.seat, in: .microseconds(100))
        }
    }

    private func dialLane(_ prefill: Int, _ decode: Int) {
        let from = prefills[prefill].host
        let to = decodes[decode].host
        let open = lanes.count { $0.isSenderOpen && $0.prefill == from.incarnation && $0.decode == to.incarnation }
        // A node that is down dials or is dialed again when it is back.
        guard open < scenario.lanesPerPair, to.isUp else { return }
        let cut = max(cuts.end(.data, from.seat, to.seat), cuts.end(.data, to.seat, from.seat))
        guard cut <= now else {
            return queue.plan(.dialLane(prefill: prefill, decode: decode), at: cut, in: from.incarnation)
        }
        let node = decodes[decode]
        let id = LaneID(node.nextLane)
        node.nextLane += 1
        let isBlind = draw(.fabric) { $0.chance(perMille: scenario.blindLanes) }
        let lane = Lane(id: id, prefill: from.incarnation, decode: to.incarnation, isBlind: isBlind)
        node.lanes[id] = lanes.count
        lanes.append(lane)
        prefills[prefill].handoffs.laneOpened(lane.key)
        plan(.laneReady(lanes.count - 1), in: to.incarnation, at: now + fabricLatency(lanes.count - 1))
    }

    private func ready(_ index: Int) {
        let lane = lanes[index]
        guard lane.isReceiverOpen else { return }
        guard lane.isSenderOpen else { return closeReceiver(index) }
        lanes[index].isKnown = true
        decodes[seat(of: lane.decode).index].handoffs.laneOpened(lane.id, peer: lane.prefill)
    }

    private func fabricLatency(_ lane: Int) -> Duration {
        draw(.fabric) { $0.time(.microseconds(10), scenario.landMax) } * lanes[lane].slowness
    }

    /// Not before a cut path is whole again.
    private func landTime(_ index: Int, backward: Bool = false) -> Duration {
        let prefill = seat(of: lanes[index].prefill)
        let decode = seat(of: lanes[index].decode)
        let cut = backward ? cuts.end(.data, decode, prefill) : cuts.end(.data, prefill, decode)
        return max(now, cut) + fabricLatency(index)
    }

    // MARK: Sending

    func post(_ item: Lane.Posted, _ key: LaneKey, _ prefill: Int) {
        let own = prefills[prefill].host.incarnation
        // A lane that is closing takes nothing; the machine hears of its end soon.
        guard let index = lanes.lastIndex(where: { $0.key == key && $0.prefill == own && $0.isSenderOpen }) else {
            return
        }
        lanes[index].posted.append(item)
        planSend(index)
    }

    private func planSend(_ index: Int) {
        guard !lanes[index].isSendPlanned, !lanes[index].posted.isEmpty else { return }
        lanes[index].isSendPlanned = true
        plan(.send(lane: index), in: lanes[index].prefill, at: now + fabricLatency(index))
    }

    /// The sender reads the source pages; from here on the bytes are on their way.
    private func sendNext(_ index: Int) {
        lanes[index].isSendPlanned = false
        guard lanes[index].isSenderOpen, !lanes[index].posted.isEmpty else { return }
        let item = lanes[index].posted.removeFirst()
        defer { planSend(index) }
        let node = prefills[seat(of: lanes[index].prefill).index]
        switch item {
        case .batch(let batch):
            readSource(batch, node)
            remember(batch, index)
            // A blind lane would let it in: nothing but the peer's honesty keeps it away there.
            if !lanes[index].isBlind, let stray = lanes[index].sent.first, stray.handoff != batch.handoff,
                strikes(.strayWrite)
            {
                lanes[index].wire.append(.batch(stray))
            }
            lanes[index].wire.append(.batch(batch))
            if lanes[index].isBlind || isBroken(.acknowledgedWhenSent) { acknowledge(index, batch) }
        case .completion(let terms):
            let record = strikes(.wrongRecord) ? wrong(terms) : record(terms)
            if isBroken(.recordOvertakesWrites) {
                lanes[index].wire.insert(.completion(record), at: 0)
            } else {
                lanes[index].wire.append(.completion(record))
            }
        }
        planLand(index)
    }

    private func record(_ terms: PartTerms, _ slots: [SlotRef]? = nil) -> CompletionRecord {
        CompletionRecord(
            handoff: terms.handoff, part: terms.number, epoch: terms.epoch,
            pages: (slots ?? terms.slots).map { SealedPage(slot: $0, digest: 1) })
    }

    /// Of another part, if there is one, or of another generation of a slot.
    private func wrong(_ terms: PartTerms) -> CompletionRecord {
        let granted = decodes[seat(of: terms.decode).index].shadow.grant(of: terms.handoff)?.terms
        if let other = granted?.part(1 - terms.number), draw(.targets, { $0.chance(oneIn: 2) }) { return record(other) }
        var slots = terms.slots
        slots[0] = SlotRef(index: slots[0].index, generation: slots[0].generation.next)
        return record(terms, slots)
    }

    private func remember(_ batch: WriteBatch, _ index: Int) {
        if lanes[index].sent.last?.handoff == batch.handoff { lanes[index].sent.removeLast() }
        lanes[index].sent.append(batch)
        if lanes[index].sent.count > 2 { lanes[index].sent.removeFirst() }
    }

    private func readSource(_ batch: WriteBatch, _ node: PrefillProcess) {
        for range in batch.ranges {
            if node.pool.state(of: range.source) != .inUse {
                return violate(
                    "4: a write of \(batch.handoff.text) reads source slot \(range.source.index), which was let go")
            }
            let tag = tag(batch.handoff, range.page)
            for layer in layers(range) where node.memory[Int(range.source.index)][layer] != tag {
                return violate("4: a write of \(batch.handoff.text) reads another handoff's page")
            }
        }
    }

    private func layers(_ range: WriteRange) -> Range<Int> { range.offset / 8..<(range.offset + range.length) / 8 }

    // MARK: Landing

    func planLand(_ index: Int) {
        guard !lanes[index].isLandPlanned, lanes[index].isReceiverOpen else { return }
        lanes[index].isLandPlanned = true
        plan(.land(lane: index), in: lanes[index].decode, at: landTime(index))
    }

    /// One range lands; or the next record is let in or turned away; or the lane is found at its end.
    private func landNext(_ index: Int) {
        lanes[index].isLandPlanned = false
        guard lanes[index].isReceiverOpen else { return }
        if let (batch, next) = lanes[index].landing {
            land(index, batch, next)
            return planLand(index)
        }
        guard !lanes[index].isFencing || isBroken(.fenceReportedEarly) else { return }
        guard !lanes[index].wire.isEmpty else {
            if !lanes[index].isSenderOpen, !lanes[index].isSenderDark { closeReceiver(index) }
            return
        }
        switch lanes[index].wire.removeFirst() {
        case .batch(let batch):
            guard lanes[index].isBlind || lanes[index].gate.admits(batch) || isBroken(.unguardedLane) else {
                return reject(index, batch.handoff)
            }
            lanes[index].gate.isLanding = true
            lanes[index].landing = (batch, 0)
        case .completion(let record):
            let isDue = lanes[index].gate.admits(record)
            guard isDue || isBroken(.recordOvertakesWrites) && lanes[index].gate.bound?.epoch == record.epoch else {
                return reject(index, record.handoff)
            }
            completed(index, record)
        }
        planLand(index)
    }

    private func reject(_ index: Int, _ handoff: HandoffID) {
        count { $0.add("stale writes rejected") }
        if let user = lanes[index].gate.user, user != handoff { mark(.strayWrite, user, only: .decode) }
        trace(seat(of: lanes[index].decode), "lane \(lanes[index].id.value) turns a write of \(handoff.text) away")
        closeReceiver(index)
    }

    private func land(_ index: Int, _ batch: WriteBatch, _ next: Int) {
        let node = decodes[seat(of: lanes[index].decode).index]
        let range = batch.ranges[next]
        var tag = tag(batch.handoff, range.page)
        if strikes(.digestMismatch) { tag.isCorrupt = true }
        trace(
            node.host.seat,
            "lane \(lanes[index].id.value): layers \(layers(range)) of page \(range.page) of \(batch.handoff.text) land in "
                + "slot \(range.target.index)")
        violate(node.shadow.write(tag, range.target, layers: layers(range), part: batch.part))
        engine?.landed(
            from: range.source, of: lanes[index].prefill, in: range.target, of: lanes[index].decode,
            layers: share(layers(range)), isCorrupt: tag.isCorrupt)
        lanes[index].gate.add(range)
        guard next + 1 == batch.ranges.count else {
            lanes[index].landing = (batch, next + 1)
            return
        }
        lanes[index].landing = nil
        lanes[index].gate.isLanding = false
        if !lanes[index].isBlind, !isBroken(.acknowledgedWhenSent) { acknowledge(index, batch) }
    }

    /// Of a blind lane the sender's own adapter says it, when the bytes have left it; else the other end, when they are
    /// in place.
    private func acknowledge(_ index: Int, _ batch: WriteBatch) {
        if lanes[index].acknowledged.epoch != batch.epoch { lanes[index].acknowledged = (batch.epoch, 0) }
        lanes[index].acknowledged.records += 1
        answer(index, .landed(batch.handoff, batch.epoch, records: lanes[index].acknowledged.records))
    }

    private func completed(_ index: Int, _ record: CompletionRecord) {
        let lane = lanes[index]
        let node = decodes[seat(of: lane.decode).index]
        guard let bound = lane.gate.bound else { return }
        let isMatching = bound.slots.allSatisfy { slot in
            node.shadow.contents[Int(slot.index)][bound.layers].allSatisfy { $0.map { !$0.isCorrupt } ?? true }
        }
        lanes[index].gate.complete()
        trace(node.host.seat, "lane \(lane.id.value): the completion record of \(record.handoff.text)")
        answer(index, .complete(record.handoff, bound.epoch))
        let latest = scenario.sealsSlowly ? Duration.milliseconds(60) : .milliseconds(1)
        let seen = now + draw(.fabric) { $0.time(.microseconds(5), latest) }
        lanes[index].heard = seen
        plan(.completion(lane: index, record, bound.epoch, matching: isMatching), in: lane.decode, at: seen)
    }

    // MARK: Answers

    private func answer(_ index: Int, _ answer: Lane.Answer) {
        guard lanes[index].isSenderOpen else { return }
        lanes[index].answers.append(answer)
        planAnswer(index)
    }

    private func planAnswer(_ index: Int) {
        guard !lanes[index].isAnswerPlanned, !lanes[index].answers.isEmpty else { return }
        lanes[index].isAnswerPlanned = true
        plan(.answer(lane: index), in: lanes[index].prefill, at: landTime(index, backward: true))
    }

    private func answerNext(_ index: Int) {
        lanes[index].isAnswerPlanned = false
        guard lanes[index].isSenderOpen, !lanes[index].answers.isEmpty else { return }
        let lane = lanes[index]
        let node = prefills[seat(of: lane.prefill).index]
        let actions: [SendingAction]
        switch lanes[index].answers.removeFirst() {
        case .landed(let id, let epoch, let records):
            actions = node.handoffs.acknowledged(lane.key, id, epoch, records: records)
        case .complete(let id, let epoch):
            actions = node.handoffs.completionAcknowledged(lane.key, id, epoch)
        }
        perform(actions, node.host.seat.index)
        planAnswer(index)
    }

    // MARK: Gate

    func bind(_ terms: PartTerms, _ node: DecodeProcess) {
        guard let index = node.lanes[terms.lane], lanes[index].isReceiverOpen, !lanes[index].isFencing else { return }
        if !lanes[index].gate.bind(terms, shape) {
            violate("1: lane \(terms.lane.value) is bound to \(terms.handoff.text) while another may write on it")
        }
    }

    /// Late writes are made impossible: the receive thread leaves in its own time.
    func fence(_ id: LaneID, _ node: DecodeProcess) {
        guard let index = node.lanes[id], lanes[index].isReceiverOpen, !lanes[index].isFencing else { return }
        lanes[index].isFencing = true
        plan(
            .receiverLeaves(lane: index), in: lanes[index].decode,
            at: now + draw(.fabric) { $0.time(.microseconds(50), World.fenceMax) })
        if isBroken(.fenceReportedEarly) { plan(.receiverLeft(lane: index), in: lanes[index].decode, at: now) }
    }

    static let fenceMax = Duration.milliseconds(200)

    // MARK: Closing

    /// The receive thread has left the slab: nothing lands on this lane any more.
    func closeReceiver(_ index: Int) {
        guard lanes[index].isReceiverOpen else { return }
        let wasFencing = lanes[index].isFencing
        lanes[index].isReceiverOpen = false
        count { $0.add("late writes that met a closed lane", lanes[index].wire.count) }
        lanes[index].wire = []
        lanes[index].landing = nil
        lanes[index].gate.close()
        let decode = lanes[index].decode
        trace(seat(of: decode), "lane \(lanes[index].id.value) is closed")
        if !(wasFencing && isBroken(.fenceReportedEarly)) {
            plan(.receiverLeft(lane: index), in: decode, at: max(now, lanes[index].heard) + .microseconds(20))
        }
        hearOfClosing(index)
    }

    /// The prefill node's end finds out, unless the way back is cut.
    func hearOfClosing(_ index: Int) {
        guard lanes[index].isSenderOpen else { return }
        plan(.senderHears(lane: index), in: lanes[index].prefill, at: landTime(index, backward: true))
    }

    private func receiverLeft(_ index: Int) {
        guard lanes[index].isKnown else { return }
        lanes[index].isKnown = false
        let node = decodes[seat(of: lanes[index].decode).index]
        node.lanes[lanes[index].id] = isBroken(.fenceReportedEarly) ? index : nil
        perform(node.handoffs.laneClosed(lanes[index].id, pool: &node.pool), node.host.seat.index)
    }

    /// The sender has left its slab. What it has sent may still land.
    func closeSender(_ index: Int) {
        guard lanes[index].isSenderOpen else { return }
        lanes[index].isSenderOpen = false
        lanes[index].posted = []
        lanes[index].answers = []
        plan(.senderLeft(lane: index), in: lanes[index].prefill, at: now + .microseconds(20))
        planLand(index)
    }

    private func senderLeft(_ index: Int) {
        let prefill = seat(of: lanes[index].prefill).index
        let decode = seat(of: lanes[index].decode).index
        let node = prefills[prefill]
        perform(node.handoffs.laneClosed(lanes[index].key), prefill)
        plan(.dialLane(prefill: prefill, decode: decode), on: node.host.seat, in: .milliseconds(20))
    }
}
