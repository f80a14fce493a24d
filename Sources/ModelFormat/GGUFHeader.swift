/// The parsed front of a GGUF file, versions 2 and 3, little-endian (ggml's docs/gguf.md): metadata and the table
/// of tensors. Every count, length and offset is checked against the file before it is used.
package struct GGUFHeader: Sendable {
    package let version: UInt32
    package let metadata: [String: GGUFValue]
    package let tensors: [TensorInfo]
    package let alignment: Int
    /// Bytes from the start of the file to the end of the metadata (the table of tensors follows).
    package let metadataEnd: Int

    static let maxKeys = 1 << 16
    static let maxTensors = 1 << 20
    static let maxDimensions = 4
    static let maxNameBytes = 1 << 16
    static let maxAlignment = 1 << 20
    /// The alignment of a file that names none.
    static let defaultAlignment = 32

    /// Reads the header of the file whose whole content is `file`.
    package static func parse(_ file: UnsafeRawBufferPointer, subject: String) throws(ModelFormatError) -> GGUFHeader {
        var reader = ByteReader(file, subject: subject)
        let magic = try reader.integer(UInt32.self, "the magic number")
        guard magic == 0x4655_4747 else { throw reader.malformed("it does not start with \"GGUF\"") }
        let version = try reader.integer(UInt32.self, "the version")
        guard version == 2 || version == 3 else {
            let isSwapped = version.byteSwapped < 16
            throw ModelFormatError(
                .unsupported, subject,
                isSwapped ? "big-endian GGUF files are not supported" : "GGUF version \(version); 2 and 3 are supported"
            )
        }
        // 24 and 13 bytes are the least a tensor's entry and a key with its value take.
        let tensorCount = try reader.count(elementBytes: 24, limit: maxTensors, "the number of tensors")
        let keyCount = try reader.count(elementBytes: 13, limit: maxKeys, "the number of metadata keys")
        let metadata = try parseMetadata(&reader, count: keyCount)
        let metadataEnd = reader.offset
        let alignment = try alignment(metadata, reader)
        let entries = try parseEntries(&reader, count: tensorCount)
        let dataStart = (reader.offset + alignment - 1) / alignment * alignment
        return GGUFHeader(
            version: version, metadata: metadata,
            tensors: try place(entries, dataStart: dataStart, alignment: alignment, reader),
            alignment: alignment, metadataEnd: metadataEnd)
    }

    private static func parseMetadata(
        _ reader: inout ByteReader, count: Int
    ) throws(ModelFormatError) -> [String: GGUFValue] {
        var metadata: [String: GGUFValue] = [:]
        for _ in 0..<count {
            let key = try reader.string(limit: maxNameBytes, "a metadata key")
            let type = try reader.valueType("a metadata value's type")
            let value = try reader.value(type, depth: GGUFFile.maxArrayDepth)
            guard metadata.updateValue(value, forKey: key) == nil else {
                throw reader.malformed("the metadata key \(shown(key)) appears twice")
            }
        }
        return metadata
    }

    private static func alignment(
        _ metadata: [String: GGUFValue], _ reader: ByteReader
    ) throws(ModelFormatError) -> Int {
        guard let value = metadata["general.alignment"] else { return defaultAlignment }
        guard case .unsigned(let raw) = value, raw.nonzeroBitCount == 1, raw <= UInt64(maxAlignment) else {
            throw reader.malformed("general.alignment must be a power of two up to \(maxAlignment)")
        }
        return Int(raw)
    }

    private struct Entry {
        let name: String
        let type: TensorType
        let shape: [Int]
        let offset: UInt64
    }

    private static func parseEntries(_ reader: inout ByteReader, count: Int) throws(ModelFormatError) -> [Entry] {
        var entries: [Entry] = []
        entries.reserveCapacity(count)
        for _ in 0..<count {
            let name = try reader.string(limit: maxNameBytes, "a tensor's name")
            let dimensionCount = try reader.integer(UInt32.self, "a tensor's number of dimensions")
            guard (1...UInt32(maxDimensions)).contains(dimensionCount) else {
                throw reader.malformed(
                    "tensor \(shown(name)) has \(dimensionCount) dimensions, the format allows 1 to \(maxDimensions)")
            }
            var shape: [Int] = []
            for _ in 0..<dimensionCount {
                let raw = try reader.integer(UInt64.self, "a tensor's dimension")
                guard let dimension = Int(exactly: raw) else {
                    throw reader.malformed("tensor \(shown(name)) has the dimension \(raw)")
                }
                shape.append(dimension)
            }
            let type = TensorType.gguf(try reader.integer(UInt32.self, "a tensor's type"))
            let offset = try reader.integer(UInt64.self, "a tensor's offset")
            // The file lists the innermost dimension first.
            entries.append(Entry(name: name, type: type, shape: shape.reversed(), offset: offset))
        }
        return entries
    }

    private static func place(
        _ entries: [Entry], dataStart: Int, alignment: Int, _ reader: ByteReader
    ) throws(ModelFormatError) -> [TensorInfo] {
        let dataBytes = reader.bytes.count - dataStart
        var problems: [String] = []
        var tensors: [TensorInfo] = []
        tensors.reserveCapacity(entries.count)
        for entry in entries {
            let label = "tensor \(shown(entry.name))"
            switch TensorInfo.byteCount(entry.type, entry.shape) {
            case .failure(let problem):
                problems.append("\(label): \(problem.text)")
            case .success(let byteCount):
                guard let offset = Int(exactly: entry.offset), offset % alignment == 0 else {
                    problems.append("\(label): its offset \(entry.offset) is not a multiple of \(alignment)")
                    continue
                }
                guard offset <= dataBytes, byteCount ?? 0 <= dataBytes - offset else {
                    problems.append(
                        "\(label): its \(byteCount ?? 0) bytes at \(offset) are outside the file's "
                            + "\(max(0, dataBytes)) bytes of data")
                    continue
                }
                tensors.append(
                    TensorInfo(
                        name: entry.name, type: entry.type, shape: entry.shape, offset: dataStart + offset,
                        byteCount: byteCount))
            }
        }
        if problems.isEmpty { problems = overlaps(tensors) }
        guard problems.isEmpty else { throw ModelFormatError(.malformed, reader.subject, problems) }
        return tensors
    }

    private static func overlaps(_ tensors: [TensorInfo]) -> [String] {
        var problems: [String] = []
        var end = 0
        for tensor in tensors.sorted(by: { ($0.offset, $0.byteCount ?? 0) < ($1.offset, $1.byteCount ?? 0) }) {
            if tensor.offset < end {
                problems.append("tensor \(shown(tensor.name)) overlaps the one before it, at byte \(tensor.offset)")
            }
            end = max(end, tensor.offset + (tensor.byteCount ?? 0))
        }
        return problems
    }
}
