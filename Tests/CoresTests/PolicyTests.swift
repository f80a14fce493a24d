import API
import Handoff
import Messages
import Testing

@testable import Cores

@Suite struct PairPolicyTests {
    private func table() -> NodeTable {
        var nodes = NodeTable()
        for index in 1...2 as ClosedRange<UInt64> {
            nodes.add(registration("p\(index)", .prefill, incarnation: index), now: .zero)
            nodes.add(registration("d\(index)", .decode, incarnation: 100 + index), now: .zero)
        }
        return nodes
    }

    private func choose(
        _ job: PairPolicy.Job, _ nodes: NodeTable, _ affinity: PrefixAffinity = PrefixAffinity()
    ) -> PairPolicy.Decision {
        PairPolicy.choose(job, nodes: nodes, affinity: affinity, now: .seconds(1))
    }

    private func pair(_ prefill: UInt64, _ decode: UInt64) -> PairPolicy.Decision {
        .pair(.init(prefill: Incarnation(prefill), decode: Incarnation(decode)))
    }

    @Test func theLeastLoadedOfEachRole() {
        var nodes = table()
        nodes.update(Incarnation(1)) { $0.prefillTokens = 500 }
        nodes.update(Incarnation(101)) { $0.decodeTokens = 10 }
        #expect(choose(.init(tokens: 20), nodes) == pair(2, 102))
    }

    @Test func whatNodesReportCountsToo() {
        var nodes = table()
        var load = NodeLoad()
        load.queuedTokens = 9000
        nodes.update(Incarnation(1)) { $0.load = load }
        load.slots.inUse = 30
        nodes.update(Incarnation(102)) { $0.load = load }
        #expect(choose(.init(tokens: 20), nodes) == pair(2, 101))
    }

    @Test func aKnownPrefixAttractsUntilTheQueueCostsMore() {
        var nodes = table()
        var affinity = PrefixAffinity()
        let prompt = (0..<UInt32(640)).map { $0 }
        var job = PairPolicy.Job(tokens: prompt.count)
        job.prefixHashes = PrefixAffinity.hashes(of: prompt)
        affinity.record(job.prefixHashes, on: Incarnation(2))
        #expect(choose(job, nodes, affinity) == pair(2, 101))
        nodes.update(Incarnation(2)) { $0.prefillTokens = 639 }
        #expect(choose(job, nodes, affinity) == pair(2, 101))
        nodes.update(Incarnation(2)) { $0.prefillTokens = 641 }
        #expect(choose(job, nodes, affinity) == pair(1, 101))
    }

    @Test func avoidedOnlyWhenThereAreOthers() {
        let nodes = table()
        var job = PairPolicy.Job(tokens: 20)
        job.avoided = [Incarnation(1), Incarnation(101)]
        #expect(choose(job, nodes) == pair(2, 102))
        job.avoided = [Incarnation(1), Incarnation(2), Incarnation(101), Incarnation(102)]
        #expect(choose(job, nodes) == pair(1, 101))
    }

    @Test func roomIsPagesSequencesAndLanes() {
        var nodes = table()
        nodes.update(Incarnation(101)) { $0.decodePages = 63 }
        #expect(choose(.init(tokens: 20), nodes) == pair(1, 102))
        nodes.update(Incarnation(102)) { $0.sequences = 8 }
        #expect(choose(.init(tokens: 20), nodes) == .wait)
        nodes.update(Incarnation(102)) { $0.sequences = 7 }
        nodes.update(Incarnation(1)) { $0.outstanding[Incarnation(102)] = 4 }
        #expect(choose(.init(tokens: 20), nodes) == pair(2, 102))
        let none = PeerLanes(decode: Incarnation(102), idle: 0, busy: 0, transport: "tcp", error: "refused")
        nodes.update(Incarnation(2)) { $0.lanes[Incarnation(102)] = none }
        #expect(choose(.init(tokens: 20), nodes) == .wait)
    }

    @Test func limitsAndMissingNodes() {
        let nodes = table()
        #expect(choose(.init(tokens: 1024), nodes) == .tooLong(limit: 1024))
        #expect(choose(.init(tokens: 5), NodeTable()) == .noPair("no node is attached"))
    }

    @Test func otherModelsAreRefusedByName() {
        let mine = registration("p1", .prefill, incarnation: 1)
        let other = registration("d1", .decode, incarnation: 2, fingerprint: "bb")
        #expect(Admission.refusal(of: mine, expected: "aa", attached: []) == nil)
        #expect(Admission.refusal(of: other, expected: "aa", attached: [])?.contains("bb") == true)
        #expect(Admission.refusal(of: other, expected: nil, attached: [mine])?.contains("p1") == true)
        #expect(Admission.refusal(of: mine, expected: nil, attached: [mine]) == nil)
    }
}

@Suite struct PrefixAffinityTests {
    @Test func overlapIsTheLongestKnownPrefix() {
        var affinity = PrefixAffinity()
        let node = Incarnation(1)
        let prompt = (0..<UInt32(300)).map { $0 }
        affinity.record(PrefixAffinity.hashes(of: Array(prompt[..<130])), on: node)
        #expect(affinity.overlap(of: PrefixAffinity.hashes(of: prompt), with: node) == 128)
        var other = prompt
        other[70] = 9
        #expect(affinity.overlap(of: PrefixAffinity.hashes(of: other), with: node) == 64)
        #expect(affinity.overlap(of: PrefixAffinity.hashes(of: prompt), with: Incarnation(2)) == 0)
        affinity.forget(node)
        #expect(affinity.count == 0)
    }

    @Test func memoryIsBounded() {
        var affinity = PrefixAffinity(capacity: 100)
        for round in 0..<200 as Range<UInt32> {
            let prompt = (0..<UInt32(640)).map { $0 &+ round &* 1000 }
            affinity.record(PrefixAffinity.hashes(of: prompt), on: Incarnation(1))
            #expect(affinity.count <= 110)
        }
    }
}

@Suite struct WaitQueueTests {
    @Test func oldestFirstAlsoAfterARetry() {
        var queue = WaitQueue()
        for run in [3, 5, 1] as [UInt64] { queue.insert(run, since: .zero, notBefore: .zero, isRetry: run == 1) }
        #expect(queue.ready(now: .zero) == [1, 3, 5])
        #expect(queue.freshCount == 2)
        queue.remove(3)
        queue.insert(4, since: .seconds(5), notBefore: .seconds(6), isRetry: true)
        #expect(queue.ready(now: .seconds(5)) == [1, 5])
        #expect(queue.takeExpired(now: .seconds(9), limit: .seconds(8)) == [1, 5])
        #expect(queue.ready(now: .seconds(9)) == [4])
    }
}
