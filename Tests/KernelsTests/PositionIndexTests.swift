import Glibc
import Kernels
import Testing

struct PositionIndexTests {
    /// Scores of all positions, over pages full of NaN but for the sequence's keys.
    private func scores(
        _ shape: IndexShape, length: Int, cuts: [Int] = [], kernels: KernelTable, seed: UInt64
    ) throws -> (found: [Float], reference: [Double]) {
        var numbers = Numbers(seed: seed)
        let keys = numbers.floats(length * shape.dimension)
        let queries = numbers.floats(shape.heads * shape.dimension)
        let weights = numbers.floats(shape.heads)
        let pages = (length + shape.pageTokens - 1) / shape.pageTokens
        let planeBytes = shape.cacheType.rowBytes(shape.dimension) * shape.pageTokens
        let memory = try MemoryRegion(bytes: pages * (planeBytes + 64))
        memset(memory.base, 0xff, memory.byteCount)
        let table = (0..<pages).map { memory.base + (pages - 1 - $0) * (planeBytes + 64) }
        for position in 0..<length {
            keys.withUnsafeBufferPointer {
                kernels.storeIndexKey(
                    shape, $0.baseAddress! + position * shape.dimension, slot: position % shape.pageTokens,
                    plane: table[position / shape.pageTokens] + 64)
            }
        }
        var found = [Float](repeating: 0, count: length + 16)
        for (first, end) in zip([0] + cuts, cuts + [length]) {
            kernels.indexScores(
                shape, pages: table, keyOffset: 64, positions: first..<end, queries: queries, weights: weights,
                into: &found)
        }
        let kept = (0..<length).map { row in
            stored(Array(keys[row * shape.dimension..<(row + 1) * shape.dimension]), as: shape.cacheType)
        }
        let reference = (0..<length).map { position in
            (0..<shape.heads).reduce(0.0) { sum, head in
                let product = (0..<shape.dimension).reduce(0.0) {
                    $0 + Double(queries[head * shape.dimension + $1]) * Double(kept[position][$1])
                }
                return sum + Double(weights[head]) * max(0, product / Double(shape.dimension).squareRoot())
            }
        }
        return (Array(found[..<length]), reference)
    }

    /// Scores reach some hundreds.
    @Test(arguments: CacheType.allCases, [(1, 8), (8, 16), (5, 24), (8, 32), (32, 128), (12, 20)])
    func matchesDoublePrecision(type: CacheType, dimensions: (Int, Int)) throws {
        let shape = try IndexShape(
            heads: dimensions.0, dimension: dimensions.1, pageTokens: 32, cacheType: type)
        let allowed = 1e-5
        let (found, reference) = try scores(shape, length: 101, kernels: .best, seed: 5)
        let size = reference.map(abs).max() ?? 1
        for (position, expected) in reference.enumerated() {
            #expect(abs(Double(found[position]) - expected) <= allowed * size, "position \(position)")
        }
    }

    @Test(arguments: CacheType.allCases, [(1, 8), (5, 24), (8, 32), (32, 128)])
    func everyTableAndCutGivesTheSameBits(type: CacheType, dimensions: (Int, Int)) throws {
        let portable = try KernelTable(isa: .portable)
        let shape = try IndexShape(
            heads: dimensions.0, dimension: dimensions.1, pageTokens: 16, cacheType: type)
        let expected = bits(try scores(shape, length: 133, kernels: portable, seed: 6).found)
        for table in tables {
            for cuts in [[], [16], [32, 48, 112]] {
                let found = try scores(shape, length: 133, cuts: cuts, kernels: table, seed: 6).found
                #expect(bits(found) == expected, "\(table.isa) \(cuts)")
            }
        }
    }

    /// Against a stable sort: the greater first, then the lower position.
    private func expectGreatest(_ scores: [Float], positions: Range<Int>, wanted: Int) {
        let sorted = positions.sorted { scores[$0] > scores[$1] || (scores[$0] == scores[$1] && $0 < $1) }
        let expected = sorted.prefix(wanted).sorted().map { Int32($0) }
        for table in tables {
            var selected = [Int32](repeating: -1, count: max(wanted, scores.count))
            let found = table.selectGreatest(scores, positions: positions, wanted: wanted, into: &selected)
            #expect(Array(selected[..<found]) == expected, "\(table.isa), \(wanted) of \(positions)")
        }
    }

    /// Values repeat a lot, zeros have both signs.
    @Test(arguments: UInt64(0)..<60)
    func theGreatestAreSelected(seed: UInt64) {
        var numbers = Numbers(seed: seed)
        let count = Int.random(in: 1...700, using: &numbers)
        let begin = Int.random(in: 0..<count, using: &numbers)
        let wanted = Int.random(in: 1...count, using: &numbers)
        let kinds: [Float] = [
            0, -0.0, 1, -1, Float(bitPattern: 3), -Float(bitPattern: 3), .infinity, -.infinity, 1e30, 0.5, 0.50000006,
        ]
        let scores = (0..<count).map { _ in
            seed % 3 == 0 ? Float.random(in: -1...1, using: &numbers) : kinds.randomElement(using: &numbers) ?? 0
        }
        expectGreatest(scores, positions: begin..<count, wanted: wanted)
    }

    /// Of many: at random, with few values, growing, falling, and all the same; up to more than candidates have room for.
    @Test(arguments: [1, 7, 256, 2048, 4096, 4097, 9000])
    func theGreatestOfManyAreSelected(wanted: Int) {
        var numbers = Numbers(seed: UInt64(wanted))
        let count = 20_011
        let orders: [[Float]] = [
            (0..<count).map { _ in Float.random(in: -1...1, using: &numbers) },
            (0..<count).map { _ in Float(Int.random(in: 0...9, using: &numbers)) },
            (0..<count).map { Float($0) }, (0..<count).map { Float(-$0) }, Array(repeating: -0.0, count: count),
            (0..<count).map { _ in -.infinity },
        ]
        for scores in orders {
            expectGreatest(scores, positions: 0..<count, wanted: wanted)
            expectGreatest(scores, positions: 1003..<count - 1, wanted: wanted)
        }
    }

    /// Whatever they are, that many come out, ascending and inside, from every table the same.
    @Test(arguments: [(90, 17), (5000, 17)])
    func scoresThatAreNoNumbersDoNoHarm(size: (count: Int, wanted: Int)) {
        var numbers = Numbers(seed: 8)
        for _ in 0..<100 {
            let scores = (0..<size.count).map { _ in Float(bitPattern: UInt32(truncatingIfNeeded: numbers.next())) }
            var first: [Int32]?
            for table in tables {
                var selected = [Int32](repeating: -1, count: size.count)
                let found = table.selectGreatest(
                    scores, positions: 3..<size.count, wanted: size.wanted, into: &selected)
                #expect(found == size.wanted)
                let chosen = Array(selected[..<found])
                #expect(zip(chosen, chosen.dropFirst()).allSatisfy { $0 < $1 })
                #expect(chosen.allSatisfy { (3..<Int32(size.count)).contains($0) })
                #expect(first == nil || first == chosen)
                first = chosen
            }
        }
    }
}
