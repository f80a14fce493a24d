/// Makes a failing run small: fewer kinds of faults, requests and nodes, and no fault after the decisive one, for as
/// long as it still fails.
package struct Minimiser {
    private let seed: UInt64
    private let fails: (Scenario.Overrides) -> Bool
    package private(set) var tries = 0

    /// - Parameter fails: whether the run with these overrides fails in the way that is looked into.
    package init(seed: UInt64, fails: @escaping (Scenario.Overrides) -> Bool) {
        self.seed = seed
        self.fails = fails
    }

    package mutating func shrink(_ start: Scenario.Overrides) -> Scenario.Overrides {
        var best = start
        keepOne(&best)
        while true {
            let before = best
            for fault in Scenario(seed: seed, best).faults { attempt(&best) { $0.without.insert(fault) } }
            shrinkCount(&best, \.routers, Scenario(seed: seed, best).routers)
            shrinkCount(&best, \.prefills, Scenario(seed: seed, best).prefills)
            shrinkCount(&best, \.decodes, Scenario(seed: seed, best).decodes)
            shrinkCount(&best, \.requests, Scenario(seed: seed, best).requests)
            shrinkTime(&best)
            if best == before { return best }
        }
    }

    private mutating func attempt(_ best: inout Scenario.Overrides, _ change: (inout Scenario.Overrides) -> Void) {
        var smaller = best
        change(&smaller)
        guard smaller != best else { return }
        tries += 1
        if fails(smaller) { best = smaller }
    }

    /// Leaves one kind of fault if that is enough: one at a time, the way there may lead through runs that pass.
    private mutating func keepOne(_ best: inout Scenario.Overrides) {
        let faults = Scenario(seed: seed, best).faults
        for fault in faults {
            attempt(&best) { $0.without.formUnion(faults.filter { $0 != fault }) }
            if Scenario(seed: seed, best).faults.count < faults.count { return }
        }
    }

    /// The least count that still fails, if failing is monotonous in it; a smaller one in any case.
    private mutating func shrinkCount(
        _ best: inout Scenario.Overrides, _ count: WritableKeyPath<Scenario.Overrides, Int?>, _ start: Int
    ) {
        var failing = start
        var passing = 0
        while failing - passing > 1 {
            let middle = (failing + passing) / 2
            attempt(&best) { $0[keyPath: count] = middle }
            if best[keyPath: count] == middle { failing = middle } else { passing = middle }
        }
    }

    private mutating func shrinkTime(_ best: inout Scenario.Overrides) {
        var failing = best.until ?? .seconds(64)
        var passing = Duration.zero
        for _ in 0..<12 {
            let middle = Duration.milliseconds((failing + passing).microseconds / 2000)
            guard middle < failing, middle > passing else { return }
            attempt(&best) { $0.until = middle }
            if best.until == middle { failing = middle } else { passing = middle }
        }
    }
}
