/// The random numbers of Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014): a run is its
/// seed. For simulations, benchmarks and tests; sampling has a generator of its own (`CounterRandom`).
package struct SplitMix64: RandomNumberGenerator, Sendable {
    @usableFromInline var state: UInt64

    @inlinable package init(state: UInt64) { self.state = state }

    @inlinable package mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }

    /// In `0 ..< limit`; the bias of the remainder is of no account for limits far below 2^64.
    @inlinable package mutating func below(_ limit: Int) -> Int { Int(next() % UInt64(limit)) }
}
