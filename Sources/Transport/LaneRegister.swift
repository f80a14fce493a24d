import Handoff
import Threads

/// The lanes of a decode node, whatever carries them: who may become one, and how each is served.
final class LaneRegister: Sendable {
    private struct State: Sendable {
        var lanes: [LaneID: any ReceivingLane] = [:]
        var nextLane: UInt32 = 1
        var stopping = false
    }

    /// Why a connection does not become a lane.
    struct Refused: Error {
        let kind: LaneRefusal
        let reason: String

        init(_ kind: LaneRefusal, _ reason: String) {
            self.kind = kind
            self.reason = reason
        }
    }

    let configuration: LaneListener.Configuration
    let slab: SlabRegion
    let tallies = LaneTallies()
    private let incarnation: Incarnation
    private let onEvent: @Sendable (LaneListenerEvent) -> Void
    private let state = Monitor(State())

    init(
        configuration: LaneListener.Configuration, slab: SlabRegion, incarnation: Incarnation,
        onEvent: @escaping @Sendable (LaneListenerEvent) -> Void
    ) {
        self.configuration = configuration
        self.slab = slab
        self.incarnation = incarnation
        self.onEvent = onEvent
    }

    var count: Int { state.withLock { $0.lanes.count } }
    var isStopping: Bool { state.withLock { $0.stopping } }
    var all: [any ReceivingLane] { state.withLock { Array($0.lanes.values) } }

    subscript(_ id: LaneID) -> (any ReceivingLane)? { state.withLock { $0.lanes[id] } }

    /// No lane is admitted any more. Returns those that there are.
    func stop() -> [any ReceivingLane] {
        state.withLock { state in
            state.stopping = true
            return Array(state.lanes.values)
        }
    }

    func count(_ refusal: LaneRefusal, over carrier: String) {
        tallies[carrier].withLock { $0.refused[refusal, default: 0] += 1 }
    }

    /// Whether who says this hello may have a lane.
    func check(_ hello: LaneHello) throws(Refused) {
        let mine = LaneHello(prefill: hello.prefill, decode: incarnation, shape: slab.shape)
        guard hello.magic == mine.magic else { throw Refused(.notALane, "not a lane") }
        guard hello.version == mine.version else {
            throw Refused(.wrongVersion, "lane protocol \(hello.version), this node speaks \(mine.version)")
        }
        guard hello.decode == mine.decode else {
            throw Refused(.wrongDecodeNode, "this is another decode node, or another start of it")
        }
        guard hello.pageBytes == mine.pageBytes, hello.layout == mine.layout else {
            throw Refused(
                .wrongLayout, "pages of \(hello.pageBytes) bytes, this node's have \(mine.pageBytes)")
        }
        guard hello.digests == configuration.digests.makesDigests else {
            throw Refused(
                .digestsDiffer,
                "the prefill node makes \(hello.digests ? "digests" : "no digests"), this node has them "
                    + "\(configuration.digests.rawValue): --digests must be off on both nodes or on neither")
        }
    }

    /// Makes a connection whose hello was checked a lane.
    func admit(
        of peer: Incarnation, _ make: (LaneID) throws(TransportError) -> any ReceivingLane
    ) throws(Refused) -> any ReceivingLane {
        try state.withLock { state -> Result<any ReceivingLane, Refused> in
            guard !state.stopping, state.lanes.count < configuration.lanesMax else {
                return .failure(Refused(.tooManyLanes, "too many lanes or connections"))
            }
            guard state.lanes.values.count(where: { $0.peer == peer }) < configuration.lanesPerPeerMax else {
                return .failure(
                    Refused(.tooManyOfPeer, "more than \(configuration.lanesPerPeerMax) lanes of one node"))
            }
            do throws(TransportError) {
                let lane = try make(LaneID(state.nextLane))
                state.nextLane += 1
                state.lanes[lane.id] = lane
                return .success(lane)
            } catch {
                return .failure(Refused(.noThread, error.message))
            }
        }.get()
    }

    func remove(_ lane: any ReceivingLane) {
        state.withLock { _ = $0.lanes.removeValue(forKey: lane.id) }
    }

    /// A peer that has a lane over RDMA again needs none over TCP. Those with a grant stay until it is written; those that
    /// are newer took its place and are needed, though nobody may have noticed yet that it leads nowhere.
    private func retireLanes(of peer: Incarnation) {
        let lanes = all.filter { $0.peer == peer }
        guard let newest = lanes.filter({ $0.transport == .rdma }).map(\.id).max() else { return }
        for lane in lanes where lane.transport == .tcp && lane.id < newest { lane.retire() }
    }

    /// Waits for the peer's first word on the lane; without one it is no lane any more.
    func awaitReady(_ lane: any ReceivingLane) -> Bool {
        if lane.waitUntilReady(configuration.helloTimeout) { return true }
        remove(lane)
        return false
    }

    /// Serves a lane to its end, on the lane's own thread.
    func serve(_ lane: any ReceivingLane) {
        lane.counters.withLock { $0.opened += 1 }
        onEvent(.opened(lane.id, peer: lane.peer, address: lane.address))
        if lane.transport == .rdma { retireLanes(of: lane.peer) }
        let end = lane.run { record, epoch in
            onEvent(.completion(lane.id, epoch, record))
        } whenAcknowledged: {
            if lane.transport == .tcp { retireLanes(of: lane.peer) }
        }
        remove(lane)
        lane.counters.withLock { counters in
            counters.closed[end.reason.kind, default: 0] += 1
            guard let fence = end.fence else { return }
            counters.fences += 1
            counters.fenceTotal += fence
            counters.fenceMax = max(counters.fenceMax, fence)
        }
        onEvent(.closed(lane.id, end.reason, fence: end.fence))
    }
}
