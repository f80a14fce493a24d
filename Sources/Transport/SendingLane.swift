import Handoff
import Threads

/// The prefill node's end of one lane, over whatever carries it. One thread runs it; everything else may be called from
/// any thread.
protocol SendingLane: AnyObject, Sendable {
    var key: LaneKey { get }
    var transport: LaneTransport { get }
    var counters: Monitor<LaneCounters> { get }
    /// Queues an item; false when the lane is closing or the queue is full, which a poster within its limits never
    /// meets.
    func post(_ item: LaneQueue.Item) -> Bool
    /// Ends the lane; `run` returns when nothing reads the slab for it any more.
    func stop(_ reason: LaneCloseReason)
    /// Ends the lane if what carries it is not there any more. To be called now and then.
    func checkDevice()
    /// Sends what is queued until the lane ends; returns why, after the slab has been left for good.
    func run(_ onAnswer: @escaping (LaneAnswer) -> Void) -> LaneCloseReason
}

/// What carries a lane.
package enum LaneTransport: String, Sendable, Hashable, CaseIterable {
    case tcp, rdma
}

/// What a sending lane has to tell.
enum LaneAnswer: Sendable {
    case acknowledged(HandoffID, LaneEpoch, records: Int)
    case completionAcknowledged(HandoffID, LaneEpoch)
    case sourceChanged(HandoffID, SlotRef, [DigestMismatch])
}

/// What a sending lane is to send, from the threads that say so to its own.
final class LaneQueue: Sendable {
    enum Item: Sendable {
        case batch(WriteBatch)
        case completion(PartTerms)
    }

    private struct State: Sendable {
        var items: [Item] = []
        var stopping: LaneCloseReason?
    }

    /// Items that may wait: what two handoffs can have posted, for one may queue behind another's last words.
    static let itemsMax = 2 * (WriteLimits.recordsInFlightMax + 1)

    let waker: Waker
    private let state = Monitor(State())

    init() throws(TransportError) { waker = try Waker() }

    func post(_ item: Item) -> Bool {
        let posted = state.withLock { state in
            guard state.stopping == nil, state.items.count < LaneQueue.itemsMax else { return false }
            state.items.append(item)
            return true
        }
        if posted { waker.wake() }
        return posted
    }

    func stop(_ reason: LaneCloseReason) {
        state.withLock { state in
            if state.stopping == nil { state.stopping = reason }
        }
        waker.wake()
    }

    var isStopping: Bool { state.withLock { $0.stopping != nil } }

    func next() -> Item? {
        state.withLock { $0.stopping != nil || $0.items.isEmpty ? nil : $0.items.removeFirst() }
    }

    /// Whether what comes next is a completion record.
    var isCompletionNext: Bool {
        state.withLock { state in
            if state.stopping == nil, case .completion = state.items.first { true } else { false }
        }
    }

    /// The lane has ended for this reason, or for the one it was asked to end for. Nothing can be queued any more.
    func finish(_ reason: LaneCloseReason) -> LaneCloseReason {
        state.withLock { state in
            let reason = state.stopping ?? reason
            state.stopping = reason
            state.items = []
            return reason
        }
    }
}
