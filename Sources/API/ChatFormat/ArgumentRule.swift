import OrderedJSON

/// How the text of an argument becomes JSON. GLM writes strings as they are and everything else as JSON, so that the
/// text alone does not tell the number 1 from the string "1"; the parameter's schema does.
///
/// - A parameter that can only be a string keeps its text as it is.
/// - One that may be a string among others, or whose schema does not say, is JSON where the text is a JSON value of a
///   kind that it may be, other than a string; and else the text as it is.
/// - One that cannot be a string is JSON where the text is any; and else the text as it is, which the client's own
///   check of the arguments will find.
struct ArgumentRule: Sendable, Equatable {
    private static let limits = JSONLimits(depth: 64, bytes: 4 << 20, values: 1 << 18)

    /// What the parameter may be; nil: anything.
    let kinds: JSONKinds?

    /// The value is its text whatever it says, and so can be delivered as it comes.
    var isText: Bool { kinds == .string }

    private var canBeString: Bool { kinds?.contains(.string) ?? true }

    /// Whether a text that begins with `byte` may be JSON; where it may not, it need not be waited for.
    func mayBeJSON(beginningWith byte: UInt8) -> Bool {
        let kind: JSONKinds
        switch byte {
        case UInt8(ascii: "{"): kind = .object
        case UInt8(ascii: "["): kind = .array
        case UInt8(ascii: "\""): kind = .string
        case UInt8(ascii: "t"), UInt8(ascii: "f"): kind = .boolean
        case UInt8(ascii: "n"): kind = .null
        case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): kind = .number
        default: return false
        }
        return accepts(kind)
    }

    /// The JSON of a whole value.
    func json(_ text: ArraySlice<UInt8>) -> String {
        let trimmed = Array(text.trimmed)
        if let value = try? JSON.parse(trimmed, limits: Self.limits), accepts(JSONKinds(of: value)) {
            // As the model wrote it: written anew, long numbers would lose digits.
            return String(decoding: trimmed, as: UTF8.self)
        }
        return JSON.quoted(String(decoding: text, as: UTF8.self))
    }

    private func accepts(_ kind: JSONKinds) -> Bool {
        guard canBeString else { return true }
        return kind != .string && (kinds?.contains(kind) ?? true)
    }
}

extension ArraySlice<UInt8> {
    /// Without the white space around it.
    var trimmed: ArraySlice<UInt8> {
        guard let first = firstIndex(where: { !$0.isWhiteSpace }), let last = lastIndex(where: { !$0.isWhiteSpace })
        else { return [] }
        return self[first...last]
    }
}

extension UInt8 {
    /// White space as JSON has it.
    var isWhiteSpace: Bool { self == 0x20 || self == 0x0A || self == 0x0D || self == 0x09 }
}
