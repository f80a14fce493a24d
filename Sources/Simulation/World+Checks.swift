import Handoff

/// The rules, looked at from outside after every event.
extension World {
    func check(_ owner: Incarnation) {
        let seat = seat(of: owner)
        switch seat.role {
        case .decode: check(decodes[seat.index])
        case .prefill: check(prefills[seat.index])
        case .router: break
        }
    }

    /// What closing a lane and being told take.
    private static let slack = Duration.milliseconds(100)

    /// The longest a deadline may take.
    private func longest(_ deadline: Deadline) -> Duration {
        let whole = DeadlineDurations()[deadline]
        return scenario.rates[.wildDeadline] == nil ? whole + whole / 20 : whole * World.latest
    }

    private func check(_ node: DecodeProcess) {
        for index in node.shadow.grants.indices {
            let grant = node.shadow.grants[index]
            let id = grant.terms.handoff
            if let slot = grant.terms.slots[..<grant.terms.lent].first(where: { node.pool.state(of: $0) == nil }) {
                return violate("2: slot \(slot.index), lent to \(id.text), is given up before that ends")
            }
            let state = grant.slots.first.flatMap { node.pool.state(of: $0) }
            if grant.slots.contains(where: { node.pool.state(of: $0) != state }) {
                return violate("1: the slots of \(id.text) are not of one state")
            }
            switch state {
            case .granted: if grant.quarantined != nil { violate("1: \(id.text) leaves quarantine for a grant") }
            case .quarantined:
                guard let since = grant.quarantined else {
                    node.shadow.grants[index].quarantined = awake(node.host)
                    continue
                }
                let limit = longest(.drainBudget) + World.fenceMax + World.slack
                if awake(node.host) - since > limit { violate("3: \(id.text) is in quarantine for more than \(limit)") }
            case .inUse, .cached: violate("2: the slots of \(id.text) are used without having been sealed")
            case .free, nil: violate("1: the slots of \(id.text) are free without a proof")
            }
        }
    }

    private func check(_ node: PrefillProcess) {
        let limit = longest(.laneDrain) + World.slack
        for (id, since) in node.draining where awake(node.host) - since > limit {
            violate("4: the source pages of \(id.text) are held for more than \(limit) after its end")
        }
    }

    /// Slots came out of quarantine, by what the node says is a proof.
    func freed(_ id: HandoffID, _ kind: QuiescenceProof.Kind, _ node: DecodeProcess) {
        // The answer about a handoff that holds nothing: never granted, or told before.
        guard let grant = node.shadow.grant(of: id) else { return }
        count { $0.add("proofs \(kind.rawValue)") }
        if let slot = grant.slots.first(where: { node.pool.state(of: $0) != nil }) {
            violate("1: slot \(slot.index) of \(id.text) is freed and keeps its generation")
        }
        for lane in lanes where lane.decode == node.host.incarnation && lane.isReceiverOpen {
            if lane.gate.lets(id) || lane.landing?.batch.handoff == id {
                violate("1: \(id.text) is freed while lane \(lane.id.value) can still write it")
            }
            let isUnderWay =
                lane.posted.contains { if case .batch(let batch) = $0 { batch.handoff == id } else { false } }
                || lane.wire.contains { if case .batch(let batch) = $0 { batch.handoff == id } else { false } }
            if kind != .fenced, isUnderWay {
                violate("1: \(id.text) is freed as \(kind.rawValue) with writes under way")
            }
        }
        node.shadow.grants.removeAll { $0.terms.handoff == id }
    }

    // MARK: At rest

    /// Nothing is going to happen any more: nothing may be left.
    func checkRest() {
        if let left = unfinished().first { violate(left) }
    }

    func unfinished() -> [String] {
        routers.flatMap(left) + prefills.flatMap(left) + decodes.flatMap(left)
    }

    private func left(_ router: RouterProcess) -> [String] {
        router.requests.keys.sorted().map { "7: request \($0) of \(router.host.seat) never ends" }
            + router.ledger.rows.map { "3: \(router.host.seat) has \($0.id.text) \($0.phase) for ever" }
    }

    private func left(_ node: PrefillProcess) -> [String] {
        let seat = node.host.seat
        var left = node.handoffs.rows.map { "4: \(seat) has \($0.id.text) \($0.phase) for ever" }
        if node.pool.counts.free != node.pool.slotCount { left.append("6: \(seat) is left with \(node.pool.counts)") }
        if !node.jobs.isEmpty { left.append("6: \(seat) is left with \(node.jobs.count) prompts") }
        for other in decodes where node.handoffs.laneCounts(to: other.host.incarnation).busy > 0 {
            left.append("6: \(seat) is left with busy lanes")
        }
        return left
    }

    private func left(_ node: DecodeProcess) -> [String] {
        let seat = node.host.seat
        var left = node.handoffs.rows.map { "3: \(seat) has \($0.id.text) \($0.phase) for ever" }
        let counts = node.pool.counts
        if counts.free + counts.cached != counts.total || counts.total != node.pool.slotCount {
            left.append("6: \(seat) is left with \(counts)")
        }
        if !node.shadow.grants.isEmpty { left.append("6: \(seat) is left with \(node.shadow.grants.count) grants") }
        if !node.sequences.isEmpty { left.append("6: \(seat) is left with \(node.sequences.count) sequences") }
        if node.handoffs.laneCounts.busy > 0 { left.append("6: \(seat) is left with busy lanes") }
        return left
    }
}
