import Glibc
import Kernels
import SeededRandom

/// The tables this machine can run.
let tables: [KernelTable] = ISA.allCases.compactMap { try? KernelTable(isa: $0) }

/// The same numbers on every run.
struct Numbers: RandomNumberGenerator {
    private var random: SplitMix64

    init(seed: UInt64) { random = SplitMix64(state: seed) }

    mutating func next() -> UInt64 { random.next() }

    /// In −1…1, with a few values of ten times that: activations have outliers.
    mutating func floats(_ count: Int) -> [Float] {
        (0..<count).map { _ in
            let value = Float.random(in: -1...1, using: &self)
            return Int.random(in: 0..<64, using: &self) == 0 ? value * 10 : value
        }
    }

    /// `rows` × `columns` weights in a type's own format, of plausible size.
    mutating func weights(_ type: ElementType, rows: Int, columns: Int) -> [UInt8] {
        let blocks = rows * columns / type.blockElements
        var bytes = (0..<blocks * type.blockBytes).map { _ in UInt8.random(in: 0...255, using: &self) }
        for block in 0..<blocks {
            for offset in type.halfOffsets {
                let scale = Float16(Float.random(in: -0.05...0.05, using: &self))
                put(scale.bitPattern, at: block * type.blockBytes + offset, in: &bytes)
            }
        }
        guard !type.isQuantised else { return bytes }
        for element in 0..<blocks {
            let value = Float.random(in: -1...1, using: &self)
            switch type {
            case .f32:
                put(UInt16(truncatingIfNeeded: value.bitPattern), at: element * 4, in: &bytes)
                put(UInt16(value.bitPattern >> 16), at: element * 4 + 2, in: &bytes)
            case .f16: put(Float16(value).bitPattern, at: element * 2, in: &bytes)
            default: put(UInt16(value.bitPattern >> 16), at: element * 2, in: &bytes)
            }
        }
        return bytes
    }

    private func put(_ value: UInt16, at offset: Int, in bytes: inout [UInt8]) {
        bytes[offset] = UInt8(truncatingIfNeeded: value)
        bytes[offset + 1] = UInt8(value >> 8)
    }
}

extension ElementType {
    /// Where a block holds its f16 scales.
    fileprivate var halfOffsets: [Int] {
        switch self {
        case .f32, .f16, .bf16: []
        case .q4_0, .q8_0: [0]
        case .q4_1, .q4_K, .q5_K: [0, 2]
        case .q6_K: [208]
        }
    }
}

/// A weight matrix in file format, packed and as floats.
struct TestMatrix {
    let type: ElementType
    let rows: Int
    let columns: Int
    let bytes: [UInt8]

    init(_ type: ElementType, rows: Int, columns: Int, using numbers: inout Numbers) {
        self.type = type
        self.rows = rows
        self.columns = columns
        bytes = numbers.weights(type, rows: rows, columns: columns)
    }

    func packed(_ table: KernelTable, _ pool: ComputePool, bias: [Float]? = nil) throws -> PackedMatrix {
        try bytes.withUnsafeBytes { raw in
            let source = MatrixSource(type: type, rows: rows, columns: columns, bytes: raw)
            return try PackedMatrix([source], bias: bias, table: table, pool: pool)
        }
    }

    /// Row-major.
    func floats() throws -> [Float] {
        let rowBytes = try type.rowBytes(columns: columns)
        var result = [Float](repeating: 0, count: rows * columns)
        let table = try KernelTable(isa: .portable)
        result.withUnsafeMutableBufferPointer { out in
            bytes.withUnsafeBytes { raw in
                for row in 0..<rows {
                    table.dequantiseRow(
                        type, bytes: UnsafeRawBufferPointer(rebasing: raw[row * rowBytes..<(row + 1) * rowBytes]),
                        columns: columns, into: out.baseAddress! + row * columns)
                }
            }
        }
        return result
    }
}

/// x [rows][w.columns] · wᵀ, through the packed kernels.
func product(
    _ w: PackedMatrix, _ x: [Float], pool: ComputePool, adding: [Float]? = nil
) throws -> [Float] {
    let rows = x.count / w.columns
    let buffer = try ActivationBuffer(maxRows: rows, maxColumns: w.columns, table: w.table, pool: pool)
    var (x, out) = (x, adding ?? [Float](repeating: .nan, count: rows * w.rows))
    x.withUnsafeMutableBufferPointer { x in
        out.withUnsafeMutableBufferPointer { out in
            guard let source = x.baseAddress, let destination = out.baseAddress else { return }
            buffer.encode(FloatRows(source, rows: rows, columns: w.columns), as: w.encodings, pool: pool)
            matmul(
                w, buffer, into: FloatRows(destination, rows: rows, columns: w.rows), adding: adding != nil,
                pool: pool)
        }
    }
    return out
}

/// The bits of each value: unlike ==, tells zeros apart and NaNs the same.
func bits(_ values: some Sequence<Float>) -> [UInt32] { values.map(\.bitPattern) }
