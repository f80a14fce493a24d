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
            // Both codes of NaN are refused when a checkpoint is read.
            case .f8E4M3: bytes[element] = bytes[element] & 0x7f == 0x7f ? 0x38 : bytes[element]
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
        case .f32, .f16, .bf16, .f8E4M3: []
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
    /// Of 8-bit floats, for each block of 128 × 128.
    let scales: [Float]

    init(_ type: ElementType, rows: Int, columns: Int, using numbers: inout Numbers) {
        self.type = type
        self.rows = rows
        self.columns = columns
        bytes = numbers.weights(type, rows: rows, columns: columns)
        let blocks = type == .f8E4M3 ? (rows + 127) / 128 * ((columns + 127) / 128) : 0
        scales = (0..<blocks).map { _ in Float.random(in: 0.0005...0.005, using: &numbers) }
    }

    func packed(_ table: KernelTable, _ pool: ComputePool, bias: [Float]? = nil) throws -> PackedMatrix {
        try bytes.withUnsafeBytes { raw in
            let source = MatrixSource(type: type, rows: rows, columns: columns, bytes: raw, scales: scales)
            return try PackedMatrix([source], bias: bias, table: table, pool: pool)
        }
    }

    /// Row-major.
    func floats() throws -> [Float] {
        if type == .f8E4M3 { return scaledFloats() }
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

extension TestMatrix {
    private func scaledFloats() -> [Float] {
        let perRow = (columns + 127) / 128
        return bytes.indices.map { index in
            let (row, column) = (index / columns, index % columns)
            return e4m3(bytes[index]) * scales[row / 128 * perRow + column / 128]
        }
    }
}

/// What an 8-bit float stands for (OCP OFP8, E4M3).
func e4m3(_ code: UInt8) -> Float {
    let (exponent, mantissa) = (Int(code >> 3 & 15), Float(code & 7))
    let size =
        exponent == 0
        ? mantissa / 8 * 0x1p-6 : (1 + mantissa / 8) * Float(sign: .plus, exponent: exponent - 7, significand: 1)
    return code & 0x80 == 0 ? size : -size
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

/// What is left of a row's values in a cache of that type.
func stored(_ row: [Float], as type: CacheType) -> [Float] {
    switch type {
    case .f32: return row
    case .f16: return row.map { Float(Float16($0)) }
    case .bf16:
        return row.map { value in
            let bits = value.bitPattern
            return Float(bitPattern: (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
        }
    case .fp8:
        return stride(from: 0, to: row.count, by: 128).flatMap { start in
            let block = row[start..<min(start + 128, row.count)]
            let largest = block.map(abs).max() ?? 0
            let (scale, inverse) = (largest / 448, largest > 0 ? 448 / largest : 0)
            return block.map { nearestE4M3($0 * inverse) * scale }
        }
    }
}

/// The nearest 8-bit float; the even code wins a tie.
func nearestE4M3(_ value: Float) -> Float {
    let codes = (UInt8(0)..<127).map { (code: $0, value: e4m3($0)) }
    let best = codes.min { a, b in
        let (x, y) = (abs(a.value - abs(value)), abs(b.value - abs(value)))
        return x < y || (x == y && a.code & 1 < b.code & 1)
    }
    return value < 0 ? -(best?.value ?? 0) : best?.value ?? 0
}

/// The bits of each value: unlike ==, tells zeros apart and NaNs the same.
func bits(_ values: some Sequence<Float>) -> [UInt32] { values.map(\.bitPattern) }
