import Handoff

/// A cluster of the shipping state machines on a simulated clock, network and scheduler. One seed is one run: every
/// draw comes from it, and nothing happens in the order of a hash table.
package final class World {
    let scenario: Scenario
    let shape: PageShape
    var now = Duration.zero
    var queue = EventQueue()
    private var random: [Seeded]
    private let onTrace: ((String) -> Void)?
    let engine: (any SimulatedEngine)?

    var routers: [RouterProcess] = []
    var prefills: [PrefillProcess] = []
    var decodes: [DecodeProcess] = []
    var lives = 0
    var sessions: [Session] = []
    var lanes: [Lane] = []
    var cuts = Cuts()
    /// The nodes of each handoff.
    var pairs: [HandoffID: Pair] = [:]
    /// The session over which a process that got a message by mistake answers it.
    var answersOver: Int?
    /// A handoff came into a phase that does not last: faults strike more often until this.
    private var rareUntil = Duration.zero
    /// What is sent answers a node's list of open handoffs.
    var isReconciling = false
    /// While requests arrive, and a little longer.
    var faultsBegin = true
    var arrivalsEnded = 0
    var serial = 0
    /// Deadlines that pass long before or after their time.
    private var wild: Set<Int> = []

    package private(set) var result = RunResult()
    private var hash: UInt64 = 0xCBF2_9CE4_8422_2325

    struct Pair {
        let router: Int
        let shares: [Share]
        let decode: Incarnation
        let document: Int
        var prefills: [Incarnation] { shares.map(\.writer) }
    }

    package init(
        _ scenario: Scenario, engine: (any SimulatedEngine)? = nil, onTrace: ((String) -> Void)? = nil
    ) {
        self.scenario = scenario
        self.engine = engine
        self.onTrace = onTrace
        shape = PageShape(layers: scenario.layers, layerBytes: 8)
        random = Purpose.allCases.map { Seeded(scenario.seed &* 64 &+ UInt64($0.rawValue)) }
        routers = (0..<scenario.routers).map { RouterProcess(newHost(Seat(role: .router, index: $0))) }
        prefills = (0..<scenario.prefills).map {
            PrefillProcess(newHost(Seat(role: .prefill, index: $0)), scenario, shape: shape)
        }
        decodes = (0..<scenario.decodes).map { DecodeProcess(newHost(Seat(role: .decode, index: $0)), scenario) }
    }

    func newHost(_ seat: Seat) -> Host {
        lives += 1
        return Host(seat, life: lives)
    }

    // MARK: The run

    /// What is due when no fault is left to wait for; far above any retry and backoff.
    private static let restLimit = Duration.seconds(400)
    private static let stepsMax = 4_000_000

    /// Runs to the end: all requests ended, everything given back; or to the first broken rule.
    package func run() -> RunResult {
        begin()
        var faultsEnd = scenario.until
        while result.violation == nil, let entry = queue.next() {
            now = entry.time
            if faultsBegin, arrivalsEnded == routers.count {
                faultsEnd = min(faultsEnd, now + .seconds(5))
                arrivalsEnded = -1
            }
            if faultsBegin, now > faultsEnd { faultsBegin = false }
            if now > faultsEnd + World.restLimit || result.steps > World.stepsMax {
                violate("7: no end in sight: \(unfinished())")
                break
            }
            step(entry)
        }
        if result.violation == nil { checkRest() }
        result.hash = hash
        result.simulated = now
        return result
    }

    private func step(_ entry: EventQueue.Entry) {
        result.steps += 1
        mix(UInt64(truncatingIfNeeded: now.microseconds))
        mix(UInt64(truncatingIfNeeded: entry.order))
        if let owner = entry.owner {
            guard isAlive(owner) else { return misdeliver(entry.event, to: owner) }
            let seat = seat(of: owner)
            if glance(seat).isPaused {
                change(seat) { $0.held.append(entry.event) }
                return
            }
        }
        perform(entry.event)
        if let owner = entry.owner, result.violation == nil {
            check(owner)
            let strikes = now < rareUntil ? scenario.strikes * 10 : scenario.strikes
            if faultsBegin, draw(.faults, { $0.chance(perMille: strikes) }) { strike(near: owner) }
        }
    }

    private func begin() {
        for router in routers.indices { plan(.arrive(router: router), in: .milliseconds(1)) }
        for seat in nodeSeats {
            for router in routers.indices { plan(.dial(node: seat, router: router), on: seat, in: .microseconds(1)) }
        }
        for prefill in prefills.indices {
            for decode in decodes.indices { dialLanes(prefill, decode) }
        }
    }

    var nodeSeats: [Seat] { prefills.map(\.host.seat) + decodes.map(\.host.seat) }

    // MARK: Draws, time, trace

    func draw<Value>(_ purpose: Purpose, _ body: (inout Seeded) -> Value) -> Value {
        body(&random[purpose.rawValue])
    }

    /// Whether a fault that strikes single events strikes this one.
    func strikes(_ fault: Fault) -> Bool {
        guard faultsBegin, let rate = scenario.rates[fault] else { return false }
        return draw(.targets) { $0.chance(perMille: now < rareUntil ? rate * 5 : rate) }
    }

    func plan(_ event: Event, on seat: Seat? = nil, in delay: Duration) {
        queue.plan(event, at: now + delay, in: seat.map { glance($0).incarnation })
    }

    func plan(_ event: Event, in owner: Incarnation, at time: Duration) {
        queue.plan(event, at: max(now, time), in: owner)
    }

    func violate(_ what: String) {
        if result.violation == nil { result.violation = what }
        trace(nil, "VIOLATION \(what)")
    }

    func violate(_ what: String?) {
        if let what { violate(what) as Void }
    }

    func trace(_ seat: Seat?, _ text: @autoclosure () -> String) {
        guard let onTrace else { return }
        onTrace("\(TraceText.time(now))  \(TraceText.column(seat.map { "\($0)" } ?? "", 9))  \(text())")
    }

    func isRare() { rareUntil = now + .milliseconds(6) }

    func mix(_ value: UInt64) {
        hash = (hash ^ value) &* 0x100_0000_01B3
        hash ^= hash >> 29
    }

    func count(_ body: (inout RunResult) -> Void) { body(&result) }

    // MARK: Processes

    func seat(of incarnation: Incarnation) -> Seat {
        let place = Int(incarnation.value % 100)
        return Seat(role: Seat.Role(rawValue: place / 10 - 1) ?? .router, index: place % 10)
    }

    func host(_ seat: Seat) -> Host {
        switch seat.role {
        case .router: routers[seat.index].host
        case .prefill: prefills[seat.index].host
        case .decode: decodes[seat.index].host
        }
    }

    func change(_ seat: Seat, _ body: (inout Host) -> Void) {
        switch seat.role {
        case .router: body(&routers[seat.index].host)
        case .prefill: body(&prefills[seat.index].host)
        case .decode: body(&decodes[seat.index].host)
        }
    }

    /// Of a process, what nearly every event asks for, without a copy of all that there is of it.
    private func glance(_ seat: Seat) -> (incarnation: Incarnation, isUp: Bool, isPaused: Bool) {
        switch seat.role {
        case .router:
            let process = routers[seat.index]
            return (process.host.incarnation, process.host.isUp, process.host.isPaused)
        case .prefill:
            let process = prefills[seat.index]
            return (process.host.incarnation, process.host.isUp, process.host.isPaused)
        case .decode:
            let process = decodes[seat.index]
            return (process.host.incarnation, process.host.isUp, process.host.isPaused)
        }
    }

    func isAlive(_ incarnation: Incarnation) -> Bool {
        let host = glance(seat(of: incarnation))
        return host.incarnation == incarnation && host.isUp
    }

    func isRunning(_ seat: Seat) -> Bool {
        let host = glance(seat)
        return host.isUp && !host.isPaused
    }

    // MARK: Events

    private func perform(_ event: Event) {
        switch event {
        case .arrive(let router): arrive(router)
        case .attempt(let router, let request): attempt(router, request)
        case .leave(let router, let request): leave(router, request)
        case .dial(let node, let router): dial(node, router)
        case .join(let session): join(session)
        case .accepted(let session): accepted(session)
        case .dialOverdue(let session): dialOverdue(session)
        case .routerSideLost(let session): loseRouterSide(session)
        case .nodeSideLost(let session): loseNodeSide(session)
        case .toNode(let session, let message): arrived(message, session)
        case .toRouter(let session, let from, let message): arrived(message, from, session)
        case .deadline(let seat, let deadline, let handoff, let serial): pass(seat, deadline, handoff, serial)
        case .resume(let seat): resume(seat)
        case .restart(let seat): restart(seat)
        case .compute(let prefill, let handoff): compute(prefill, handoff)
        case .generate(let decode, let handoff): generate(decode, handoff)
        default: performOnLane(event)
        }
    }

    // MARK: Deadlines

    func setDeadline(_ seat: Seat, _ deadline: Deadline, _ handoff: HandoffID) {
        serial += 1
        let serial = serial
        change(seat) { $0.deadlines[DeadlineKey(deadline: deadline, handoff: handoff)] = serial }
        let whole = DeadlineDurations()[deadline]
        var delay = whole + draw(.timers) { whole / 100 * $0.below(5) }
        if strikes(.wildDeadline) {
            wild.insert(serial)
            delay = draw(.timers) { $0.time(.milliseconds(1), whole * World.latest) }
        }
        plan(.deadline(seat, deadline, handoff, serial: serial), on: seat, in: delay)
    }

    /// How many times too late a wild deadline is at most.
    static let latest = 3

    func clearDeadline(_ seat: Seat, _ deadline: Deadline, _ handoff: HandoffID) {
        change(seat) { $0.deadlines[DeadlineKey(deadline: deadline, handoff: handoff)] = nil }
    }

    private func pass(_ seat: Seat, _ deadline: Deadline, _ handoff: HandoffID, _ serial: Int) {
        let key = DeadlineKey(deadline: deadline, handoff: handoff)
        guard host(seat).deadlines[key] == serial else { return }
        change(seat) { $0.deadlines[key] = nil }
        if wild.remove(serial) != nil { mark(.wildDeadline, handoff) }
        trace(seat, "deadline \(deadline.rawValue) of \(handoff.text) passes")
        switch seat.role {
        case .router: perform(routers[seat.index].ledger.deadlinePassed(deadline, handoff), seat.index)
        case .prefill: perform(prefills[seat.index].handoffs.deadlinePassed(deadline, handoff), seat.index)
        case .decode:
            let node = decodes[seat.index]
            perform(node.handoffs.deadlinePassed(deadline, handoff, pool: &node.pool), seat.index)
        }
    }
}
