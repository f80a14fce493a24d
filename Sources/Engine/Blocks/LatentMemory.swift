import Kernels

/// Scratch memory of latent attention, shared by all layers: among it what each row selected, which layers without an
/// indexer take from the layer before them.
final class LatentMemory {
    let places: UnsafeMutablePointer<RowPlace>
    let selections: UnsafeMutablePointer<Selection>
    let jobs: UnsafeMutablePointer<LatentAttentionJob>
    /// [rows][latent | rotated key | low-rank query | index key | index weights]
    let low: UnsafeMutablePointer<Float>
    /// [rows][queries | index queries]
    let high: UnsafeMutablePointer<Float>
    /// [rows][heads][latent | rope]
    let absorbed: UnsafeMutablePointer<Float>
    /// [rows][heads][latent]
    let results: UnsafeMutablePointer<Float>
    /// [rows][heads][value]
    let values: UnsafeMutablePointer<Float>
    /// Rows of all heads, each head's by themselves.
    let byHead: ActivationBuffer
    /// [rows][topK]
    private let selected: UnsafeMutablePointer<Int32>
    /// [threads][positions]
    private let scores: UnsafeMutablePointer<Float>
    private let scoreStride: Int
    private let scratch: Scratch

    /// - Parameter positions: of the longest sequence, with what may be drafted beyond it.
    init(
        _ geometry: LatentAttention.Geometry, rows: Int, positions: Int, table: KernelTable, pool: ComputePool
    ) throws(EngineError) {
        let (shape, count) = (geometry.shape, max(rows, 1))
        scoreStride = (positions + 31) / 16 * 16
        scratch = try Scratch(floats: [
            count * geometry.downWidth, count * geometry.upWidth, count * shape.heads * shape.width,
            count * shape.heads * shape.latent, count * shape.heads * geometry.value,
            // Int32 has the size of Float.
            count * min(geometry.topK, positions), pool.threads * scoreStride,
        ])
        (low, high, absorbed, results, values) = (scratch[0], scratch[1], scratch[2], scratch[3], scratch[4])
        selected = UnsafeMutableRawPointer(scratch[5]).assumingMemoryBound(to: Int32.self)
        scores = scratch[6]
        places = .allocate(capacity: count)
        selections = .allocate(capacity: count)
        jobs = .allocate(capacity: count)
        byHead = try EngineError.wrap("scratch memory") { () throws(KernelError) in
            try ActivationBuffer(
                maxRows: count * shape.heads, maxColumns: max(geometry.plain, shape.latent), maxSegments: shape.heads,
                table: table, pool: pool)
        }
    }

    deinit {
        places.deallocate()
        selections.deallocate()
        jobs.deallocate()
    }

    /// Keeps these rows alone, as the first ones; they ascend.
    func keep(_ rows: [Int], _ geometry: LatentAttention.Geometry) {
        for (out, row) in rows.enumerated() where out != row {
            places[out] = places[row]
            selections[out] = selections[row]
            (low + out * geometry.downWidth).update(from: low + row * geometry.downWidth, count: geometry.downWidth)
        }
    }

    /// Chooses the positions each row attends to: all while there are no more than `topK`, without a look at them.
    func select(
        _ count: Int, plane: Int, _ geometry: LatentAttention.Geometry, table: KernelTable, pool: ComputePool
    ) {
        var sparse = 0
        for row in 0..<count {
            let visible = places[row].visible
            (selections + row).initialize(
                to: Selection(positions: nil, first: visible.lowerBound, count: visible.count))
            sparse += visible.count > geometry.topK ? 1 : 0
        }
        guard sparse > 0 else { return }
        if sparse < pool.threads {
            for row in 0..<count where places[row].visible.count > geometry.topK {
                scanTogether(row, plane: plane, geometry, table, pool)
            }
        } else {
            let topK = geometry.topK
            // The last rows of a prompt take longest: they are handed out first.
            pool.run(count) { task, worker in
                let row = count - 1 - task
                let visible = self.places[row].visible
                guard visible.count > topK else { return }
                let scores = self.scores + worker * self.scoreStride
                self.scan(row, positions: 0..<visible.upperBound, plane: plane, geometry, table, into: scores)
                self.take(row, from: scores, topK, table)
            }
        }
    }

    /// One row's scores by all threads: what there is to do where a single sequence generates.
    private func scanTogether(
        _ row: Int, plane: Int, _ geometry: LatentAttention.Geometry, _ table: KernelTable, _ pool: ComputePool
    ) {
        let (end, slice) = (places[row].visible.upperBound, Self.sliceLength)
        let scores = scores
        pool.run((end + slice - 1) / slice) { task in
            self.scan(
                row, positions: task * slice..<min((task + 1) * slice, end), plane: plane, geometry, table,
                into: scores)
        }
        take(row, from: scores, geometry.topK, table)
    }

    /// Long enough to be worth a task, and a multiple of 16.
    private static let sliceLength = 2048

    private func scan(
        _ row: Int, positions: Range<Int>, plane: Int, _ geometry: LatentAttention.Geometry, _ table: KernelTable,
        into scores: UnsafeMutablePointer<Float>
    ) {
        table.indexScores(
            geometry.index, pages: places[row].pages, keyOffset: plane, positions: positions,
            queries: high + row * geometry.upWidth + geometry.queryWidth,
            weights: low + row * geometry.downWidth + geometry.indexWeightStart, into: scores)
    }

    private func take(_ row: Int, from scores: UnsafePointer<Float>, _ topK: Int, _ table: KernelTable) {
        let own = selected + row * topK
        let count = table.selectGreatest(scores, positions: places[row].visible, wanted: topK, into: own)
        selections[row] = Selection(positions: own, first: 0, count: count)
    }
}
