import Handoff

/// The decode node and the two prefill nodes: drivers as plain as can be.
extension ContractWorld {
    // MARK: Decode node

    func deliverToDecode() {
        guard let message = take(&decodeInbox) else { return }
        switch message {
        case .reserve(let id, let pages, let prefill):
            perform(decode.reserve(id, pages: pages, prefill: prefill, pool: &pool))
        case .cancel(let id): perform(decode.cancel(id, pool: &pool))
        case .reclaim(let id): perform(decode.reclaim(id, pool: &pool))
        case .fence(let id): perform(decode.fence(id, pool: &pool))
        case .routerLost(let router): perform(decode.routerLost(router, pool: &pool))
        case .query(let id): perform(decode.query(id))
        case .prefill, .release: violate("a prefill node's message at the decode node")
        }
    }

    func perform(_ actions: [DecodeAction]) {
        for action in actions {
            switch action {
            case .bindLane(let terms): bind(terms)
            case .unbindLane(let id, let lane, let epoch):
                perform(decode.laneUnbound(id, lane, epoch, quiet: unbind(lane, epoch), pool: &pool))
            case .fenceLane(let lane): fence(lane)
            case .verifyDigests(let id, _, _, _):
                perform(decode.digestsVerified(id, matching: faultsAllowed ? !random.chance(50) : true, pool: &pool))
            case .startSequence(let id, let slots): start(id, slots)
            case .cancelSequence(let id): running[id]?.cancelled = true
            case .sendGrant(let terms): tell(.granted(terms))
            case .sendRefused(let id, let reason): tell(.refused(id, reason))
            case .sendSealed(let id): tell(.sealed(id))
            case .sendReclaimed(let id, let kind): tell(.reclaimed(id, kind))
            case .sendFailed(let id, let why): tell(.failed(id, why))
            case .sendFinished(let id, let end), .repeatFinished(let id, let end):
                tell(.finished(id, tokens: end.reason == .cancelled ? nil : end.tokens))
            case .setDeadline(let name, let id): set(SimDeadline(owner: .decode, name: name, handoff: id))
            case .clearDeadline(let name, let id): clear(SimDeadline(owner: .decode, name: name, handoff: id))
            case .dumpEvidence, .settled: break
            }
        }
    }

    private func tell(_ message: ToRouter) { routerInbox.append((decodeID, message)) }

    private func start(_ id: HandoffID, _ slots: [SlotRef]) {
        for (page, slot) in slots.enumerated() {
            let whole = memory[Int(slot.index)].allSatisfy { $0 == SimTag(handoff: id, page: page) }
            if !whole { violate("2: page \(page) of \(id) is readable and not all there") }
        }
        let start = requests[id.request]?.delivered ?? 0
        running[id] = SimSequence(slots: slots, start: start, next: start)
    }

    /// One decode step of one sequence.
    func generate() {
        let all = running.keys.sorted()
        guard !all.isEmpty else { return }
        let id = all[random.below(all.count)]
        guard var sequence = running[id] else { return }
        for (page, slot) in sequence.slots.enumerated()
        where memory[Int(slot.index)] != Array(repeating: SimTag(handoff: id, page: page), count: Self.layers) {
            violate("1: page \(page) of \(id) changed while it was in use")
        }
        let wanted = requests[id.request]?.tokens ?? 0
        if sequence.cancelled || sequence.next >= wanted {
            for slot in sequence.slots { pool.release(slot) }
            running[id] = nil
            let end = SequenceEnd(
                sequence.next < wanted ? .cancelled : .length, tokens: sequence.next - sequence.start)
            perform(decode.finished(id, end))
            return
        }
        let count = min(1 + random.below(2), wanted - sequence.next)
        tell(.tokens(id, first: sequence.next, count: count))
        sequence.next += count
        running[id] = sequence
    }

    // MARK: Prefill nodes

    func deliverToPrefill(_ index: Int) {
        guard let message = withPrefill(index, { take(&$0.inbox) }) else { return }
        let actions = withPrefill(index) { node -> [PrefillAction] in
            switch message {
            case .prefill(let terms): return node.handoffs.prefill(terms, pages: terms.slots.count)
            case .release(let id): return node.handoffs.release(id)
            case .cancel(let id): return node.handoffs.cancel(id)
            case .routerLost(let router): return node.handoffs.routerLost(router)
            case .query(let id): return node.handoffs.query(id)
            case .reserve, .reclaim, .fence: return []
            }
        }
        perform(actions, index)
    }

