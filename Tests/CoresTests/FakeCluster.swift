import API
import Handoff
import Messages

@testable import Cores

/// A registration as a node would send it.
func registration(
    _ name: String, _ role: NodeRole, incarnation: UInt64, kvType: String = "f16", slots: Int = 64,
    context: Int = 1024, lanes: Int = 4, maxRunning: Int = 8, fingerprint: String = "aa"
) -> Registration {
    Registration(
        name: name, role: role, incarnation: Incarnation(incarnation),
        compatibility: ModelCompatibility(
            fingerprint: fingerprint, pageLayout: "test/1x(k1x1,v1x1)/16", kvType: kvType, isaClass: "portable",
            pageTokens: 16, pageBytes: 64),
        model: "test", laneAddress: "127.0.0.1:1", slots: slots, contextLimit: context, maxRunning: maxRunning,
        version: "test", lanesPerPeer: lanes)
}

/// Plays a cluster's nodes around a `RoutingCore`, in one thread and in virtual time. By default every node does
/// its part at once; a test holds back what it wants to see happen in its own order.
final class FakeCluster {
    var core: RoutingCore
    var now = Duration.zero
    /// What was sent to nodes, oldest first.
    var sent: [(message: RouterMessage, to: Incarnation)] = []
    /// What clients got.
    var tokens: [UInt64: [UInt32]] = [:]
    var endings: [UInt64: RunEnding] = [:]
    var outcomes: [UInt64: RoutingNote.Outcome] = [:]
    var retries: [HandoffID] = []
    /// Reservations by handoff, as decode nodes got them.
    var reservations: [HandoffID: Reservation] = [:]

    /// Nodes that answer nothing any more.
    var silent: Set<Incarnation> = []
    /// Decode nodes that refuse, and why.
    var refusing: [Incarnation: RefusalReason] = [:]
    /// Prefill nodes that never finish a prompt.
    var stuckPrefills: Set<Incarnation> = []
    /// Tokens a decode node generates before it stops saying anything; nil: all.
    var tokensBeforeSilence: Int?
    private var sealedHandoffs: Set<HandoffID> = []
    private var pending: [(NodeMessage, Incarnation)] = []
    private var roles: [Incarnation: NodeRole] = [:]

    init(settings: RoutingSettings = RoutingSettings()) {
        core = RoutingCore(incarnation: Incarnation(7), settings: settings)
    }

    @discardableResult
    func add(_ registration: Registration, lanesTo decodes: [Incarnation]? = nil) -> Incarnation {
        let id = registration.incarnation
        roles[id] = registration.role
        core.joined(registration, now: now)
        settle()
        let peers = decodes ?? core.nodes.decodes.map(\.id)
        for prefill in core.nodes.prefills.map(\.id) {
            let lanes = peers.map { PeerLanes(decode: $0, idle: 4, busy: 0, transport: "tcp", error: "") }
            if decodes == nil { core.received(.lanes(lanes), from: prefill, now: now) }
        }
        settle()
        return id
    }

    func lose(_ id: Incarnation) {
        roles[id] = nil
        pending.removeAll { $0.1 == id }
        core.left(id, reason: "test", now: now)
        settle()
    }

    @discardableResult
    func submit(
        tokens count: Int = 20, from first: UInt32 = 100, max: Int = 5, choices: Int = 1
    ) throws -> [UInt64] {
        var sampling = SamplingTerms()
        sampling.maxTokens = max
        let prompt = (0..<UInt32(count)).map { first + $0 }
        let numbers = try core.submit(
            Array(repeating: RunRequest(prompt: prompt, sampling: sampling, times: RunTimeline()), count: choices),
            now: now)
        settle()
        return numbers
    }

    func cancel(_ run: UInt64) {
        core.cancel(run, now: now)
        settle()
    }

    func complete(_ run: UInt64) {
        core.complete(run, now: now)
        settle()
    }

    /// A message by a node, as if it had sent it now.
    func say(_ message: NodeMessage, _ from: Incarnation) {
        core.received(message, from: from, now: now)
        settle()
    }

    /// Time passes in steps of 10 ms.
    func advance(_ duration: Duration) {
        let end = now + duration
        while now < end {
            now += .milliseconds(10)
            core.tick(now: now)
            settle()
        }
    }

    /// The token that a sequence has at a position: a function of prompt and position, as greedy decoding is.
    static func token(_ prompt: [UInt32], at index: Int) -> UInt32 {
        prompt.reduce(UInt32(index) &* 31) { ($0 &* 17) ^ $1 } % 1000
    }

    /// The completion a client must get for this prompt.
    static func completion(tokens count: Int = 20, from first: UInt32 = 100, max: Int = 5) -> [UInt32] {
        let prompt = (0..<UInt32(count)).map { first + $0 }
        return (0..<max).map { token(prompt, at: $0) }
    }

