/// A vocabulary: the bytes of every id, and the id of every byte string.
///
/// Bytes lie in one block. The index is open addressing over a power of two of slots at most half full; only
/// the vocabulary file decides what is in it, so no request can make its chains longer.
struct TokenTable: Sendable {
    private let arena: [UInt8]
    /// Token `id` is `arena[offsets[id]..<offsets[id + 1]]`.
    private let offsets: [Int]
    private let slots: [Int32]
    private let mask: Int
    /// Length of the longest indexed token in bytes: nothing longer need be looked up.
    let longest: Int

    /// - Parameters:
    ///   - tokens: bytes by id; ids without a token are empty.
    ///   - indexed: whether the id may be found by its bytes. Of equal byte strings the lowest id wins.
    init(tokens: [[UInt8]], indexed: (Int) -> Bool) {
        var arena: [UInt8] = []
        arena.reserveCapacity(tokens.reduce(0) { $0 + $1.count })
        var offsets: [Int] = [0]
        offsets.reserveCapacity(tokens.count + 1)
        for token in tokens {
            arena.append(contentsOf: token)
            offsets.append(arena.count)
        }
        var capacity = 16
        while capacity < tokens.count * 2 { capacity *= 2 }
        var slots = [Int32](repeating: -1, count: capacity)
        var longest = 0
        arena.withUnsafeBufferPointer { bytes in
            for id in tokens.indices where indexed(id) && !tokens[id].isEmpty {
                let token = UnsafeBufferPointer(rebasing: bytes[offsets[id]..<offsets[id + 1]])
                longest = max(longest, token.count)
                var slot = Int(truncatingIfNeeded: hash(of: token)) & (capacity - 1)
                while slots[slot] >= 0 {
                    let other = Int(slots[slot])
                    if bytes[offsets[other]..<offsets[other + 1]].elementsEqual(token) { break }
                    slot = (slot + 1) & (capacity - 1)
                }
                if slots[slot] < 0 { slots[slot] = Int32(id) }
            }
        }
        self.arena = arena
        self.offsets = offsets
        self.slots = slots
        self.mask = capacity - 1
        self.longest = longest
    }

    /// Ids run from 0 to `count - 1`.
    var count: Int { offsets.count - 1 }

    /// The bytes of `id`; empty for an id outside the vocabulary.
    func bytes(of id: Int32) -> ArraySlice<UInt8> {
        guard id >= 0, Int(id) < count else { return [] }
        return arena[offsets[Int(id)]..<offsets[Int(id) + 1]]
    }

    /// The id of exactly these bytes, or -1.
    func find(_ token: UnsafeBufferPointer<UInt8>) -> Int32 {
        guard token.count <= longest, !token.isEmpty else { return -1 }
        var slot = Int(truncatingIfNeeded: hash(of: token)) & mask
        while true {
            let id = slots[slot]
            if id < 0 { return -1 }
            let start = offsets[Int(id)]
            if offsets[Int(id) + 1] - start == token.count {
                var index = 0
                while index < token.count && arena[start + index] == token[index] { index += 1 }
                if index == token.count { return id }
            }
            slot = (slot + 1) & mask
        }
    }

    func find(_ token: [UInt8]) -> Int32 {
        token.withUnsafeBufferPointer { find($0) }
    }
}

/// A quick 64-bit hash of a byte string, not meant to resist chosen keys.
@inline(__always)
func hash(of bytes: UnsafeBufferPointer<UInt8>) -> UInt64 {
    var state = UInt64(truncatingIfNeeded: bytes.count) &* 0x9E37_79B9_7F4A_7C15
    var index = 0
    let raw = UnsafeRawBufferPointer(bytes)
    while index + 8 <= raw.count {
        state = mixed(state ^ raw.loadUnaligned(fromByteOffset: index, as: UInt64.self))
        index += 8
    }
    var tail: UInt64 = 0
    while index < raw.count {
        tail = tail << 8 | UInt64(raw[index])
        index += 1
    }
    return mixed(state ^ tail)
}

/// Spreads every bit of the input over the whole word.
@inline(__always)
func mixed(_ value: UInt64) -> UInt64 {
    var state = (value ^ value &>> 32) &* 0xD6E8_FEB8_6659_FD93
    state = (state ^ state &>> 32) &* 0xD6E8_FEB8_6659_FD93
    return state ^ state &>> 32
}
