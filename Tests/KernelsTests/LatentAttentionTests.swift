import Glibc
import Kernels
import Testing

/// Pages full of NaN, a sequence's latents and rotated keys in some of them, and queries of all heads for one row.
private final class Latents {
    let shape: LatentShape
    let length: Int
    let latents, keys, queries: [Float]
    private let memory: MemoryRegion
    private var table: [UnsafeMutableRawPointer]
    private let latentOffset = 64
    private let ropeOffset: Int

    init(_ shape: LatentShape, length: Int, using numbers: inout Numbers, kernels: KernelTable) throws {
        self.shape = shape
        self.length = length
        latents = numbers.floats(length * shape.latent)
        keys = numbers.floats(length * shape.rope)
        queries = numbers.floats(shape.heads * shape.width)
        ropeOffset = latentOffset + shape.cacheType.rowBytes(shape.latent) * shape.pageTokens
        let pages = (length + shape.pageTokens - 1) / shape.pageTokens
        let pageBytes = ropeOffset + shape.ropeType.rowBytes(shape.rope) * shape.pageTokens
        memory = try MemoryRegion(bytes: pages * pageBytes)
        memset(memory.base, 0xff, memory.byteCount)
        let base = memory.base
        table = (0..<pages).map { base + (pages - 1 - $0) * pageBytes }
        for position in 0..<length {
            let (page, slot) = (table[position / shape.pageTokens], position % shape.pageTokens)
            latents.withUnsafeBufferPointer {
                kernels.storeRow(
                    $0.baseAddress! + position * shape.latent, count: shape.latent, as: shape.cacheType,
                    into: page + latentOffset + slot * shape.cacheType.rowBytes(shape.latent))
            }
            keys.withUnsafeBufferPointer {
                kernels.storeRow(
                    $0.baseAddress! + position * shape.rope, count: shape.rope, as: shape.ropeType,
                    into: page + ropeOffset + slot * shape.ropeType.rowBytes(shape.rope))
            }
        }
    }

    /// [heads][latent] for all positions from `first` on, or those selected.
    func attend(first: Int = 0, selection: [Int32]? = nil, kernels: KernelTable, pool: ComputePool) -> [Float] {
        var out = [Float](repeating: .nan, count: shape.heads * shape.latent)
        out.withUnsafeMutableBufferPointer { out in
            queries.withUnsafeBufferPointer { queries in
                table.withUnsafeBufferPointer { table in
                    (selection ?? [0]).withUnsafeBufferPointer { selected in
                        let job = LatentAttentionJob(
                            pages: table.baseAddress!, latentOffset: latentOffset, ropeOffset: ropeOffset,
                            selection: Selection(
                                positions: selection == nil ? nil : selected.baseAddress!, first: first,
                                count: selection?.count ?? length - first),
                            queries: queries.baseAddress!, out: out.baseAddress!)
                        withUnsafePointer(to: job) {
                            Kernels.attend(
                                shape, jobs: UnsafeBufferPointer(start: $0, count: 1), table: kernels, pool: pool)
                        }
                    }
                }
            }
        }
        return out
    }

    /// In double precision, from what the cache keeps.
    func reference(head: Int, positions: [Int]) -> [Double] {
        let kept: [[Float]] = (0..<length).map { row in
            stored(Array(latents[row * shape.latent..<(row + 1) * shape.latent]), as: shape.cacheType)
        }
        let rotated = stored(keys, as: shape.ropeType)
        let query = Array(queries[head * shape.width..<(head + 1) * shape.width])
        var scores: [Double] = []
        for position in positions {
            let key = kept[position] + rotated[position * shape.rope..<(position + 1) * shape.rope]
            var score = 0.0
            for (a, b) in zip(query, key) { score += Double(a) * Double(b) }
            scores.append(score * Double(shape.scale))
        }
        let top = scores.max() ?? 0
        let weights = scores.map { exp($0 - top) }
        var result = [Double](repeating: 0, count: shape.latent)
        for (position, weight) in zip(positions, weights) {
            for d in result.indices { result[d] += Double(kept[position][d]) * weight }
        }
        let total = weights.reduce(0, +)
        return result.map { $0 / total }
    }
}

struct LatentAttentionTests {
    let pool: ComputePool

    init() throws { pool = try ComputePool(threads: 2) }

    /// Heads that don't fill a vector or fill more than one; latents that are no multiple of 16; the largest there are.
    static let shapes = [
        (1, 16, 8), (4, 32, 8), (5, 40, 6), (16, 64, 16), (20, 72, 10), (64, 512, 64), (16, 1010, 6), (17, 1024, 256),
    ]

