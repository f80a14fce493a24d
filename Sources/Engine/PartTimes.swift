/// Where forward passes spend their time, by part; for benchmarks. Used on the thread that computes.
package final class PartTimes {
    package enum Part: String, CaseIterable, Sendable {
        /// Products with what attention projects from and to, the indexer's included.
        case projections
        /// Scores of positions, and their selection.
        case indexer
        case attention
        /// Which experts rows go to.
        case routing
        case experts
        /// Dense MLPs.
        case dense
        /// The last norm and the logits.
        case head
    }

    private let clock = ContinuousClock()
    private var last: ContinuousClock.Instant
    package private(set) var seconds: [Part: Double] = [:]

    package init() { last = clock.now }

    /// The next lap begins now; what went before belongs to no part.
    func begin() { last = clock.now }

    /// What was done since the last lap, or `begin`, was this part.
    func lap(_ part: Part) {
        let now = clock.now
        seconds[part, default: 0] += (now - last) / .seconds(1)
        last = now
    }
}
