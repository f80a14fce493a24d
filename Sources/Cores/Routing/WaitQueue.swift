/// Requests that wait for a pair of nodes, oldest first. A request that comes back for another attempt takes
/// its old place, since numbers are given in order of arrival.
package struct WaitQueue: Sendable {
    private struct Entry {
        var run: UInt64
        /// When it began to wait; refusals do not start this anew.
        var since: Duration
        /// Not before this, after a failed attempt.
        var notBefore: Duration
        /// It has been admitted before, so the bound on new requests does not count it.
        var isRetry: Bool
    }

    private var entries: [Entry] = []

    package init() {}

    package var count: Int { entries.count }
    package var isEmpty: Bool { entries.isEmpty }
    /// Requests that wait for their first attempt.
    package var freshCount: Int { entries.count { !$0.isRetry } }

    /// O(log n) to find the place; almost always the end.
    package mutating func insert(_ run: UInt64, since: Duration, notBefore: Duration, isRetry: Bool) {
        let entry = Entry(run: run, since: since, notBefore: notBefore, isRetry: isRetry)
        var low = 0
        var high = entries.count
        while low < high {
            let middle = (low + high) / 2
            if entries[middle].run < run { low = middle + 1 } else { high = middle }
        }
        entries.insert(entry, at: low)
    }

    /// Those that may be tried now, oldest first.
    package func ready(now: Duration) -> [UInt64] {
        entries.filter { $0.notBefore <= now }.map(\.run)
    }

    package mutating func remove(_ run: UInt64) { entries.removeAll { $0.run == run } }

    /// Takes out those that have waited longer than `limit`.
    package mutating func takeExpired(now: Duration, limit: Duration) -> [UInt64] {
        let expired = entries.filter { now - $0.since > limit }.map(\.run)
        if !expired.isEmpty { entries.removeAll { now - $0.since > limit } }
        return expired
    }
}
