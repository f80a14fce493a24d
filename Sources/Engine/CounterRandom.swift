/// Random numbers as a function of a key and a counter, without state: Philox4x32-10 (Salmon et al. 2011, "Parallel
/// random numbers: as easy as 1, 2, 3"). A request's draw for completion token i is the same whoever computes it.
package enum CounterRandom {
    /// Four words for (key, counter).
    package static func words(key: UInt64, counter: UInt64) -> SIMD4<UInt32> {
        var block = SIMD4<UInt32>(UInt32(truncatingIfNeeded: counter), UInt32(truncatingIfNeeded: counter >> 32), 0, 0)
        var first = UInt32(truncatingIfNeeded: key)
        var second = UInt32(truncatingIfNeeded: key >> 32)
        for _ in 0..<10 {
            let a = UInt64(0xD251_1F53) * UInt64(block[0])
            let b = UInt64(0xCD9E_8D57) * UInt64(block[2])
            block = SIMD4(
                UInt32(truncatingIfNeeded: b >> 32) ^ block[1] ^ first, UInt32(truncatingIfNeeded: b),
                UInt32(truncatingIfNeeded: a >> 32) ^ block[3] ^ second, UInt32(truncatingIfNeeded: a))
            first &+= 0x9E37_79B9
            second &+= 0xBB67_AE85
        }
        return block
    }

    /// A number in [0, 1) with 53 random bits.
    package static func uniform(key: UInt64, counter: UInt64) -> Double {
        let block = words(key: key, counter: counter)
        let bits = UInt64(block[0]) << 32 | UInt64(block[1])
        return Double(bits >> 11) * 0x1p-53
    }
}
