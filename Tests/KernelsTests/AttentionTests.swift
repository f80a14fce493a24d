import Glibc
import Kernels
import Testing

/// What keys and values of single heads may be kept as.
private let headTypes: [CacheType] = [.f32, .f16, .bf16]

/// Pages full of NaN, a sequence's keys and values in some of them, and its queries.
private final class Sequence {
    let shape: AttentionShape
    let length: Int
    let keys, values, queries: [Float]
    private let memory: MemoryRegion
    private var table: [UnsafeMutableRawPointer]
    /// The layer is not the first in its page.
    private let pageOffset = 64

    init(_ shape: AttentionShape, length: Int, using numbers: inout Numbers, kernels: KernelTable) throws {
        self.shape = shape
        self.length = length
        let width = shape.kvHeads * shape.headDim
        keys = numbers.floats(length * width)
        values = numbers.floats(length * width)
        queries = numbers.floats(length * shape.heads * shape.headDim)
        let pages = (length + shape.pageTokens - 1) / shape.pageTokens
        let pageBytes = pageOffset + shape.layerBytes
        memory = try MemoryRegion(bytes: pages * pageBytes)
        memset(memory.base, 0xff, memory.byteCount)
        // In reverse: pages need not follow each other.
        let base = memory.base
        table = (0..<pages).map { base + (pages - 1 - $0) * pageBytes }
        for row in 0..<length {
            store(row, kernels)
        }
    }

    private func store(_ row: Int, _ kernels: KernelTable) {
        let width = shape.kvHeads * shape.headDim
        keys.withUnsafeBufferPointer { keys in
            values.withUnsafeBufferPointer { values in
                table.withUnsafeBufferPointer {
                    let run = AttentionRun(
                        pages: $0.baseAddress!, pageOffset: pageOffset, firstPosition: row, count: 1)
                    kernels.storeKeysValues(
                        shape, run, row: 0, key: keys.baseAddress! + row * width,
                        value: values.baseAddress! + row * width)
                }
            }
        }
    }

    /// Results of the given positions, in calls that end at the given positions.
    func attend(_ positions: Range<Int>, cuts: [Int] = [], kernels: KernelTable, pool: ComputePool) -> [Float] {
        let width = shape.heads * shape.headDim
        var out = [Float](repeating: .nan, count: positions.count * width)
        let bounds = [positions.lowerBound] + cuts + [positions.upperBound]
        out.withUnsafeMutableBufferPointer { out in
            queries.withUnsafeBufferPointer { queries in
                table.withUnsafeBufferPointer { table in
                    for (first, end) in zip(bounds, bounds.dropFirst()) {
                        let job = AttentionJob(
                            run: AttentionRun(
                                pages: table.baseAddress!, pageOffset: pageOffset, firstPosition: first,
                                count: end - first),
                            queries: queries.baseAddress! + first * width, queryStride: width,
                            out: out.baseAddress! + (first - positions.lowerBound) * width, outStride: width)
                        withUnsafePointer(to: job) {
                            let jobs = UnsafeBufferPointer(start: $0, count: 1)
                            Kernels.attend(shape, jobs: jobs, table: kernels, pool: pool)
                        }
                    }
                }
            }
        }
        return out
    }

    /// One head's result at one position in double precision, from the values as the cache rounds them.
    func reference(position: Int, head: Int) -> [Double] {
        let (dim, width) = (shape.headDim, shape.kvHeads * shape.headDim)
        let offset = head / (shape.heads / shape.kvHeads) * dim
        let query = (position * shape.heads + head) * dim
        var scores: [Double] = []
        for other in 0...position {
            var score = 0.0
            for d in 0..<dim { score += Double(queries[query + d]) * rounded(keys[other * width + offset + d]) }
            scores.append(score * Double(shape.scale))
        }
        let largest = scores.max() ?? 0
        let weights = scores.map { exp($0 - largest) }
        let total = weights.reduce(0, +)
        return (0..<dim).map { d in
            var sum = 0.0
            for other in 0...position { sum += weights[other] * rounded(values[other * width + offset + d]) }
            return sum / total
        }
    }

    private func rounded(_ value: Float) -> Double { Double(stored([value], as: shape.cacheType)[0]) }
}

struct AttentionTests {
    let pool: ComputePool

    init() throws { pool = try ComputePool(threads: 2) }

