import Handoff

/// What every simulated process has, whatever its role.
struct Host {
    let seat: Seat
    let incarnation: Incarnation
    var isUp = true
    /// SIGSTOP: what would happen in it waits.
    var isPaused = false
    var held: [Event] = []
    /// Time it was stopped, all told: none of its duties can be due in it.
    var pausedTotal = Duration.zero
    var pausedSince = Duration.zero
    /// Serial numbers of the deadlines that are set.
    var deadlines: [DeadlineKey: Int] = [:]
    /// The open control stream to each process at the other end.
    var links: [Incarnation: Int] = [:]

    init(_ seat: Seat, life: Int) {
        self.seat = seat
        incarnation = Incarnation(UInt64(life * 100 + (seat.role.rawValue + 1) * 10 + seat.index))
    }
}

struct DeadlineKey: Hashable {
    let deadline: Deadline
    let handoff: HandoffID
}

/// A router process: the shipping ledger and the requests of its clients.
final class RouterProcess {
    var host: Host
    var ledger: HandoffLedger
    var requests: [UInt64: ClientRequest] = [:]
    var arrived = 0

    init(_ host: Host) {
        self.host = host
        ledger = HandoffLedger(router: host.incarnation)
    }
}

/// A request as its client sees it.
struct ClientRequest {
    let pages: Int
    /// Prompts of one document are the same in all their pages but the last.
    let document: Int
    let tokens: Int
    var delivered = 0
    var attempt: UInt32 = 0
    var current: HandoffID?
    var failures = 0
    var wantsOut = false
}

/// A prefill node: the shipping machine and pool, an engine that computes layer by layer.
final class PrefillProcess {
    var host: Host
    var handoffs: SendingHandoffs
    var pool: SlotPool
    var jobs: [HandoffID: PrefillJob] = [:]
    /// What each layer of each source slot holds.
    var memory: [[Tag?]]
    /// Handoffs whose Drained was sent: they post no more.
    var drained: Set<HandoffID> = []
    /// Handoffs being drained, with the awake time since when.
    var draining: [(handoff: HandoffID, since: Duration)] = []

    init(_ host: Host, _ scenario: Scenario, shape: PageShape) {
        self.host = host
        handoffs = SendingHandoffs(shape: shape)
        pool = SlotPool(slotCount: scenario.sourceSlots)
        memory = Array(repeating: Array(repeating: nil, count: scenario.layers), count: scenario.sourceSlots)
    }
}

/// A prompt in the engine of a prefill node.
struct PrefillJob {
    let pages: Int
    var sources: [SlotRef] = []
    /// What comes ready, in order.
    var steps: [(layers: Range<Int>, pages: Range<Int>)] = []
    var next = 0
    var isStopped = false
    var isUnpinned = false
}

/// A decode node: the shipping machine and pool, an engine that generates, and the shadow of its memory.
final class DecodeProcess {
    var host: Host
    var handoffs: ReceivingHandoffs
    var pool: SlotPool
    var shadow: ShadowMemory
    var sequences: [HandoffID: Sequence] = [:]
    /// What came with Reserve.
    var orders: [HandoffID: Order] = [:]
    var cached: [Cached] = []
    var lanes: [LaneID: Int] = [:]
    var nextLane: UInt32 = 1

    struct Order {
        let delivered: Int
        let tokens: Int
    }

    /// A page that the prefix cache keeps. The last one of a prompt is good for nobody else.
    struct Cached {
        let slot: SlotRef
        let document: Int
        let page: Int
        let isWhole: Bool
    }

    struct Sequence {
        let slots: [SlotRef]
        let lent: Int
        let document: Int
        /// Taken while generating.
        var grown: [SlotRef] = []
        let start: Int
        var next: Int
        let end: Int
        var isCancelled = false
    }

    init(_ host: Host, _ scenario: Scenario) {
        self.host = host
        handoffs = ReceivingHandoffs(incarnation: host.incarnation, layers: scenario.layers)
        pool = SlotPool(slotCount: scenario.slots)
        shadow = ShadowMemory(slots: scenario.slots, layers: scenario.layers)
    }
}
