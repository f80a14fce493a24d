import Handoff

/// Routers and their clients: requests, retries, and the ledger's driver.
extension World {
    private static let attemptsMax = 10

    // MARK: Clients

    func arrive(_ router: Int) {
        let process = routers[router]
        let share = (scenario.requests + router) / routers.count
        guard process.arrived < share, faultsBegin || now < .seconds(1) else {
            arrivalsEnded += 1
            return
        }
        let (gap, pages, tokens, document) = draw(.requests) { random in
            (
                random.time(.microseconds(100), scenario.arrivalMax), random.between(1, scenario.pagesMax),
                random.between(1, scenario.tokensMax), random.below(scenario.documents)
            )
        }
        plan(.arrive(router: router), in: gap)
        process.arrived += 1
        guard isRunning(process.host.seat) else { return }
        let number = UInt64(process.arrived)
        process.requests[number] = ClientRequest(pages: pages, document: document, tokens: tokens)
        count { $0.add("requests") }
        trace(process.host.seat, "request \(number): \(pages) pages, \(tokens) tokens")
        attempt(router, number)
    }

    /// The client leaves. Called at moments of every kind: see `strike`.
    func leave(_ router: Int, _ number: UInt64) {
        let process = routers[router]
        guard let request = process.requests[number], !request.wantsOut else { return }
        trace(process.host.seat, "client of request \(number) leaves")
        process.requests[number]?.wantsOut = true
        let attempts = process.ledger.rows.map(\.id).filter { $0.request == number }
        for id in attempts { mark(.clientLeaves, id) }
        // Also those that had their outcome: they must not get another.
        for id in attempts where process.requests[number] != nil { perform(process.ledger.cancel(id), router) }
        if request.current == nil { end(router, number, "cancelled") }
    }

    func attempt(_ router: Int, _ number: UInt64) {
        let process = routers[router]
        guard var request = process.requests[number], request.current == nil else { return }
        let nodes = process.host.links.keys.map { seat(of: $0) }.sorted()
        let prefillSeats = nodes.filter { $0.role == .prefill }
        let decodeSeats = nodes.filter { $0.role == .decode }
        guard !prefillSeats.isEmpty, !decodeSeats.isEmpty else {
            plan(.attempt(router: router, request: number), on: process.host.seat, in: .milliseconds(200))
            return
        }
        let (prefillSeat, decodeSeat) = draw(.requests) { ($0.pick(prefillSeats), $0.pick(decodeSeats)) }
        let linked = process.host.links.keys
        guard let prefill = linked.first(where: { seat(of: $0) == prefillSeat }),
            let decode = linked.first(where: { seat(of: $0) == decodeSeat })
        else { return }
        let shares = shares(of: request.pages, prefill, linked)
        request.attempt += 1
        let id = HandoffID(router: process.host.incarnation, request: number, attempt: request.attempt)
        request.current = id
        process.requests[number] = request
        pairs[id] = Pair(router: router, shares: shares, decode: decode, document: request.document)
        let writers = shares.map { "\(seat(of: $0.writer))" }.joined(separator: ", ")
        trace(process.host.seat, "attempt \(id.text) on \(writers) and \(decodeSeat)")
        perform(
            process.ledger.open(id, prefills: shares.map(\.writer), decode: decode, delivered: request.delivered),
            router)
        // A client may leave at any time; it does so more often than other faults strike.
        guard faultsBegin, let rate = scenario.rates[.clientLeaves] else { return }
        let leaves = draw(.requests) { $0.chance(perMille: rate * 6) ? $0.time(.microseconds(50), .seconds(2)) : nil }
        if let leaves { plan(.leave(router: router, request: number), on: process.host.seat, in: leaves) }
    }

    /// What each prefill node is to write: all of it one, or two of them each some layers or some pages.
    private func shares(
        of pages: Int, _ first: Incarnation, _ linked: Dictionary<Incarnation, Int>.Keys
    ) -> [Share] {
        let others = linked.filter { seat(of: $0).role == .prefill && $0 != first }.sorted {
            seat(of: $0) < seat(of: $1)
        }
        let layers = scenario.layers
        guard !others.isEmpty, pages > 1 || layers > 1, draw(.requests, { $0.chance(perMille: scenario.shared) }) else {
            return [Share(writer: first)]
        }
        return draw(.requests) { random in
            let second = random.pick(others)
            if pages == 1 || layers > 1 && random.chance(oneIn: 2) {
                let border = random.between(1, layers - 1)
                return [Share(writer: first, layers: 0..<border), Share(writer: second, layers: border..<Share.last)]
            }
            let border = random.between(1, pages - 1)
            return [Share(writer: first, pages: 0..<border), Share(writer: second, pages: border..<Share.last)]
        }
    }

    // MARK: Messages

