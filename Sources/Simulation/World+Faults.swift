import Handoff

/// What goes wrong with processes, paths and lanes. Faults strike behind events, so that a phase is met as often as
/// things happen in it, however short it is.
extension World {
    func strike(near owner: Incarnation) {
        let kinds = Fault.scheduled.filter { scenario.rates[$0] != nil }
        guard !kinds.isEmpty else { return }
        let fault = draw(.faults) { $0.pick(kinds) }
        let near = seat(of: owner)
        switch fault {
        case .clientLeaves: leave(near)
        case .prefillCrash: crash(pick(.prefill, near), fault)
        case .decodeCrash: crash(pick(.decode, near), fault)
        case .routerCrash: crash(pick(.router, near), fault)
        case .prefillPause: pause(pick(.prefill, near), fault)
        case .decodePause: pause(pick(.decode, near), fault)
        case .routerPause: pause(pick(.router, near), fault)
        case .streamBroken, .leaseEnded, .controlCutToNode, .controlCutToRouter: breakControl(near, fault)
        case .dataCutForward, .dataCutBackward, .slowLane, .laneReset: breakLane(near, fault)
        default: break
        }
    }

    private func pick(_ role: Seat.Role, _ near: Seat) -> Seat {
        if near.role == role { return near }
        switch role {
        case .router: return routers[draw(.faults) { $0.below(routers.count) }].host.seat
        case .prefill: return prefills[draw(.faults) { $0.below(prefills.count) }].host.seat
        case .decode: return decodes[draw(.faults) { $0.below(decodes.count) }].host.seat
        }
    }

    private func leave(_ near: Seat) {
        let router = pick(.router, near)
        let waiting = routers[router.index].requests.keys.sorted()
        guard isRunning(router), !waiting.isEmpty else { return }
        leave(router.index, draw(.faults) { $0.pick(waiting) })
    }

    // MARK: Processes

    private func crash(_ seat: Seat, _ fault: Fault) {
        let host = host(seat)
        guard host.isUp else { return }
        mark(fault, process: host.incarnation)
        trace(seat, "CRASH")
        change(seat) {
            $0.isUp = false
            $0.isPaused = false
            $0.held = []
        }
        // A process that is killed has its streams reset; a machine that goes dark is missed after a lease.
        let isDark = draw(.faults) { $0.chance(oneIn: 2) } || isMisdelivering
        for id in sessions.indices {
            if sessions[id].router == host.incarnation {
                sessions[id].isRouterOpen = false
                if sessions[id].isNodeOpen {
                    hearOfLoss(.nodeSideLost(session: id), sessions[id].node, from: seat, isDark)
                }
            } else if sessions[id].node == host.incarnation {
                sessions[id].isNodeOpen = false
                if sessions[id].isRouterOpen {
                    hearOfLoss(.routerSideLost(session: id), sessions[id].router, from: seat, isDark)
                }
            }
        }
        for index in lanes.indices {
            if lanes[index].prefill == host.incarnation, lanes[index].isSenderOpen {
                lanes[index].isSenderOpen = false
                lanes[index].posted = []
                lanes[index].answers = []
                lanes[index].isSenderDark = isDark
                planLand(index)
                if isDark { plan(.receiverLeaves(lane: index), in: lanes[index].decode, at: now + World.lease) }
            }
            if lanes[index].decode == host.incarnation, lanes[index].isReceiverOpen {
                lanes[index].isReceiverOpen = false
                lanes[index].wire = []
                lanes[index].landing = nil
                lanes[index].gate.close()
                if isDark {
                    plan(.senderHears(lane: index), in: lanes[index].prefill, at: now + World.lease)
                } else {
                    hearOfClosing(index)
                }
            }
        }
        if seat.role == .router {
            count { $0.add("requests lost with their router", routers[seat.index].requests.count) }
        }
        // Soon enough, where messages reach the successor, for them to be still on their way.
        let latest = isMisdelivering ? Duration.milliseconds(300) : .seconds(6)
        plan(.restart(seat), in: draw(.faults) { $0.time(.milliseconds(1), latest) })
    }

    /// Another process starts behind the same name.
    func restart(_ seat: Seat) {
        guard !host(seat).isUp else { return }
        let fresh = newHost(seat)
        trace(seat, "starts as incarnation \(fresh.incarnation.value)")
        switch seat.role {
        case .router:
            let arrived = routers[seat.index].arrived
            routers[seat.index] = RouterProcess(fresh)
            routers[seat.index].arrived = arrived
            for node in nodeSeats where host(node).isUp {
                plan(
                    .dial(node: node, router: seat.index), on: node,
                    in: draw(.control) { $0.time(.milliseconds(1), .milliseconds(200)) })
            }
        case .prefill:
            prefills[seat.index] = PrefillProcess(fresh, scenario, shape: shape)
            for decode in decodes.indices { dialLanes(seat.index, decode) }
        case .decode:
            decodes[seat.index] = DecodeProcess(fresh, scenario)
            for prefill in prefills.indices { dialLanes(prefill, seat.index) }
        }
        guard seat.role != .router else { return }
        for router in routers.indices {
            plan(
                .dial(node: seat, router: router), on: seat,
                in: draw(.control) { $0.time(.milliseconds(1), .milliseconds(200)) })
        }
    }

