import Handoff

/// The router: requests, retries, and the ledger's driver.
extension ContractWorld {
    func startRequest() {
        guard faultsAllowed, requests.count < 6 else { return }
        requests[nextRequest] = SimRequest(pages: 1 + random.below(4), tokens: 1 + random.below(6))
        attempt(nextRequest)
        nextRequest += 1
    }

    private func attempt(_ number: UInt64) {
        guard var request = requests[number] else { return }
        request.attempt += 1
        let id = HandoffID(router: router, request: number, attempt: request.attempt)
        request.current = id
        requests[number] = request
        handoffsOpened += 1
        perform(
            ledger.open(id, prefill: incarnations[random.below(2)], decode: decodeID, delivered: request.delivered))
    }

    func cancelSomething() {
        // In the order of their numbers: a dictionary's own order is another one in every process.
        let wanting = requests.keys.sorted().first { number in
            requests[number]?.wantsCancel == true || (faultsAllowed && random.chance(12))
        }
        guard let number = wanting, let current = requests[number]?.current else { return }
        requests[number]?.wantsCancel = true
        perform(ledger.cancel(current))
    }

    func deliverToRouter() {
        guard let (from, message) = take(&routerInbox) else { return }
        switch message {
        case .granted(let terms): perform(ledger.granted(terms, from: from))
        case .refused(let id, let reason): perform(ledger.refused(id, reason, from: from))
        case .sealed(let id): perform(ledger.sealed(id, from: from))
        case .finished(let id, let tokens): perform(ledger.finished(id, tokens: tokens, from: from))
        case .reclaimed(let id, let kind): perform(ledger.reclaimed(id, kind, from: from))
        case .accepted(let id): perform(ledger.accepted(id, from: from))
        case .written(let id): perform(ledger.written(id, from: from))
        case .drained(let id, let posted, let completed):
            perform(ledger.drained(id, posted: posted, completed: completed, from: from))
        case .failed(let id, let why): perform(ledger.failed(id, why, from: from))
        case .tokens(let id, let first, let count): deliverTokens(id, first, count)
        }
    }

    private func deliverTokens(_ id: HandoffID, _ first: Int, _ count: Int) {
        switch ledger.acceptTokens(id, firstIndex: first, count: count) {
        case .drop: break
        case .gap: perform(ledger.fail(id, HandoffFailure(.tokenGap)))
        case .deliver(let range):
            guard let request = requests[id.request], request.current == id else {
                return violate("5: tokens of \(id) after its attempt")
            }
            if first + range.lowerBound != request.delivered { violate("5: position \(first) of \(id) twice") }
            requests[id.request]?.delivered += range.count
        }
    }

    func perform(_ actions: [LedgerAction]) {
        for action in actions {
            switch action {
            case .sendReserve(let id, let node):
                guard let request = requests[id.request] else { continue }
                send(.reserve(id, pages: request.pages, prefill: prefillOf(id)), to: node)
            case .sendPrefill(let terms, let node): send(.prefill(terms), to: node)
            case .sendRelease(let id, let node): send(.release(id), to: node)
            case .sendCancel(let id, let node): send(.cancel(id), to: node)
            case .sendReclaim(let id, let node): send(.reclaim(id), to: node)
            case .sendFence(let id, let node): send(.fence(id), to: node)
            case .sendQuery(let id, let node): send(.query(id), to: node)
            case .deliver(let id, let outcome): end(id, outcome)
            case .settled(let id):
                if requests[id.request]?.current == id { violate("7: \(id) settled without an outcome") }
            case .setDeadline(let name, let id): set(SimDeadline(owner: .router, name: name, handoff: id))
            case .clearDeadline(let name, let id): clear(SimDeadline(owner: .router, name: name, handoff: id))
            }
        }
    }

    private func prefillOf(_ id: HandoffID) -> Incarnation {
        ledger.rows.first { $0.id == id }?.prefill ?? incarnations[0]
    }

    private func end(_ id: HandoffID, _ outcome: HandoffOutcome) {
        guard let request = requests[id.request], request.current == id else {
            return violate("7: a second outcome of \(id)")
        }
        requests[id.request]?.current = nil
        let retry: Bool =
            switch outcome {
            case .finished, .cancelled: false
            case .refused(let reason): reason.isTransient
            case .failed(let why): why.retryable
            }
        if retry, !request.wantsCancel, request.attempt < 6 {
            attempt(id.request)
        } else {
            if outcome == .finished, !request.wantsCancel, request.delivered != request.tokens {
                violate("5: \(id) finished after \(request.delivered) of \(request.tokens) tokens")
            }
            requests[id.request] = nil
        }
    }

    func send(_ message: ToNode, to node: Incarnation) {
        if node == decodeID { decodeInbox.append(message) }
        if node == first.incarnation { first.inbox.append(message) }
        if node == second.incarnation { second.inbox.append(message) }
    }

    /// Another router process; the nodes notice that the old one is gone.
    func restartRouter() {
        for message in [ToNode.routerLost(router)] {
            decodeInbox.append(message)
            first.inbox.append(message)
            second.inbox.append(message)
        }
        router = Incarnation(router.value + 1)
        ledger = HandoffLedger(router: router)
        requests = [:]
        routerInbox = []
        deadlines.removeAll { $0.owner == .router }
    }

    /// The router gives a living node up; the node notices that the stream is gone.
    func nodeLostByLease(_ index: Int) {
        perform(ledger.nodeLost(incarnations[index]))
        send(.routerLost(router), to: incarnations[index])
    }

    // MARK: Deadlines

    func set(_ deadline: SimDeadline) {
        clear(deadline)
        deadlines.append(deadline)
    }

    func clear(_ deadline: SimDeadline) { deadlines.removeAll { $0 == deadline } }

    func passDeadline() {
        guard !deadlines.isEmpty else { return }
        let deadline = deadlines.remove(at: random.below(deadlines.count))
        switch deadline.owner {
        case .router: perform(ledger.deadlinePassed(deadline.name, deadline.handoff))
        case .decode: perform(decode.deadlinePassed(deadline.name, deadline.handoff, pool: &pool))
        case .first: perform(first.handoffs.deadlinePassed(deadline.name, deadline.handoff), 0)
        case .second: perform(second.handoffs.deadlinePassed(deadline.name, deadline.handoff), 1)
        }
    }
}
