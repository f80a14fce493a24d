import OrderedJSON

/// The header of a safetensors file (huggingface/safetensors, format as of 0.6): a 64-bit length, that many bytes
/// of JSON, then the tensors without gaps or overlaps.
package struct SafetensorsHeader: Sendable {
    /// The limit of the reference implementation.
    package static let maxHeaderBytes = 100_000_000
    static let maxDimensions = 16

    package let tensors: [TensorInfo]
    /// `__metadata__`, in its order.
    package let metadata: [(key: String, value: String)]

    /// Reads and checks the header of the file whose whole content is `file`.
    package static func parse(
        _ file: UnsafeRawBufferPointer, subject: String
    ) throws(ModelFormatError) -> SafetensorsHeader {
        var reader = ByteReader(file, subject: subject)
        let length = try reader.count(elementBytes: 1, limit: maxHeaderBytes, "the header length")
        let header = UnsafeRawBufferPointer(rebasing: file[8..<8 + length])
        guard header.first == UInt8(ascii: "{") else { throw reader.malformed("the header does not start with '{'") }
        let json: JSON
        do {
            json = try JSON.parse(header, limits: JSONLimits(depth: 4, allowsDuplicateKeys: false))
        } catch {
            throw ModelFormatError(.malformed, subject, "header: \(error)")
        }
        guard let object = json.object else { throw reader.malformed("the header is \(json.kindName), not an object") }
        return try SafetensorsHeader(object, dataStart: 8 + length, fileBytes: file.count, subject: subject)
    }

    private init(
        _ header: JSONObject, dataStart: Int, fileBytes: Int, subject: String
    ) throws(ModelFormatError) {
        var tensors: [TensorInfo] = []
        var metadata: [(key: String, value: String)] = []
        var problems: [String] = []
        for (name, entry) in header {
            if name == "__metadata__" {
                metadata = Self.parseMetadata(entry, &problems)
                continue
            }
            switch Self.parseEntry(name, entry, dataStart: dataStart, dataBytes: fileBytes - dataStart) {
            case .success(let tensor): tensors.append(tensor)
            case .failure(let problem): problems.append("tensor \(shown(name)): \(problem.text)")
            }
        }
        if problems.isEmpty { problems = Self.gaps(tensors, dataStart: dataStart, fileBytes: fileBytes) }
        guard problems.isEmpty else { throw ModelFormatError(.malformed, subject, problems) }
        self.tensors = tensors
        self.metadata = metadata
    }

    private static func parseMetadata(_ entry: JSON, _ problems: inout [String]) -> [(key: String, value: String)] {
        guard let object = entry.object else {
            problems.append("__metadata__ is \(entry.kindName), not an object")
            return []
        }
        return object.compactMap { key, value in
            if let text = value.string { return (key, text) }
            problems.append("__metadata__.\(shown(key)) is \(value.kindName), not a string")
            return nil
        }
    }

    private static func parseEntry(
        _ name: String, _ entry: JSON, dataStart: Int, dataBytes: Int
    ) -> Result<TensorInfo, TensorInfo.Problem> {
        guard let dtype = entry["dtype"]?.string else { return .failure(.init("dtype must be a string")) }
        guard let dimensions = entry["shape"]?.array else { return .failure(.init("shape must be an array")) }
        guard dimensions.count <= maxDimensions else {
            return .failure(.init("\(dimensions.count) dimensions, the limit is \(maxDimensions)"))
        }
        let shape = dimensions.compactMap(\.int)
        guard shape.count == dimensions.count, shape.allSatisfy({ $0 >= 0 }) else {
            return .failure(.init("shape must hold integers from 0 up"))
        }
        guard let offsets = entry["data_offsets"]?.array, offsets.count == 2, let start = offsets[0].int,
            let end = offsets[1].int
        else { return .failure(.init("data_offsets must be two integers")) }
        guard 0 <= start, start <= end, end <= dataBytes else {
            return .failure(.init("data_offsets [\(start), \(end)] are outside the file's \(dataBytes) bytes of data"))
        }
        let type = TensorType.safetensors(dtype)
        switch TensorInfo.byteCount(type, shape) {
        case .failure(let problem):
            return .failure(problem)
        case .success(let needed?) where needed != end - start:
            return .failure(.init("shape \(shape) of \(dtype) needs \(needed) bytes, data_offsets give \(end - start)"))
        case .success:
            return .success(
                TensorInfo(name: name, type: type, shape: shape, offset: dataStart + start, byteCount: end - start))
        }
    }

    /// The format wants the data covered exactly once, so that nothing can hide in a file.
    private static func gaps(_ tensors: [TensorInfo], dataStart: Int, fileBytes: Int) -> [String] {
        var problems: [String] = []
        var expected = dataStart
        // Empty tensors sort before the one that starts at the same place.
        for tensor in tensors.sorted(by: { ($0.offset, $0.byteCount ?? 0) < ($1.offset, $1.byteCount ?? 0) }) {
            if tensor.offset != expected {
                let what = tensor.offset < expected ? "overlaps the tensor before it" : "leaves a hole before it"
                problems.append("tensor \(shown(tensor.name)) \(what), at byte \(tensor.offset)")
            }
            expected = max(expected, tensor.offset + (tensor.byteCount ?? 0))
        }
        if expected != fileBytes {
            problems.append("the tensors end at byte \(expected), the file at \(fileBytes)")
        }
        return problems
    }
}

/// One mapped safetensors file.
package final class SafetensorsFile: Sendable {
    package let file: MappedFile
    package let header: SafetensorsHeader
    package let table: TensorTable

    package init(path: String) throws(ModelFormatError) {
        file = try MappedFile(path: path)
        header = try SafetensorsHeader.parse(file.bytes, subject: path)
        do {
            table = try TensorTable(header.tensors)
        } catch {
            throw ModelFormatError(.malformed, path, "tensor \(shown(error.name)) appears twice")
        }
    }

    /// The bytes of one of this file's tensors; valid while this object lives. Not necessarily aligned.
    package func bytes(of tensor: TensorInfo) -> UnsafeRawBufferPointer {
        file.slice(tensor.offset..<tensor.offset + (tensor.byteCount ?? 0))
    }
}
