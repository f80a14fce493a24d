/// Turns tokens into text as they come, always whole characters.
///
/// All the deltas and `finish()` together equal the text of one `Tokenizer.decode` over the same tokens, except
/// that the space which SentencePiece models strip from the start of a text is kept: a completion continues its
/// prompt.
package struct IncrementalDetokenizer: Sendable {
    private let tokenizer: Tokenizer
    private let skipsSpecial: Bool
    private let shown: Set<Int32>
    private var repair = UTF8Repair()

    /// Bytes of all tokens so far (those held back included), which is where the next token's text starts.
    package private(set) var byteOffset = 0

    /// - Parameters:
    ///   - skipSpecial: leave control tokens out of the text.
    ///   - shown: control tokens that are not left out, such as the markers of a chat format.
    package init(_ tokenizer: Tokenizer, skipSpecial: Bool = true, showing shown: Set<Int32> = []) {
        self.tokenizer = tokenizer
        skipsSpecial = skipSpecial
        self.shown = shown
    }

    /// The text that is certain now; empty if the token ends within a character.
    package mutating func append(_ id: Int32) -> String {
        if skipsSpecial && tokenizer.isSpecial(id) && !shown.contains(id) { return "" }
        var output: [UInt8] = []
        for byte in tokenizer.tokenBytes(of: id) {
            repair.append(byte, to: &output)
            byteOffset += 1
        }
        return String(decoding: output, as: UTF8.self)
    }

    /// No more tokens: a character left unfinished becomes U+FFFD.
    package mutating func finish() -> String {
        var output: [UInt8] = []
        repair.finish(&output)
        return String(decoding: output, as: UTF8.self)
    }
}
