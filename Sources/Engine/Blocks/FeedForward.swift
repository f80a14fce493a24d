import Kernels

/// A dense MLP with SwiGLU (Shazeer 2020, arXiv:2002.05202): down(silu(gate x) · up x).
struct FeedForward: Sendable {
    let norm: NormWeights
    /// Gate and up projections, one below the other.
    let gateUp: PackedMatrix
    let down: PackedMatrix

    /// Adds what it makes of the normed residual stream to that. `inner`: room for [rows][gate | up].
    func run(
        _ rows: Int, epsilon: Float, _ scratch: RowScratch, inner: UnsafeMutablePointer<Float>, table: KernelTable,
        pool: ComputePool
    ) {
        scratch.encodeNormed(rows, norm, epsilon: epsilon, for: gateUp, table, pool)
        let size = down.columns
        let product = FloatRows(inner, rows: rows, columns: 2 * size)
        matmul(gateUp, scratch.activations, into: product, pool: pool)
        scratch.activations.encode(rows: rows, columns: size, as: down.encodings, pool: pool) { row, out in
            table.siluMultiply(gate: product[row], up: product[row] + size, count: size, into: out)
        }
        matmul(down, scratch.activations, into: scratch.residual(rows), adding: true, pool: pool)
        scratch.times?.lap(.dense)
    }
}