    private func shape(_ dimensions: (Int, Int, Int), _ type: CacheType) throws -> LatentShape {
        try LatentShape(
            heads: dimensions.0, latent: dimensions.1, rope: dimensions.2, pageTokens: 16, cacheType: type,
            scale: 1 / Float(dimensions.1 + dimensions.2).squareRoot())
    }

    /// Scores reach some tens, whose f32 rounding errors of about 1e-6 the exponential turns into relative ones; results
    /// are of magnitude 1 to 10.
    @Test(arguments: CacheType.allCases, shapes)
    func matchesDoublePrecision(type: CacheType, dimensions: (Int, Int, Int)) throws {
        let allowed = 2e-4
        var numbers = Numbers(seed: UInt64(dimensions.1))
        let latents = try Latents(shape(dimensions, type), length: 150, using: &numbers, kernels: .best)
        let some = (0..<150).filter { $0 % 7 != 3 && $0 != 0 }
        for positions in [Array(0..<150), Array(1..<150), some] {
            let found = latents.attend(
                first: positions[0], selection: positions == some ? some.map(Int32.init) : nil, kernels: .best,
                pool: pool)
            for head in 0..<dimensions.0 {
                let expected = latents.reference(head: head, positions: positions)
                for (d, value) in expected.enumerated() {
                    let error = abs(Double(found[head * dimensions.1 + d]) - value)
                    #expect(error <= allowed, "\(type) head \(head) dimension \(d): off by \(error)")
                    if error > allowed { return }
                }
            }
        }
    }

    @Test(arguments: CacheType.allCases, shapes)
    func everyTableGivesTheSameBits(type: CacheType, dimensions: (Int, Int, Int)) throws {
        let portable = try KernelTable(isa: .portable)
        for length in [1, 7, 33, 70] {
            var numbers = Numbers(seed: 3)
            let expected = bits(
                try Latents(shape(dimensions, type), length: length, using: &numbers, kernels: portable)
                    .attend(kernels: portable, pool: pool))
            for table in tables {
                var again = Numbers(seed: 3)
                let own = try Latents(shape(dimensions, type), length: length, using: &again, kernels: table)
                #expect(bits(own.attend(kernels: table, pool: pool)) == expected, "\(table.isa) \(length)")
            }
        }
    }

    /// A selection of everything is everything.
    @Test(arguments: CacheType.allCases)
    func selectionOfAllIsAll(type: CacheType) throws {
        var numbers = Numbers(seed: 4)
        let latents = try Latents(shape((5, 40, 6), type), length: 77, using: &numbers, kernels: .best)
        let all = latents.attend(selection: (0..<77).map { Int32($0) }, kernels: .best, pool: pool)
        #expect(bits(latents.attend(kernels: .best, pool: pool)) == bits(all))
    }

    /// To the nearest code, ties to even, from subnormals to the largest, and a scale that fits.
    @Test func eightBitFloatsAreRoundedToTheNearest() throws {
        let codes = (0..<127).map { e4m3(UInt8($0)) }
        var values: [Float] = codes + codes.map { -$0 }
        for (low, high) in zip(codes, codes.dropFirst()) {
            let middle = (low + high) / 2
            values += [middle, middle.nextUp, middle.nextDown, -middle]
        }
        // 448 in each block of 128: codes are values.
        var rows: [Float] = []
        for value in values { rows += rows.count % 128 == 0 ? [448, value] : [value] }
        for table in tables {
            var out = [UInt8](repeating: 0, count: CacheType.fp8.rowBytes(rows.count))
            rows.withUnsafeBufferPointer { rows in
                out.withUnsafeMutableBytes {
                    table.storeRow(rows.baseAddress!, count: rows.count, as: .fp8, into: $0.baseAddress!)
                }
            }
            for (value, code) in zip(rows, out) {
                let nearest = codes.map { abs($0 - abs(value)) }.min() ?? 0
                let found = e4m3(code)
                #expect(abs(abs(found) - abs(value)) == nearest && found.sign == value.sign, "\(value) → \(found)")
                let isTie = codes.count { abs($0 - abs(value)) == nearest } > 1
                #expect(!isTie || code & 1 == 0, "\(value) → \(code)")
            }
        }
    }

    @Test func impossibleShapesAreRefused() {
        for (heads, latent, rope, page) in [
            (0, 16, 8, 16), (4, 0, 8, 16), (4, 1025, 8, 16), (4, 16, 257, 16), (4, 16, 8, 24),
        ] {
            #expect(throws: KernelError.self) {
                try LatentShape(
                    heads: heads, latent: latent, rope: rope, pageTokens: page, cacheType: .f16, scale: 1)
            }
        }
        #expect(throws: KernelError.self) {
            try AttentionShape(heads: 2, kvHeads: 2, headDim: 16, pageTokens: 16, cacheType: .fp8)
        }
    }
}
