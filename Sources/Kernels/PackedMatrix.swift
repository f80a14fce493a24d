import CKernels

/// Rows of one weight matrix as a model file stores them.
package struct MatrixSource {
    package let type: ElementType
    package let rows: Int
    package let columns: Int
    /// Row-major; must hold rows · `type.rowBytes(columns)` bytes, and stay valid while it is packed.
    package let bytes: UnsafeRawBufferPointer
    /// For 8-bit floats: one for each 128 × 128 elements, [⌈rows / 128⌉][⌈columns / 128⌉]; else empty.
    package let scales: [Float]

    package init(
        type: ElementType, rows: Int, columns: Int, bytes: UnsafeRawBufferPointer, scales: [Float] = []
    ) {
        self.type = type
        self.rows = rows
        self.columns = columns
        self.bytes = bytes
        self.scales = scales
    }

    /// Elements along either side of what shares a scale.
    package static let scaleBlock = Int(CK_SCALE_BLOCK)
}

/// The encodings of activations that a matrix multiplies.
package struct ActivationEncodings: OptionSet, Sendable {
    package let rawValue: Int32
    package init(rawValue: Int32) { self.rawValue = rawValue }

    /// As they are.
    package static let float = ActivationEncodings(rawValue: Int32(CK_ENCODING_FLOAT))
    /// 16-bit integers with one scale per 32 columns.
    package static let int16 = ActivationEncodings(rawValue: Int32(CK_ENCODING_INT16))
}

