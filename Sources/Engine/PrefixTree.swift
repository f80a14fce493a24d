package import Handoff

/// Which pages of KV hold which token prefixes, so that a prompt that begins like an earlier one need not be
/// computed from its start. Page-granular: a node is one full page of tokens after its parent's; only pages whose
/// KV is complete for all layers are entered.
///
/// Pure: the slots themselves belong to the `SlotPool`, which the caller tells to `keep` and `evict` what this
/// tree says. A node in use by a job is never evicted; unused ones go in order of last use, leaves first.
package struct PrefixTree: Sendable {
    /// The nodes from the root to some page, each used once by whoever holds this. Given back by `release`.
    package struct Path: Sendable {
        fileprivate(set) var nodes: [Int32] = []
        package init() {}
        package var pageCount: Int { nodes.count }
    }

    private struct Node {
        var parent: Int32
        var hash: UInt64
        var tokens: [TokenID]
        var slot: SlotRef
        var children: Int32 = 0
        var users: Int32 = 0
        /// When it was last used; unique, so it also identifies a heap entry. 0: the node is free.
        var stamp: UInt64
    }

    private struct Key: Hashable {
        var parent: Int32
        var hash: UInt64
    }

    private let pageTokens: Int
    private var nodes: [Node] = []
    private var freeNodes: [Int32] = []
    /// Children by parent (-1: the root) and content hash. A node's tokens are compared before it is believed.
    private var index: [Key: Int32] = [:]
    private var clock: UInt64 = 0
    private var candidates = StampHeap()
    /// Pages in the tree, and those among them that no job uses (all of these can be evicted in some order).
    package private(set) var pageCount = 0
    package private(set) var unusedCount = 0

    package init(pageTokens: Int) {
        precondition(pageTokens > 0)
        self.pageTokens = pageTokens
    }

    /// The longest run of whole pages at the start of `tokens` that the tree holds, now in use, and their slots.
    /// O(pages found).
    package mutating func acquire(_ tokens: [TokenID]) -> (path: Path, slots: [SlotRef]) {
        var path = Path()
        var slots: [SlotRef] = []
        while (path.nodes.count + 1) * pageTokens <= tokens.count {
            let page = tokens[path.nodes.count * pageTokens..<(path.nodes.count + 1) * pageTokens]
            guard let node = child(of: path.nodes.last ?? -1, page) else { break }
            use(node)
            path.nodes.append(node)
            slots.append(nodes[Int(node)].slot)
        }
        return (path, slots)
    }

    /// How many whole pages at the start of `tokens` the tree holds. O(pages found).
    package func cachedPages(_ tokens: [TokenID]) -> Int {
        var node: Int32 = -1
        var pages = 0
        while (pages + 1) * pageTokens <= tokens.count,
            let next = child(of: node, tokens[pages * pageTokens..<(pages + 1) * pageTokens])
        {
            node = next
            pages += 1
        }
        return pages
    }

    /// Enters the next page after `path` (tokens of exactly one page) and extends the path by it. False when the
    /// tree already has a page of that content, from another job: the path goes on through that one, and `slot`
    /// stays the caller's own; true: the caller tells the pool to keep `slot`.
    package mutating func extend(_ path: inout Path, tokens: ArraySlice<TokenID>, slot: SlotRef) -> Bool {
        precondition(tokens.count == pageTokens, "a page of \(tokens.count) tokens")
        let parent = path.nodes.last ?? -1
        if let node = child(of: parent, tokens) {
            use(node)
            path.nodes.append(node)
            return false
        }
        let key = Key(parent: parent, hash: Self.hash(tokens))
        // Another content with the same hash under the same parent: practically impossible, and harmless. The new
        // page is entered without an index entry, so it is never found, and leaves like any other.
        clock += 1
        let new = Node(parent: parent, hash: key.hash, tokens: Array(tokens), slot: slot, users: 1, stamp: clock)
        let node: Int32
        if let reused = freeNodes.popLast() {
            node = reused
            nodes[Int(node)] = new
        } else {
            node = Int32(nodes.count)
            nodes.append(new)
        }
        if index[key] == nil { index[key] = node }
        if parent >= 0 { nodes[Int(parent)].children += 1 }
        pageCount += 1
        path.nodes.append(node)
        return true
    }

    /// Ends the use of a path.
    package mutating func release(_ path: Path) {
        for node in path.nodes.reversed() {
            let at = Int(node)
            precondition(nodes[at].users > 0, "release of an unused page")
            clock += 1
            nodes[at].users -= 1
            nodes[at].stamp = clock
            guard nodes[at].users == 0 else { continue }
            unusedCount += 1
            offer(node)
        }
        if candidates.count > 2 * nodes.count + 64 { rebuildCandidates() }
    }

    /// Drops up to `count` unused pages, least recently used leaves first, and returns their slots, which the
    /// caller tells the pool to evict. O(log n) each.
    package mutating func evict(upTo count: Int) -> [SlotRef] {
        var evicted: [SlotRef] = []
        while evicted.count < count, let (stamp, node) = candidates.popLeast() {
            let entry = nodes[Int(node)]
            guard entry.stamp == stamp, entry.users == 0, entry.children == 0 else { continue }
            evicted.append(entry.slot)
            remove(node)
        }
        return evicted
    }

    /// Hides a page and what follows it from every later `acquire`; those who use it now keep it, and it leaves like
    /// any other. O(pages).
    package mutating func hide(_ slot: SlotRef) {
        for (node, entry) in nodes.enumerated() where entry.stamp != 0 && entry.slot == slot {
            let key = Key(parent: entry.parent, hash: entry.hash)
            if index[key] == Int32(node) { index[key] = nil }
        }
    }

    private func child(of parent: Int32, _ tokens: ArraySlice<TokenID>) -> Int32? {
        guard let node = index[Key(parent: parent, hash: Self.hash(tokens))] else { return nil }
        return nodes[Int(node)].tokens.elementsEqual(tokens) ? node : nil
    }

    private mutating func use(_ node: Int32) {
        if nodes[Int(node)].users == 0 { unusedCount -= 1 }
        nodes[Int(node)].users += 1
    }

    private mutating func remove(_ node: Int32) {
        let entry = nodes[Int(node)]
        let key = Key(parent: entry.parent, hash: entry.hash)
        if index[key] == node { index[key] = nil }
        nodes[Int(node)].stamp = 0
        nodes[Int(node)].tokens = []
        freeNodes.append(node)
        pageCount -= 1
        unusedCount -= 1
        guard entry.parent >= 0 else { return }
        nodes[Int(entry.parent)].children -= 1
        offer(entry.parent)
    }

    /// Makes a node a candidate for eviction when it is an unused leaf.
    private mutating func offer(_ node: Int32) {
        let entry = nodes[Int(node)]
        guard entry.users == 0, entry.children == 0, entry.stamp != 0 else { return }
        candidates.insert(stamp: entry.stamp, node: node)
    }

    /// Drops the entries that later use has made stale.
    private mutating func rebuildCandidates() {
        candidates = StampHeap()
        for node in nodes.indices { offer(Int32(node)) }
    }

    /// A 64-bit mix of the tokens (the finaliser of MurmurHash3 over a running state).
    private static func hash(_ tokens: ArraySlice<TokenID>) -> UInt64 {
        var state: UInt64 = 0x9E37_79B9_7F4A_7C15
        for token in tokens {
            state ^= UInt64(UInt32(bitPattern: token))
            state = (state ^ (state >> 33)) &* 0xFF51_AFD7_ED55_8CCD
            state = (state ^ (state >> 33)) &* 0xC4CE_B9FE_1A85_EC53
            state ^= state >> 33
        }
        return state
    }
}

/// A binary heap of (stamp, node), least stamp first. Entries that no longer match their node are skipped by the user.
private struct StampHeap: Sendable {
    private var entries: [(stamp: UInt64, node: Int32)] = []
    var count: Int { entries.count }

    mutating func insert(stamp: UInt64, node: Int32) {
        entries.append((stamp, node))
        var at = entries.count - 1
        while at > 0, entries[at].stamp < entries[(at - 1) / 2].stamp {
            entries.swapAt(at, (at - 1) / 2)
            at = (at - 1) / 2
        }
    }

    mutating func popLeast() -> (stamp: UInt64, node: Int32)? {
        guard let least = entries.first else { return nil }
        let last = entries.removeLast()
        guard !entries.isEmpty else { return least }
        entries[0] = last
        var at = 0
        while true {
            var child = 2 * at + 1
            guard child < entries.count else { break }
            if child + 1 < entries.count, entries[child + 1].stamp < entries[child].stamp { child += 1 }
            guard entries[child].stamp < entries[at].stamp else { break }
            entries.swapAt(at, child)
            at = child
        }
        return least
    }
}