    func settle() {
        repeat {
            for effect in core.takeEffects() { perform(effect) }
            if !pending.isEmpty {
                let (message, from) = pending.removeFirst()
                if roles[from] != nil { core.received(message, from: from, now: now) }
            }
        } while !pending.isEmpty || perform(core.takeEffects())
    }

    private func perform(_ effects: [RoutingCore.Effect]) -> Bool {
        for effect in effects { perform(effect) }
        return !effects.isEmpty || !pending.isEmpty
    }

    private func perform(_ effect: RoutingCore.Effect) {
        switch effect {
        case .send(let message, let to):
            sent.append((message, to))
            if roles[to] != nil, !silent.contains(to) { react(message, to) }
        case .deliver(.tokens(let more, _), let run): tokens[run, default: []] += more
        case .deliver(.ended(let ending), let run): endings[run] = ending
        case .note(.ended(let run, let outcome, _, _)): outcomes[run] = outcome
        case .note(.retrying(let handoff, _, _)): retries.append(handoff)
        case .note: break
        }
    }

    private func answer(_ message: NodeMessage, _ from: Incarnation) { pending.append((message, from)) }

    private func react(_ message: RouterMessage, _ id: Incarnation) {
        switch message {
        case .listHandoffs: answer(.openHandoffs([]), id)
        case .reserve(let reservation):
            reservations[reservation.handoff] = reservation
            if let reason = refusing[id] {
                return answer(.refused(Refusal(handoff: reservation.handoff, reason: reason, message: "")), id)
            }
            let slots = (0..<UInt32((reservation.tokens.count + 15) / 16)).map {
                SlotRef(index: $0, generation: Generation(1))
            }
            answer(
                .granted(
                    GrantTerms(
                        handoff: reservation.handoff, decode: id, slots: slots, lent: 0,
                        parts: reservation.shares.map { share in
                            GrantPart(
                                writer: share.writer, lane: LaneID(1), epoch: LaneEpoch(1), pages: 0..<slots.count,
                                layers: 0..<1)
                        })),
                id)
        case .prefill(let order):
            answer(.accepted(order.grant.handoff), id)
            guard !stuckPrefills.contains(id) else { return }
            written(order.grant.handoff, prefill: id, decode: order.grant.decode)
        case .release(let handoff): answer(.drained(handoff, posted: 1, completed: 1), id)
        case .cancel(let handoff):
            if roles[id] == .prefill {
                answer(.drained(handoff, posted: 1, completed: 1), id)
            } else if reservations[handoff] != nil {
                answer(.reclaimed(handoff, .drained), id)
            }
        case .reclaim(let handoff, _): answer(.reclaimed(handoff, .drained), id)
        case .fence(let handoff, _): answer(.reclaimed(handoff, .fenced), id)
        case .query(let handoff):
            // A node's last word, said again: what it holds and does not lose, whatever its engine does.
            if roles[id] == .decode, reservations[handoff] != nil, sealedHandoffs.contains(handoff) {
                answer(.sealed(handoff, sealTime: .microseconds(5)), id)
            }
        case .peers, .drain: break
        }
    }

    /// The prompt's pages have landed: everything up to the end of the sequence follows.
    func written(_ handoff: HandoffID, prefill: Incarnation, decode: Incarnation) {
        let report = WriteReport(
            handoff: handoff, cachedTokens: 3, queue: .zero, compute: .milliseconds(1), transfer: .zero, bytes: 64)
        answer(.written(report), prefill)
        sealedHandoffs.insert(handoff)
        answer(.sealed(handoff, sealTime: .microseconds(5)), decode)
        guard let reservation = reservations[handoff] else { return }
        let prompt = Array(reservation.tokens.dropLast(reservation.delivered))
        let wanted = reservation.sampling.maxTokens
        let last = min(wanted, tokensBeforeSilence.map { reservation.delivered + $0 } ?? wanted)
        for index in reservation.delivered..<max(last, reservation.delivered) {
            let run = TokenRun(handoff: handoff, firstIndex: index, tokens: [Self.token(prompt, at: index)])
            answer(.tokens(TokenBatch(runs: [run], sent: .zero)), decode)
        }
        guard last == wanted else { return }
        answer(
            .finished(
                FinishReport(
                    handoff: handoff, reason: .length, tokens: last - reservation.delivered, firstStep: .zero,
                    decode: .zero, preemptions: 0)), decode)
    }

    // What tests look at; the core itself cannot be copied into an expectation.
    var isIdle: Bool { core.isIdle }
    var waitingCount: Int { core.waitingCount }
    var unsettledCount: Int { core.unsettledCount }
    var nodes: NodeTable { core.nodes }
    var placements: [HandoffID: RoutingCore.Placement] { core.placements }
    var unreadyReason: String? { core.unreadyReason() }

    /// Messages of one kind sent to a node.
    func count(to id: Incarnation, where matches: (RouterMessage) -> Bool) -> Int {
        sent.count { $0.to == id && matches($0.message) }
    }
}
