/// Remembers the tokens of short words. A fixed table in which a new word evicts the one in its place.
///
/// Only words of at most 24 bytes and 8 tokens are kept: nearly all of running text, in 64 bytes each.
struct WordCache: Sendable {
    private static let slotCount = 8192
    private static let wordsPerSlot = 8
    static let longestKey = 24
    static let mostTokens = 8

    struct Key {
        var first: UInt64
        var second: UInt64
        var third: UInt64
        var slot: Int
    }

    /// Per slot: three words of key, one of lengths (key bytes | tokens << 8), four of tokens. Allocated on
    /// first use.
    private var table: [UInt64] = []

    /// The key of a piece, or nil if it is too long to be kept.
    @inline(__always)
    func key(of piece: UnsafeBufferPointer<UInt8>) -> Key? {
        guard piece.count <= Self.longestKey else { return nil }
        var (first, second, third): (UInt64, UInt64, UInt64) = (0, 0, 0)
        var index = 0
        while index < piece.count {
            let byte = UInt64(piece[index]) &<< UInt64((index & 7) &* 8)
            if index < 8 {
                first |= byte
            } else if index < 16 {
                second |= byte
            } else {
                third |= byte
            }
            index += 1
        }
        let state = mixed(first ^ mixed(second ^ mixed(third ^ UInt64(piece.count))))
        return Key(
            first: first, second: second, third: third,
            slot: Int(truncatingIfNeeded: state) & (Self.slotCount - 1))
    }

    /// Appends the tokens of the piece to `output`; false if they are not known.
    @inline(__always)
    func append(_ key: Key, length: Int, to output: inout [Int32]) -> Bool {
        guard !table.isEmpty else { return false }
        let base = key.slot * Self.wordsPerSlot
        guard table[base] == key.first, table[base + 1] == key.second, table[base + 2] == key.third,
            table[base + 3] & 0xFF == UInt64(length)
        else { return false }
        let count = Int(table[base + 3] >> 8)
        for index in 0..<count {
            let pair = table[base + 4 + index / 2]
            output.append(Int32(truncatingIfNeeded: pair >> UInt64((index & 1) * 32)))
        }
        return true
    }

    mutating func store(_ key: Key, length: Int, _ tokens: ArraySlice<Int32>) {
        guard tokens.count <= Self.mostTokens, length > 0 else { return }
        if table.isEmpty { table = [UInt64](repeating: 0, count: Self.slotCount * Self.wordsPerSlot) }
        let base = key.slot * Self.wordsPerSlot
        table[base] = key.first
        table[base + 1] = key.second
        table[base + 2] = key.third
        table[base + 3] = UInt64(length) | UInt64(tokens.count) << 8
        for index in 4..<8 { table[base + index] = 0 }
        for (index, token) in tokens.enumerated() {
            table[base + 4 + index / 2] |= UInt64(UInt32(bitPattern: token)) << UInt64((index & 1) * 32)
        }
    }
}
