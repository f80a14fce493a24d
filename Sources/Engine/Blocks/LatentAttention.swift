import Kernels

/// Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434) over the positions that an indexer selects
/// (DeepSeek-V3.2, arXiv:2512.02556).
///
/// It is computed in the absorbed form only: queries are taken to the space of the latents, and results back from it.
/// For a prompt the expanded form can need fewer operations, as long as all positions are attended to; but then a
/// position's bits would depend on whether it was computed as part of a prompt or generated.
struct LatentAttention: Sendable {
    let norm: NormWeights
    /// Latent, rotated key and query projections into their low ranks, and what the indexer takes from the same input,
    /// one below the other.
    let down: PackedMatrix
    let queryNorm: NormWeights
    let latentNorm: NormWeights
    /// Queries from their low rank, and those of the indexer below them.
    let up: PackedMatrix
    /// Of each head: [latent][plain], takes queries to latents; [value][latent], takes results back.
    let absorb: [PackedMatrix]
    let expand: [PackedMatrix]
    let output: PackedMatrix
    /// LayerNorm of the indexer's keys; nil for a layer that attends to what the layer before it selected.
    let indexNorm: (weight: NormWeights, bias: NormWeights)?

    /// What is equal for all layers of a model.
    struct Geometry: Sendable {
        let shape: LatentShape
        let index: IndexShape
        /// Dimensions of a head's query that are not rotated, and of its value.
        let plain, value: Int
        let queryRank: Int
        let topK: Int
        let indexRopeStyle: RopeStyle
        let epsilon: Float
        /// Of the norms of latents and of queries in their low rank.
        let latentEpsilon: Float

        /// Of LayerNorm on the indexer's keys.
        static let indexEpsilon: Float = 1e-6

        var headWidth: Int { plain + shape.rope }
        var queryWidth: Int { shape.heads * headWidth }
        var indexWidth: Int { index.heads * index.dimension }
        // Where things are in a row of `down`'s product.
        var queryStart: Int { shape.latent + shape.rope }
        var indexKeyStart: Int { queryStart + queryRank }
        var indexWeightStart: Int { indexKeyStart + index.dimension }
        var downWidth: Int { indexWeightStart + index.heads }
        var upWidth: Int { queryWidth + indexWidth }
    }

    /// From a page's base to a layer's planes.
    struct Planes: Sendable {
        var latent, rope: Int
        /// Nil for a layer without an indexer.
        var index: Int?

        init(_ layout: PageLayout, layer: Int, hasIndex: Bool) {
            latent = layout.planeOffset(layer, 0)
            rope = layout.planeOffset(layer, 1)
            index = hasIndex ? layout.planeOffset(layer, 2) : nil
        }
    }

    /// First half: normed input to low ranks, and latents, rotated keys and index keys to their pages. `rows.cosines`
    /// and `sines` are those of the rows' positions.
    func store(
        _ count: Int, _ planes: Planes, _ geometry: Geometry, _ memory: LatentMemory, _ rows: RowScratch,
        table: KernelTable, pool: ComputePool
    ) {
        rows.encodeNormed(count, norm, epsilon: geometry.epsilon, for: down, table, pool)
        let products = FloatRows(memory.low, rows: count, columns: down.rows, stride: geometry.downWidth)
        matmul(down, rows.activations, into: products, pool: pool)
        let (shape, places, half) = (geometry.shape, memory.places, geometry.shape.rope / 2)
        let (cosines, sines) = (rows.cosines, rows.sines)
        pool.eachRow(count) { row in
            let (low, place) = (products[row], places[row])
            let (cos, sin) = (cosines + row * half, sines + row * half)
            let page = place.pages[place.slot / shape.pageTokens]
            let slot = place.slot % shape.pageTokens
            table.rmsNorm(
                low, weight: latentNorm.base, count: shape.latent, epsilon: geometry.latentEpsilon, into: low)
            table.storeRow(
                low, count: shape.latent, as: shape.cacheType,
                into: page + planes.latent + slot * shape.cacheType.rowBytes(shape.latent))
            let key = low + shape.latent
            table.rope(
                key, heads: 1, headDim: shape.rope, rotaryDim: shape.rope, style: .interleaved, cosines: cos,
                sines: sin)
            table.storeRow(
                key, count: shape.rope, as: shape.ropeType,
                into: page + planes.rope + slot * shape.ropeType.rowBytes(shape.rope))
            let query = low + geometry.queryStart
            table.rmsNorm(
                query, weight: queryNorm.base, count: geometry.queryRank, epsilon: geometry.latentEpsilon, into: query)
            if let plane = planes.index {
                storeIndexKey(low, slot: slot, plane: page + plane, geometry, cos, sin, table)
            }
        }
    }

    private func storeIndexKey(
        _ low: UnsafeMutablePointer<Float>, slot: Int, plane: UnsafeMutableRawPointer, _ geometry: Geometry,
        _ cosines: UnsafePointer<Float>, _ sines: UnsafePointer<Float>, _ table: KernelTable
    ) {
        guard let indexNorm else { return }
        let (key, index) = (low + geometry.indexKeyStart, geometry.index)
        table.layerNorm(
            key, weight: indexNorm.weight.base, bias: indexNorm.bias.base, count: index.dimension,
            epsilon: Geometry.indexEpsilon, into: key)
        table.rope(
            key, heads: 1, headDim: index.dimension, rotaryDim: geometry.shape.rope, style: geometry.indexRopeStyle,
            cosines: cosines, sines: sines)
        table.storeIndexKey(index, key, slot: slot, plane: plane)
        let (weights, factor) = (low + geometry.indexWeightStart, 1 / Float(index.heads).squareRoot())
        for head in 0..<index.heads { weights[head] *= factor }
    }

