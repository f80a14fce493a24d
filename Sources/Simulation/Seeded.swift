import SeededRandom

/// What a seed draws.
struct Seeded {
    private var random: SplitMix64

    init(_ seed: UInt64) { random = SplitMix64(state: seed &* 0x9E37_79B9_7F4A_7C15) }

    mutating func next() -> UInt64 { random.next() }
    mutating func below(_ count: Int) -> Int { random.below(count) }
    mutating func between(_ low: Int, _ high: Int) -> Int { low + below(high - low + 1) }
    mutating func chance(oneIn count: Int) -> Bool { below(count) == 0 }
    mutating func chance(perMille share: Int) -> Bool { share > 0 && below(1000) < share }
    mutating func pick<Value>(_ values: [Value]) -> Value { values[below(values.count)] }

    /// Spread over the orders of magnitude between both, so that short and long times are equally likely.
    mutating func time(_ low: Duration, _ high: Duration) -> Duration {
        let first = max(1, low.microseconds)
        let last = max(first, high.microseconds)
        var doublings = 0
        while first << (doublings + 1) <= last { doublings += 1 }
        let base = first << below(doublings + 1)
        return .microseconds(min(last, base + below(base)))
    }
}

/// What a draw is for. Each purpose has its own sequence: a run that leaves one kind of fault out, or has fewer
/// requests, stays as close as it can to the run it was made from, which is what lets a failing seed shrink.
enum Purpose: Int, CaseIterable {
    case shape, requests, control, fabric, engine, timers, faults, targets
}

extension Duration {
    var microseconds: Int {
        let (seconds, attoseconds) = components
        return Int(seconds) * 1_000_000 + Int(attoseconds / 1_000_000_000_000)
    }
}
