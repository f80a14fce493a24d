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
    /// [threads][rowsTogether][positions]
    private let scores: UnsafeMutablePointer<Float>
    private let scoreStride: Int
    /// Of a batch of all rows, which has the most.
    private let rowsTogether: Int
    private let scratch: Scratch

    /// - Parameter positions: of the longest sequence, with what may be drafted beyond it.
    init(
        _ geometry: LatentAttention.Geometry, rows: Int, positions: Int, table: KernelTable, pool: ComputePool
    ) throws(EngineError) {
        let (shape, count) = (geometry.shape, max(rows, 1))
        scoreStride = (positions + 31) / 16 * 16
        rowsTogether = Self.rowsTogether(count, threads: pool.threads)
        scratch = try Scratch(floats: [
            count * geometry.downWidth, count * geometry.upWidth, count * shape.heads * shape.width,
            count * shape.heads * shape.latent, count * shape.heads * geometry.value,
            // Int32 has the size of Float.
            count * min(geometry.topK, positions), pool.threads * rowsTogether * scoreStride,
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
            let together = Self.rowsTogether(count, threads: pool.threads)
            let slice = Self.sliceLength(geometry)
            // The last rows of a prompt take longest: they are handed out first.
            pool.run((count + together - 1) / together) { task, worker in
                let end = count - task * together
                self.selectTogether(
                    max(end - together, 0)..<end, slice: slice, scores: worker * self.rowsTogether * self.scoreStride,
                    plane: plane, geometry, table)
            }
        }
    }

    /// How many of `count` rows have their scores computed slice by slice: the keys come from memory once for all of them,
    /// which is what long contexts wait for. Few enough to give all threads tasks to the end.
    private static func rowsTogether(_ count: Int, threads: Int) -> Int { min(max(count / (4 * threads), 1), 8) }

    /// Positions whose keys stay in a core's cache while rows take turns; a multiple of 16.
    private static func sliceLength(_ geometry: LatentAttention.Geometry) -> Int {
        let keyBytes = geometry.index.cacheType.rowBytes(geometry.index.dimension)
        return min(max((128 << 10) / keyBytes / 16 * 16, 256), 4096)
    }

    private func selectTogether(
        _ rows: Range<Int>, slice: Int, scores offset: Int, plane: Int, _ geometry: LatentAttention.Geometry,
        _ table: KernelTable
    ) {
        let sparse = { (row: Int) in self.places[row].visible.count > geometry.topK }
        let end = rows.map { sparse($0) ? places[$0].visible.upperBound : 0 }.max() ?? 0
        for start in stride(from: 0, to: end, by: slice) {
            for (place, row) in rows.enumerated() where sparse(row) && places[row].visible.upperBound > start {
                scan(
                    row, positions: start..<min(start + slice, places[row].visible.upperBound), plane: plane, geometry,
                    table, into: scores + offset + place * scoreStride)
            }
        }
        for (place, row) in rows.enumerated() where sparse(row) {
            take(row, from: scores + offset + place * scoreStride, geometry.topK, table)
        }
    }

    /// One row's scores by all threads: what there is to do where a single sequence generates.
    private func scanTogether(
        _ row: Int, plane: Int, _ geometry: LatentAttention.Geometry, _ table: KernelTable, _ pool: ComputePool
    ) {
        // Long enough to be worth a task.
        let (end, slice) = (places[row].visible.upperBound, 2048)
        let scores = scores
        pool.run((end + slice - 1) / slice) { task in
            self.scan(
                row, positions: task * slice..<min((task + 1) * slice, end), plane: plane, geometry, table,
                into: scores)
        }
        take(row, from: scores, geometry.topK, table)
    }

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