    private func pause(_ seat: Seat, _ fault: Fault) {
        guard isRunning(seat) else { return }
        let host = host(seat)
        let length = draw(.faults) { $0.time(.milliseconds(1), .seconds(14)) }
        mark(fault, process: host.incarnation)
        trace(seat, "STOPPED for \(length)")
        change(seat) {
            $0.isPaused = true
            $0.pausedSince = now
        }
        plan(.resume(seat), in: length)
        guard length > World.lease else { return }
        for id in host.links.values.sorted() {
            let event: Event = seat.role == .router ? .nodeSideLost(session: id) : .routerSideLost(session: id)
            let other = seat.role == .router ? sessions[id].node : sessions[id].router
            plan(event, in: other, at: now + World.lease)
        }
    }

    func resume(_ seat: Seat) {
        guard host(seat).isPaused else { return }
        trace(seat, "goes on")
        let host = host(seat)
        change(seat) {
            $0.isPaused = false
            $0.pausedTotal += now - $0.pausedSince
            $0.held = []
        }
        for event in host.held { plan(event, on: seat, in: .zero) }
    }

    // MARK: Control

    private func breakControl(_ near: Seat, _ fault: Fault) {
        let all = host(near).links.values.sorted().filter { sessions[$0].isRouterOpen && sessions[$0].isNodeOpen }
        guard !all.isEmpty else { return }
        let id = draw(.faults) { $0.pick(all) }
        let session = sessions[id]
        let (router, node) = (seat(of: session.router), seat(of: session.node))
        mark(fault, process: session.node, router: session.router)
        trace(router, "\(fault.rawValue.uppercased()) with \(node)")
        func wait() -> Duration { draw(.faults) { $0.time(.microseconds(10), World.lease) } }
        switch fault {
        case .streamBroken:
            plan(.routerSideLost(session: id), in: session.router, at: now + wait())
            plan(.nodeSideLost(session: id), in: session.node, at: now + wait())
        case .leaseEnded:
            guard isRunning(router) else { return }
            sessions[id].isRouterOpen = false
            routers[router.index].host.links[session.node] = nil
            perform(routers[router.index].ledger.nodeLost(session.node), router.index)
            plan(.dial(node: node, router: router.index), on: node, in: wait())
        default:
            let length = draw(.faults) { $0.time(.milliseconds(5), .seconds(12)) }
            let toNode = fault == .controlCutToNode
            let path = Cuts.Path(plane: .control, from: toNode ? router : node, to: toNode ? node : router)
            cuts.cut(path, until: now + length)
            guard length > World.lease else { return }
            if toNode {
                plan(.nodeSideLost(session: id), in: session.node, at: now + World.lease)
            } else {
                plan(.routerSideLost(session: id), in: session.router, at: now + World.lease)
            }
        }
    }

    // MARK: Lanes

    private func breakLane(_ near: Seat, _ fault: Fault) {
        let own = host(near).incarnation
        let all = lanes.indices.filter {
            lanes[$0].isKnown && lanes[$0].isSenderOpen
                && (near.role == .router || lanes[$0].prefill == own || lanes[$0].decode == own)
        }
        guard !all.isEmpty else { return }
        let index = draw(.faults) { $0.pick(all) }
        let lane = lanes[index]
        let (prefill, decode) = (seat(of: lane.prefill), seat(of: lane.decode))
        mark(fault, lane: lane)
        trace(decode, "\(fault.rawValue.uppercased()) lane \(lane.id.value) of \(prefill)")
        let length = draw(.faults) { $0.time(.milliseconds(1), .seconds(12)) }
        switch fault {
        case .dataCutForward: cuts.cut(Cuts.Path(plane: .data, from: prefill, to: decode), until: now + length)
        case .dataCutBackward: cuts.cut(Cuts.Path(plane: .data, from: decode, to: prefill), until: now + length)
        case .slowLane: lanes[index].slowness = draw(.faults) { $0.between(10, 200) }
        default:
            let ends = draw(.faults) { $0.below(3) }
            if ends != 0 { plan(.receiverLeaves(lane: index), in: lane.decode, at: now + .microseconds(1)) }
            if ends != 1 { plan(.senderHears(lane: index), in: lane.prefill, at: now + .microseconds(1)) }
        }
    }
}
