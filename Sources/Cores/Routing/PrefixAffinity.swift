package import Handoff

/// Remembers which prefill nodes last computed which prompt prefixes, so that a prompt that goes on from one
/// finds its pages in that node's prefix cache. A hint and nothing more: nodes check their own trees.
///
/// Bounded: the oldest prefixes are forgotten. Recording and asking cost O(blocks of the prompt).
package struct PrefixAffinity: Sendable {
    /// Tokens per remembered block.
    package static let blockTokens = 64

    private struct Place {
        var node: Incarnation
        var age: UInt64
    }

    private let capacity: Int
    private let nodesPerPrefix = 4
    private var places: [UInt64: [Place]] = [:]
    private var tick: UInt64 = 0

    package init(capacity: Int = 65_536) { self.capacity = capacity }

    /// One hash per whole block: entry i covers the tokens up to the end of block i, so equal entries mean
    /// equal prefixes (but for collisions, which cost a detour and never correctness).
    package static func hashes(of tokens: [UInt32]) -> [UInt64] {
        let blocks = tokens.count / blockTokens
        var result: [UInt64] = []
        result.reserveCapacity(blocks)
        var hash: UInt64 = 0x9e37_79b9_7f4a_7c15
        tokens.withUnsafeBufferPointer { tokens in
            for block in 0..<blocks {
                for index in block * blockTokens..<(block + 1) * blockTokens {
                    hash = (hash ^ UInt64(tokens[index])) &* 0xff51_afd7_ed55_8ccd
                    hash ^= hash >> 32
                }
                result.append(hash)
            }
        }
        return result
    }

    /// Tokens of the prompt that this node has computed before, as far as remembered.
    package func overlap(of hashes: [UInt64], with node: Incarnation) -> Int {
        // Prefixes are recorded whole, so a known block means known blocks before it: search from the end.
        var low = 0
        var high = hashes.count
        while low < high {
            let middle = (low + high + 1) / 2
            if places[hashes[middle - 1]]?.contains(where: { $0.node == node }) == true {
                low = middle
            } else {
                high = middle - 1
            }
        }
        return low * Self.blockTokens
    }

    /// The node is about to compute this prompt.
    package mutating func record(_ hashes: [UInt64], on node: Incarnation) {
        tick += 1
        for hash in hashes {
            var known = places[hash] ?? []
            known.removeAll { $0.node == node }
            known.insert(Place(node: node, age: tick), at: 0)
            if known.count > nodesPerPrefix { known.removeLast() }
            places[hash] = known
        }
        if places.count > capacity { forgetOldest() }
    }

    /// The node is gone, and its cache with it.
    package mutating func forget(_ node: Incarnation) {
        for (hash, known) in places where known.contains(where: { $0.node == node }) {
            let rest = known.filter { $0.node != node }
            places[hash] = rest.isEmpty ? nil : rest
        }
    }

    package var count: Int { places.count }

    /// Drops the older half, so that the cost is spread over many recordings.
    private mutating func forgetOldest() {
        let ages = places.values.map { $0[0].age }.sorted()
        let border = ages[ages.count / 2]
        places = places.filter { $0.value[0].age > border }
    }
}
