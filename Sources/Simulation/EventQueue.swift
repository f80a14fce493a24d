import Handoff

/// What is to happen, earliest first; what is due at the same time happens in the order in which it was planned.
struct EventQueue {
    struct Entry {
        let time: Duration
        let order: Int
        /// The process it happens in: dropped when that has died, put off while it is stopped.
        let owner: Incarnation?
        let event: Event
    }

    private var heap: [Entry] = []
    private var planned = 0

    var isEmpty: Bool { heap.isEmpty }

    mutating func plan(_ event: Event, at time: Duration, in owner: Incarnation?) {
        heap.append(Entry(time: time, order: planned, owner: owner, event: event))
        planned += 1
        var child = heap.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard isEarlier(child, parent) else { break }
            heap.swapAt(child, parent)
            child = parent
        }
    }

    mutating func next() -> Entry? {
        guard let first = heap.first else { return nil }
        let last = heap.removeLast()
        guard !heap.isEmpty else { return first }
        heap[0] = last
        var parent = 0
        while true {
            var least = parent
            for child in [2 * parent + 1, 2 * parent + 2] where child < heap.count && isEarlier(child, least) {
                least = child
            }
            guard least != parent else { break }
            heap.swapAt(parent, least)
            parent = least
        }
        return first
    }

    private func isEarlier(_ a: Int, _ b: Int) -> Bool {
        (heap[a].time, heap[a].order) < (heap[b].time, heap[b].order)
    }
}

/// Everything that can happen in a simulated cluster.
enum Event {
    // Clients and routers.
    case arrive(router: Int)
    case attempt(router: Int, request: UInt64)
    case leave(router: Int, request: UInt64)
    // Control streams.
    case dial(node: Seat, router: Int)
    case join(session: Int)
    case accepted(session: Int)
    case dialOverdue(session: Int)
    case routerSideLost(session: Int)
    case nodeSideLost(session: Int)
    case toNode(session: Int, ToNode)
    case toRouter(session: Int, from: Incarnation, ToRouter)
    // Processes.
    case deadline(Seat, Deadline, HandoffID, serial: Int)
    case resume(Seat)
    case restart(Seat)
    // Engines.
    case compute(prefill: Int, HandoffID)
    case generate(decode: Int, HandoffID)
    // Lanes.
    case dialLane(prefill: Int, decode: Int)
    case laneReady(Int)
    case send(lane: Int)
    case land(lane: Int)
    case answer(lane: Int)
    case receiverLeaves(lane: Int)
    case receiverLeft(lane: Int)
    case senderHears(lane: Int)
    case senderLeft(lane: Int)
    case completion(lane: Int, CompletionRecord, LaneEpoch, matching: Bool)
    case unbound(decode: Int, HandoffID, LaneID, LaneEpoch, LaneUnbinding)
}

/// A place in the cluster: a process dies there and another one starts behind the same name.
package struct Seat: Hashable, Comparable, Sendable, CustomStringConvertible {
    enum Role: Int, Sendable { case router, prefill, decode }
    let role: Role
    let index: Int

    package static func < (a: Seat, b: Seat) -> Bool { (a.role.rawValue, a.index) < (b.role.rawValue, b.index) }

    package var description: String {
        switch role {
        case .router: "router\(index)"
        case .prefill: "prefill\(index)"
        case .decode: "decode\(index)"
        }
    }
}

/// What a router says to a node.
enum ToNode {
    case reserve(HandoffID, pages: Int, shares: [Share], delivered: Int)
    case prefill(GrantTerms, part: Int)
    case release(HandoffID)
    case cancel(HandoffID)
    case reclaim(HandoffID, PartSet)
    case fence(HandoffID, PartSet)
    case query(HandoffID)
    case listHandoffs
}

/// What a node says to a router.
enum ToRouter {
    case granted(GrantTerms)
    case refused(HandoffID, RefusalReason)
    case sealed(HandoffID)
    case finished(HandoffID, SequenceEnd)
    case reclaimed(HandoffID, QuiescenceProof.Kind)
    case accepted(HandoffID)
    case written(HandoffID)
    case drained(HandoffID, posted: Int, completed: Int)
    case failed(HandoffID, HandoffFailure)
    case tokens(HandoffID, first: Int, count: Int)
    case openHandoffs([HandoffID])
}

extension ToNode {
    var handoff: HandoffID? {
        switch self {
        case .reserve(let id, _, _, _), .release(let id), .cancel(let id), .reclaim(let id, _), .fence(let id, _),
            .query(let id):
            id
        case .prefill(let terms, _): terms.handoff
        case .listHandoffs: nil
        }
    }
}

extension ToRouter {
    var handoff: HandoffID? {
        switch self {
        case .granted(let terms): terms.handoff
        case .refused(let id, _), .sealed(let id), .finished(let id, _), .reclaimed(let id, _), .accepted(let id),
            .written(let id), .drained(let id, _, _), .failed(let id, _), .tokens(let id, _, _):
            id
        case .openHandoffs: nil
        }
    }
}
