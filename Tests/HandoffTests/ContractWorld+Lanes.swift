import Handoff

/// The fabric: lanes that carry writes as late as they like, and the decode node's gate on each.
extension ContractWorld {
    func openLane(_ index: Int) {
        guard lanes.values.count(where: { $0.prefill == index && $0.senderOpen && $0.receiverOpen }) < 2 else { return }
        let id = LaneID(nextLane)
        nextLane += 1
        lanes[id] = SimLane(prefill: index)
        decode.laneOpened(id, peer: incarnations[index])
        withPrefill(index) { $0.handoffs.laneOpened(LaneKey(decode: decodeID, lane: id)) }
    }

    // MARK: Gate

    func bind(_ terms: GrantTerms) {
        guard var lane = lanes[terms.lane], lane.receiverOpen, terms.epoch.value > lane.epoch.value else { return }
        lane.bound = terms
        lane.epoch = terms.epoch
        lane.landedLayers = Array(repeating: 0, count: terms.slots.count)
        lane.landedRecords = 0
        lanes[terms.lane] = lane
    }

    func unbind(_ id: LaneID, _ epoch: LaneEpoch) -> Bool {
        guard let lane = lanes[id], lane.receiverOpen else { return true }
        if lane.landing != nil { return false }
        lanes[id]?.bound = nil
        lanes[id]?.epoch = epoch
        return true
    }

    func fence(_ id: LaneID) {
        lanes[id]?.fencing = true
        guard broken == .fenceReportedEarly, lanes[id] != nil else { return }
        perform(decode.laneClosed(id, pool: &pool))
    }

    /// The receive thread leaves and the connection is closed.
    func closeFenced(_ id: LaneID) {
        guard var lane = lanes[id], lane.receiverOpen, lane.fencing || (!lane.senderOpen && lane.flying.isEmpty)
        else { return }
        if broken == .fenceReportedEarly, lane.fencing, lane.landing != nil || !lane.flying.isEmpty { return }
        lane.receiverOpen = false
        lane.landing = nil
        lane.flying = []
        lane.bound = nil
        lanes[id] = lane
        if broken != .fenceReportedEarly || !lane.fencing { perform(decode.laneClosed(id, pool: &pool)) }
        breakLane(id)
    }

    /// The prefill node's end closes; what it has sent may still land.
    func breakLane(_ id: LaneID) {
        guard let lane = lanes[id], lane.senderOpen else { return forget(id) }
        lanes[id]?.senderOpen = false
        lanes[id]?.posted = []
        lanes[id]?.answers = []
        let key = LaneKey(decode: decodeID, lane: id)
        perform(withPrefill(lane.prefill) { $0.handoffs.laneClosed(key) }, lane.prefill)
        forget(id)
    }

    private func forget(_ id: LaneID) {
        if let lane = lanes[id], !lane.senderOpen, !lane.receiverOpen { lanes[id] = nil }
    }

    // MARK: Writes

    /// The sender reads the source pages.
    func sendNext(_ id: LaneID) {
        guard var lane = lanes[id], lane.senderOpen, !lane.posted.isEmpty else { return }
        let item = lane.posted.removeFirst()
        if broken == .recordOvertakesWrites, case .completion = item {
            lane.flying.insert(item, at: 0)
        } else {
            lane.flying.append(item)
        }
        lanes[id] = lane
        guard case .batch(let batch) = item else { return }
        if withPrefill(lane.prefill, { $0.pins[batch.handoff] }) == nil {
            violate("4: a write of \(batch.handoff) reads pages that are not pinned")
        }
        guard broken == .unguardedLane else { return }
        lane.landedRecords += 1
        lane.answers.append((batch.handoff, batch.epoch, lane.landedRecords))
        lanes[id] = lane
    }

    /// One range lands; or the next record is let in, or turned away.
    func landNext(_ id: LaneID) {
        guard var lane = lanes[id], lane.receiverOpen else { return }
        if let (batch, left) = lane.landing {
            guard let range = left.first else { return finishRecord(id, batch) }
            land(batch, range)
            lane.landing = (batch, Array(left.dropFirst()))
            lane.landedLayers[range.page] += range.length / 8
            lanes[id] = lane
            return
        }
        guard !lane.flying.isEmpty, !lane.fencing || broken == .fenceReportedEarly else { return }
        let item = lane.flying.removeFirst()
        lanes[id] = lane
        switch item {
        case .batch(let batch):
            let allowed = lane.bound?.handoff == batch.handoff && lane.bound?.epoch == batch.epoch
            if allowed {
                lanes[id]?.landing = (batch, batch.ranges)
            } else if broken == .unguardedLane {
                for range in batch.ranges { land(batch, range) }
            } else {
                fence(id)
            }
        case .completion(let terms):
            guard lane.bound == terms else { return fence(id) }
            let whole = lane.landedLayers.allSatisfy { $0 == Self.layers }
            guard whole || broken == .recordOvertakesWrites || broken == .unguardedLane else { return fence(id) }
            lanes[id]?.bound = nil
            lanes[id]?.answers.append((terms.handoff, terms.epoch, nil))
            let pages = terms.slots.map { SealedPage(slot: $0, digest: 0) }
            let record = CompletionRecord(handoff: terms.handoff, epoch: terms.epoch, pages: pages)
            perform(decode.completion(id, terms.epoch, record, pool: &pool))
        }
    }

    private func finishRecord(_ id: LaneID, _ batch: WriteBatch) {
        lanes[id]?.landing = nil
        guard broken != .unguardedLane else { return }
        guard var lane = lanes[id] else { return }
        lane.landedRecords += 1
        lane.answers.append((batch.handoff, batch.epoch, lane.landedRecords))
        lanes[id] = lane
    }

    /// The rule of rules: a byte lands only in a slot that is granted to its handoff, or in quarantine for it.
    private func land(_ batch: WriteBatch, _ range: WriteRange) {
        let state = pool.state(of: range.target)
        if state != .granted && state != .quarantined {
            violate(
                "1: a write of \(batch.handoff) lands in a slot that is \(state.map { "\($0)" } ?? "somebody else's")")
        }
        let layer = range.offset / 8
        for written in layer..<layer + range.length / 8 {
            memory[Int(range.target.index)][written] = SimTag(handoff: batch.handoff, page: range.page)
        }
    }

    /// An acknowledgement reaches the prefill node.
    func answerNext(_ id: LaneID) {
        guard var lane = lanes[id], lane.senderOpen, !lane.answers.isEmpty else { return }
        let (handoff, epoch, records) = lane.answers.removeFirst()
        lanes[id] = lane
        let key = LaneKey(decode: decodeID, lane: id)
        let actions = withPrefill(lane.prefill) { node in
            if let records { return node.handoffs.acknowledged(key, handoff, epoch, records: records) }
            return node.handoffs.completionAcknowledged(key, handoff, epoch)
        }
        perform(actions, lane.prefill)
    }
}
