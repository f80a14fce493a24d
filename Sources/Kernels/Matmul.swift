import CKernels

/// out[r][n] = Σk x[r][k] · w[n][k] (+ bias[n]) (+ out[r][n] if `adding`), in one parallel region.
///
/// - Parameters:
///   - x: must be encoded as `w.encodings` asks, with `w.columns` columns.
///   - out: `x.rows` × `w.rows`.
///   - adding: adds to what is there: a residual connection.
///
/// A row's bits depend on that row and the matrix alone. Work is split over outputs and rows, never over k.
package func matmul(
    _ w: PackedMatrix, _ x: ActivationBuffer, into out: FloatRows, adding: Bool = false, pool: ComputePool
) {
    precondition(x.columns == w.columns && x.encodings.isSuperset(of: w.encodings), "activations don't fit the matrix")
    precondition(out.rows == x.rows && out.columns == w.rows, "the result doesn't fit the product")
    guard x.rows > 0 else { return }
    precondition(x.segments.count == 1, "the activations of several matrices")
    let plan = MatmulPlan(
        groups: w.groups, groupBytes: w.byteCount / w.groups, columns: w.columns, tiles: x.tiles,
        threads: pool.threads)
    let (view, table, bias) = (x.view(0), w.table.table, w.bias)
    pool.run(plan.groupChunks * plan.tileChunks) { task in
        let groups = plan.groups(task % plan.groupChunks)
        let tiles = plan.tiles(task / plan.groupChunks)
        withUnsafePointer(to: view) { view in
            for part in w.parts {
                let own = groups.clamped(to: part.firstGroup..<part.firstGroup + part.groups)
                if own.isEmpty { continue }
                var job = ck_matmul(
                    weights: w.weights(part), type: part.type.code, adding: adding, outputs: Int64(part.rows),
                    columns: Int64(w.columns), group_begin: Int64(own.lowerBound - part.firstGroup),
                    group_end: Int64(own.upperBound - part.firstGroup), x: view,
                    tile_begin: Int64(tiles.lowerBound), tile_end: Int64(tiles.upperBound),
                    out: out.base + part.firstRow, out_stride: Int64(out.stride),
                    bias: bias.map { UnsafePointer($0 + part.firstRow) })
                table.pointee.matmul(&job)
            }
        }
    }
}

/// How a product is cut into tasks: chunks of groups of 16 outputs × chunks of tiles of 8 rows.
struct MatmulPlan {
    private let groupCount: Int
    private let tileCount: Int
    private let groupsPerChunk: Int
    private let tilesPerChunk: Int
    let groupChunks: Int
    let tileChunks: Int

    init(groups: Int, groupBytes: Int, columns: Int, tiles: Int, threads: Int) {
        // A task takes its tiles one by one over all its groups. Its weights should stay in the second-level
        // cache, it should be worth more than a microsecond, and the threads should end together.
        groupCount = groups
        tileCount = tiles
        tilesPerChunk = min(tiles, 8)
        let work = columns * 16 * max(tilesPerChunk, 1)
        let smallest = max(1, 120_000 / work)
        let largest = max(smallest, 192 * 1024 / max(1, groupBytes))
        let wanted = min(max(groups / (threads * 4), smallest), largest)
        let chunks = max(1, (groups / wanted + threads - 1) / threads * threads)
        groupsPerChunk = (groups + chunks - 1) / chunks
        groupChunks = (groupCount + groupsPerChunk - 1) / groupsPerChunk
        tileChunks = tileCount == 0 ? 0 : (tileCount + tilesPerChunk - 1) / tilesPerChunk
    }

    func groups(_ chunk: Int) -> Range<Int> {
        chunk * groupsPerChunk..<min((chunk + 1) * groupsPerChunk, groupCount)
    }

    func tiles(_ chunk: Int) -> Range<Int> {
        chunk * tilesPerChunk..<min((chunk + 1) * tilesPerChunk, tileCount)
    }
}
