/// Turns bytes that arrive in any portions into valid UTF-8. Bytes that may yet become a character are held
/// back; each maximal part of an ill-formed sequence becomes one U+FFFD (Unicode 15, section 3.9), so that the
/// result does not depend on the portions.
struct UTF8Repair: Sendable {
    private static let replacement: [UInt8] = [0xEF, 0xBF, 0xBD]

    private var held: [UInt8] = []
    private var missing = 0
    /// What the next byte must lie in.
    private var allowed: ClosedRange<UInt8> = 0x80...0xBF

    /// Bytes held back: a character's beginning.
    var heldCount: Int { held.count }

    mutating func append(_ byte: UInt8, to output: inout [UInt8]) {
        if missing > 0 {
            if allowed.contains(byte) {
                held.append(byte)
                missing -= 1
                allowed = 0x80...0xBF
                if missing == 0 {
                    output += held
                    held.removeAll(keepingCapacity: true)
                }
                return
            }
            finish(&output)
        }
        switch byte {
        case 0x00...0x7F:
            output.append(byte)
        case 0xC2...0xDF: begin(byte, 1, 0x80...0xBF)
        case 0xE0: begin(byte, 2, 0xA0...0xBF)
        case 0xED: begin(byte, 2, 0x80...0x9F)
        case 0xE1...0xEF: begin(byte, 2, 0x80...0xBF)
        case 0xF0: begin(byte, 3, 0x90...0xBF)
        case 0xF1...0xF3: begin(byte, 3, 0x80...0xBF)
        case 0xF4: begin(byte, 3, 0x80...0x8F)
        default: output += Self.replacement
        }
    }

    private mutating func begin(_ byte: UInt8, _ more: Int, _ next: ClosedRange<UInt8>) {
        held.append(byte)
        missing = more
        allowed = next
    }

    /// The bytes end here, or something follows that does not continue them.
    mutating func finish(_ output: inout [UInt8]) {
        guard missing > 0 else { return }
        output += Self.replacement
        held.removeAll(keepingCapacity: true)
        missing = 0
    }
}
