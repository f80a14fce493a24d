import Handoff

/// Decode nodes: the driver of the shipping machine and pool, and an engine that generates.
extension World {
    func receivedByDecode(_ message: ToNode, _ index: Int, from router: Incarnation) {
        let node = decodes[index]
        switch message {
        case .reserve(let id, let pages, let shares, let delivered):
            reserve(id, pages, shares, delivered, index)
        case .cancel(let id): perform(node.handoffs.cancel(id, pool: &node.pool), index)
        case .reclaim(let id, let parts): perform(node.handoffs.reclaim(id, parts, pool: &node.pool), index)
        case .fence(let id, let parts): perform(node.handoffs.fence(id, parts, pool: &node.pool), index)
        case .query(let id): perform(node.handoffs.query(id), index)
        case .listHandoffs:
            let open = node.handoffs.open.filter { $0.router == router || node.host.links[$0.router] == nil }
            send(.openHandoffs(open), from: node.host.seat, to: router)
        case .prefill, .release: violate("7: \(TraceText.text(message)) at \(node.host.seat)")
        }
    }

    private func reserve(_ id: HandoffID, _ pages: Int, _ shares: [Share], _ delivered: Int, _ index: Int) {
        let node = decodes[index]
        let lending = lendable(id, ReceivingHandoffs.lendable(pages: pages, shares), node)
        makeRoom(pages - lending.count, keeping: lending, node)
        let tokens = routers[seat(of: id.router).index].requests[id.request]?.tokens ?? delivered
        if node.orders[id] == nil { node.orders[id] = DecodeProcess.Order(delivered: delivered, tokens: tokens) }
        engine?.reserved(id, of: document(of: id), pages: pages, delivered: delivered, tokens: tokens)
        perform(node.handoffs.reserve(id, pages: pages, shares: shares, lending: lending, pool: &node.pool), index)
    }

    func document(of handoff: HandoffID) -> Int { pairs[handoff]?.document ?? -1 }

    func tag(_ handoff: HandoffID, _ page: Int) -> Tag {
        Tag(handoff: handoff, document: document(of: handoff), page: page)
    }

    /// The front of a prompt, as far as the node has it: in its prefix cache or with sequences that run.
    private func lendable(_ id: HandoffID, _ most: Int, _ node: DecodeProcess) -> [SlotRef] {
        guard most > 0, draw(.requests, { $0.chance(perMille: scenario.lends) }) else { return [] }
        let document = document(of: id)
        let running = node.sequences.filter { $0.value.document == document }.sorted { $0.key < $1.key }.map(\.value)
        var front: [SlotRef] = []
        for page in 0..<most {
            let slot =
                node.cached.first { $0.document == document && $0.page == page && $0.isWhole }?.slot
                ?? running.first { page < $0.slots.count - 1 }?.slots[page]
            guard let slot else { break }
            front.append(slot)
        }
        return front
    }

    /// The prefix cache gives way to what is wanted now.
    private func makeRoom(_ pages: Int, keeping kept: [SlotRef], _ node: DecodeProcess) {
        while node.pool.counts.free < pages,
            let last = node.cached.lastIndex(where: { !kept.contains($0.slot) })
        {
            node.pool.evict(node.cached.remove(at: last).slot)
        }
    }

    /// A promise is on its way: the account outside is told before anything of it is done.
    private func note(_ terms: GrantTerms, _ node: DecodeProcess) {
        count {
            $0.handoffs += 1
            if terms.parts.count > 1 { $0.add("handoffs with two writers") }
            if terms.lent > 0 { $0.add("handoffs with lent pages") }
        }
        if !terms.areCovered(layers: scenario.layers) {
            violate("1: the parts of \(TraceText.text(terms)) are no whole")
        }
        violate(node.shadow.grant(terms, of: document(of: terms.handoff), readers: node.sequences))
    }

    func perform(_ actions: [ReceivingAction], _ index: Int) {
        let node = decodes[index]
        let seat = node.host.seat
        mix(UInt64(actions.count))
        if case .bindLane? = actions.first, case .sendGrant(let terms)? = actions.last { note(terms, node) }
        for action in actions {
            if let text = TraceText.text(action) { trace(seat, text) }
            switch action {
            case .bindLane(let part): bind(part, node)
            case .unbindLane(let id, let lane, let epoch): unbind(id, lane, epoch, index)
            case .fenceLane(let lane):
                count { $0.add("fences") }
                fence(lane, node)
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

    // MARK: The lane's answer

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
        if answer == .quiet { node.shadow.ended(id, lane, epoch) }
        perform(node.handoffs.laneUnbound(id, lane, epoch, answer, pool: &node.pool), index)
    }

    // MARK: Engine

    private func start(_ id: HandoffID, _ slots: [SlotRef], _ index: Int) {
        let node = decodes[index]
        let grant = node.shadow.grant(of: id)
        let lent = grant?.terms.lent ?? 0
        violate(grant?.unsealable)
        violate(node.shadow.readable(id, slots, lent: lent, of: document(of: id)))
        count { $0.add("seals") }
        node.shadow.grants.removeAll { $0.terms.handoff == id }
        let order = node.orders[id] ?? DecodeProcess.Order(delivered: 0, tokens: 0)
        node.sequences[id] = DecodeProcess.Sequence(
            slots: slots, lent: lent, document: document(of: id), start: order.delivered, next: order.delivered,
            end: max(order.tokens, order.delivered))
        plan(.generate(decode: index, id), on: node.host.seat, in: stepTime())
    }

    private func stepTime() -> Duration { draw(.fabric) { $0.time(.microseconds(100), scenario.stepMax) } }

    /// One step of one sequence.
    func generate(_ index: Int, _ id: HandoffID) {
        let node = decodes[index]
        guard var sequence = node.sequences[id] else { return }
        violate(node.shadow.readable(id, sequence.slots, lent: sequence.lent, of: sequence.document))
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
        for (page, slot) in sequence.slots.enumerated() {
            // What was lent from the cache is there already.
            if isKept, !node.cached.contains(where: { $0.slot == slot }) {
                node.pool.keep(slot)
                node.cached.append(
                    DecodeProcess.Cached(
                        slot: slot, document: sequence.document, page: page,
                        isWhole: page < sequence.slots.count - 1))
            }
            node.pool.release(slot)
        }
        for slot in sequence.grown { node.pool.release(slot) }
    }
}
