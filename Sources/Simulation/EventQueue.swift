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

    /// What is moved while the heap is kept in order; entries stay where they are, for they are large.
    private struct Key {
        let time: Duration
        let order: Int
        let place: Int

        static func < (a: Key, b: Key) -> Bool { (a.time, a.order) < (b.time, b.order) }
    }

    private var heap: [Key] = []
    private var entries: [Entry?] = []
    private var vacant: [Int] = []
    private var planned = 0

    var isEmpty: Bool { heap.isEmpty }

    mutating func plan(_ event: Event, at time: Duration, in owner: Incarnation?) {
        let entry = Entry(time: time, order: planned, owner: owner, event: event)
        let place = vacant.popLast() ?? entries.count
        if place == entries.count { entries.append(entry) } else { entries[place] = entry }
        let key = Key(time: time, order: planned, place: place)
        planned += 1
        heap.append(key)
        var child = heap.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard key < heap[parent] else { break }
            heap[child] = heap[parent]
            child = parent
        }
        heap[child] = key
    }

    mutating func next() -> Entry? {
        guard let first = heap.first, let last = heap.popLast() else { return nil }
        if !heap.isEmpty { sink(last) }
        vacant.append(first.place)
        return entries[first.place].take()
    }

    /// Puts a key into the place of the first one.
    private mutating func sink(_ key: Key) {
        var parent = 0
        while true {
            var child = 2 * parent + 1
            guard child < heap.count else { break }
            if child + 1 < heap.count, heap[child + 1] < heap[child] { child += 1 }
            guard heap[child] < key else { break }
            heap[parent] = heap[child]
            parent = child
        }
        heap[parent] = key
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
