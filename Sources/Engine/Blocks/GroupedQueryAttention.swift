import Kernels
import ModelFormat

/// Rotary attention whose query heads share key/value heads in groups (Ainslie et al. 2023, arXiv:2305.13245).
struct GroupedQueryAttention: Sendable {
    let norm: NormWeights
    /// Query, key and value projections, one below the other.
    let queryKeyValue: PackedMatrix
    /// RMSNorm of each head's query and key before they are rotated (Qwen3); nil without.
    let headNorms: (query: NormWeights, key: NormWeights)?
    let output: PackedMatrix

    /// What is equal for all layers of a model.
    struct Geometry: Sendable {
        let shape: AttentionShape
        let ropeStyle: RopeStyle
        let rotaryDimensions: Int
        let epsilon: Float

        /// Throws `invalid` for a shape that attention or the pages don't take.
        init(
            heads: Int, kvHeads: Int, headDimension: Int, pairing: RopeConfig.Pairing, rotaryDimensions: Int,
            epsilon: Float, layout: PageLayout
        ) throws(EngineError) {
            let shape = try EngineError.wrap("attention shape") { () throws(KernelError) in
                try AttentionShape(
                    heads: heads, kvHeads: kvHeads, headDim: headDimension, pageTokens: layout.pageTokens,
                    cacheType: layout.kvType)
            }
            guard shape.layerBytes == layout.layerRange(0).count else {
                throw .invalid(field: "head dimension", reason: "\(headDimension) leaves gaps between KV planes")
            }
            self.shape = shape
            ropeStyle = pairing == .halfSplit ? .halfSplit : .interleaved
            self.rotaryDimensions = rotaryDimensions
            self.epsilon = epsilon
        }

        var queryWidth: Int { shape.heads * shape.headDim }
        var keyWidth: Int { shape.kvHeads * shape.headDim }
        var projectedWidth: Int { queryWidth + 2 * keyWidth }
    }

    /// Scratch memory of all layers.
    final class Memory {
        /// [rows][query | key | value]
        let projected: UnsafeMutablePointer<Float>
        /// [rows][query heads · head dimension]
        let attention: UnsafeMutablePointer<Float>
        let jobs: UnsafeMutablePointer<AttentionJob>
        private let scratch: Scratch

        init(_ geometry: Geometry, rows: Int) throws(EngineError) {
            scratch = try Scratch(floats: [rows * geometry.projectedWidth, rows * geometry.queryWidth])
            projected = scratch[0]
            attention = scratch[1]
            jobs = .allocate(capacity: max(rows, 1))
        }

        deinit { jobs.deallocate() }
    }

    /// Norm, query/key/value projection, rotation; keys and values go to their pages, queries stay in scratch.
    func store(
        _ batch: borrowing Batch, pageOffset: Int, _ geometry: Geometry, _ memory: Memory, _ rows: RowScratch,
        table: KernelTable, pool: ComputePool
    ) {
        let count = batch.rowCount
        rows.encodeNormed(count, norm, epsilon: geometry.epsilon, for: queryKeyValue, table, pool)
        let projected = FloatRows(memory.projected, rows: count, columns: geometry.projectedWidth)
        matmul(queryKeyValue, rows.activations, into: projected, pool: pool)
        rows.times?.lap(.projections)

        let (shape, half) = (geometry.shape, geometry.rotaryDimensions / 2)
        let (queryWidth, keyWidth) = (geometry.queryWidth, geometry.keyWidth)
        let (cosines, sines) = (rows.cosines, rows.sines)
        batch.runs.withUnsafeBufferPointer { runs in
            batch.runOfRow.withUnsafeBufferPointer { runOfRow in
                batch.pages.withUnsafeBufferPointer { pages in
                    guard let pages = pages.baseAddress else { return }
                    pool.eachRow(count) { row in
                        let run = runs[runOfRow[row]]
                        let query = projected[row]
                        let key = query + queryWidth
                        normHeads(query, key, shape, epsilon: geometry.epsilon, table)
                        func rotate(_ vector: UnsafeMutablePointer<Float>, _ heads: Int) {
                            table.rope(
                                vector, heads: heads, headDim: shape.headDim,
                                rotaryDim: geometry.rotaryDimensions, style: geometry.ropeStyle,
                                cosines: cosines + row * half, sines: sines + row * half)
                        }
                        rotate(query, shape.heads)
                        rotate(key, shape.kvHeads)
                        table.storeKeysValues(
                            shape,
                            AttentionRun(
                                pages: pages + run.firstPage, pageOffset: pageOffset,
                                firstPosition: run.firstPosition, count: run.count),
                            row: row - run.firstRow, key: key, value: key + keyWidth)
                    }
                }
            }
        }
    }