    /// Second half: attention of the first `count` rows, added to the residual stream.
    ///
    /// - Parameter reusesSelection: attend to what the rows selected the last time, though this layer has an indexer.
    func attend(
        _ count: Int, _ planes: Planes, reusesSelection: Bool = false, _ geometry: Geometry, _ memory: LatentMemory,
        _ rows: RowScratch, decided: ((Decision) -> Void)?, table: KernelTable, pool: ComputePool
    ) {
        projectQueries(count, geometry, memory, rows, table, pool)
        rows.times?.lap(.projections)
        if let plane = planes.index, !reusesSelection {
            memory.select(count, plane: plane, geometry, table: table, pool: pool)
            rows.times?.lap(.indexer)
        }
        decided?(.selected(UnsafeBufferPointer(start: memory.selections, count: count)))
        let shape = geometry.shape
        for row in 0..<count {
            let job = LatentAttentionJob(
                pages: memory.places[row].pages, latentOffset: planes.latent, ropeOffset: planes.rope,
                selection: memory.selections[row],
                queries: UnsafePointer(memory.absorbed + row * shape.heads * shape.width),
                out: memory.results + row * shape.heads * shape.latent)
            (memory.jobs + row).initialize(to: job)
        }
        Kernels.attend(
            shape, jobs: UnsafeBufferPointer(start: memory.jobs, count: count), table: table, pool: pool)
        rows.times?.lap(.attention)
        takeBack(count, geometry, memory, rows, pool)
        rows.times?.lap(.projections)
    }

    /// Queries of all heads, rotated and taken to the space of the latents; and those of the indexer.
    private func projectQueries(
        _ count: Int, _ geometry: Geometry, _ memory: LatentMemory, _ rows: RowScratch, _ table: KernelTable,
        _ pool: ComputePool
    ) {
        let shape = geometry.shape
        let low = FloatRows(
            memory.low + geometry.queryStart, rows: count, columns: geometry.queryRank, stride: geometry.downWidth)
        rows.activations.encode(low, as: up.encodings, pool: pool)
        let queries = FloatRows(memory.high, rows: count, columns: up.rows, stride: geometry.upWidth)
        matmul(up, rows.activations, into: queries, pool: pool)
        let (absorbed, half, width) = (memory.absorbed, shape.rope / 2, geometry.headWidth)
        let (cosines, sines, hasIndex) = (rows.cosines, rows.sines, indexNorm != nil)
        pool.eachRow(count) { row in
            let (cos, sin) = (cosines + row * half, sines + row * half)
            for head in 0..<shape.heads {
                let rotated = absorbed + (row * shape.heads + head) * shape.width + shape.latent
                rotated.update(from: queries[row] + head * width + geometry.plain, count: shape.rope)
                table.rope(
                    rotated, heads: 1, headDim: shape.rope, rotaryDim: shape.rope, style: .interleaved, cosines: cos,
                    sines: sin)
            }
            guard hasIndex else { return }
            table.rope(
                queries[row] + geometry.queryWidth, heads: geometry.index.heads, headDim: geometry.index.dimension,
                rotaryDim: shape.rope, style: geometry.indexRopeStyle, cosines: cos, sines: sin)
        }
        // Rows of all heads, head by head.
        memory.byHead.encode(
            segments: repeatElement(count, count: shape.heads), columns: geometry.plain, as: absorb[0].encodings,
            pool: pool
        ) { place, out in
            out.update(from: queries[place % count] + place / count * width, count: geometry.plain)
        }
        let jobs = absorb.indices.map { head in
            let out = FloatRows(
                absorbed + head * shape.width, rows: count, columns: shape.latent, stride: shape.heads * shape.width)
            return MatmulJob(absorb[head], memory.byHead, segment: head, into: out)
        }
        matmul(jobs, pool: pool)
    }

    /// Results of all heads back from the space of the latents, and to the residual stream.
    private func takeBack(
        _ count: Int, _ geometry: Geometry, _ memory: LatentMemory, _ rows: RowScratch, _ pool: ComputePool
    ) {
        let (shape, results, values) = (geometry.shape, memory.results, memory.values)
        memory.byHead.encode(
            segments: repeatElement(count, count: shape.heads), columns: shape.latent, as: expand[0].encodings,
            pool: pool
        ) { place, out in
            let (head, row) = (place / count, place % count)
            out.update(from: results + (row * shape.heads + head) * shape.latent, count: shape.latent)
        }
        let valueWidth = shape.heads * geometry.value
        let jobs = expand.indices.map { head in
            let out = FloatRows(
                values + head * geometry.value, rows: count, columns: geometry.value, stride: valueWidth)
            return MatmulJob(expand[head], memory.byHead, segment: head, into: out)
        }
        matmul(jobs, pool: pool)
        rows.activations.encode(
            FloatRows(values, rows: count, columns: valueWidth), as: output.encodings, pool: pool)
        matmul(output, rows.activations, into: rows.residual(count), adding: true, pool: pool)
    }
}
