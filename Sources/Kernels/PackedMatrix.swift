import CKernels

/// Rows of one weight matrix as a model file stores them.
package struct MatrixSource {
    package let type: ElementType
    package let rows: Int
    package let columns: Int
    /// Row-major; must hold rows · `type.rowBytes(columns)` bytes, and stay valid while it is packed.
    package let bytes: UnsafeRawBufferPointer

    package init(type: ElementType, rows: Int, columns: Int, bytes: UnsafeRawBufferPointer) {
        self.type = type
        self.rows = rows
        self.columns = columns
        self.bytes = bytes
    }
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
    private let biasOffset: Int?

    /// Bytes of memory it takes.
    package var byteCount: Int { memory.byteCount }

    /// Packs the sources, in parallel; the file's bytes are not needed afterwards.
    package init(
        _ sources: [MatrixSource], bias: [Float]? = nil, table: KernelTable, pool: ComputePool
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
        memory = try MemoryRegion(bytes: bytes + (bias?.count ?? 0) * MemoryLayout<Float>.size, hugePages: true)
        pack(sources, pool: pool)
        if let bias { memory.pointer(to: Float.self, byteOffset: bytes).update(from: bias, count: rows) }
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
        guard table.table.pointee.encoding_of(source.type.code) != 0 else {
            throw .unsupported("matrix: \(table.isa.rawValue) has no kernel for \(source.type.name)")
        }
        return Int(table.table.pointee.group_bytes(source.type.code, Int64(columns)))
    }

    private func pack(_ sources: [MatrixSource], pool: ComputePool) {
        for (part, source) in zip(parts, sources) {
            let rowBytes = source.bytes.count / source.rows
            pool.run(part.groups) { group in
                let first = group * 16
                guard let base = source.bytes.baseAddress else { return }
                table.table.pointee.pack_group(
                    part.type.code, (base + first * rowBytes).assumingMemoryBound(to: UInt8.self),
                    Int64(rowBytes), Int64(min(16, part.rows - first)), Int64(columns),
                    weights(part).assumingMemoryBound(to: UInt8.self) + group * part.groupBytes)
            }
        }
    }

    func weights(_ part: Part) -> UnsafeMutableRawPointer { memory.base + part.byteOffset }

    /// The bias of row 0, if there is one.
    var bias: UnsafeMutablePointer<Float>? {
        biasOffset.map { memory.pointer(to: Float.self, byteOffset: $0) }
    }
}
