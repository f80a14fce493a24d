import Kernels
import Testing

struct MatmulTests {
    let pool: ComputePool

    init() throws { pool = try ComputePool(threads: 2) }

    /// Output counts that are no multiple of 16 nor of 64, columns that are no multiple of 16 where the type
    /// allows it, and row counts that end in every kind of partial tile.
    private static func shapes(_ type: ElementType) -> [(outputs: Int, columns: Int)] {
        switch type.blockElements {
        case 1: [(1, 1), (17, 45), (100, 64), (150, 300)]
        case 32: [(1, 32), (33, 96), (100, 64)]
        default: [(16, 256), (75, 512)]
        }
    }

    /// Against a product in double precision. The tolerance is the sum of what the arithmetic may lose:
    /// quantised types round activations to max|x| / 65534 per block of 32, and every type adds up in f32,
    /// where each of the additions may lose 2^-24 of the magnitudes added.
    @Test(arguments: ElementType.allCases)
    func matchesDoublePrecision(type: ElementType) throws {
        var numbers = Numbers(seed: UInt64(type.rawValue))
        for (outputs, columns) in Self.shapes(type) {
            let matrix = TestMatrix(type, rows: outputs, columns: columns, using: &numbers)
            let (w, x) = (try matrix.floats(), numbers.floats(5 * columns))
            let result = try product(try matrix.packed(.best, pool), x, pool: pool)
            for row in 0..<5 {
                for output in 0..<outputs {
                    var (sum, allowed) = (0.0, 0.0)
                    for start in stride(from: 0, to: columns, by: 32) {
                        let block = start..<min(start + 32, columns)
                        let largest = block.map { abs(Double(x[row * columns + $0])) }.max() ?? 0
                        for k in block {
                            let weight = Double(w[output * columns + k])
                            sum += weight * Double(x[row * columns + k])
                            // The offset of an affine block may exceed its weights 8 times.
                            let magnitude = abs(weight) + (type.isQuantised ? 0.05 : 0)
                            allowed += largest * magnitude * 6e-8 * Double(type.isQuantised ? columns / 16 : columns)
                            if type.isQuantised { allowed += largest * abs(weight) / 65534 }
                        }
                    }
                    let error = abs(Double(result[row * outputs + output]) - sum)
                    #expect(error <= allowed, "\(outputs)×\(columns) row \(row) output \(output)")
                }
            }
        }
    }

    @Test(arguments: ElementType.allCases)
    func everyTableGivesTheSameBits(type: ElementType) throws {
        var numbers = Numbers(seed: 100 + UInt64(type.rawValue))
        let portable = try KernelTable(isa: .portable)
        for (outputs, columns) in Self.shapes(type) {
            let matrix = TestMatrix(type, rows: outputs, columns: columns, using: &numbers)
            for rows in [1, 2, 3, 7, 8, 13] {
                let x = numbers.floats(rows * columns)
                let expected = bits(try product(try matrix.packed(portable, pool), x, pool: pool))
                for table in tables where table.isa != .portable {
                    let result = bits(try product(try matrix.packed(table, pool), x, pool: pool))
                    #expect(result == expected, "\(table.isa) \(outputs)×\(columns) × \(rows)")
                }
            }
        }
    }

    /// Row i alone, in every batch size and on any number of threads: the same bits.
    @Test(arguments: ElementType.allCases)
    func rowsDoNotSeeEachOther(type: ElementType) throws {
        var numbers = Numbers(seed: 200 + UInt64(type.rawValue))
        let (outputs, columns) = (150, 256)
        let matrix = TestMatrix(type, rows: outputs, columns: columns, using: &numbers)
        let x = numbers.floats(21 * columns)
        for table in tables where table.isa != .portable || type == .q4_1 || type == .f16 {
            let packed = try matrix.packed(table, pool)
            let alone = try (0..<21).flatMap { row in
                bits(try product(packed, Array(x[row * columns..<(row + 1) * columns]), pool: pool))
            }
            for threads in 1...3 {
                let pool = try ComputePool(threads: threads)
                for rows in [2, 3, 4, 5, 6, 7, 8, 9, 21] {
                    let batch = bits(try product(packed, Array(x[..<(rows * columns)]), pool: pool))
                    let expected = Array(alone[..<(rows * outputs)])
                    #expect(batch == expected, "\(table.isa) \(rows) rows, \(threads) threads")
                }
            }
        }
    }

