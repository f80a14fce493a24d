import Kernels

/// Scratch memory cut from one region, in floats.
final class Scratch {
    private let region: MemoryRegion
    private let offsets: [Int]

    init(floats sizes: [Int]) throws(EngineError) {
        var offsets = [0]
        for size in sizes { offsets.append(offsets[offsets.count - 1] + (size + 15) / 16 * 16) }
        let bytes = offsets[sizes.count] * MemoryLayout<Float>.stride
        self.offsets = offsets
        region = try EngineError.wrap("scratch memory") { () throws(KernelError) in
            try MemoryRegion(bytes: max(bytes, 64), hugePages: true)
        }
    }

    subscript(index: Int) -> UnsafeMutablePointer<Float> { region.pointer(to: Float.self) + offsets[index] }
}

/// What every model's forward pass works on: the residual stream and what goes with its rows.
final class RowScratch {
    let rowLimit: Int
    let hiddenSize: Int
    /// Of each row's position: [rows][rotary pairs].
    let cosines: UnsafeMutablePointer<Float>
    let sines: UnsafeMutablePointer<Float>
    let activations: ActivationBuffer
    /// Nil, unless somebody wants to know.
    var times: PartTimes?
    private let scratch: Scratch

    /// - Parameter columns: the widest input of any matrix that `activations` is for.
    init(
        rows: Int, hiddenSize: Int, rotaryPairs: Int, columns: Int, table: KernelTable, pool: ComputePool
    ) throws(EngineError) {
        rowLimit = rows
        self.hiddenSize = hiddenSize
        scratch = try Scratch(floats: [rows * hiddenSize, rows * hiddenSize, rows * rotaryPairs, rows * rotaryPairs])
        cosines = scratch[2]
        sines = scratch[3]
        activations = try EngineError.wrap("scratch memory") { () throws(KernelError) in
            try ActivationBuffer(
                maxRows: max(rows, 1), maxColumns: max(columns, hiddenSize), table: table, pool: pool)
        }
    }

    func residual(_ rows: Int) -> FloatRows { FloatRows(scratch[0], rows: rows, columns: hiddenSize) }

    /// What the final norm makes of the residual stream.
    func normed(_ rows: Int) -> FloatRows { FloatRows(scratch[1], rows: rows, columns: hiddenSize) }

    /// Fills the residual stream with embeddings, and the angles of every row's position.
    func embed(
        _ batch: borrowing Batch, _ embedding: EmbeddingTable, _ rotary: RotaryEmbedding, _ table: KernelTable,
        _ pool: ComputePool
    ) {
        let count = batch.rowCount
        let (residual, half) = (residual(count), rotary.rotaryDimensions / 2)
        let (cosines, sines) = (cosines, sines)
        batch.tokens.withUnsafeBufferPointer { tokens in
            batch.positions.withUnsafeBufferPointer { positions in
                pool.eachRow(count) { row in
                    embedding.row(Int(tokens[row]), table: table, into: residual[row])
                    rotary.angles(
                        position: positions[row], cosines: cosines + row * half, sines: sines + row * half)
                }
            }
        }
    }

    /// Encodes the normed residual stream for a matrix.
    func encodeNormed(
        _ rows: Int, _ norm: NormWeights, epsilon: Float, for matrix: PackedMatrix, _ table: KernelTable,
        _ pool: ComputePool
    ) {
        let (residual, width, weights) = (residual(rows), hiddenSize, norm.base)
        activations.encode(rows: rows, columns: width, as: matrix.encodings, pool: pool) { row, out in
            table.rmsNorm(residual[row], weight: weights, count: width, epsilon: epsilon, into: out)
        }
    }

    /// Moves these rows of the residual stream to its front; they ascend, so none is overwritten before it is moved.
    func keepResidual(_ rows: [Int]) {
        let residual = residual(rowLimit)
        for (out, row) in rows.enumerated() where out != row {
            residual[out].update(from: residual[row], count: hiddenSize)
        }
    }

    /// The same for the angles.
    func keepAngles(_ rows: [Int], pairs: Int) {
        for (out, row) in rows.enumerated() where out != row {
            (cosines + out * pairs).update(from: cosines + row * pairs, count: pairs)
            (sines + out * pairs).update(from: sines + row * pairs, count: pairs)
        }
    }

    /// What the final norm makes of the first `count` rows.
    func norm(_ count: Int, _ norm: NormWeights, epsilon: Float, _ table: KernelTable, _ pool: ComputePool) {
        let (residual, normed, weights, width) = (residual(count), normed(count), norm.base, hiddenSize)
        pool.eachRow(count) { row in
            table.rmsNorm(residual[row], weight: weights, count: width, epsilon: epsilon, into: normed[row])
        }
    }
}

extension ComputePool {
    /// `run`, on the calling thread alone where a parallel region costs more than it brings.
    func eachRow(_ count: Int, _ body: (_ row: Int) -> Void) {
        if count <= 2 {
            for row in 0..<count { body(row) }
        } else {
            run(count, body)
        }
    }
}