    private func normHeads(
        _ query: UnsafeMutablePointer<Float>, _ key: UnsafeMutablePointer<Float>, _ shape: AttentionShape,
        epsilon: Float, _ table: KernelTable
    ) {
        guard let headNorms else { return }
        func norm(_ heads: UnsafeMutablePointer<Float>, _ count: Int, _ weight: NormWeights) {
            for head in 0..<count {
                let vector = heads + head * shape.headDim
                table.rmsNorm(vector, weight: weight.base, count: shape.headDim, epsilon: epsilon, into: vector)
            }
        }
        norm(query, shape.heads, headNorms.query)
        norm(key, shape.kvHeads, headNorms.key)
    }

    /// Attention of all rows, or of those with logits only (which are then the first ones of the residual stream, in
    /// the order of `batch.logitRows`); adds it to the residual stream.
    func attend(
        _ batch: borrowing Batch, pageOffset: Int, logitRowsOnly: Bool, _ geometry: Geometry, _ memory: Memory,
        _ rows: RowScratch, table: KernelTable, pool: ComputePool
    ) {
        let (stride, queryWidth) = (geometry.projectedWidth, geometry.queryWidth)
        var jobCount = 0
        batch.pages.withUnsafeBufferPointer { pages in
            guard let pages = pages.baseAddress else { return }
            func add(_ run: Batch.Run, firstPosition: Int, count: Int, row: Int, outRow: Int) {
                let job = AttentionJob(
                    run: AttentionRun(
                        pages: pages + run.firstPage, pageOffset: pageOffset, firstPosition: firstPosition,
                        count: count),
                    queries: UnsafePointer(memory.projected + row * stride), queryStride: stride,
                    out: memory.attention + outRow * queryWidth, outStride: queryWidth)
                (memory.jobs + jobCount).initialize(to: job)
                jobCount += 1
            }
            if logitRowsOnly {
                rows.keepResidual(batch.logitRows)
                for (out, row) in batch.logitRows.enumerated() {
                    add(
                        batch.runs[batch.runOfRow[row]], firstPosition: batch.positions[row], count: 1, row: row,
                        outRow: out)
                }
            } else {
                for run in batch.runs {
                    add(
                        run, firstPosition: run.firstPosition, count: run.count, row: run.firstRow,
                        outRow: run.firstRow)
                }
            }
            Kernels.attend(
                geometry.shape, jobs: UnsafeBufferPointer(start: memory.jobs, count: jobCount), table: table,
                pool: pool)
        }
        let active = logitRowsOnly ? batch.logitRows.count : batch.rowCount
        rows.times?.lap(.attention)
        rows.activations.encode(
            FloatRows(memory.attention, rows: active, columns: queryWidth), as: output.encodings, pool: pool)
        matmul(output, rows.activations, into: rows.residual(active), adding: true, pool: pool)
        rows.times?.lap(.projections)
    }
}

extension PageLayout {
    /// Of layers that keep keys and values for some heads.
    static func keysAndValues(
        architecture: String, layers: Int, heads: Int, width: Int, _ options: LoadOptions
    ) throws(EngineError) -> PageLayout {
        try PageLayout(
            architecture: architecture, kvType: options.kvType, pageTokens: options.pageTokens,
            layers: Array(
                repeating: [
                    Plane(name: "k", heads: heads, width: width), Plane(name: "v", heads: heads, width: width),
                ], count: layers))
    }
}
