import Handoff

/// What one broken rule does to the world around the shipping state machines. Each must be caught.
enum BrokenRule: String, CaseIterable, Sendable {
    /// The fence is reported before the receive thread has left the slab.
    case fenceReportedEarly
    /// Writes are acknowledged when they are sent, and the lane looks at neither epoch nor slots.
    case unguardedLane
    /// Source pages are let go when computing is cancelled.
    case unpinAtCancel
    /// The completion record overtakes writes, and the lane does not see that bytes are missing.
    case recordOvertakesWrites
}

enum ToNode: Equatable {
    case reserve(HandoffID, pages: Int, prefill: Incarnation)
    case prefill(GrantTerms)
    case release(HandoffID)
    case cancel(HandoffID)
    case reclaim(HandoffID)
    case fence(HandoffID)
    case query(HandoffID)
    case routerLost(Incarnation)
}

enum ToRouter: Equatable {
    case granted(GrantTerms)
    case refused(HandoffID, RefusalReason)
    case sealed(HandoffID)
    case finished(HandoffID, tokens: Int?)
    case accepted(HandoffID)
    case reclaimed(HandoffID, QuiescenceProof.Kind)
    case written(HandoffID)
    case drained(HandoffID, Int, Int)
    case failed(HandoffID, HandoffFailure)
    case tokens(HandoffID, first: Int, count: Int)
}

/// One lane: what was posted, what is on its way, and what the decode node's gate lets in.
struct SimLane {
    enum Item {
        case batch(WriteBatch)
        case completion(GrantTerms)
    }

    let prefill: Int
    /// Posted, not read from the source pages yet.
    var posted: [Item] = []
    /// On its way: the source pages have been read.
    var flying: [Item] = []
    /// Ranges of the record that is landing now.
    var landing: (batch: WriteBatch, left: [WriteRange])?
    var answers: [(HandoffID, LaneEpoch, Int?)] = []
    var bound: GrantTerms?
    var epoch = LaneEpoch(0)
    var landedLayers: [Int] = []
    var landedRecords = 0
    var fencing = false
    var senderOpen = true
    var receiverOpen = true
}

/// The prompt of one handoff on a prefill node's engine.
struct SimPrompt {
    var layer = 0
    let sources: [SlotRef]
    var stopped = false
}

struct SimPrefill: ~Copyable {
    var incarnation: Incarnation
    var handoffs = PrefillHandoffs(shape: ContractWorld.shape)
    var prompts: [HandoffID: SimPrompt] = [:]
    var pins: [HandoffID: Int] = [:]
    var inbox: [ToNode] = []

    init(_ incarnation: UInt64) { self.incarnation = Incarnation(incarnation) }
}

struct SimRequest {
    let pages: Int
    let tokens: Int
    var delivered = 0
    var attempt: UInt32 = 0
    var current: HandoffID?
    var ends = 0
    var wantsCancel = false
}

/// A cluster of one router, one decode node and two prefill nodes around the shipping state machines and the
/// shipping slot pool. Every step does one of the things that can happen next, picked by the seed; messages are
/// delayed, repeated and (across senders) reordered, writes land layer by layer at any later time, deadlines pass
/// whenever they like, lanes break, processes die. A shadow of the decode node's memory knows which handoff wrote
/// what, and every rule is checked where it could break.
final class ContractWorld {
    static let layers = 3
    static let shape = PageShape(layers: ContractWorld.layers, layerBytes: 8)
    static let slotCount = 10

    var random: Seeded
    let broken: BrokenRule?
    var violations: [String] = []
    var handoffsOpened = 0
    var faultsAllowed = true

    var ledger: HandoffLedger
    var router = Incarnation(0xA)
    var requests: [UInt64: SimRequest] = [:]
    var nextRequest: UInt64 = 1
    var routerInbox: [(from: Incarnation, message: ToRouter)] = []

