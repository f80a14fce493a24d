import CKernels

/// Activations [rows][columns] in the encodings that matrices multiply; encoded once, used by any number of
/// products. Reused from layer to layer: it allocates nothing after `init`.
///
/// Not Sendable: one thread encodes and multiplies (the pool's threads work within those calls).
package final class ActivationBuffer {
    package let maxRows: Int
    package let maxColumns: Int
    /// What the last `encode` left.
    package private(set) var rows = 0
    package private(set) var columns = 0
    package private(set) var encodings: ActivationEncodings = []

    static let tileRows = Int(CK_TILE_ROWS)

    private let table: KernelTable
    private let threads: Int
    private let floats, codes, scales, sums: MemoryRegion
    /// One tile of rows for each thread.
    private let staging: MemoryRegion

    package init(maxRows: Int, maxColumns: Int, table: KernelTable, pool: ComputePool) throws(KernelError) {
        guard (1...1 << 24).contains(maxRows), (1...1 << 24).contains(maxColumns) else {
            throw .badShape("activations: \(maxRows) × \(maxColumns)")
        }
        self.maxRows = maxRows
        self.maxColumns = maxColumns
        self.table = table
        threads = pool.threads
        let (padded, blocks) = ((maxRows + 7) / 8 * 8, maxColumns / 32 + 1)
        floats = try MemoryRegion(bytes: padded * maxColumns * 4)
        codes = try MemoryRegion(bytes: padded * blocks * 32 * 2)
        scales = try MemoryRegion(bytes: padded * blocks * 4)
        sums = try MemoryRegion(bytes: padded * blocks * 4)
        staging = try MemoryRegion(bytes: threads * Self.tileRows * maxColumns * 4)
    }

    /// Encodes the given rows.
    package func encode(_ source: FloatRows, as encodings: ActivationEncodings, pool: ComputePool) {
        let target = prepare(rows: source.rows, columns: source.columns, encodings)
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
        precondition(pool.threads <= threads, "the buffer was made for a smaller pool")
        let target = prepare(rows: rows, columns: columns, encodings)
        pool.run(tiles) { tile, worker in
            let first = tile * Self.tileRows
            let staged = staging.pointer(to: Float.self, byteOffset: worker * Self.tileRows * maxColumns * 4)
            for row in first..<min(first + Self.tileRows, rows) { produce(row, staged + (row - first) * columns) }
            withUnsafePointer(to: target) { target in
                table.table.pointee.encode_tile(target, encodings.rawValue, Int64(tile), staged, Int64(columns))
            }
        }
    }

    var tiles: Int { (rows + Self.tileRows - 1) / Self.tileRows }

    /// The C view of what is encoded.
    var view: ck_activations {
        ck_activations(
            floats: floats.pointer(to: Float.self), codes: codes.pointer(to: Int16.self),
            scales: scales.pointer(to: Float.self), sums: sums.pointer(to: Float.self), rows: Int64(rows),
            columns: Int64(columns))
    }

    private func prepare(rows: Int, columns: Int, _ encodings: ActivationEncodings) -> ck_activations {
        precondition(rows >= 0 && rows <= maxRows, "activations: \(rows) rows, room for \(maxRows)")
        precondition(columns > 0 && columns <= maxColumns, "activations: \(columns) columns, room for \(maxColumns)")
        precondition(!encodings.contains(.int16) || columns % 32 == 0, "int16 encoding: columns in blocks of 32")
        self.rows = rows
        self.columns = columns
        self.encodings = encodings
        return view
    }
}
