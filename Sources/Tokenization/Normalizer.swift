// The SPI gives the standard library's own normalization, which Foundation would otherwise be needed for.
@_spi(_Unicode) import Swift

/// What is done to text before it is split: the normalizers of published decoder-only models.
enum Normalizer: Sendable {
    /// Canonical composition (Unicode normalization form C).
    case composed
    /// Canonical decomposition.
    case decomposed
    case lowercase
    case prepend([UInt8])
    case replace(Pattern, with: [UInt8])
    case strip(left: Bool, right: Bool)

    func apply(_ text: [UInt8]) -> [UInt8] {
        switch self {
        case .composed:
            // Below U+0300 nothing combines and everything is composed already.
            if text.allSatisfy({ $0 < 0xCC }) { return text }
            return utf8(String(decoding: text, as: UTF8.self)._nfc)
        case .decomposed:
            if text.allSatisfy({ $0 < 0x80 }) { return text }
            return utf8(String(decoding: text, as: UTF8.self)._nfd)
        case .lowercase:
            return Array(String(decoding: text, as: UTF8.self).lowercased().utf8)
        case .prepend(let prefix):
            return text.isEmpty ? text : prefix + text
        case .replace(let pattern, let replacement):
            return Self.replacing(pattern, with: replacement, in: text)
        case .strip(let left, let right):
            var scalars = Substring(decoding: text, as: UTF8.self).unicodeScalars
            if left { scalars = scalars.drop { $0.properties.isWhitespace } }
            if right {
                while let last = scalars.last, last.properties.isWhitespace { scalars.removeLast() }
            }
            return Array(String(scalars).utf8)
        }
    }

    private func utf8(_ scalars: some Sequence<Unicode.Scalar>) -> [UInt8] {
        var result = String.UnicodeScalarView()
        result.append(contentsOf: scalars)
        return Array(String(result).utf8)
    }

    static func replacing(_ pattern: Pattern, with replacement: [UInt8], in text: [UInt8]) -> [UInt8] {
        var result: [UInt8] = []
        result.reserveCapacity(text.count)
        text.withUnsafeBufferPointer { bytes in
            var matcher = PatternMatcher(byteCount: bytes.count)
            matcher.split(pattern, bytes, 0..<bytes.count) { section, isMatch in
                if isMatch { result += replacement } else { result += bytes[section] }
            }
        }
        return result
    }
}