    func perform(_ actions: [PrefillAction], _ index: Int) {
        let from = incarnations[index]
        let owner = index == 0 ? SimDeadline.Owner.first : .second
        for action in actions {
            switch action {
            case .startCompute(let id): begin(id, index)
            case .cancelCompute(let id):
                withPrefill(index) { node in
                    node.prompts[id]?.stopped = true
                    if broken == .unpinAtCancel { node.pins[id] = nil }
                }
            case .post(let lane, let batch): lanes[lane.lane]?.posted.append(.batch(batch))
            case .postCompletion(let lane, let terms): lanes[lane.lane]?.posted.append(.completion(terms))
            case .sendAccepted(let id): routerInbox.append((from, .accepted(id)))
            case .sendWritten(let id, _): routerInbox.append((from, .written(id)))
            case .sendDrained(let id, let posted, let completed):
                routerInbox.append((from, .drained(id, posted, completed)))
            case .sendFailed(let id, let why): routerInbox.append((from, .failed(id, why)))
            case .unpin(let id):
                withPrefill(index) { node in
                    node.prompts[id] = nil
                    if node.pins.removeValue(forKey: id) == nil, broken != .unpinAtCancel {
                        violate("4: the source pages of \(id) are unpinned twice")
                    }
                }
            case .closeLane(let lane): breakLane(lane.lane)
            case .setDeadline(let name, let id): set(SimDeadline(owner: owner, name: name, handoff: id))
            case .clearDeadline(let name, let id): clear(SimDeadline(owner: owner, name: name, handoff: id))
            case .settled: break
            }
        }
    }

    private func begin(_ id: HandoffID, _ index: Int) {
        withPrefill(index) { node in
            node.prompts[id] = SimPrompt(layer: -1, sources: [])
            node.pins[id, default: 0] += 1
        }
    }

    /// One layer of one prompt; or its block table; or its failure.
    func compute(_ index: Int) {
        let actions = withPrefill(index) { node -> [PrefillAction] in
            let ready = node.prompts.filter { !$0.value.stopped }.keys.sorted()
            guard !ready.isEmpty else { return [] }
            let id = ready[random.below(ready.count)]
            guard var prompt = node.prompts[id] else { return [] }
            if faultsAllowed, prompt.layer < Self.layers, random.chance(60) {
                prompt.stopped = true
                node.prompts[id] = prompt
                return node.handoffs.computeFailed(id, retryable: true)
            }
            prompt.layer += 1
            node.prompts[id] = prompt
            if prompt.layer == 0 { return start(&node, id) }
            guard prompt.layer <= Self.layers else { return [] }
            return node.handoffs.pagesReady(
                id, layers: prompt.layer - 1..<prompt.layer, pages: 0..<prompt.sources.count)
        }
        perform(actions, index)
    }

    private func start(_ node: inout SimPrefill, _ id: HandoffID) -> [PrefillAction] {
        let pages = node.handoffs.rows.first { $0.id == id }?.pages ?? 0
        let sources = (0..<pages).map { SlotRef(index: UInt32($0), generation: Generation(1)) }
        node.prompts[id] = SimPrompt(layer: 0, sources: sources)
        return node.handoffs.started(id, sources: sources)
    }

    /// The process dies and another starts in its place.
    func crashPrefill(_ index: Int) {
        let old = incarnations[index]
        let new = Incarnation(old.value + 1)
        incarnations[index] = new
        withPrefill(index) { $0 = SimPrefill(new.value) }
        deadlines.removeAll { $0.owner == (index == 0 ? .first : .second) }
        routerInbox.removeAll { $0.from == old }
        for (id, lane) in lanes where lane.prefill == index {
            lanes[id]?.senderOpen = false
            lanes[id]?.posted = []
            lanes[id]?.answers = []
        }
        perform(ledger.nodeLost(old))
    }

    @discardableResult
    func withPrefill<Result>(_ index: Int, _ body: (inout SimPrefill) -> Result) -> Result {
        index == 0 ? body(&first) : body(&second)
    }
}
