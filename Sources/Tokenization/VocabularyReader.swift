/// Bounds on vocabularies, far above the largest published ones.
enum VocabularyLimits {
    static let tokens = 4_000_000
    static let merges = 8_000_000
    static let addedTokens = 100_000
    static let tokenBytes = 65_536
}

/// The parts of reading a vocabulary that both file formats share.
enum VocabularyReader {
    /// The two tokens of a merge written "left right". Neither holds a space; byte-level spellings cannot.
    static func halves(_ text: String, field: String) throws(TokenizationError) -> ([UInt8], [UInt8]) {
        let bytes = Array(text.utf8)
        // Searched from the second byte: some vocabularies merge a token that is itself a space.
        guard bytes.count >= 3, let space = bytes[1...].firstIndex(of: 0x20), space + 1 < bytes.count else {
            throw TokenizationError(.malformed, "\(field): '\(text.prefix(40))' is not two tokens with a space between")
        }
        return (Array(bytes[..<space]), Array(bytes[(space + 1)...]))
    }

    /// The merge of two tokens given by their spellings.
    static func merge(
        _ halves: ([UInt8], [UInt8]), _ spellings: TokenTable, field: String
    ) throws(TokenizationError) -> MergeTable.Merge {
        let result = halves.0 + halves.1
        let (left, right, id) = (spellings.find(halves.0), spellings.find(halves.1), spellings.find(result))
        guard left >= 0, right >= 0, id >= 0 else {
            let missing = [halves.0, halves.1, result].first { spellings.find($0) < 0 } ?? []
            let name = String(decoding: missing.prefix(60), as: UTF8.self)
            throw TokenizationError(.malformed, "\(field): token '\(name)' is not in the vocabulary")
        }
        return MergeTable.Merge(left: left, right: right, result: id)
    }
}