    private func shape(
        _ heads: Int = 6, _ kvHeads: Int = 2, _ headDim: Int = 16, page: Int = 32, _ type: CacheType = .f16
    ) throws -> AttentionShape {
        try AttentionShape(heads: heads, kvHeads: kvHeads, headDim: headDim, pageTokens: page, cacheType: type)
    }

    /// Scores reach some tens, whose f32 rounding errors of about 1e-6 the exponential turns into relative
    /// ones; results are of magnitude 1…10.
    @Test(arguments: headTypes, [8, 16, 20, 64, 72, 128])
    func matchesDoublePrecision(type: CacheType, headDim: Int) throws {
        var numbers = Numbers(seed: UInt64(headDim))
        let sequence = try Sequence(
            try shape(3, 1, headDim, page: 16, type), length: 70, using: &numbers, kernels: .best)
        let out = sequence.attend(0..<70, kernels: .best, pool: pool)
        for position in [0, 1, 15, 16, 17, 40, 69] {
            for head in 0..<3 {
                let start = (position * 3 + head) * headDim
                let reference = sequence.reference(position: position, head: head)
                for (value, expected) in zip(out[start..<start + headDim], reference) {
                    #expect(abs(Double(value) - expected) <= 1e-4 + 1e-4 * abs(expected), "\(position) \(head)")
                }
            }
        }
    }

    @Test(arguments: headTypes, [(6, 2, 24), (4, 4, 64), (9, 3, 40), (8, 1, 16)])
    func everyTableGivesTheSameBits(type: CacheType, heads: (Int, Int, Int)) throws {
        var numbers = Numbers(seed: 9)
        let portable = try KernelTable(isa: .portable)
        let shape = try shape(heads.0, heads.1, heads.2, page: 16, type)
        let sequence = try Sequence(shape, length: 90, using: &numbers, kernels: portable)
        let expected = bits(sequence.attend(30..<90, kernels: portable, pool: pool))
        for table in tables {
            var again = Numbers(seed: 9)
            let own = try Sequence(shape, length: 90, using: &again, kernels: table)
            #expect(bits(own.attend(30..<90, kernels: table, pool: pool)) == expected, "\(table.isa)")
        }
    }

    /// Across the border of two segments: all positions in one call, in uneven chunks, one by one, on other
    /// numbers of threads and in pages of other sizes. Positions behind the last one hold NaN.
    @Test(arguments: [32, 16, 112])
    func chunksThreadsAndPagesDoNotShow(page: Int) throws {
        let (first, end) = (1000, 1077)
        var numbers = Numbers(seed: 10)
        let reference = try Sequence(try shape(), length: end, using: &numbers, kernels: .best)
        let expected = bits(reference.attend(first..<end, kernels: .best, pool: pool))
        #expect(!expected.contains { Float(bitPattern: $0).isNaN })
        var again = Numbers(seed: 10)
        let sequence = try Sequence(try shape(page: page), length: end, using: &again, kernels: .best)
        let cuts = [[], [1001, 1020, 1023], [1024], [1025, 1027, 1031, 1055], Array(first + 1..<end)]
        for threads in 1...3 {
            let pool = try ComputePool(threads: threads)
            for cut in cuts {
                let out = bits(sequence.attend(first..<end, cuts: cut, kernels: .best, pool: pool))
                #expect(out == expected, "\(threads) threads, cut at \(cut)")
            }
        }
        let portable = try KernelTable(isa: .portable)
        let last = bits(sequence.attend(end - 3..<end, kernels: portable, pool: pool))
        #expect(last == Array(expected.suffix(last.count)))
    }

    @Test func longContextMatchesDoublePrecision() throws {
        var numbers = Numbers(seed: 11)
        let length = 2100
        let sequence = try Sequence(try shape(2, 1, 8), length: length, using: &numbers, kernels: .best)
        let out = sequence.attend(length - 2..<length, kernels: .best, pool: pool)
        for (value, expected) in zip(out.suffix(8), sequence.reference(position: length - 1, head: 1)) {
            #expect(abs(Double(value) - expected) <= 1e-4 + 1e-4 * abs(expected))
        }
    }

    @Test func refusesBadShapes() {
        #expect(throws: KernelError.self) { try shape(5, 2) }
        #expect(throws: KernelError.self) { try shape(0, 0) }
        #expect(throws: KernelError.self) { try shape(page: 24) }
        #expect(throws: KernelError.self) { try shape(page: 0) }
        #expect(throws: KernelError.self) { try shape(6, 2, 0) }
        #expect(throws: KernelError.self) { try shape(6, 2, 1 << 20) }
    }
}
