/// Which pairs have shown a real round trip from prefill to decode, and which to try next. Pure.
///
/// A router is ready when one attached pair has. A probe is a request of a few tokens pinned to the pair; any
/// client's request that got a token through the pair counts as well.
package struct ProbePlan: Sendable {
    private struct State: Sendable {
        var run: UInt64?
        var proven = false
        var failures = 0
        var notBefore = Duration.zero
        var lastFailure = ""
    }

    private var states: [PairPolicy.Pair: State] = [:]
    private var order: [PairPolicy.Pair] = []

    package init() {}

    /// Whether some pair works.
    package var isReady: Bool { states.values.contains(where: \.proven) }

    /// Why no pair works, as far as known.
    package var lastFailure: String? {
        order.lazy.compactMap { states[$0]?.lastFailure }.first { !$0.isEmpty }
    }

    package func isProven(_ pair: PairPolicy.Pair) -> Bool { states[pair]?.proven ?? false }

    /// The pairs there are now; others are forgotten, new ones will be probed.
    package mutating func setPairs(_ pairs: [PairPolicy.Pair]) {
        let wanted = Set(pairs)
        states = states.filter { wanted.contains($0.key) }
        for pair in pairs where states[pair] == nil { states[pair] = State() }
        order = pairs
    }

    /// Pairs to probe now.
    package func due(now: Duration) -> [PairPolicy.Pair] {
        order.filter { pair in
            guard let state = states[pair] else { return false }
            return !state.proven && state.run == nil && state.notBefore <= now
        }
    }

    package mutating func began(_ pair: PairPolicy.Pair, run: UInt64) { states[pair]?.run = run }

    package mutating func succeeded(_ pair: PairPolicy.Pair) {
        guard states[pair] != nil else { return }
        states[pair]?.proven = true
        states[pair]?.failures = 0
        states[pair]?.lastFailure = ""
    }

    /// The probe's run is over, well or not.
    package mutating func ended(
        _ pair: PairPolicy.Pair, failure: String?, now: Duration, backoff: Duration, backoffMax: Duration
    ) {
        guard var state = states[pair] else { return }
        state.run = nil
        if let failure {
            state.lastFailure = failure
            state.notBefore = now + min(backoff * (1 << min(state.failures, 10)), backoffMax)
            state.failures += 1
        }
        states[pair] = state
    }
}
