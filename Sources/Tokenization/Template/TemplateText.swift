/// A Python string: a sequence of code points, kept as UTF-8.
///
/// `String` would compare by canonical equivalence and count grapheme clusters, neither of which Python does.
struct TemplateText: Hashable, Sendable, ExpressibleByStringLiteral {
    var bytes: [UInt8]

    init(_ bytes: [UInt8]) { self.bytes = bytes }
    init(_ bytes: ArraySlice<UInt8>) { self.bytes = Array(bytes) }
    init(_ string: some StringProtocol) { bytes = Array(string.utf8) }
    init(stringLiteral value: String) { bytes = Array(value.utf8) }

    init(_ scalars: some Sequence<Unicode.Scalar>) {
        bytes = []
        for scalar in scalars { bytes.append(contentsOf: UTF8.encode(scalar) ?? UTF8.encodedReplacementCharacter) }
    }

    var string: String { String(decoding: bytes, as: UTF8.self) }
    var isEmpty: Bool { bytes.isEmpty }
    var scalars: [Unicode.Scalar] { Array(string.unicodeScalars) }

    /// Code points, as Python's `len` counts.
    var length: Int { bytes.reduce(0) { $0 + ($1 & 0xC0 != 0x80 ? 1 : 0) } }

    /// White space as `str.isspace` has it: the Unicode property and four ASCII separators.
    static func isSpace(_ scalar: Unicode.Scalar) -> Bool {
        scalar.properties.isWhitespace || (0x1C...0x1F).contains(scalar.value)
    }

    // MARK: Searching

    /// Byte offset of the first occurrence at or after `start`.
    func firstRange(of needle: TemplateText, from start: Int = 0) -> Int? {
        guard !needle.isEmpty else { return start }
        let last = bytes.count - needle.bytes.count
        guard start <= last else { return nil }
        let first = needle.bytes[0]
        return bytes.withUnsafeBufferPointer { text in
            needle.bytes.withUnsafeBufferPointer { wanted in
                var position = start
                while position <= last {
                    if text[position] == first {
                        var index = 1
                        while index < wanted.count && text[position + index] == wanted[index] { index += 1 }
                        if index == wanted.count { return position }
                    }
                    position += 1
                }
                return nil
            }
        }
    }

    func lastRange(of needle: TemplateText) -> Int? {
        var position = bytes.count - needle.bytes.count
        while position >= 0 {
            if bytes[position..<position + needle.bytes.count].elementsEqual(needle.bytes) { return position }
            position -= 1
        }
        return nil
    }

    func contains(_ needle: TemplateText) -> Bool { firstRange(of: needle) != nil }
    func hasPrefix(_ other: TemplateText) -> Bool { bytes.starts(with: other.bytes) }
    func hasSuffix(_ other: TemplateText) -> Bool {
        bytes.count >= other.bytes.count && bytes.suffix(other.bytes.count).elementsEqual(other.bytes)
    }

    /// Non-overlapping occurrences.
    func count(of needle: TemplateText) -> Int {
        guard !needle.isEmpty else { return length + 1 }
        var count = 0
        var start = 0
        while let found = firstRange(of: needle, from: start) {
            count += 1
            start = found + needle.bytes.count
        }
        return count
    }

    // MARK: Rewriting

    func replacing(_ old: TemplateText, with new: TemplateText, most: Int = .max) -> TemplateText {
        var result: [UInt8] = []
        var left = most < 0 ? .max : most
        if old.isEmpty {
            for scalar in scalars {
                if left > 0 { result += new.bytes }
                left -= 1
                result += TemplateText([scalar]).bytes
            }
            if left > 0 { result += new.bytes }
            return TemplateText(result)
        }
        var start = 0
        while left > 0, let found = firstRange(of: old, from: start) {
            result += bytes[start..<found]
            result += new.bytes
            start = found + old.bytes.count
            left -= 1
        }
        result += bytes[start...]
        return TemplateText(result)
    }

    /// Without leading and trailing white space, or code points of `characters`.
    func stripped(left: Bool, right: Bool, _ characters: TemplateText? = nil) -> TemplateText {
        let set = characters.map { Set($0.scalars) }
        func drops(_ scalar: Unicode.Scalar) -> Bool { set?.contains(scalar) ?? Self.isSpace(scalar) }
        var slice = string.unicodeScalars[...]
        if left { slice = slice.drop(while: drops) }
        if right { while let last = slice.last, drops(last) { slice.removeLast() } }
        return TemplateText(Array(String(slice).utf8))
    }

    var lowercased: TemplateText { TemplateText(string.lowercased()) }
    var uppercased: TemplateText { TemplateText(string.uppercased()) }