/// A weight matrix [rows][columns], packed as the kernels of one table want it.
///
/// It may be put together from several sources, whose rows follow each other (query, key and value
/// projections; gate and up), so that one product serves them all. Sources may differ in type.
package final class PackedMatrix: Sendable {
    /// A source's share: whole groups of 16 rows, the last padded with zeros.
    struct Part: Sendable {
        var type: ElementType
        var rows: Int
        var groups: Int
        /// Of its first row among all rows, and of its first group among all groups.
        var firstRow: Int
        var firstGroup: Int
        /// Of its first group, in the region.
        var byteOffset: Int
        var groupBytes: Int
    }

    package let rows: Int
    package let columns: Int
    /// What `ActivationBuffer.encode` must be asked for.
    package let encodings: ActivationEncodings
    package let table: KernelTable
    let parts: [Part]
    let groups: Int
    private let memory: MemoryRegion
    /// Where it begins in `memory`, which it may share with others.
    private let start: Int
    private let biasOffset: Int?

    /// Bytes of memory it takes.
    package let byteCount: Int

    /// Packs the sources, in parallel; the file's bytes are not needed afterwards.
    package convenience init(
        _ sources: [MatrixSource], bias: [Float]? = nil, table: KernelTable, pool: ComputePool
    ) throws(KernelError) {
        try self.init(sources, bias: bias, table: table, pool: pool) { bytes throws(KernelError) in
            (try MemoryRegion(bytes: bytes, hugePages: true), 0)
        }
    }

    /// Many matrices in one region of memory: a process may have only some ten thousand regions.
    package static func many(
        _ matrices: [[MatrixSource]], table: KernelTable, pool: ComputePool
    ) throws(KernelError) -> [PackedMatrix] {
        var total = 0
        for sources in matrices {
            for source in sources {
                let columns = sources[0].columns
                total += try check(source, columns: columns, table: table) * ((source.rows + 15) / 16)
            }
        }
        guard total > 0 else { return [] }
        let region = try MemoryRegion(bytes: total, hugePages: true)
        var (used, packed) = (0, [PackedMatrix]())
        for sources in matrices {
            let matrix = try PackedMatrix(sources, bias: nil, table: table, pool: pool) { _ in (region, used) }
            used += matrix.byteCount
            packed.append(matrix)
        }
        return packed
    }

    private init(
        _ sources: [MatrixSource], bias: [Float]?, table: KernelTable, pool: ComputePool,
        memory place: (_ bytes: Int) throws(KernelError) -> (MemoryRegion, Int)
    ) throws(KernelError) {
        guard let columns = sources.first?.columns else { throw .badShape("matrix: no sources") }
        var parts: [Part] = []
        var encodings: ActivationEncodings = []
        var (rows, groups, bytes) = (0, 0, 0)
        for source in sources {
            let groupBytes = try Self.check(source, columns: columns, table: table)
            let part = Part(
                type: source.type, rows: source.rows, groups: (source.rows + 15) / 16, firstRow: rows,
                firstGroup: groups, byteOffset: bytes, groupBytes: groupBytes)
            parts.append(part)
            rows += part.rows
            groups += part.groups
            bytes += part.groups * groupBytes
            encodings.insert(ActivationEncodings(rawValue: table.table.pointee.encoding_of(source.type.code)))
        }
        guard bias == nil || bias?.count == rows else {
            throw .badShape("bias: \(bias?.count ?? 0) values for a matrix of \(rows) rows")
        }
        self.rows = rows
        self.columns = columns
        self.encodings = encodings
        self.table = table
        self.parts = parts
        self.groups = groups
        biasOffset = bias == nil ? nil : bytes
        byteCount = bytes + (bias?.count ?? 0) * MemoryLayout<Float>.size
        (memory, start) = try place(byteCount)
        pack(sources, pool: pool)
        if let bias { self.bias?.update(from: bias, count: rows) }
    }

    /// Checks one source; returns the bytes of a group of 16 of its rows.
    private static func check(
        _ source: MatrixSource, columns: Int, table: KernelTable
    ) throws(KernelError) -> Int {
        guard source.rows > 0, source.rows < 1 << 32, source.columns == columns, columns < 1 << 32 else {
            throw .badShape("matrix: \(source.rows) × \(source.columns), where \(columns) columns go before it")
        }
        let (bytes, overflow) = try source.type.rowBytes(columns: columns)
            .multipliedReportingOverflow(by: source.rows)
        guard !overflow, bytes == source.bytes.count else {
            throw .badShape(
                "matrix: \(source.rows) × \(columns) of \(source.type.name) is not \(source.bytes.count) bytes")
        }
        let blocks = (source.rows + 127) / 128 * ((columns + 127) / 128)
        guard source.scales.count == (source.type == .f8E4M3 ? blocks : 0) else {
            throw .badShape("matrix: \(source.scales.count) scales for \(source.rows) × \(columns)")
        }
        guard table.table.pointee.encoding_of(source.type.code) != 0 else {
            throw .unsupported("matrix: \(table.isa.rawValue) has no kernel for \(source.type.name)")
        }
        return Int(table.table.pointee.group_bytes(source.type.code, Int64(columns)))
    }

    /// Bytes of memory that a source of that shape takes once it is packed, whatever the table. `columns` are whole
    /// blocks of the type.
    package static func byteCount(_ type: ElementType, rows: Int, columns: Int) -> Int {
        (rows + 15) / 16 * Int(KernelTable.best.table.pointee.group_bytes(type.code, Int64(columns)))
    }

    private func pack(_ sources: [MatrixSource], pool: ComputePool) {
        for (part, source) in zip(parts, sources) {
            let rowBytes = source.bytes.count / source.rows
            pool.run(part.groups) { group in
                let first = group * 16
                guard let base = source.bytes.baseAddress else { return }
                let rows = (base + first * rowBytes).assumingMemoryBound(to: UInt8.self)
                let count = Int64(min(16, part.rows - first))
                let target = weights(part).assumingMemoryBound(to: UInt8.self) + group * part.groupBytes
                guard part.type == .f8E4M3 else {
                    table.table.pointee.pack_group(
                        part.type.code, rows, Int64(rowBytes), count, Int64(columns), target)
                    return
                }
                // 16 rows of a group never cross the border of a block of 128.
                let perRow = (columns + MatrixSource.scaleBlock - 1) / MatrixSource.scaleBlock
                source.scales.withUnsafeBufferPointer { scales in
                    guard let scales = scales.baseAddress else { return }
                    ck_pack_scaled_group(
                        rows, Int64(rowBytes), count, Int64(columns),
                        scales + first / MatrixSource.scaleBlock * perRow, target)
                }
            }
        }
    }

    func weights(_ part: Part) -> UnsafeMutableRawPointer { memory.base + start + part.byteOffset }

    /// The bias of row 0, if there is one.
    var bias: UnsafeMutablePointer<Float>? {
        biasOffset.map { memory.pointer(to: Float.self, byteOffset: start + $0) }
    }
}
