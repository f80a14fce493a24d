import Handoff

/// A control stream between one router process and one node process. Either end may think it open alone.
struct Session {
    let router: Incarnation
    let node: Incarnation
    var isRouterOpen = false
    var isNodeOpen = false
    var isAccepted = false
    /// Streams keep their order: nothing arrives before what was sent earlier, unless a fault says so.
    var lastToNode = Duration.zero
    var lastToRouter = Duration.zero
}

/// Paths that are cut, each until a moment. What is sent on one arrives after that.
struct Cuts {
    struct Path: Hashable {
        enum Plane { case control, data }
        let plane: Plane
        let from: Seat
        let to: Seat
    }

    private var ends: [Path: Duration] = [:]

    mutating func cut(_ path: Path, until end: Duration) { ends[path] = max(end, ends[path] ?? .zero) }

    func end(_ plane: Path.Plane, _ from: Seat, _ to: Seat) -> Duration {
        ends[Path(plane: plane, from: from, to: to)] ?? .zero
    }
}

/// Control streams and what moves on them.
extension World {
    /// How long a stream may be silent, and a lease unrenewed.
    static let lease = Duration.seconds(3)

    // MARK: Opening

    func dial(_ node: Seat, _ router: Int) {
        let seat = routers[router].host.seat
        let mine = host(node)
        if let open = mine.links[routers[router].host.incarnation], sessions[open].isRouterOpen { return }
        let openAt = max(cuts.end(.control, node, seat), cuts.end(.control, seat, node))
        guard host(seat).isUp, openAt <= now else {
            plan(
                .dial(node: node, router: router), on: node,
                in: draw(.control) { $0.time(.milliseconds(50), .milliseconds(500)) })
            return
        }
        sessions.append(Session(router: host(seat).incarnation, node: mine.incarnation))
        plan(.join(session: sessions.count - 1), on: seat, in: latency())
        plan(.dialOverdue(session: sessions.count - 1), on: node, in: .seconds(2))
    }

    /// The router admits the node, in the place of what it knew behind that name.
    func join(_ id: Int) {
        let session = sessions[id]
        let router = seat(of: session.router).index
        guard isAlive(session.node) else { return }
        let process = routers[router]
        for older in process.host.links.values.sorted() where seat(of: sessions[older].node) == seat(of: session.node) {
            loseRouterSide(older)
        }
        process.host.links[session.node] = id
        sessions[id].isRouterOpen = true
        trace(process.host.seat, "admits \(seat(of: session.node)) incarnation \(session.node.value)")
        let arrival = now + latency()
        sessions[id].lastToNode = arrival
        plan(.accepted(session: id), in: session.node, at: arrival)
        send(.listHandoffs, from: router, to: session.node)
    }

    func accepted(_ id: Int) {
        let session = sessions[id]
        let node = seat(of: session.node)
        guard session.isRouterOpen else {
            return plan(.dial(node: node, router: seat(of: session.router).index), on: node, in: .milliseconds(100))
        }
        if let older = host(node).links[session.router] { sessions[older].isNodeOpen = false }
        change(node) { $0.links[session.router] = id }
        sessions[id].isNodeOpen = true
        sessions[id].isAccepted = true
    }

    func dialOverdue(_ id: Int) {
        let session = sessions[id]
        guard !session.isAccepted else { return }
        let node = seat(of: session.node)
        if host(node).links[routers[seat(of: session.router).index].host.incarnation] != nil { return }
        plan(.dial(node: node, router: seat(of: session.router).index), on: node, in: .milliseconds(50))
    }

    // MARK: Losing

    /// The router gives the node up.
    func loseRouterSide(_ id: Int) {
        let session = sessions[id]
        guard session.isRouterOpen, isAlive(session.router) else { return }
        sessions[id].isRouterOpen = false
        let router = seat(of: session.router).index
        let process = routers[router]
        process.host.links[session.node] = nil
        trace(process.host.seat, "gives \(seat(of: session.node)) incarnation \(session.node.value) up")
        perform(process.ledger.nodeLost(session.node), router)
        if session.isNodeOpen { hearOfLoss(.nodeSideLost(session: id), session.node, from: process.host.seat) }
    }

    /// The node finds its stream ended: nobody will end that router's handoffs any more.
    func loseNodeSide(_ id: Int) {
        let session = sessions[id]
        guard session.isNodeOpen else { return }
        sessions[id].isNodeOpen = false
        let node = seat(of: session.node)
        change(node) { $0.links[session.router] = nil }
        trace(node, "loses \(seat(of: session.router)) incarnation \(session.router.value)")
        let others = rowsOfOthers(node, than: session.router)
        switch node.role {
        case .prefill: perform(prefills[node.index].handoffs.routerLost(session.router), node.index)
        case .decode:
            let process = decodes[node.index]
            perform(process.handoffs.routerLost(session.router, pool: &process.pool), node.index)
        case .router: break
        }
        if rowsOfOthers(node, than: session.router) != others {
            violate("7: the loss of \(seat(of: session.router)) disturbs another router's handoffs on \(node)")
        }
        if session.isRouterOpen { hearOfLoss(.routerSideLost(session: id), session.router, from: node) }
        plan(.dial(node: node, router: seat(of: session.router).index), on: node, in: latency() + .milliseconds(50))
    }

