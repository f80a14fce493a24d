/// The merges of a byte-pair vocabulary: which two neighbouring tokens become which one, and how early.
struct MergeTable: Sendable {
    struct Merge {
        var left: Int32
        var right: Int32
        var result: Int32
    }

    /// What `find` returns for two tokens that do not merge: later than every rank.
    static let none = UInt64.max

    private var keys: [UInt64]
    /// Rank in the upper half, resulting id in the lower.
    private var values: [UInt64]
    private let mask: Int

    /// - Parameter merges: in order of rank; of equal pairs the last one counts.
    init(_ merges: [Merge]) {
        var capacity = 16
        while capacity < merges.count * 2 { capacity *= 2 }
        keys = [UInt64](repeating: .max, count: capacity)
        values = [UInt64](repeating: Self.none, count: capacity)
        mask = capacity - 1
        for (rank, merge) in merges.enumerated() {
            let key = Self.key(merge.left, merge.right)
            var slot = Int(truncatingIfNeeded: mixed(key)) & mask
            while keys[slot] != .max && keys[slot] != key { slot = (slot + 1) & mask }
            keys[slot] = key
            values[slot] = UInt64(rank) << 32 | UInt64(UInt32(bitPattern: merge.result))
        }
    }

    /// Rank << 32 | id of the merged token, or `none`.
    @inline(__always)
    func find(_ left: Int32, _ right: Int32) -> UInt64 {
        let key = Self.key(left, right)
        var slot = Int(truncatingIfNeeded: mixed(key)) & mask
        while keys[slot] != key {
            if keys[slot] == .max { return Self.none }
            slot = (slot + 1) & mask
        }
        return values[slot]
    }

    @inline(__always)
    private static func key(_ left: Int32, _ right: Int32) -> UInt64 {
        UInt64(UInt32(bitPattern: left)) << 32 | UInt64(UInt32(bitPattern: right))
    }
}
