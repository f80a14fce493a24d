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
        /// Its engine has work and does not move.
        package var isStalled = false
        /// Prefill: since when there is no lane to a decode node, although there should be.
        var unreachedSince: [Incarnation: Duration] = [:]
        /// Prefill: decode nodes that it has not reached for too long, and why.
        package var unreachable: [Incarnation: String] = [:]
        /// Why work on it last failed, for people.
        package var lastFailure = ""

        /// Changes whenever the node is known to have computed tokens, for whomever.
        var workDone: Int { tokensDelivered &+ (load?.tokensTotal ?? 0) }

        package var id: Incarnation { registration.incarnation }
        package var name: String { registration.name }
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

    /// No node computes prompts, or none generates: such may be about to attach.
    var lacksRole: Bool { prefills.isEmpty || decodes.isEmpty }

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
        for other in order {
            entries[other]?.outstanding[id] = nil
            entries[other]?.unreachedSince[id] = nil
            entries[other]?.unreachable[id] = nil
        }
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

    /// What a prefill node last said of its lanes.
    mutating func note(lanes peers: [PeerLanes], of id: Incarnation, now: Duration) {
        update(id) { node in
            node.lanes = Dictionary(peers.map { ($0.decode, $0) }, uniquingKeysWith: { $1 })
            for peer in peers {
                if peer.idle + peer.busy > 0 || peer.error.isEmpty {
                    node.unreachedSince[peer.decode] = nil
                    node.unreachable[peer.decode] = nil
                } else if node.unreachedSince[peer.decode] == nil {
                    node.unreachedSince[peer.decode] = now
                }
            }
        }
    }

    /// Pairs whose lanes have been missing for `patience` are unusable from now on. Whether there was any.
    mutating func noteUnreachable(after patience: Duration, now: Duration) -> Bool {
        var changed = false
        for id in order {
            guard let node = entries[id], !node.unreachedSince.isEmpty else { continue }
            for (decode, since) in node.unreachedSince where now - since >= patience {
                guard node.unreachable[decode] == nil, entries[decode] != nil else { continue }
                entries[id]?.unreachable[decode] = node.lanes[decode]?.error ?? "no lane"
                changed = true
            }
        }
        return changed
    }

    /// Why this pair can not serve now; nil when it can. Not that it is busy.
    package func problem(prefill: Incarnation, decode: Incarnation) -> String? {
        guard let prefill = entries[prefill], let decode = entries[decode] else { return "a node is gone" }
        return problem(prefill, decode)
    }

    /// Whether this pair can serve, busy or not.
    func isUsable(_ prefill: Entry, _ decode: Entry) -> Bool {
        prefill.group == decode.group && !prefill.isDraining && !decode.isDraining && !prefill.isStalled
            && !decode.isStalled && (prefill.unreachable.isEmpty || prefill.unreachable[decode.id] == nil)
    }

    func problem(_ prefill: Entry, _ decode: Entry) -> String? {
        if isUsable(prefill, decode) { return nil }
        guard prefill.group == decode.group else {
            let difference =
                prefill.registration.compatibility.difference(from: decode.registration.compatibility)
                ?? "no difference"
            return "\(prefill.name) cannot be paired with \(decode.name): \(difference)"
        }
        for node in [prefill, decode] {
            if node.isDraining { return "\(node.name) is draining" }
            if node.isStalled { return "the engine of \(node.name) does not move" }
        }
        return prefill.unreachable[decode.id].map { "\(prefill.name) has no lane to \(decode.name): \($0)" }
    }

    /// Why a node serves with none of those it could be paired with, in one sentence; nil when it does, or when there is
    /// nobody to pair with.
    package func mismatch(of entry: Entry) -> String? {
        let others = entry.isPrefill ? decodes : prefills
        var first: String?
        for other in others {
            let pair = entry.isPrefill ? (entry, other) : (other, entry)
            guard let problem = problem(pair.0, pair.1) else { return nil }
            first = first ?? problem
        }
        return first
    }

    /// The longest sequence that some pair can hold; nil without a pair.
    package var sequenceLimit: Int? {
        var limit: Int?
        for prefill in prefills {
            for decode in decodes where isUsable(prefill, decode) {
                limit = max(limit ?? 0, min(prefill.sequenceLimit, decode.sequenceLimit))
            }
        }
        return limit
    }
}
