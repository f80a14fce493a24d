extension Tokenizer {
    private enum TokenType: Int32 {
        case undefined, normal, unknown, control, userDefined, unused, byte
    }

    /// A tokenizer from the metadata of a GGUF file.
    ///
    /// - Throws: `.malformed` where lengths or ids do not fit together, `.unsupported` for a kind of vocabulary or
    ///   a pre-tokenizer that is not known.
    package convenience init(gguf: GGUFTokenizerMetadata) throws(TokenizationError) {
        let count = gguf.tokens.count
        guard count > 0, count <= VocabularyLimits.tokens else {
            throw TokenizationError(
                .limit, "tokenizer.ggml.tokens: \(count) tokens, must be 1 to \(VocabularyLimits.tokens)")
        }
        guard gguf.types.isEmpty || gguf.types.count == count else {
            throw TokenizationError(
                .malformed, "tokenizer.ggml.token_type: \(gguf.types.count) entries for \(count) tokens")
        }
        let named = [
            ("bos", gguf.bosID), ("eos", gguf.eosID), ("eot", gguf.eotID), ("eom", gguf.eomID),
            ("unknown", gguf.unknownID),
        ]
        for case (let name, let id?) in named where id < 0 || id >= count {
            throw TokenizationError(
                .malformed, "tokenizer.ggml.\(name)_token_id: \(id) is outside the vocabulary of \(count)")
        }
        var parts: Parts
        switch gguf.model {
        case "gpt2": parts = try Self.byteLevelParts(gguf)
        case "llama": parts = try Self.scoredParts(gguf)
        default:
            throw TokenizationError(
                .unsupported, "tokenizer.ggml.model: '\(gguf.model)' is not supported; 'gpt2' and 'llama' are")
        }
        parts.bosID = gguf.bosID
        parts.eosID = gguf.eosID
        if gguf.addBOS ?? (gguf.model == "llama"), let bos = gguf.bosID { parts.prefix = [bos] }
        if gguf.addEOS ?? false, let eos = gguf.eosID { parts.suffix = [eos] }
        parts.endIDs = Self.endIDs(gguf, parts)
        parts.chatTemplate = gguf.chatTemplate
        self.init(parts)
    }

    private static func type(_ gguf: GGUFTokenizerMetadata, _ id: Int) -> TokenType {
        gguf.types.isEmpty ? .normal : TokenType(rawValue: gguf.types[id]) ?? .normal
    }

    /// The bytes by id, with the added and special tokens noted in `added` and `special`.
    private static func collect(
        _ gguf: GGUFTokenizerMetadata, added: inout [AddedToken], special: inout Set<Int32>,
        bytes: (String) -> [UInt8]
    ) -> [[UInt8]] {
        gguf.tokens.enumerated().map { index, token in
            let raw = Array(token.utf8)
            let id = Int32(index)
            switch type(gguf, index) {
            case .control, .unknown:
                special.insert(id)
                added.append(AddedToken(id: id, content: raw, isSpecial: true))
                return raw
            case .userDefined:
                added.append(AddedToken(id: id, content: raw))
                return raw
            case .byte:
                return ByteAlphabet.fallbackByte(of: token).map { [$0] } ?? raw
            default:
                return bytes(token)
            }
        }
    }

    private static func byteLevelParts(_ gguf: GGUFTokenizerMetadata) throws(TokenizationError) -> Parts {
        let named = try NamedPreTokenizers.entry(gguf.pre ?? "default")
        var added: [AddedToken] = []
        var special: Set<Int32> = []
        let pieces = collect(gguf, added: &added, special: &special) { token in
            ByteAlphabet.bytes(of: token) ?? Array(token.utf8)
        }
        let addedIDs = Set(added.map(\.id))
        let table = TokenTable(tokens: pieces) { !addedIDs.contains(Int32($0)) }
        let spellings = TokenTable(tokens: gguf.tokens.map { Array($0.utf8) }) { _ in true }
        var merges: [MergeTable.Merge] = []
        merges.reserveCapacity(gguf.merges.count)
        guard gguf.merges.count <= VocabularyLimits.merges else {
            throw TokenizationError(
                .limit, "tokenizer.ggml.merges: \(gguf.merges.count) entries, limit \(VocabularyLimits.merges)")
        }
        for (index, merge) in gguf.merges.enumerated() {
            merges.append(
                try VocabularyReader.merge(
                    VocabularyReader.halves(merge, field: "tokenizer.ggml.merges[\(index)]"), spellings,
                    field: "tokenizer.ggml.merges[\(index)]"))
        }
        var preTokenizers: [PreTokenizer] = []
        for pattern in named.patterns {
            preTokenizers.append(.split(try Pattern(pattern), .isolated, inverted: false))
        }
        if gguf.addSpacePrefix ?? false { preTokenizers.insert(.prefixSpace, at: 0) }
        let model = SubwordModel(
            table: table, algorithm: .ranked(MergeTable(merges)), alphabet: .bytes,
            byteIDs: (0..<256).map { table.find([UInt8($0)]) }, ignoresMerges: named.ignoresMerges)
        return Parts(
            model: model, pieces: table, spellings: spellings, added: added, special: special,
            preTokenizers: preTokenizers)
    }

    private static func scoredParts(_ gguf: GGUFTokenizerMetadata) throws(TokenizationError) -> Parts {
        guard gguf.scores.count == gguf.tokens.count else {
            throw TokenizationError(
                .malformed, "tokenizer.ggml.scores: \(gguf.scores.count) entries for \(gguf.tokens.count) tokens")
        }
        var added: [AddedToken] = []
        var special: Set<Int32> = []
        let texts = collect(gguf, added: &added, special: &special) { token in
            Array(token.replacingScalar("\u{2581}", with: " ").utf8)
        }
        var byteIDs = [Int32](repeating: -1, count: 256)
        var indexed = [Bool](repeating: false, count: texts.count)
        for (id, token) in gguf.tokens.enumerated() {
            switch type(gguf, id) {
            case .byte:
                if let byte = ByteAlphabet.fallbackByte(of: token) { byteIDs[Int(byte)] = Int32(id) }
            case .normal, .userDefined, .undefined: indexed[id] = true
            default: break
            }
        }
        let table = TokenTable(tokens: texts) { indexed[$0] }
        let model = SubwordModel(
            table: table, algorithm: .scored(gguf.scores), alphabet: .scalars, byteIDs: byteIDs,
            usesByteFallback: true, unknownID: gguf.unknownID ?? -1)
        let addsSpace = gguf.addSpacePrefix ?? true
        return Parts(
            model: model, pieces: table, added: added, special: special, addsSpacePrefix: addsSpace,
            strippedSpaces: addsSpace ? 1 : 0)
    }

    /// Texts of control tokens that end a turn, where the metadata does not name the id (as llama.cpp knows them).
    private static let turnEnds: Set<[UInt8]> = Set(
        ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "<EOT>", "<|user|>"]
            .map { Array($0.utf8) })

    private static func endIDs(_ gguf: GGUFTokenizerMetadata, _ parts: Parts) -> [Int32] {
        var ids = [gguf.eosID, gguf.eotID, gguf.eomID].compactMap { $0 }
        for token in parts.added where token.isSpecial {
            let isTurnEnd = turnEnds.contains(token.content)
            // GLM ends its turn with the token that opens the user's; elsewhere that token is no end.
            let isGLM = gguf.pre == "glm4" || gguf.pre == "chatglm-bpe"
            if isTurnEnd && (token.content != Array("<|user|>".utf8) || isGLM) { ids.append(token.id) }
        }
        var seen: Set<Int32> = []
        return ids.filter { seen.insert($0).inserted }
    }
}

extension String {
    /// Replaces one scalar, without the canonical equivalence that `Character` brings in.
    func replacingScalar(_ scalar: Unicode.Scalar, with replacement: Unicode.Scalar) -> String {
        var result = String.UnicodeScalarView()
        for current in unicodeScalars { result.append(current == scalar ? replacement : current) }
        return String(result)
    }
}
