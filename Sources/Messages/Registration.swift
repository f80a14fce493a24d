package import Handoff

/// What a node is there for.
package enum NodeRole: String, Sendable, CaseIterable {
    case prefill, decode
}

/// What must be equal on two nodes before KV may move between them.
package struct ModelCompatibility: Sendable, Equatable {
    /// SHA-256 over config, tokenizer and tensor table, in hexadecimal.
    package var fingerprint: String
    /// Canonical text of the page's planes.
    package var pageLayout: String
    /// Element type of the KV planes: f32, f16, bf16.
    package var kvType: String
    /// Nodes of different classes compute different bits.
    package var isaClass: String
    package var pageTokens: Int
    package var pageBytes: Int

    package init(
        fingerprint: String, pageLayout: String, kvType: String, isaClass: String, pageTokens: Int, pageBytes: Int
    ) {
        self.fingerprint = fingerprint
        self.pageLayout = pageLayout
        self.kvType = kvType
        self.isaClass = isaClass
        self.pageTokens = pageTokens
        self.pageBytes = pageBytes
    }

    /// The first field in which the two differ, with both values; nil when they may be paired.
    package func difference(from other: ModelCompatibility) -> String? {
        func differ(_ field: String, _ mine: String, _ theirs: String) -> String? {
            mine == theirs ? nil : "\(field) is \(mine), not \(theirs)"
        }
        return differ("model fingerprint", fingerprint, other.fingerprint)
            ?? differ("page tokens", "\(pageTokens)", "\(other.pageTokens)")
            ?? differ("KV type", kvType, other.kvType)
            ?? differ("page layout", pageLayout, other.pageLayout)
            ?? differ("ISA class", isaClass, other.isaClass)
            ?? differ("page bytes", "\(pageBytes)", "\(other.pageBytes)")
    }
}

/// What a node says of itself when it attaches.
package struct Registration: Sendable, Equatable {
    /// Unique in the cluster: 1 to 64 of [A-Za-z0-9._-].
    package var name: String
    package var role: NodeRole
    package var incarnation: Incarnation
    package var compatibility: ModelCompatibility
    /// The model's name, for people.
    package var model: String
    /// HOST:PORT of a decode node's lane listener; empty on a prefill node.
    package var laneAddress: String
    /// HOST:PORT of health and metrics; empty when there is none.
    package var httpAddress: String
    package var slots: Int
    /// Tokens of one sequence at most.
    package var contextLimit: Int
    /// Sequences at once at most.
    package var maxRunning: Int
    package var version: String
    package var lanesPerPeer: Int
    /// HOST:PORT of a decode node's lane listeners over RDMA, one per adapter.
    package var rdmaAddresses: [String]

    package init(
        name: String, role: NodeRole, incarnation: Incarnation, compatibility: ModelCompatibility, model: String,
        laneAddress: String = "", httpAddress: String = "", slots: Int, contextLimit: Int, maxRunning: Int,
        version: String, lanesPerPeer: Int, rdmaAddresses: [String] = []
    ) {
        self.name = name
        self.role = role
        self.incarnation = incarnation
        self.compatibility = compatibility
        self.model = model
        self.laneAddress = laneAddress
        self.httpAddress = httpAddress
        self.slots = slots
        self.contextLimit = contextLimit
        self.maxRunning = maxRunning
        self.version = version
        self.lanesPerPeer = lanesPerPeer
        self.rdmaAddresses = rdmaAddresses
    }

    /// Whether a text can name a node.
    package static func isValidName(_ name: String) -> Bool {
        let bytes = name.utf8
        return (1...ControlLimits.nodeNameBytes).contains(bytes.count)
            && bytes.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"):
                    true
                default: false
                }
            }
    }
}

/// A node's slots by state; they add up to its slab.
package struct SlotCounts: Sendable, Equatable {
    package var free = 0
    package var inUse = 0
    package var granted = 0
    package var quarantined = 0
    package var cached = 0
    package var total: Int { free + inUse + granted + quarantined + cached }

    package init(free: Int = 0, inUse: Int = 0, granted: Int = 0, quarantined: Int = 0, cached: Int = 0) {
        self.free = free
        self.inUse = inUse
        self.granted = granted
        self.quarantined = quarantined
        self.cached = cached
    }

    package init(_ counts: SlotPool.Counts) {
        self.init(
            free: counts.free, inUse: counts.inUse, granted: counts.granted, quarantined: counts.quarantined,
            cached: counts.cached)
    }
}

/// A node's state at one moment, sent as its heartbeat. Totals count from the node's start.
package struct NodeLoad: Sendable, Equatable {
    package var slots = SlotCounts()
    /// Sequences that take part in engine steps.
    package var running = 0
    package var waiting = 0
    /// Prompt tokens not yet computed.
    package var queuedTokens = 0
    /// Over the last heartbeat interval; prompt tokens on a prefill node, generated ones on a decode node.
    package var tokensPerSecond = 0.0
    package var openHandoffs = 0
    package var lanesIdle = 0
    package var lanesBusy = 0
    package var lastError = ""
    package var tokensTotal = 0
    package var staleWrites = 0
    package var fences = 0
    package var digestMismatches = 0
    package var isDraining = false
    package var preemptions = 0
    /// How long the engine has had work and has not moved, by the node's own clock, of which only time counts in which
    /// the node itself ran; zero while it moves or has nothing to do.
    package var engineStalled = Duration.zero
    package var contract = ContractCounts()
    package var speculation = Speculation()
    /// Nil for models without experts, or before the first token.
    package var experts: ExpertBalance?

    package init() {}
}