    private func rowsOfOthers(_ node: Seat, than router: Incarnation) -> [String] {
        switch node.role {
        case .prefill:
            prefills[node.index].handoffs.rows.filter { $0.id.router != router }.map { "\($0.id.text) \($0.phase)" }
        case .decode:
            decodes[node.index].handoffs.rows.filter { $0.id.router != router }.map { "\($0.id.text) \($0.phase)" }
        case .router: []
        }
    }

    /// One end is closed; the other hears of it, or finds out when nothing is heard for a lease.
    func hearOfLoss(_ event: Event, _ hearer: Incarnation, from teller: Seat, _ isDark: Bool = false) {
        let cutEnd = isDark ? now + World.lease : cuts.end(.control, teller, seat(of: hearer))
        let heard = max(now, min(cutEnd, now + World.lease)) + latency()
        plan(event, in: hearer, at: heard)
    }

    // MARK: Messages

    func latency() -> Duration { draw(.control) { $0.time(.microseconds(20), scenario.latencyMax) } }

    /// When a message arrives: never, once or twice.
    private func arrivals(_ last: Duration, cut: Duration, mayBeLost: Bool, _ handoff: HandoffID?)
        -> (times: [Duration], last: Duration)
    {
        if mayBeLost, let handoff, strikes(.messageLost) {
            mark(.messageLost, handoff)
            return ([], last)
        }
        var time = max(max(now, cut) + latency(), last)
        var times: [Duration] = []
        if let handoff, strikes(.messageRepeated) {
            mark(.messageRepeated, handoff)
            times.append(time + draw(.control) { $0.time(.microseconds(100), .seconds(8)) })
        }
        if let handoff, strikes(.messageOvertaken) {
            mark(.messageOvertaken, handoff)
            time += draw(.control) { $0.time(.milliseconds(1), .seconds(4)) }
            return ([time] + times, last)
        }
        return ([time] + times, time)
    }

    func send(_ message: ToNode, from router: Int, to node: Incarnation) {
        let process = routers[router]
        guard let id = process.host.links[node] else { return }
        let cut = cuts.end(.control, process.host.seat, seat(of: node))
        let (times, last) = arrivals(
            sessions[id].lastToNode, cut: cut, mayBeLost: mayBeLost(message, process),
            message.handoff)
        sessions[id].lastToNode = last
        trace(process.host.seat, "→ \(seat(of: node)) \(TraceText.text(message))\(TraceText.fate(times))")
        for time in times { plan(.toNode(session: id, message), in: node, at: time) }
    }

    /// What the ledger says again until it is answered. The list it asks for when a node attaches, and what it
    /// orders about handoffs it has no row of, are said once: a stream that loses one of these is at its end.
    private func mayBeLost(_ message: ToNode, _ router: RouterProcess) -> Bool {
        switch message {
        case .listHandoffs: false
        case .reserve, .prefill, .query: true
        case .release(let id), .cancel(let id), .reclaim(let id, _), .fence(let id, _):
            !isReconciling && router.ledger.row(of: id) != nil
        }
    }

    func send(_ message: ToRouter, from node: Seat, to router: Incarnation) {
        let mine = host(node)
        guard let id = mine.links[router] ?? answersOver else { return }
        let cut = cuts.end(.control, node, seat(of: router))
        let (times, last) = arrivals(
            sessions[id].lastToRouter, cut: cut, mayBeLost: true, message.handoff)
        sessions[id].lastToRouter = last
        trace(node, "→ \(seat(of: router)) \(TraceText.text(message))\(TraceText.fate(times))")
        for time in times {
            plan(.toRouter(session: id, from: mine.incarnation, message), in: sessions[id].router, at: time)
        }
    }

    func arrived(_ message: ToNode, _ id: Int) {
        guard sessions[id].isNodeOpen else { return }
        deliver(message, to: seat(of: sessions[id].node), from: sessions[id].router)
    }

    func deliver(_ message: ToNode, to node: Seat, from router: Incarnation) {
        trace(node, "← \(seat(of: router)) \(TraceText.text(message))")
        switch node.role {
        case .prefill: received(message, node.index, from: router)
        case .decode: receivedByDecode(message, node.index, from: router)
        case .router: break
        }
    }

    func arrived(_ message: ToRouter, _ from: Incarnation, _ id: Int) {
        guard sessions[id].isRouterOpen else { return }
        let router = seat(of: sessions[id].router).index
        let process = routers[router]
        trace(process.host.seat, "← \(seat(of: from)) \(TraceText.text(message))")
        guard let handoff = message.handoff, let pair = pairs[handoff], !pair.prefills.contains(from),
            pair.decode != from
        else { return received(message, router, from: from) }
        let before = process.ledger.row(of: handoff)
        received(message, router, from: from)
        if process.ledger.row(of: handoff) != before {
            violate("1: incarnation \(from.value) is believed about \(handoff.text), which is not its own")
        }
    }

    var isMisdelivering: Bool { scenario.rates[.messageMisdelivered] != nil }

    /// The process a message was for is dead. By a fault it reaches the one behind the same name, which answers the
    /// way it came. A reservation does not: a node takes those only on streams that it opened itself.
    func misdeliver(_ event: Event, to dead: Incarnation) {
        guard case .toNode(let id, let message) = event, let handoff = message.handoff else { return }
        if case .reserve = message { return }
        let node = seat(of: dead)
        guard isRunning(node), sessions[id].isRouterOpen, faultsBegin, isMisdelivering,
            draw(.targets, { $0.chance(oneIn: 2) })
        else { return }
        mark(.messageMisdelivered, handoff)
        answersOver = id
        deliver(message, to: node, from: sessions[id].router)
        answersOver = nil
    }
}