    var pool = SlotPool(slotCount: ContractWorld.slotCount)
    var decode = DecodeHandoffs(incarnation: Incarnation(0xD))
    let decodeID = Incarnation(0xD)
    var decodeInbox: [ToNode] = []
    var running: [HandoffID: SimSequence] = [:]
    /// Which handoff's page each layer of each slot holds.
    var memory: [[SimTag?]] = Array(
        repeating: Array(repeating: nil, count: ContractWorld.layers), count: ContractWorld.slotCount)

    var first = SimPrefill(0x100)
    var second = SimPrefill(0x200)
    var incarnations = [Incarnation(0x100), Incarnation(0x200)]
    var lanes: [LaneID: SimLane] = [:]
    var nextLane: UInt32 = 1
    var deadlines: [SimDeadline] = []

    init(seed: UInt64, broken: BrokenRule? = nil) {
        random = Seeded(seed)
        self.broken = broken
        ledger = HandoffLedger(router: Incarnation(0xA))
    }

    func violate(_ what: String) { violations.append(what) }

    /// Runs, then lets everything come to rest and checks that nothing is left.
    func run(steps: Int) {
        for _ in 0..<steps where violations.isEmpty { step() }
        faultsAllowed = false
        for id in requests.keys.sorted() { requests[id]?.wantsCancel = true }
        for _ in 0..<60_000 where violations.isEmpty && !isAtRest { step() }
        guard violations.isEmpty else { return }
        if !isAtRest {
            violate("3: still busy: \(ledger.rows) \(decode.rows) \(first.handoffs.rows) \(second.handoffs.rows)")
        }
        if pool.counts.free != ContractWorld.slotCount { violate("6: \(pool.counts)") }
        if !first.pins.isEmpty || !second.pins.isEmpty { violate("4: source pages stay pinned") }
    }

    private var isAtRest: Bool {
        requests.isEmpty && ledger.unsettledCount == 0 && decode.openCount == 0 && first.handoffs.openCount == 0
            && second.handoffs.openCount == 0 && routerInbox.isEmpty && decodeInbox.isEmpty
    }

    func step() {
        switch random.below(24) {
        case 0: startRequest()
        case 1, 2: deliverToRouter()
        case 3, 4: deliverToDecode()
        case 5, 6: deliverToPrefill(random.below(2))
        case 7, 8: compute(random.below(2))
        case 9, 10: withLane { sendNext($0) }
        case 11, 12, 13: withLane { landNext($0) }
        case 14: withLane { answerNext($0) }
        case 15: withLane { closeFenced($0) }
        case 16: openLane(random.below(2))
        case 17, 18: generate()
        case 19: cancelSomething()
        case 20: if random.chance(faultsAllowed ? 20 : 4) { passDeadline() }
        default: if faultsAllowed, random.chance(40) { fault() }
        }
    }

    private func fault() {
        switch random.below(10) {
        case 0: crashPrefill(random.below(2))
        case 1: if random.chance(3) { restartRouter() }
        case 2: nodeLostByLease(random.below(2))
        default: withLane { breakLane($0) }
        }
    }

    private func withLane(_ body: (LaneID) -> Void) {
        guard !lanes.isEmpty else { return }
        let all = lanes.keys.sorted()
        body(all[random.below(all.count)])
    }

    /// Takes the next message; sometimes it stays to come again, sometimes a later one comes first.
    func take<Message>(_ inbox: inout [Message]) -> Message? {
        guard !inbox.isEmpty else { return nil }
        let index = faultsAllowed && random.chance(10) ? random.below(inbox.count) : 0
        return faultsAllowed && random.chance(12) ? inbox[index] : inbox.remove(at: index)
    }
}

struct SimSequence {
    let slots: [SlotRef]
    let start: Int
    var next: Int
    var cancelled = false
}

struct SimTag: Equatable {
    let handoff: HandoffID
    let page: Int
}

struct SimDeadline: Equatable {
    enum Owner { case router, decode, first, second }
    let owner: Owner
    let name: Deadline
    let handoff: HandoffID
}
