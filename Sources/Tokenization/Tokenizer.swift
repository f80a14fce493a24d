import Synchronization

/// Text to token ids and back, as the model was trained: normalization, added tokens, pre-tokenization, byte-pair
/// (or SentencePiece) merges, and the decoder's inverse.
///
/// Immutable but for a cache of words, and safe to use from any thread. Encoding is about linear in the text,
/// whatever the text. Build one with `init(tokenizerJSON:…)` or `init(gguf:)`.
package final class Tokenizer: Sendable {
    /// Everything a loader finds out.
    struct Parts: Sendable {
        var model: SubwordModel
        /// Bytes each id stands for in text.
        var pieces: TokenTable
        /// How the vocabulary file spells its tokens, where that differs from the text (byte-level stand-ins).
        var spellings: TokenTable?
        var added: [AddedToken] = []
        var special: Set<Int32> = []
        var normalizers: [Normalizer] = []
        var preTokenizers: [PreTokenizer] = []
        /// A space goes before each stretch of text that starts the input or follows a control token.
        var addsSpacePrefix = false
        /// What `addSpecial` puts around the ids.
        var prefix: [Int32] = []
        var suffix: [Int32] = []
        /// Spaces that decoding strips from the very start.
        var strippedSpaces = 0
        var bosID: Int32?
        var eosID: Int32?
        var endIDs: [Int32] = []
        var chatTemplate: String?
    }

    let parts: Parts
    private let rawFinder: AddedTokenFinder
    private let normalizedFinder: AddedTokenFinder
    private let cache = Mutex(WordCache())

    init(_ parts: Parts) {
        self.parts = parts
        rawFinder = AddedTokenFinder(parts.added.filter { !$0.isNormalized })
        normalizedFinder = AddedTokenFinder(parts.added.filter(\.isNormalized))
    }

    // MARK: Vocabulary

    /// The greatest id plus one. A model's logits may be wider.
    package var vocabularySize: Int { parts.pieces.count }
    package var bosID: Int32? { parts.bosID }
    package var eosID: Int32? { parts.eosID }
    /// Every id that ends a generation: end of text, end of turn, and what the generation settings add.
    package var endIDs: [Int32] { parts.endIDs }
    /// The chat template that came with the vocabulary.
    package var chatTemplateSource: String? { parts.chatTemplate }
    /// The text of the begin-of-sequence token, for the template variable `bos_token`; empty if there is none.
    package var bosText: String { parts.bosID.map { text(of: $0) } ?? "" }
    package var eosText: String { parts.eosID.map { text(of: $0) } ?? "" }

    /// The bytes that `id` stands for, possibly a part of a character; empty for an id outside the vocabulary.
    package func bytes(of id: Int32) -> [UInt8] { Array(parts.pieces.bytes(of: id)) }

    func tokenBytes(of id: Int32) -> ArraySlice<UInt8> { parts.pieces.bytes(of: id) }

    /// The text of one token; what is not whole UTF-8 reads U+FFFD.
    package func text(of id: Int32) -> String { String(decoding: parts.pieces.bytes(of: id), as: UTF8.self) }

    /// The id of a token given as the vocabulary spells it or by its text.
    package func id(of token: String) -> Int32? {
        let bytes = Array(token.utf8)
        if let added = parts.added.first(where: { $0.content == bytes }) { return added.id }
        let spelled = parts.spellings?.find(bytes) ?? -1
        let id = spelled >= 0 ? spelled : parts.pieces.find(bytes)
        return id >= 0 ? id : nil
    }

    /// Whether the token is a control token, which is no part of the text.
    package func isSpecial(_ id: Int32) -> Bool { parts.special.contains(id) }

    /// The text of a control token, nil for any other.
    package func specialText(of id: Int32) -> String? { isSpecial(id) ? text(of: id) : nil }

    // MARK: Encoding

    /// - Parameters:
    ///   - addSpecial: put around the text what the model expects there (a begin-of-sequence token, usually).
    ///     Leave it out for text from a chat template, which writes its own.
    ///   - parseSpecial: recognise control tokens in the text. Leave it out for text nobody vouches for.
    package func encode(_ text: String, addSpecial: Bool, parseSpecial: Bool) -> [Int32] {
        let bytes = Array(text.utf8)
        precondition(bytes.count < 1 << 30, "the caller bounds its text")
        var ids = addSpecial ? parts.prefix : []
        // Whoever comes while the cache is in use does without it.
        let encoded = cache.withLockIfAvailable { encode(bytes, parseSpecial: parseSpecial, cache: &$0) }
        if let encoded {
            ids += encoded
        } else {
            var own = WordCache()
            ids += encode(bytes, parseSpecial: parseSpecial, cache: &own)
        }
        if addSpecial { ids += parts.suffix }
        return ids
    }

    private func encode(_ text: [UInt8], parseSpecial: Bool, cache: inout WordCache) -> [Int32] {
        var ids: [Int32] = []
        ids.reserveCapacity(text.count / 4)
        var scratch = SubwordModel.Scratch()
        var isFirst = true
        var followsSpecial = true
        for section in text.withUnsafeBufferPointer({ rawFinder.sections(of: $0, parseSpecial: parseSpecial) }) {
            switch section {
            case .token(let id):
                ids.append(id)
                followsSpecial = isSpecial(id)
            case .text(let range):
                var bytes = range.count == text.count ? text : Array(text[range])
                if parts.addsSpacePrefix && followsSpecial { bytes.insert(0x20, at: 0) }
                for normalizer in parts.normalizers { bytes = normalizer.apply(bytes) }
                encodeNormalized(bytes, parseSpecial, isFirst, &cache, &scratch, &ids)
                followsSpecial = false
            }
            isFirst = false
        }
        return ids
    }

    private func encodeNormalized(
        _ text: [UInt8], _ parseSpecial: Bool, _ isFirst: Bool, _ cache: inout WordCache,
        _ scratch: inout SubwordModel.Scratch, _ ids: inout [Int32]
    ) {
        var isFirst = isFirst
        for section in text.withUnsafeBufferPointer({
            normalizedFinder.sections(of: $0, parseSpecial: parseSpecial)
        }) {
            switch section {
            case .token(let id):
                ids.append(id)
            case .text(let range):
                var pieces = Pieces(range.count == text.count ? text : Array(text[range]))
                for step in parts.preTokenizers { pieces.apply(step, isFirst: isFirst) }
                encodePieces(pieces, &cache, &scratch, &ids)
            }
            isFirst = false
        }
    }

    private func encodePieces(
        _ pieces: Pieces, _ cache: inout WordCache, _ scratch: inout SubwordModel.Scratch, _ ids: inout [Int32]
    ) {
        let model = parts.model
        pieces.bytes.withUnsafeBufferPointer { bytes in
            for range in pieces.ranges {
                let piece = UnsafeBufferPointer(rebasing: bytes[range])
                let key = cache.key(of: piece)
                if let key, cache.append(key, length: piece.count, to: &ids) { continue }
                let start = ids.count
                model.encode(piece, scratch: &scratch, into: &ids)
                if let key { cache.store(key, length: piece.count, ids[start...]) }
            }
        }
    }

    // MARK: Decoding

    /// The text of `ids`; ill-formed UTF-8 becomes U+FFFD, ids outside the vocabulary nothing.
    package func decode(_ ids: some Sequence<Int32>, skipSpecial: Bool = false) -> String {
        var repair = UTF8Repair()
        var output: [UInt8] = []
        for id in ids where !(skipSpecial && isSpecial(id)) {
            for byte in tokenBytes(of: id) { repair.append(byte, to: &output) }
        }
        repair.finish(&output)
        let spaces = output.prefix(parts.strippedSpaces).prefix { $0 == 0x20 }.count
        return String(decoding: output.dropFirst(spaces), as: UTF8.self)
    }
}