    /// First code point in upper (title) case, the rest in lower.
    var capitalized: TemplateText {
        guard let first = string.unicodeScalars.first else { return self }
        let rest = String(string.unicodeScalars.dropFirst())
        return TemplateText(first.properties.titlecaseMapping + rest.lowercased())
    }

    /// As `str.title`: every run of letters capitalized.
    var titled: TemplateText {
        var result = ""
        var isInside = false
        for scalar in string.unicodeScalars {
            let mapping = scalar.properties
            result += isInside ? mapping.lowercaseMapping : mapping.titlecaseMapping
            isInside = mapping.isCased
        }
        return TemplateText(result)
    }

    // MARK: Splitting

    /// As `str.split(separator, most)`.
    func split(_ separator: TemplateText, most: Int = -1) -> [TemplateText] {
        var parts: [TemplateText] = []
        var start = 0
        while most < 0 || parts.count < most, let found = firstRange(of: separator, from: start) {
            parts.append(TemplateText(bytes[start..<found]))
            start = found + separator.bytes.count
        }
        parts.append(TemplateText(bytes[start...]))
        return parts
    }

    /// As `str.rsplit(separator, most)`.
    func splitFromRight(_ separator: TemplateText, most: Int = -1) -> [TemplateText] {
        var parts: [TemplateText] = []
        var rest = self
        while most < 0 || parts.count < most, let found = rest.lastRange(of: separator) {
            parts.append(TemplateText(rest.bytes[(found + separator.bytes.count)...]))
            rest = TemplateText(rest.bytes[..<found])
        }
        parts.append(rest)
        return parts.reversed()
    }

    /// As `str.split(None, most)`: runs of white space separate, none at the ends count.
    func words(most: Int = -1) -> [TemplateText] {
        var parts: [TemplateText] = []
        var rest = string.unicodeScalars.drop(while: Self.isSpace)
        while !rest.isEmpty {
            if most >= 0 && parts.count == most {
                parts.append(TemplateText(Array(String(rest).utf8)))
                break
            }
            let word = rest.prefix { !Self.isSpace($0) }
            parts.append(TemplateText(Array(String(word).utf8)))
            rest = rest[word.endIndex...].drop(while: Self.isSpace)
        }
        return parts
    }

    /// As `str.rsplit(None, most)`.
    func wordsFromRight(most: Int) -> [TemplateText] {
        let reversed = TemplateText(scalars.reversed())
        return reversed.words(most: most).reversed().map { TemplateText($0.scalars.reversed()) }
    }

    /// As `str.splitlines()`.
    var lines: [TemplateText] {
        let breaks: Set<UInt32> = [10, 11, 12, 13, 0x1C, 0x1D, 0x1E, 0x85, 0x2028, 0x2029]
        var parts: [TemplateText] = []
        var current: [Unicode.Scalar] = []
        var afterReturn = false
        var isOpen = false
        for scalar in string.unicodeScalars {
            if afterReturn && scalar == "\n" {
                afterReturn = false
                continue
            }
            afterReturn = scalar == "\r"
            if breaks.contains(scalar.value) {
                parts.append(TemplateText(current))
                current.removeAll()
                isOpen = false
            } else {
                current.append(scalar)
                isOpen = true
            }
        }
        if isOpen { parts.append(TemplateText(current)) }
        return parts
    }

    /// As `repr`: quoted, with escapes for what does not print.
    var quoted: String {
        let quote: Unicode.Scalar = bytes.contains(0x27) && !bytes.contains(0x22) ? "\"" : "'"
        var result = String.UnicodeScalarView()
        result.append(quote)
        func escape(_ text: String) { result.append(contentsOf: text.unicodeScalars) }
        for scalar in string.unicodeScalars {
            switch scalar {
            case quote, "\\": escape("\\\(scalar)")
            case "\n": escape("\\n")
            case "\r": escape("\\r")
            case "\t": escape("\\t")
            default:
                if Self.isPrintable(scalar) { result.append(scalar) } else { escape(Self.escaped(scalar)) }
            }
        }
        result.append(quote)
        return String(result)
    }

    private static func isPrintable(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.properties.generalCategory {
        case .control, .format, .surrogate, .privateUse, .unassigned, .lineSeparator, .paragraphSeparator: false
        case .spaceSeparator: scalar == " "
        default: true
        }
    }

    private static func escaped(_ scalar: Unicode.Scalar) -> String {
        let digits = String(scalar.value, radix: 16)
        let width = scalar.value < 0x100 ? 2 : scalar.value < 0x10000 ? 4 : 8
        let letter = width == 2 ? "x" : width == 4 ? "u" : "U"
        return "\\" + letter + String(repeating: "0", count: width - digits.utf8.count) + digits
    }
}