    @Test func joinedSourcesBiasAndResidual() throws {
        var numbers = Numbers(seed: 5)
        let types: [ElementType] = [.q4_1, .q8_0, .bf16]
        let matrices = types.enumerated().map { index, type in
            TestMatrix(type, rows: 20 + index, columns: 64, using: &numbers)
        }
        let (rows, total) = (3, 63)
        let (x, bias, before) = (numbers.floats(rows * 64), numbers.floats(total), numbers.floats(rows * total))
        for table in tables {
            let regions = try matrices.map { matrix in
                let region = try MemoryRegion(bytes: matrix.bytes.count)
                region.base.copyMemory(from: matrix.bytes, byteCount: matrix.bytes.count)
                return region
            }
            let sources = zip(matrices, regions).map { matrix, region in
                MatrixSource(
                    type: matrix.type, rows: matrix.rows, columns: 64,
                    bytes: UnsafeRawBufferPointer(start: region.base, count: region.byteCount))
            }
            let joined = try withExtendedLifetime(regions) {
                try PackedMatrix(sources, bias: bias, table: table, pool: pool)
            }
            #expect(joined.rows == total && joined.encodings == [.float, .int16])
            let result = try product(joined, x, pool: pool, adding: before)
            let single = try matrices.map { try product(try $0.packed(table, pool), x, pool: pool) }
            for row in 0..<rows {
                let parts = zip(matrices, single).flatMap { $1[row * $0.rows..<(row + 1) * $0.rows] }
                let expected = (0..<total).map { parts[$0] + bias[$0] + before[row * total + $0] }
                #expect(bits(result[row * total..<(row + 1) * total]) == bits(expected), "\(table.isa)")
            }
        }
    }

    @Test func notFiniteActivationsStayVisible() throws {
        var numbers = Numbers(seed: 6)
        let matrix = TestMatrix(.q4_1, rows: 16, columns: 64, using: &numbers)
        for poison in [Float.nan, .infinity, -.infinity] {
            var x = numbers.floats(2 * 64)
            x[40] = poison
            for table in tables {
                let result = try product(try matrix.packed(table, pool), x, pool: pool)
                #expect(result[..<16].allSatisfy { $0.isNaN })
                #expect(result[16...].allSatisfy { $0.isFinite })
            }
        }
    }

    @Test func zeroAndTinyActivations() throws {
        var numbers = Numbers(seed: 7)
        let matrix = TestMatrix(.q8_0, rows: 16, columns: 64, using: &numbers)
        for value in [Float(0), -0.0, 1e-38, .leastNonzeroMagnitude] {
            let result = try product(
                try matrix.packed(.best, pool), [Float](repeating: value, count: 64), pool: pool)
            #expect(result.allSatisfy { abs($0) < 1e-28 })
        }
    }

    @Test func producedRowsEqualGivenRows() throws {
        var numbers = Numbers(seed: 8)
        let matrix = TestMatrix(.q4_0, rows: 40, columns: 96, using: &numbers)
        let packed = try matrix.packed(.best, pool)
        let x = numbers.floats(19 * 96)
        let buffer = try ActivationBuffer(maxRows: 24, maxColumns: 128, table: .best, pool: pool)
        buffer.encode(rows: 19, columns: 96, as: packed.encodings, pool: pool) { row, destination in
            for column in 0..<96 { destination[column] = x[row * 96 + column] }
        }
        var out = [Float](repeating: .nan, count: 19 * 40)
        out.withUnsafeMutableBufferPointer {
            matmul(packed, buffer, into: FloatRows($0.baseAddress!, rows: 19, columns: 40), pool: pool)
        }
        #expect(bits(out) == bits(try product(packed, x, pool: pool)))
    }

    @Test func refusesBadShapes() throws {
        let bytes = [UInt8](repeating: 0, count: 80)
        try bytes.withUnsafeBytes { raw in
            func pack(_ type: ElementType, _ rows: Int, _ columns: Int, bias: [Float]? = nil) throws {
                let source = MatrixSource(type: type, rows: rows, columns: columns, bytes: raw)
                _ = try PackedMatrix([source], bias: bias, table: .best, pool: pool)
            }
            try pack(.q4_1, 4, 32)
            try pack(.f32, 4, 5, bias: [1, 2, 3, 4])
            #expect(throws: KernelError.self) { try pack(.q4_1, 4, 33) }
            #expect(throws: KernelError.self) { try pack(.q4_1, 3, 32) }
            #expect(throws: KernelError.self) { try pack(.q4_1, 0, 32) }
            #expect(throws: KernelError.self) { try pack(.q4_1, -4, 32) }
            #expect(throws: KernelError.self) { try pack(.q4_1, 4, 0) }
            #expect(throws: KernelError.self) { try pack(.q4_1, .max, 32) }
            #expect(throws: KernelError.self) { try pack(.f32, 4, .max) }
            #expect(throws: KernelError.self) { try pack(.f32, 4, 5, bias: [1]) }
        }
        #expect(throws: KernelError.self) { try PackedMatrix([], table: .best, pool: pool) }
        #expect(throws: KernelError.self) { try MemoryRegion(bytes: 0) }
        #expect(throws: KernelError.outOfMemory(bytes: 1 << 60)) { try MemoryRegion(bytes: 1 << 60) }
    }
}
