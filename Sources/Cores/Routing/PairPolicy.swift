package import Handoff
import Messages

/// Picks the prefill node and the decode node of an attempt. A pure function of the table.
///
/// The prefill node with the least work before the first token wins: prompt tokens it still has to compute
/// plus those of this prompt its prefix cache does not hold. A node that computed the prefix before is
/// preferred exactly as long as its queue costs less than computing the prefix again elsewhere. Among its
/// decode nodes the one with the fewest KV tokens wins.
package enum PairPolicy {
    /// What is to be placed.
    package struct Job: Sendable {
        /// Prompt tokens, and those delivered by earlier attempts.
        package var tokens: Int
        package var prefixHashes: [UInt64] = []
        /// Nodes an earlier attempt failed on: taken only when there are no others.
        package var avoided: Set<Incarnation> = []
        /// Nodes that said they can never hold it.
        package var excluded: Set<Incarnation> = []
        /// A probe's pair.
        package var pinned: Pair?

        package init(tokens: Int) { self.tokens = tokens }
    }

    package struct Pair: Hashable, Sendable {
        package var prefill: Incarnation
        package var decode: Incarnation

        package init(prefill: Incarnation, decode: Incarnation) {
            self.prefill = prefill
            self.decode = decode
        }
    }

    package enum Decision: Equatable, Sendable {
        case pair(Pair)
        /// Every pair is busy or draining its backoff; try again when something changes.
        case wait
        /// There is no pair; the message says what is missing.
        case noPair(String)
        /// There are pairs, and this sequence fits none of them.
        case tooLong(limit: Int)
    }

    package static func choose(
        _ job: Job, nodes: NodeTable, affinity: PrefixAffinity, now: Duration
    ) -> Decision {
        guard let limit = nodes.sequenceLimit else { return .noPair(missing(in: nodes) ?? "no pair of nodes works") }
        guard job.tokens < limit else { return .tooLong(limit: limit) }
        var best: (pair: Pair, key: Key)?
        var fitting = false
        for prefill in nodes.prefills where job.tokens < prefill.sequenceLimit {
            let overlap = affinity.overlap(of: job.prefixHashes, with: prefill.id)
            let work = pendingTokens(prefill) + max(0, job.tokens - overlap)
            for decode in nodes.decodes where decode.group == prefill.group {
                let pair = Pair(prefill: prefill.id, decode: decode.id)
                if let pinned = job.pinned, pinned != pair { continue }
                guard nodes.isUsable(prefill, decode), job.tokens < decode.sequenceLimit,
                    job.excluded.isDisjoint(with: [prefill.id, decode.id])
                else { continue }
                fitting = true
                guard hasRoom(job, prefill: prefill, decode: decode, now: now) else { continue }
                let failedBefore = [prefill.id, decode.id].count { job.avoided.contains($0) }
                let key = Key(avoided: failedBefore, prefillWork: work, decodeTokens: heldTokens(decode))
                if best.map({ key < $0.key }) ?? true { best = (pair, key) }
            }
        }
        if let best { return .pair(best.pair) }
        return fitting ? .wait : .tooLong(limit: limit)
    }

    /// Smaller is better, in the order of the fields.
    private struct Key: Comparable {
        var avoided: Int
        var prefillWork: Int
        var decodeTokens: Int

        static func < (a: Key, b: Key) -> Bool {
            (a.avoided, a.prefillWork, a.decodeTokens) < (b.avoided, b.prefillWork, b.decodeTokens)
        }
    }

    /// Prompt tokens before a new one: what we sent, or what the node says it has, whichever is more.
    package static func pendingTokens(_ prefill: NodeTable.Entry) -> Int {
        max(prefill.prefillTokens, prefill.load?.queuedTokens ?? 0)
    }

    /// KV tokens on a decode node: what we placed, or what the node says it holds, whichever is more.
    package static func heldTokens(_ decode: NodeTable.Entry) -> Int {
        let reported = decode.load.map { ($0.slots.inUse + $0.slots.granted) * decode.pageTokens } ?? 0
        return max(decode.decodeTokens, reported)
    }

    private static func hasRoom(
        _ job: Job, prefill: NodeTable.Entry, decode: NodeTable.Entry, now: Duration
    ) -> Bool {
        guard now >= prefill.quietUntil, now >= decode.quietUntil else { return false }
        guard decode.sequences < decode.registration.maxRunning else { return false }
        guard decode.decodePages + decode.pages(for: job.tokens + 1) <= decode.registration.slots else { return false }
        let lanes = max(1, prefill.registration.lanesPerPeer)
        guard prefill.outstanding[decode.id, default: 0] < lanes else { return false }
        // No report about this peer yet: ask, and let the decode node refuse.
        guard let report = prefill.lanes[decode.id] else { return true }
        return report.idle + report.busy > 0
    }

    /// Why no pair can serve, busy or not; nil when one can.
    static func missing(in nodes: NodeTable) -> String? {
        guard nodes.sequenceLimit == nil else { return nil }
        if nodes.all.isEmpty { return "no node is attached" }
        guard let prefill = nodes.prefills.first else { return "no prefill node is attached" }
        guard let decode = nodes.decodes.first else { return "no decode node is attached" }
        return nodes.mismatch(of: prefill) ?? nodes.mismatch(of: decode)
    }
}
