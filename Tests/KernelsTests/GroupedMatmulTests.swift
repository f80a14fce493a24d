import Kernels
import Testing

struct GroupedMatmulTests {
    /// Many products at once are what they are one by one, bit for bit: segments of all sizes, empty ones among them,
    /// matrices of several types and sizes, on any number of threads.
    @Test(arguments: [[3, 0, 9, 1, 17], [0, 0, 40], [1], [8, 8, 0]], 1...3)
    func equalsOneByOne(counts: [Int], threads: Int) throws {
        let pool = try ComputePool(threads: threads)
        var numbers = Numbers(seed: UInt64(counts.count))
        let columns = 160
        let types: [ElementType] = [.bf16, .f8E4M3, .f32]
        let matrices = counts.indices.map {
            TestMatrix(types[$0 % 3], rows: 40 + 16 * $0, columns: columns, using: &numbers)
        }
        let packed = try matrices.map { try $0.packed(.best, pool) }
        let rows = counts.reduce(0, +)
        let x = numbers.floats(rows * columns)
        let buffer = try ActivationBuffer(
            maxRows: rows, maxColumns: columns, maxSegments: counts.count, table: .best, pool: pool)
        buffer.encode(segments: counts, columns: columns, as: .float, pool: pool) { row, out in
            for k in 0..<columns { out[k] = x[row * columns + k] }
        }
        var results = zip(counts, packed).map { [Float](repeating: .nan, count: $0 * $1.rows) }
        let places = results.indices.map { index in
            let place = UnsafeMutablePointer<Float>.allocate(capacity: max(1, results[index].count))
            place.update(repeating: .nan, count: results[index].count)
            return place
        }
        defer { for place in places { place.deallocate() } }
        let jobs = counts.indices.map { index in
            MatmulJob(
                packed[index], buffer, segment: index,
                into: FloatRows(places[index], rows: counts[index], columns: packed[index].rows))
        }
        matmul(jobs, pool: pool)
        var first = 0
        for index in counts.indices {
            for element in results[index].indices { results[index][element] = places[index][element] }
            let own = Array(x[first * columns..<(first + counts[index]) * columns])
            if counts[index] > 0 { #expect(bits(try product(packed[index], own, pool: pool)) == bits(results[index])) }
            first += counts[index]
        }
    }

    /// Matrices in one region are the same matrices.
    @Test func manyInOneRegion() throws {
        let pool = try ComputePool(threads: 2)
        var numbers = Numbers(seed: 2)
        let matrices = [33, 16, 150].map { TestMatrix(.f8E4M3, rows: $0, columns: 200, using: &numbers) }
        let sources = matrices.map { matrix in
            [
                MatrixSource(
                    type: matrix.type, rows: matrix.rows, columns: matrix.columns,
                    bytes: UnsafeRawBufferPointer(Self.kept(matrix.bytes)), scales: matrix.scales)
            ]
        }
        defer { for source in sources { source[0].bytes.deallocate() } }
        let packed = try PackedMatrix.many(sources, table: .best, pool: pool)
        let x = numbers.floats(5 * 200)
        for (matrix, packed) in zip(matrices, packed) {
            let alone = try product(try matrix.packed(.best, pool), x, pool: pool)
            #expect(bits(try product(packed, x, pool: pool)) == bits(alone))
        }
    }

    private static func kept(_ bytes: [UInt8]) -> UnsafeMutableRawBufferPointer {
        let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 64)
        copy.copyBytes(from: bytes)
        return copy
    }
}
