import CKernels

/// Activations [rows][columns] in the encodings that matrices multiply; encoded once, used by any number of
/// products. Reused from layer to layer: it allocates nothing once it has grown.
///
/// The rows may be cut into segments, each for a matrix of its own: the rows of one expert, or of one head.
///
/// Not Sendable: one thread encodes and multiplies (the pool's threads work within those calls).
package final class ActivationBuffer {
    package let maxRows: Int
    package let maxColumns: Int
    /// What the last `encode` left.
    package private(set) var rows = 0
    package private(set) var columns = 0
    private(set) var segments: [Segment] = []

    struct Segment {
        var firstRow: Int
        var rows: Int
        /// Segments begin with a tile of their own.
        var firstTile: Int
        var tiles: Int { (rows + ActivationBuffer.tileRows - 1) / ActivationBuffer.tileRows }
    }

    package private(set) var encodings: ActivationEncodings = []

    static let tileRows = Int(CK_TILE_ROWS)

    private let table: KernelTable
    private let threads: Int
    private let maxTiles: Int
    private let floats, codes, scales, sums: MemoryRegion
    /// One tile of rows for each thread.
    private let staging: MemoryRegion

    package init(
        maxRows: Int, maxColumns: Int, maxSegments: Int = 1, table: KernelTable, pool: ComputePool
    ) throws(KernelError) {
        guard (1...1 << 24).contains(maxRows), (1...1 << 24).contains(maxColumns), maxSegments > 0 else {
            throw .badShape("activations: \(maxRows) × \(maxColumns)")
        }
        self.maxRows = maxRows
        self.maxColumns = maxColumns
        self.table = table
        threads = pool.threads
        maxTiles = maxRows / Self.tileRows + maxSegments
        let (padded, blocks) = (maxTiles * Self.tileRows, maxColumns / 32 + 1)
        floats = try MemoryRegion(bytes: padded * maxColumns * 4)
        codes = try MemoryRegion(bytes: padded * blocks * 32 * 2)
        scales = try MemoryRegion(bytes: padded * blocks * 4)
        sums = try MemoryRegion(bytes: padded * blocks * 4)
        staging = try MemoryRegion(bytes: threads * Self.tileRows * maxColumns * 4)
    }

    /// Encodes the given rows.
    package func encode(_ source: FloatRows, as encodings: ActivationEncodings, pool: ComputePool) {
        prepare(CollectionOfOne(source.rows), columns: source.columns, encodings)
        let target = view(0)
        pool.run(tiles) { tile in
            withUnsafePointer(to: target) { target in
                table.table.pointee.encode_tile(
                    target, encodings.rawValue, Int64(tile), source.base + tile * Self.tileRows * source.stride,
                    Int64(source.stride))
            }
        }
    }

    /// Encodes rows as they are made: `produce` fills `columns` floats with a row. It runs on the pool's threads,
    /// a tile of 8 rows at a time, and on the calling thread alone where there are no more than 8 rows.
    package func encode(
        rows: Int, columns: Int, as encodings: ActivationEncodings, pool: ComputePool,
        produce: (_ row: Int, _ destination: UnsafeMutablePointer<Float>) -> Void
    ) {
        encode(segments: CollectionOfOne(rows), columns: columns, as: encodings, pool: pool, produce: produce)
    }

    /// The same for segments of that many rows; rows are numbered through all of them.
    package func encode(
        segments counts: some Collection<Int>, columns: Int, as encodings: ActivationEncodings, pool: ComputePool,
        produce: (_ row: Int, _ destination: UnsafeMutablePointer<Float>) -> Void
    ) {
        precondition(pool.threads <= threads, "the buffer was made for a smaller pool")
        prepare(counts, columns: columns, encodings)
        segments.withUnsafeBufferPointer { segments in
            pool.run(tiles) { tile, worker in
                // The last of several that begin there: those before it are empty.
                let segment = segments.last(atOrBefore: tile, begin: \.firstTile)
                let own = tile - segment.firstTile
                let first = segment.firstRow + own * Self.tileRows
                let end = min(first + Self.tileRows, segment.firstRow + segment.rows)
                let staged = staging.pointer(to: Float.self, byteOffset: worker * Self.tileRows * maxColumns * 4)
                for row in first..<end { produce(row, staged + (row - first) * columns) }
                withUnsafePointer(to: view(segment)) { target in
                    table.table.pointee.encode_tile(target, encodings.rawValue, Int64(own), staged, Int64(columns))
                }
            }
        }
    }

    /// Tiles of all segments.
    private(set) var tiles = 0

    /// The C view of a segment.
    func view(_ segment: Int) -> ck_activations { view(segments[segment]) }

    private func view(_ segment: Segment) -> ck_activations {
        let first = segment.firstTile * Self.tileRows * columns
        let block = first / Int(CK_BLOCK_COLUMNS)
        return ck_activations(
            floats: floats.pointer(to: Float.self) + first, codes: codes.pointer(to: Int16.self) + first,
            scales: scales.pointer(to: Float.self) + block, sums: sums.pointer(to: Float.self) + block,
            rows: Int64(segment.rows), columns: Int64(columns))
    }

    private func prepare(_ counts: some Collection<Int>, columns: Int, _ encodings: ActivationEncodings) {
        precondition(columns > 0 && columns <= maxColumns, "activations: \(columns) columns, room for \(maxColumns)")
        precondition(!encodings.contains(.int16) || columns % 32 == 0, "int16 encoding: columns in blocks of 32")
        segments.removeAll(keepingCapacity: true)
        (rows, tiles) = (0, 0)
        for count in counts {
            precondition(count >= 0)
            segments.append(Segment(firstRow: rows, rows: count, firstTile: tiles))
            rows += count
            tiles += (count + Self.tileRows - 1) / Self.tileRows
        }
        precondition(rows <= maxRows && tiles <= maxTiles, "activations: \(rows) rows, room for \(maxRows)")
        self.columns = columns
        self.encodings = encodings
    }
}
