import Handoff

/// Decode nodes: the driver of the shipping machine and pool, and an engine that generates.
extension World {
    func receivedByDecode(_ message: ToNode, _ index: Int, from router: Incarnation) {
        let node = decodes[index]
        switch message {
        case .reserve(let id, let pages, let prefill, let delivered):
            makeRoom(pages, node)
            let tokens = routers[seat(of: id.router).index].requests[id.request]?.tokens ?? delivered
            if node.orders[id] == nil { node.orders[id] = DecodeProcess.Order(delivered: delivered, tokens: tokens) }
            engine?.reserved(id, pages: pages, delivered: delivered, tokens: tokens)
            perform(node.handoffs.reserve(id, pages: pages, prefill: prefill, pool: &node.pool), index)
        case .cancel(let id): perform(node.handoffs.cancel(id, pool: &node.pool), index)
        case .reclaim(let id): perform(node.handoffs.reclaim(id, pool: &node.pool), index)
        case .fence(let id): perform(node.handoffs.fence(id, pool: &node.pool), index)
        case .query(let id): perform(node.handoffs.query(id), index)
        case .listHandoffs:
            let open = node.handoffs.open.filter { $0.router == router || node.host.links[$0.router] == nil }
            send(.openHandoffs(open), from: node.host.seat, to: router)
        case .prefill, .release: violate("7: \(TraceText.text(message)) at \(node.host.seat)")
        }
    }

    /// The prefix cache gives way to what is wanted now.
    private func makeRoom(_ pages: Int, _ node: DecodeProcess) {
        while node.pool.counts.free < pages, let slot = node.cached.popLast() { node.pool.evict(slot) }
    }

    func perform(_ actions: [DecodeAction], _ index: Int) {
        let node = decodes[index]
        let seat = node.host.seat
        mix(UInt64(actions.count))
        for action in actions {
            if let text = TraceText.text(action) { trace(seat, text) }
            switch action {
            case .bindLane(let terms):
                count { $0.handoffs += 1 }
                violate(node.shadow.grant(terms, readers: node.sequences))
                bind(terms, node)
            case .unbindLane(let id, let lane, let epoch): unbind(id, lane, epoch, index)
            case .fenceLane(let lane):
                count { $0.add("fences") }
                fence(lane, node)
            case .verifyDigests(let id, let lane, let epoch, _): verify(id, lane, epoch, index)
            case .startSequence(let id, let slots): start(id, slots, index)
            case .cancelSequence(let id):
                isRare()
                node.sequences[id]?.isCancelled = true
            case .sendGrant(let terms):
                if node.shadow.grant(of: terms.handoff)?.terms != terms {
                    violate("1: \(terms.handoff.text) is promised what it was not granted")
                }
                send(.granted(terms), from: seat, to: terms.handoff.router)
            case .sendRefused(let id, let reason):
                count { $0.add("refused \(reason.rawValue)") }
                send(.refused(id, reason), from: seat, to: id.router)
            case .sendSealed(let id): send(.sealed(id), from: seat, to: id.router)
            case .sendReclaimed(let id, let kind):
                freed(id, kind, node)
                send(.reclaimed(id, kind), from: seat, to: id.router)
            case .sendFailed(let id, let why): send(.failed(id, why), from: seat, to: id.router)
            case .sendFinished(let id, let end), .repeatFinished(let id, let end):
                send(.finished(id, end), from: seat, to: id.router)
            case .setDeadline(let deadline, let id): setDeadline(seat, deadline, id)
            case .clearDeadline(let deadline, let id): clearDeadline(seat, deadline, id)
            case .settled(let id): node.orders[id] = nil
            case .dumpEvidence: break
            }
        }
    }

    // MARK: Digests and the lane's answer

    private func verify(_ id: HandoffID, _ lane: LaneID, _ epoch: LaneEpoch, _ index: Int) {
        isRare()
        let node = decodes[index]
        let gate = node.lanes[lane].map { lanes[$0].gate }
        if let gate, gate.record?.handoff != id {
            violate("2: digests of \(id.text) are compared and its completion record never came")
        }
        if let record = gate?.record, let terms = node.shadow.grant(of: id)?.terms, record.handoff == id,
            record.pages.map(\.slot) != terms.slots
        {
            violate("2: \(id.text) is sealed on a record that names other slots or generations")
        }
        // A lane that has closed since has no digests any more, as in the shipping transport.
        let matching = gate?.completed?.epoch == epoch && gate?.completed?.isMatching == true
        if !matching, gate?.completed?.epoch == epoch { mark(.digestMismatch, id, only: .decode) }
        if scenario.sealsSlowly {
            let delay = draw(.fabric) { $0.time(.microseconds(10), .milliseconds(60)) }
            return plan(.compared(decode: index, id, matching: matching), on: node.host.seat, in: delay)
        }
        compared(index, id, matching)
    }

