/// Reads little-endian fields one after another; every read is checked against the end.
struct ByteReader {
    let bytes: UnsafeRawBufferPointer
    /// The file, for messages.
    let subject: String
    private(set) var offset = 0

    init(_ bytes: UnsafeRawBufferPointer, subject: String) {
        self.bytes = bytes
        self.subject = subject
    }

    var remaining: Int { bytes.count - offset }

    mutating func integer<T: FixedWidthInteger & BitwiseCopyable>(
        _ type: T.Type, _ field: StaticString
    ) throws(ModelFormatError) -> T {
        guard remaining >= MemoryLayout<T>.size else { throw truncated(field) }
        defer { offset += MemoryLayout<T>.size }
        return T(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: T.self))
    }

    /// A 64-bit count of things that take at least `elementBytes` each, so that no count can exceed the file.
    mutating func count(elementBytes: Int, limit: Int, _ field: StaticString) throws(ModelFormatError) -> Int {
        let at = offset
        let raw = try integer(UInt64.self, field)
        guard raw <= UInt64(limit) else {
            throw malformed("\(field) is \(raw), the limit \(limit), at byte \(at)")
        }
        guard Int(raw) <= remaining / elementBytes else {
            throw malformed("\(field) is \(raw), but only \(remaining) bytes follow, at byte \(at)")
        }
        return Int(raw)
    }

    /// The byte range of a string with a 64-bit length before it.
    mutating func stringRange(limit: Int, _ field: StaticString) throws(ModelFormatError) -> Range<Int> {
        let length = try count(elementBytes: 1, limit: limit, field)
        defer { offset += length }
        return offset..<offset + length
    }

    /// A string with a 64-bit length before it; must be UTF-8.
    mutating func string(limit: Int, _ field: StaticString) throws(ModelFormatError) -> String {
        let range = try stringRange(limit: limit, field)
        guard let string = utf8(bytes, range) else {
            throw malformed("\(field) is not UTF-8, at byte \(range.lowerBound)")
        }
        return string
    }

    /// Steps over `count` elements of `elementBytes` each.
    mutating func skip(_ count: Int, elementBytes: Int, _ field: StaticString) throws(ModelFormatError) {
        guard count <= remaining / elementBytes else { throw truncated(field) }
        offset += count * elementBytes
    }

    func malformed(_ problem: String) -> ModelFormatError {
        ModelFormatError(.malformed, subject, problem)
    }

    private func truncated(_ field: StaticString) -> ModelFormatError {
        malformed("the file ends inside \(field), at byte \(offset) of \(bytes.count)")
    }
}

/// The bytes of `range` as a string; nil unless they are UTF-8.
func utf8(_ bytes: UnsafeRawBufferPointer, _ range: Range<Int>) -> String? {
    String(validating: UnsafeRawBufferPointer(rebasing: bytes[range]), as: UTF8.self)
}
