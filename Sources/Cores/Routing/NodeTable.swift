package import Handoff
package import Messages

/// The nodes a router knows, with the load it has put on them. Pure bookkeeping: no I/O, no clock.
///
/// Load is what this router handed out, exact at every moment, beside what heartbeats say, which lags by an
/// interval but includes the work of other routers.
package struct NodeTable: Sendable {
    /// One attached node.
    package struct Entry: Sendable {
        package let registration: Registration
        /// Nodes of equal compatibility have equal groups; only they are paired.
        package let group: Int
        package let joined: Duration
        package var load: NodeLoad?
        package var isDraining = false
        /// Lanes to decode nodes as the prefill node last reported them.
        package var lanes: [Incarnation: PeerLanes] = [:]
        /// Prefill: prompt tokens of handoffs that are not written yet.
        package var prefillTokens = 0
        /// Decode: tokens of the sequences placed here, prompt and completion.
        package var decodeTokens = 0
        /// Decode: pages those tokens take.
        package var decodePages = 0
        /// Decode: sequences placed here.
        package var sequences = 0
        /// Prefill: handoffs that hold a lane, by decode node.
        package var outstanding: [Incarnation: Int] = [:]
        /// Not asked before this, after a refusal.
        package var quietUntil = Duration.zero
        /// Tokens this router received from it.
        package var tokensDelivered = 0
        /// Why work on it last failed, for people.
        package var lastFailure = ""

        /// Changes whenever the node is known to have computed tokens, for whomever.
        var workDone: Int { tokensDelivered &+ (load?.tokensTotal ?? 0) }

        package var id: Incarnation { registration.incarnation }
        package var isPrefill: Bool { registration.role == .prefill }
        package var pageTokens: Int { max(1, registration.compatibility.pageTokens) }

        /// Pages that hold `tokens` tokens.
        package func pages(for tokens: Int) -> Int { (tokens + pageTokens - 1) / pageTokens }

        /// The longest sequence this node can hold.
        package var sequenceLimit: Int {
            min(registration.contextLimit, registration.slots * pageTokens, ControlLimits.tokens)
        }
    }

    package private(set) var entries: [Incarnation: Entry] = [:]
    /// Incarnations in the order they joined, so that iteration does not depend on hashing.
    package private(set) var order: [Incarnation] = []
    /// Those that attached nodes have, by number.
    private var groups: [Int: ModelCompatibility] = [:]
    private var lastGroup = 0
    /// Different compatibilities among the attached nodes.
    package var groupCount: Int { groups.count }

    package init() {}

    package subscript(id: Incarnation) -> Entry? { entries[id] }

    /// In the order they joined.
    package var all: [Entry] { order.compactMap { entries[$0] } }
    package var prefills: [Entry] { all.filter(\.isPrefill) }
    package var decodes: [Entry] { all.filter { !$0.isPrefill } }

    package func named(_ name: String) -> Entry? { all.first { $0.registration.name == name } }

    /// Adds a node; one of the same incarnation is replaced.
    package mutating func add(_ registration: Registration, now: Duration) {
        let id = registration.incarnation
        if entries[id] == nil { order.append(id) }
        let group: Int
        if let known = groups.first(where: { $0.value.difference(from: registration.compatibility) == nil }) {
            group = known.key
        } else {
            lastGroup += 1
            group = lastGroup
            groups[group] = registration.compatibility
        }
        entries[id] = Entry(registration: registration, group: group, joined: now)
        forgetUnusedGroups()
    }

    private mutating func forgetUnusedGroups() {
        let used = Set(entries.values.map(\.group))
        groups = groups.filter { used.contains($0.key) }
    }

    package mutating func remove(_ id: Incarnation) {
        entries[id] = nil
        order.removeAll { $0 == id }
        forgetUnusedGroups()
        for other in order { entries[other]?.outstanding[id] = nil }
    }

    package mutating func update(_ id: Incarnation, _ change: (inout Entry) -> Void) {
        guard var entry = entries.removeValue(forKey: id) else { return }
        change(&entry)
        entries[id] = entry
    }

    /// The decode nodes a prefill node may be paired with: its lanes to them are opened ahead of need.
    package func peers(of prefill: Entry) -> [PeerAddress] {
        decodes.filter { $0.group == prefill.group }.map {
            PeerAddress(
                incarnation: $0.id, laneAddress: $0.registration.laneAddress, name: $0.registration.name,
                rdmaAddresses: $0.registration.rdmaAddresses)
        }
    }

    /// Why a node is paired with none, in one sentence; nil when it is, or when there is nobody to pair with.
    package func mismatch(of entry: Entry) -> String? {
        let others = entry.isPrefill ? decodes : prefills
        guard !others.isEmpty, !others.contains(where: { $0.group == entry.group }) else { return nil }
        let other = others[0]
        let difference =
            entry.registration.compatibility.difference(from: other.registration.compatibility) ?? "no difference"
        return "cannot be paired with \(other.registration.name): \(difference)"
    }

    /// The longest sequence that some pair can hold; nil without a pair.
    package var sequenceLimit: Int? {
        var limit: Int?
        for prefill in prefills where !prefill.isDraining {
            for decode in decodes where decode.group == prefill.group && !decode.isDraining {
                limit = max(limit ?? 0, min(prefill.sequenceLimit, decode.sequenceLimit))
            }
        }
        return limit
    }
}
