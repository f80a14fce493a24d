/// How a value is written.
package struct JSONStyle: Sendable {
    package var itemSeparator: String
    package var keySeparator: String
    /// Spaces per level, each member on its own line; nil for everything on one line.
    package var indent: Int?
    /// Escape every character outside printable ASCII.
    package var escapesNonASCII: Bool
    /// Order members by key (by code point) rather than as they came.
    package var sortsKeys: Bool
    /// Write NaN and infinities as Python does (`NaN`, `Infinity`), which is not JSON; otherwise as null.
    package var writesNonFinite: Bool

    package init(
        itemSeparator: String, keySeparator: String, indent: Int? = nil, escapesNonASCII: Bool = false,
        sortsKeys: Bool = false, writesNonFinite: Bool = false
    ) {
        self.itemSeparator = itemSeparator
        self.keySeparator = keySeparator
        self.indent = indent
        self.escapesNonASCII = escapesNonASCII
        self.sortsKeys = sortsKeys
        self.writesNonFinite = writesNonFinite
    }

    /// The shortest form, for the wire.
    package static let compact = JSONStyle(itemSeparator: ",", keySeparator: ":")

    /// What Python's `json.dumps` writes with these arguments, as chat templates' `tojson` expects: separators
    /// `", "` and `": "`, and with an indent no space after the comma.
    package static func python(
        ensureASCII: Bool = false, indent: Int? = nil, sortKeys: Bool = false
    ) -> JSONStyle {
        JSONStyle(
            itemSeparator: indent == nil ? ", " : ",", keySeparator: ": ", indent: indent,
            escapesNonASCII: ensureASCII, sortsKeys: sortKeys, writesNonFinite: true)
    }
}

extension JSON {
    /// The value as text.
    package func text(_ style: JSONStyle = .compact) -> String {
        String(decoding: bytes(style), as: UTF8.self)
    }

    /// The value as UTF-8 bytes.
    package func bytes(_ style: JSONStyle = .compact) -> [UInt8] {
        var writer = JSONWriter(style: style)
        writer.write(self, level: 0)
        return writer.output
    }

    /// `string` as a JSON string, quotes included.
    package static func quoted(_ string: String, escapesNonASCII: Bool = false) -> String {
        var style = JSONStyle.compact
        style.escapesNonASCII = escapesNonASCII
        return JSON.string(string).text(style)
    }
}

struct JSONWriter {
    let style: JSONStyle
    private(set) var output: [UInt8] = []

    init(style: JSONStyle) {
        self.style = style
    }

    mutating func write(_ value: JSON, level: Int) {
        switch value {
        case .null: append("null")
        case .bool(let value): append(value ? "true" : "false")
        case .int(let value): append(value.description)
        case .double(let value): writeDouble(value)
        case .string(let value): writeString(value)
        case .array(let elements):
            writeList(elements, brackets: ("[", "]"), level: level) { writer, element in
                writer.write(element, level: level + 1)
            }
        case .object(let object):
            let members = style.sortsKeys ? object.sorted { ByteString($0.key) < ByteString($1.key) } : nil
            let writeMember = { (writer: inout JSONWriter, member: JSONObject.Element) in
                writer.writeString(member.key)
                writer.append(writer.style.keySeparator)
                writer.write(member.value, level: level + 1)
            }
            if let members {
                writeList(members, brackets: ("{", "}"), level: level, writeMember)
            } else {
                writeList(object, brackets: ("{", "}"), level: level, writeMember)
            }
        }
    }

    private mutating func writeList<Items: Collection>(
        _ items: Items, brackets: (String, String), level: Int, _ write: (inout JSONWriter, Items.Element) -> Void
    ) {
        append(brackets.0)
        var first = true
        for item in items {
            if !first { append(style.itemSeparator) }
            first = false
            newLine(level: level + 1)
            write(&self, item)
        }
        if !first { newLine(level: level) }
        append(brackets.1)
    }

    private mutating func newLine(level: Int) {
        guard let indent = style.indent else { return }
        output.append(0x0A)
        output.append(contentsOf: repeatElement(0x20, count: max(0, indent) * level))
    }

    private mutating func writeDouble(_ value: Double) {
        if value.isFinite {
            append(value.pythonDescription)
        } else if !style.writesNonFinite {
            append("null")
        } else {
            append(value.isNaN ? "NaN" : value < 0 ? "-Infinity" : "Infinity")
        }
    }

    private mutating func writeString(_ string: String) {
        output.append(UInt8(ascii: "\""))
        if style.escapesNonASCII {
            for scalar in string.unicodeScalars { writeASCII(scalar) }
        } else {
            for byte in string.utf8 {
                if !writeShortEscape(byte) {
                    if byte < 0x20 { writeUnicodeEscape(UInt16(byte)) } else { output.append(byte) }
                }
            }
        }
        output.append(UInt8(ascii: "\""))
    }

    private mutating func writeASCII(_ scalar: Unicode.Scalar) {
        if scalar.value >= 0x7F || scalar.value < 0x20 {
            if scalar.isASCII, writeShortEscape(UInt8(scalar.value)) { return }
            for unit in String(scalar).utf16 { writeUnicodeEscape(unit) }
        } else if !writeShortEscape(UInt8(scalar.value)) {
            output.append(UInt8(scalar.value))
        }
    }

    /// Writes the two-character escape of a byte that has one; false if it has none.
    private mutating func writeShortEscape(_ byte: UInt8) -> Bool {
        let letter: UInt8
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"): letter = byte
        case 0x08: letter = UInt8(ascii: "b")
        case 0x0C: letter = UInt8(ascii: "f")
        case 0x0A: letter = UInt8(ascii: "n")
        case 0x0D: letter = UInt8(ascii: "r")
        case 0x09: letter = UInt8(ascii: "t")
        default: return false
        }
        output.append(UInt8(ascii: "\\"))
        output.append(letter)
        return true
    }

    private mutating func writeUnicodeEscape(_ unit: UInt16) {
        let hex = String(unit, radix: 16)
        append("\\u")
        output.append(contentsOf: repeatElement(UInt8(ascii: "0"), count: 4 - hex.utf8.count))
        append(hex)
    }

    private mutating func append(_ text: String) {
        output.append(contentsOf: text.utf8)
    }
}