    func compared(_ index: Int, _ id: HandoffID, _ matching: Bool) {
        let node = decodes[index]
        trace(node.host.seat, "digests of \(id.text) \(matching ? "match" : "differ")")
        perform(node.handoffs.digestsVerified(id, matching: matching, pool: &node.pool), index)
    }

    private func unbind(_ id: HandoffID, _ lane: LaneID, _ epoch: LaneEpoch, _ index: Int) {
        let node = decodes[index]
        isRare()
        let answer = node.lanes[lane].map { lanes[$0].unbind(epoch) } ?? .quiet
        count { $0.add("lanes \(answer)") }
        if scenario.sealsSlowly {
            let delay = draw(.fabric) { $0.time(.microseconds(10), .milliseconds(60)) }
            return plan(
                .unbound(decode: index, id, lane, epoch, answer), on: node.host.seat, in: delay)
        }
        unbound(index, id, lane, epoch, answer)
    }

    func unbound(_ index: Int, _ id: HandoffID, _ lane: LaneID, _ epoch: LaneEpoch, _ answer: LaneUnbinding) {
        let node = decodes[index]
        perform(node.handoffs.laneUnbound(id, lane, epoch, answer, pool: &node.pool), index)
    }

    // MARK: Engine

    private func start(_ id: HandoffID, _ slots: [SlotRef], _ index: Int) {
        let node = decodes[index]
        violate(node.shadow.readable(id, slots))
        count { $0.add("seals") }
        node.shadow.grants.removeAll { $0.terms.handoff == id }
        let order = node.orders[id] ?? DecodeProcess.Order(delivered: 0, tokens: 0)
        node.sequences[id] = DecodeProcess.Sequence(
            slots: slots, start: order.delivered, next: order.delivered, end: max(order.tokens, order.delivered))
        plan(.generate(decode: index, id), on: node.host.seat, in: stepTime())
    }

    private func stepTime() -> Duration { draw(.fabric) { $0.time(.microseconds(100), scenario.stepMax) } }

    /// One step of one sequence.
    func generate(_ index: Int, _ id: HandoffID) {
        let node = decodes[index]
        guard var sequence = node.sequences[id] else { return }
        violate(node.shadow.readable(id, sequence.slots))
        if let slot = sequence.slots.first(where: { node.pool.state(of: $0) != .inUse }) {
            violate("2: \(id.text) reads slot \(slot.index), which is not its own")
        }
        if strikes(.sequenceFailed) {
            mark(.sequenceFailed, id, only: .decode)
            leaveSequence(sequence, id, node)
            return perform(node.handoffs.sequenceFailed(id), index)
        }
        if sequence.isCancelled || sequence.next >= sequence.end {
            leaveSequence(sequence, id, node)
            let reason = sequence.isCancelled ? SequenceEnd.Reason.cancelled : .length
            let end = SequenceEnd(reason, tokens: sequence.next - sequence.start)
            return perform(node.handoffs.finished(id, end), index)
        }
        let run = draw(.requests) { min($0.between(1, 3), sequence.end - sequence.next) }
        violate(
            engine?.generated(
                id, tokens: sequence.next..<sequence.next + run, from: sequence.slots, of: node.host.incarnation))
        send(.tokens(id, first: sequence.next, count: run), from: node.host.seat, to: id.router)
        sequence.next += run
        if sequence.grown.isEmpty, draw(.requests, { $0.chance(oneIn: 4) }), let more = node.pool.lease(1) {
            for slot in more { violate(node.shadow.lease(slot)) }
            sequence.grown = more
        }
        node.sequences[id] = sequence
        plan(.generate(decode: index, id), on: node.host.seat, in: stepTime())
    }

    private func leaveSequence(_ sequence: DecodeProcess.Sequence, _ id: HandoffID, _ node: DecodeProcess) {
        node.sequences[id] = nil
        let isKept = draw(.requests) { $0.chance(oneIn: 4) }
        for slot in sequence.slots {
            if isKept {
                node.pool.keep(slot)
                node.cached.append(slot)
            }
            node.pool.release(slot)
        }
        for slot in sequence.grown { node.pool.release(slot) }
    }
}
