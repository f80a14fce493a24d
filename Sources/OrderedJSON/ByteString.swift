import Glibc

/// A string that hashes and compares by its UTF-8 bytes, where `String` compares by canonical equivalence.
/// Use it as the key of any dictionary of tokens.
package struct ByteString: Hashable, Comparable, Sendable {
    package let string: String

    package init(_ string: String) {
        self.string = string
    }

    package static func == (left: ByteString, right: ByteString) -> Bool {
        left.string.utf8.count == right.string.utf8.count && order(left, right) == 0
    }

    /// By bytes, which for UTF-8 is by code point.
    package static func < (left: ByteString, right: ByteString) -> Bool {
        order(left, right) < 0
    }

    package func hash(into hasher: inout Hasher) {
        var copy = string
        copy.withUTF8 { hasher.combine(bytes: UnsafeRawBufferPointer($0)) }
    }

    /// Negative, zero or positive, as memcmp has it.
    private static func order(_ left: ByteString, _ right: ByteString) -> Int {
        var (a, b) = (left.string, right.string)
        return a.withUTF8 { a in
            b.withUTF8 { b in
                guard let first = a.baseAddress, let second = b.baseAddress else { return a.count - b.count }
                let common = memcmp(first, second, min(a.count, b.count))
                return common == 0 ? a.count - b.count : Int(common)
            }
        }
    }
}
