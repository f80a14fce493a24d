/// Why a text is not acceptable JSON, and where.
package struct JSONError: Error, Sendable, Equatable, CustomStringConvertible {
    package enum Reason: Sendable, Equatable {
        case expected(String)
        case unexpectedEnd
        case trailingContent
        case controlCharacter
        case badEscape
        case loneSurrogate
        case invalidUTF8
        case badNumber
        case numberOutOfRange
        case tooDeep(limit: Int)
        case tooLong(bytes: Int, limit: Int)
        case tooManyValues(limit: Int)
        case duplicateKey(String)
    }

    package let reason: Reason
    /// Byte offset into the text, from 0.
    package let offset: Int
    /// Line of that byte, from 1.
    package let line: Int

    package var description: String {
        "invalid JSON at line \(line), byte \(offset): \(explanation)"
    }

    private var explanation: String {
        switch reason {
        case .expected(let what): "expected \(what)"
        case .unexpectedEnd: "the text ends inside a value"
        case .trailingContent: "something follows the value"
        case .controlCharacter: "a control character in a string must be escaped"
        case .badEscape: "unknown escape in a string"
        case .loneSurrogate: "an escaped surrogate without its partner"
        case .invalidUTF8: "a string is not valid UTF-8"
        case .badNumber: "malformed number"
        case .numberOutOfRange: "a number exceeds the range of a double"
        case .tooDeep(let limit): "arrays and objects nest more than \(limit) deep"
        case .tooLong(let bytes, let limit): "\(bytes) bytes exceed the limit of \(limit)"
        case .tooManyValues(let limit): "more than \(limit) values"
        case .duplicateKey(let key): "the key \(JSON.quoted(String(key.prefix(80)))) appears twice"
        }
    }
}

/// Bounds on a text taken from outside.
package struct JSONLimits: Sendable {
    /// How deep arrays and objects may nest. Parsing recurses, so this bounds the stack: about 500 bytes a level.
    package var depth: Int
    /// Length of the text.
    package var bytes: Int
    /// Values of every kind together, since `[[],[],…]` takes far more memory parsed than written.
    package var values: Int
    /// Whether an object may repeat a key, its last value then counting.
    package var allowsDuplicateKeys: Bool

    package init(
        depth: Int = 128, bytes: Int = 256 << 20, values: Int = 8 << 20, allowsDuplicateKeys: Bool = true
    ) {
        self.allowsDuplicateKeys = allowsDuplicateKeys
        self.depth = depth
        self.bytes = bytes
        self.values = values
    }

    package static let standard = JSONLimits()
}