    func received(_ message: ToRouter, _ router: Int, from node: Incarnation) {
        let process = routers[router]
        switch message {
        case .granted(let terms): perform(process.ledger.granted(terms, from: node), router)
        case .refused(let id, let reason):
            mark(.refusedGrant, id, only: .router)
            perform(process.ledger.refused(id, reason, from: node), router)
        case .sealed(let id): perform(process.ledger.sealed(id, from: node), router)
        case .finished(let id, let end):
            // What was cut short has no whole.
            let tokens = end.reason == .cancelled ? nil : end.tokens
            perform(process.ledger.finished(id, tokens: tokens, from: node), router)
        case .reclaimed(let id, let kind): perform(process.ledger.reclaimed(id, kind, from: node), router)
        case .accepted(let id): perform(process.ledger.accepted(id, from: node), router)
        case .written(let id): perform(process.ledger.written(id, from: node), router)
        case .drained(let id, let posted, let completed):
            perform(process.ledger.drained(id, posted: posted, completed: completed, from: node), router)
        case .failed(let id, let why): perform(process.ledger.failed(id, why, from: node), router)
        case .tokens(let id, let first, let count): tokens(id, first, count, from: node, router)
        case .openHandoffs(let open):
            let isDecode = seat(of: node).role == .decode
            isReconciling = true
            perform(process.ledger.nodeAttached(node, open: open, isDecode: isDecode), router)
            isReconciling = false
        }
    }

    private func tokens(_ id: HandoffID, _ first: Int, _ count: Int, from node: Incarnation, _ router: Int) {
        let process = routers[router]
        guard pairs[id]?.decode == node else { return }
        switch process.ledger.acceptTokens(id, firstIndex: first, count: count) {
        case .drop: break
        case .gap: perform(process.ledger.fail(id, HandoffFailure(.tokenGap)), router)
        case .deliver(let range):
            guard let request = process.requests[id.request] else {
                return violate("5: a token of \(id.text) after its request's end")
            }
            if request.current != id { return violate("5: a token of \(id.text) after its attempt") }
            if first + range.lowerBound != request.delivered {
                return violate("5: position \(first + range.lowerBound) of \(id.text), not \(request.delivered)")
            }
            process.requests[id.request]?.delivered += range.count
            self.count { $0.add("tokens", range.count) }
        }
    }

    // MARK: Actions

    func perform(_ actions: [LedgerAction], _ router: Int) {
        let process = routers[router]
        let seat = process.host.seat
        mix(UInt64(actions.count))
        for action in actions {
            switch action {
            case .sendReserve(let id, let node):
                guard let request = process.requests[id.request], let pair = pairs[id] else { continue }
                let message = ToNode.reserve(
                    id, pages: request.pages, shares: pair.shares, delivered: request.delivered)
                send(message, from: router, to: node)
            case .sendPrefill(let terms, let part, let node): send(.prefill(terms, part: part), from: router, to: node)
            case .sendRelease(let id, let node): send(.release(id), from: router, to: node)
            case .sendCancel(let id, let node): send(.cancel(id), from: router, to: node)
            case .sendReclaim(let id, let parts, let node): send(.reclaim(id, parts), from: router, to: node)
            case .sendFence(let id, let parts, let node):
                isRare()
                send(.fence(id, parts), from: router, to: node)
            case .sendQuery(let id, let node): send(.query(id), from: router, to: node)
            case .deliver(let id, let outcome):
                isRare()
                reached(id, outcome, router)
            case .settled(let id):
                trace(seat, "\(id.text) is settled")
                if process.requests[id.request]?.current == id { violate("7: \(id.text) is settled without outcome") }
            case .setDeadline(let deadline, let id): setDeadline(seat, deadline, id)
            case .clearDeadline(let deadline, let id): clearDeadline(seat, deadline, id)
            }
        }
    }

    private func reached(_ id: HandoffID, _ outcome: HandoffOutcome, _ router: Int) {
        let process = routers[router]
        trace(process.host.seat, "\(id.text) ends: \(TraceText.text(outcome))")
        guard var request = process.requests[id.request], request.current == id else {
            return violate("7: a second outcome of \(id.text)")
        }
        count { $0.add("attempts \(TraceText.name(outcome))") }
        request.current = nil
        process.requests[id.request] = request
        if request.wantsOut { return end(router, id.request, "cancelled") }
        switch outcome {
        case .finished:
            if request.delivered != request.tokens {
                violate("5: \(id.text) finished after \(request.delivered) of \(request.tokens) tokens")
            }
            return end(router, id.request, "completed")
        case .cancelled: return end(router, id.request, "cancelled")
        case .refused(let reason):
            if !reason.isTransient { return end(router, id.request, "failed") }
            let backoff = draw(.control) { $0.time(.milliseconds(50), .seconds(2)) }
            return plan(.attempt(router: router, request: id.request), on: process.host.seat, in: backoff)
        case .failed(let why):
            process.requests[id.request]?.failures += 1
            if request.delivered >= request.tokens { return end(router, id.request, "completed") }
            if !why.retryable || request.failures + 1 >= World.attemptsMax {
                return end(router, id.request, "failed")
            }
        }
        let backoff = draw(.control) { $0.time(.milliseconds(5), .milliseconds(400)) }
        plan(.attempt(router: router, request: id.request), on: process.host.seat, in: backoff)
    }

    private func end(_ router: Int, _ number: UInt64, _ how: String) {
        let process = routers[router]
        trace(process.host.seat, "request \(number) \(how)")
        process.requests[number] = nil
        count { $0.add("requests \(how)") }
    }
}
