import Engine
import Handoff
import SeededRandom
import Testing

@Suite struct PrefixTreeTests {
    private func slot(_ index: Int) -> SlotRef { SlotRef(index: UInt32(index), generation: Generation(1)) }

    @Test func findsTheLongestRunOfWholePages() {
        var tree = PrefixTree(pageTokens: 2)
        var path = PrefixTree.Path()
        #expect(tree.extend(&path, tokens: [1, 2][...], slot: slot(0)))
        #expect(tree.extend(&path, tokens: [3, 4][...], slot: slot(1)))
        tree.release(path)
        #expect(tree.acquire([1, 2, 3]).slots == [slot(0)])
        #expect(tree.acquire([1, 2, 3, 4, 5]).slots == [slot(0), slot(1)])
        #expect(tree.acquire([3, 4]).slots == [])
        #expect(tree.unusedCount == 0)
    }

    @Test func aPageThatIsThereAlreadyStaysTheFirstOnes() {
        var tree = PrefixTree(pageTokens: 1)
        var first = PrefixTree.Path()
        var second = PrefixTree.Path()
        #expect(tree.extend(&first, tokens: [7][...], slot: slot(0)))
        #expect(!tree.extend(&second, tokens: [7][...], slot: slot(1)))
        #expect(tree.extend(&second, tokens: [8][...], slot: slot(2)))
        tree.release(first)
        tree.release(second)
        #expect(tree.acquire([7, 8]).slots == [slot(0), slot(2)])
        #expect(tree.pageCount == 2)
    }

    @Test func aHiddenPageIsNotFoundAgainAndLeavesLikeAnyOther() {
        var tree = PrefixTree(pageTokens: 1)
        var path = PrefixTree.Path()
        for token in 0..<3 as Range<TokenID> {
            #expect(tree.extend(&path, tokens: [token][...], slot: slot(Int(token))))
        }
        tree.hide(slot(1))
        #expect(tree.acquire([0, 1, 2]).slots == [slot(0)])
        // Another job computes it again, while the first still has the hidden one.
        var again = tree.acquire([0]).path
        #expect(tree.extend(&again, tokens: [1][...], slot: slot(11)))
        #expect(tree.acquire([0, 1, 2]).slots == [slot(0), slot(11)])
        tree.release(path)
        #expect(tree.evict(upTo: 9) == [slot(2), slot(1)])
        #expect(tree.pageCount == 2 && tree.unusedCount == 0)
    }

    @Test func evictsLeavesInOrderOfLastUse() {
        var tree = PrefixTree(pageTokens: 1)
        for (index, token) in [TokenID(10), 20, 30].enumerated() {
            var path = PrefixTree.Path()
            _ = tree.extend(&path, tokens: [token][...], slot: slot(index))
            tree.release(path)
        }
        tree.release(tree.acquire([10]).path)
        let (held, _) = tree.acquire([30])
        #expect(tree.evict(upTo: 5) == [slot(1), slot(0)])
        tree.release(held)
        #expect(tree.evict(upTo: 5) == [slot(2)])
        #expect(tree.pageCount == 0 && tree.unusedCount == 0)
    }

    /// Random use, checked after every step against a dictionary of whole prefixes.
    @Test(arguments: UInt64(1)...20)
    func agreesWithANaiveModel(seed: UInt64) {
        var random = SplitMix64(state: seed)
        let page = 2
        var tree = PrefixTree(pageTokens: page)
        var model = NaiveTree()
        var held: [(PrefixTree.Path, [[TokenID]])] = []
        var nextSlot = 0
        for _ in 0..<400 {
            switch Int.random(in: 0..<4, using: &random) {
            case 0, 1:
                let pages = Int.random(in: 0...5, using: &random)
                let tokens = (0..<pages * page + 1).map { _ in TokenID.random(in: 0..<2, using: &random) }
                var (path, slots) = tree.acquire(tokens)
                let prefixes = (1...6).prefix(pages).map { Array(tokens[0..<$0 * page]) }
                let known = prefixes.prefix { model.slots[$0] != nil }
                #expect(slots == known.map { model.slots[$0]! })
                for (index, prefix) in prefixes.enumerated().dropFirst(known.count) {
                    let isNew = tree.extend(
                        &path, tokens: tokens[index * page..<(index + 1) * page], slot: slot(nextSlot))
                    #expect(isNew)
                    model.slots[prefix] = slot(nextSlot)
                    nextSlot += 1
                }
                for prefix in prefixes { model.users[prefix, default: 0] += 1 }
                held.append((path, Array(prefixes)))
            case 2:
                guard !held.isEmpty else { continue }
                let (path, prefixes) = held.remove(at: Int.random(in: 0..<held.count, using: &random))
                tree.release(path)
                model.release(prefixes)
            default:
                let count = Int.random(in: 1...4, using: &random)
                #expect(tree.evict(upTo: count) == model.evict(upTo: count))
            }
            #expect(tree.pageCount == model.slots.count)
            #expect(tree.unusedCount == model.unused.count)
        }
    }
}

/// What a prefix tree means, with a dictionary and full scans.
private struct NaiveTree {
    var slots: [[TokenID]: SlotRef] = [:]
    var users: [[TokenID]: Int] = [:]
    var lastUse: [[TokenID]: Int] = [:]
    var clock = 0

    var unused: [[TokenID]] { slots.keys.filter { users[$0, default: 0] == 0 } }

    mutating func release(_ prefixes: [[TokenID]]) {
        for prefix in prefixes.reversed() {
            users[prefix, default: 0] -= 1
            clock += 1
            lastUse[prefix] = clock
        }
    }

    mutating func evict(upTo count: Int) -> [SlotRef] {
        var evicted: [SlotRef] = []
        while evicted.count < count {
            let leaves = unused.filter { leaf in
                !slots.keys.contains { $0.count > leaf.count && $0.starts(with: leaf) }
            }
            guard let oldest = leaves.min(by: { lastUse[$0, default: 0] < lastUse[$1, default: 0] }) else { break }
            evicted.append(slots[oldest]!)
            slots[oldest] = nil
        }
        return evicted
    }
}
