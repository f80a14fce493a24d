package import OrderedJSON

extension Tokenizer {
    /// A tokenizer from a published `tokenizer.json`.
    ///
    /// - Parameters:
    ///   - tokenizerConfig: `tokenizer_config.json` beside it: begin and end tokens, `add_bos_token`, chat template.
    ///   - generationConfig: `generation_config.json` beside it: further ids that end a generation.
    /// - Throws: `.malformed` or `.limit` naming the field, `.unsupported` for a component that is not implemented.
    package convenience init(
        tokenizerJSON: JSON, tokenizerConfig: JSON? = nil, generationConfig: JSON? = nil
    ) throws(TokenizationError) {
        var reader = TokenizerFileReader()
        var parts = try reader.read(tokenizerJSON)
        parts.chatTemplate = Self.chatTemplate(tokenizerConfig)
        func id(_ key: String) -> Int32? {
            let value = tokenizerConfig?[key]
            guard let text = value?.string ?? value?["content"]?.string else { return nil }
            return reader.id(of: Array(text.utf8))
        }
        func ids(_ key: String) throws(TokenizationError) -> [Int32] {
            guard let value = generationConfig?[key], !value.isNull else { return [] }
            var result: [Int32] = []
            for element in value.array ?? [value] {
                guard let id = element.int, id >= 0, id < VocabularyLimits.tokens else {
                    throw TokenizationError(.malformed, "generation_config.json: \(key): \(element) is no token id")
                }
                result.append(Int32(id))
            }
            return result
        }
        let ends = try ids("eos_token_id")
        let begins = try ids("bos_token_id")
        parts.bosID = id("bos_token") ?? begins.first
        parts.eosID = id("eos_token") ?? ends.first
        var seen: Set<Int32> = []
        parts.endIDs = (([parts.eosID].compactMap { $0 }) + ends).filter { seen.insert($0).inserted }
        Self.honour(tokenizerConfig?["add_bos_token"]?.bool, parts.bosID, &parts.prefix)
        Self.honour(tokenizerConfig?["add_eos_token"]?.bool, parts.eosID, &parts.suffix)
        self.init(parts)
    }

    /// An explicit `add_bos_token` or `add_eos_token` overrides what the file's post-processor does.
    private static func honour(_ wanted: Bool?, _ id: Int32?, _ ids: inout [Int32]) {
        guard let wanted, let id else { return }
        if wanted && !ids.contains(id) { ids.insert(id, at: 0) }
        if !wanted { ids.removeAll { $0 == id } }
    }

    private static func chatTemplate(_ config: JSON?) -> String? {
        let value = config?["chat_template"]
        if let named = value?.array {
            // Several named templates: the one called "default" is the one for chat.
            return (named.first { $0["name"]?.string == "default" } ?? named.first)?["template"]?.string
        }
        return value?.string
    }
}

/// Reads the components of a `tokenizer.json`.
struct TokenizerFileReader {
    private var spellings = TokenTable(tokens: []) { _ in true }
    private var isByteLevel = false
    private var added: [AddedToken] = []

    /// The id of a token by its spelling, after `read`.
    func id(of token: [UInt8]) -> Int32? {
        if let added = added.first(where: { $0.content == token }) { return added.id }
        let id = spellings.find(token)
        return id >= 0 ? id : nil
    }

    mutating func read(_ file: JSON) throws(TokenizationError) -> Tokenizer.Parts {
        guard let model = file["model"], model.object != nil else {
            throw TokenizationError(.malformed, "tokenizer.json: 'model' must be an object")
        }
        var normalizers: [Normalizer] = []
        try readNormalizer(file["normalizer"], into: &normalizers)
        var preTokenizers: [PreTokenizer] = []
        try readPreTokenizer(file["pre_tokenizer"], into: &preTokenizers)
        var decoder = PieceDecoder()
        try decoder.read(file["decoder"])
        added = try readAdded(file["added_tokens"])
        // Tokens that are searched for in normalized text are normalized as well.
        for index in added.indices where added[index].isNormalized {
            for normalizer in normalizers { added[index].content = normalizer.apply(added[index].content) }
        }
        let vocabulary = try readVocabulary(model)
        let subwords = try readModel(model, vocabulary)
        var parts = Tokenizer.Parts(model: subwords, pieces: pieces(vocabulary, decoder))
        parts.spellings = spellings
        parts.added = added
        parts.special = Set(added.filter(\.isSpecial).map(\.id))
        parts.normalizers = normalizers
        parts.preTokenizers = preTokenizers
        parts.strippedSpaces = decoder.strippedSpaces
        try readPostProcessor(file["post_processor"], into: &parts)
        return parts
    }

    // MARK: Vocabulary

    /// Checks and returns the spelling of every id below the greatest; nil where there is none.
    private mutating func readVocabulary(_ model: JSON) throws(TokenizationError) -> [String?] {
        guard let vocab = model["vocab"]?.object else {
            throw TokenizationError(.malformed, "tokenizer.json: 'model.vocab' must be an object of token ids")
        }
        guard vocab.count <= VocabularyLimits.tokens else {
            throw TokenizationError(
                .limit, "tokenizer.json: 'model.vocab' has \(vocab.count) tokens, limit \(VocabularyLimits.tokens)")
        }
        // Ids may leave gaps, but a file cannot make us allocate much more than it is long.
        let greatest = min(VocabularyLimits.tokens, (vocab.count + added.count) * 4 + 65_536)
        var tokens = [String?](repeating: nil, count: vocab.count)
        func check(_ id: Int?, _ token: String) throws(TokenizationError) -> Int {
            guard let id, id >= 0, id < greatest else {
                throw TokenizationError(
                    .malformed, "tokenizer.json: the id of '\(token.prefix(60))' must be 0 to \(greatest - 1)")
            }
            return id
        }
        for (token, value) in vocab {
            let id = try check(value.int, token)
            while tokens.count <= id { tokens.append(nil) }
            if let other = tokens[id] {
                throw TokenizationError(
                    .malformed, "tokenizer.json: tokens '\(other.prefix(60))' and '\(token.prefix(60))' share id \(id)")
            }
            tokens[id] = token
        }
        for token in added {
            let id = try check(Int(token.id), String(decoding: token.content, as: UTF8.self))
            while tokens.count <= id { tokens.append(nil) }
        }
        spellings = TokenTable(tokens: tokens.map { Array(($0 ?? "").utf8) }) { tokens[$0] != nil }
        return tokens
    }

    private func readAdded(_ list: JSON?) throws(TokenizationError) -> [AddedToken] {
        guard let list, !list.isNull else { return [] }
        guard let list = list.array, list.count <= VocabularyLimits.addedTokens else {
            throw TokenizationError(
                .malformed, "tokenizer.json: 'added_tokens' must be a list of at most \(VocabularyLimits.addedTokens)")
        }
        var result: [AddedToken] = []
        for (index, entry) in list.enumerated() {
            guard let id = entry["id"]?.int, id >= 0, id < VocabularyLimits.tokens,
                let content = entry["content"]?.string, !content.isEmpty,
                content.utf8.count <= VocabularyLimits.tokenBytes
            else {
                throw TokenizationError(
                    .malformed, "tokenizer.json: 'added_tokens[\(index)]' must have an id and a content")
            }
            result.append(
                AddedToken(
                    id: Int32(id), content: Array(content.utf8), isSpecial: entry["special"]?.bool ?? false,
                    stripsLeft: entry["lstrip"]?.bool ?? false, stripsRight: entry["rstrip"]?.bool ?? false,
                    isSingleWord: entry["single_word"]?.bool ?? false,
                    isNormalized: entry["normalized"]?.bool ?? false))
        }
        return result
    }

    /// What each id stands for in decoded text.
    private func pieces(_ vocabulary: [String?], _ decoder: PieceDecoder) -> TokenTable {
        var pieces = vocabulary.map { $0.map(decoder.bytes) ?? [] }
        for token in added {
            let isText = token.isNormalized
            pieces[Int(token.id)] =
                isText ? decoder.bytes(of: String(decoding: token.content, as: UTF8.self)) : token.content
        }
        return TokenTable(tokens: pieces) { !pieces[$0].isEmpty }
    }

    // MARK: Model

    private func readModel(_ model: JSON, _ vocabulary: [String?]) throws(TokenizationError) -> SubwordModel {
        if let type = model["type"]?.string, type != "BPE" {
            throw TokenizationError(.unsupported, "tokenizer.json: model type '\(type)' is not supported, only 'BPE'")
        }
        for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
            if let text = model[key]?.string, !text.isEmpty {
                throw TokenizationError(.unsupported, "tokenizer.json: 'model.\(key)' is not supported")
            }
        }
        guard let list = model["merges"]?.array, list.count <= VocabularyLimits.merges else {
            throw TokenizationError(
                .malformed, "tokenizer.json: 'model.merges' must be a list of at most \(VocabularyLimits.merges)")
        }
        var merges: [MergeTable.Merge] = []
        merges.reserveCapacity(list.count)
        for (index, entry) in list.enumerated() {
            let field = "tokenizer.json: model.merges[\(index)]"
            let halves: ([UInt8], [UInt8])
            if let pair = entry.array, pair.count == 2, let left = pair[0].string, let right = pair[1].string {
                halves = (Array(left.utf8), Array(right.utf8))
            } else if let text = entry.string {
                halves = try VocabularyReader.halves(text, field: field)
            } else {
                throw TokenizationError(.malformed, "\(field): must be a pair of tokens")
            }
            merges.append(try VocabularyReader.merge(halves, spellings, field: field))
        }
        let keys = vocabulary.map { token -> [UInt8]? in
            guard let token else { return nil }
            return isByteLevel ? ByteAlphabet.bytes(of: token) : Array(token.utf8)
        }
        let table = TokenTable(tokens: keys.map { $0 ?? [] }) { keys[$0] != nil }
        let usesFallback = model["byte_fallback"]?.bool ?? false
        var byteIDs = [Int32](repeating: -1, count: 256)
        for byte in 0..<256 {
            if isByteLevel {
                byteIDs[byte] = table.find([UInt8(byte)])
            } else if usesFallback {
                let digits = String(byte, radix: 16, uppercase: true)
                let name = "<0x" + (digits.utf8.count < 2 ? "0" : "") + digits + ">"
                byteIDs[byte] = spellings.find(Array(name.utf8))
            }
        }
        var unknown: Int32 = -1
        if let text = model["unk_token"]?.string {
            guard let id = id(of: Array(text.utf8)) else {
                throw TokenizationError(
                    .malformed, "tokenizer.json: 'model.unk_token' '\(text)' is not in the vocabulary")
            }
            unknown = id
        }
        return SubwordModel(
            table: table, algorithm: .ranked(MergeTable(merges)), alphabet: isByteLevel ? .bytes : .scalars,
            byteIDs: byteIDs, usesByteFallback: usesFallback, unknownID: unknown,
            fusesUnknown: model["fuse_unk"]?.bool ?? false, ignoresMerges: model["ignore_merges"]?.bool ?? false)
    }

    // MARK: Components

    private mutating func readNormalizer(
        _ json: JSON?, into result: inout [Normalizer]
    ) throws(TokenizationError) {
        guard let json, !json.isNull else { return }
        switch json["type"]?.string {
        case "Sequence":
            for part in json["normalizers"]?.array ?? [] { try readNormalizer(part, into: &result) }
        case "NFC": result.append(.composed)
        case "NFD": result.append(.decomposed)
        case "Lowercase": result.append(.lowercase)
        case "ByteLevel": isByteLevel = true
        case "Prepend":
            result.append(.prepend(Array((json["prepend"]?.string ?? "").utf8)))
        case "Strip":
            result.append(
                .strip(left: json["strip_left"]?.bool ?? true, right: json["strip_right"]?.bool ?? true))
        case "Replace":
            let content = Array((json["content"]?.string ?? "").utf8)
            result.append(.replace(try Self.pattern(json["pattern"], "normalizer"), with: content))
        case let type:
            throw Self.unsupported("normalizer", type)
        }
    }

    private mutating func readPreTokenizer(
        _ json: JSON?, into result: inout [PreTokenizer]
    ) throws(TokenizationError) {
        guard let json, !json.isNull else { return }
        switch json["type"]?.string {
        case "Sequence":
            for part in json["pretokenizers"]?.array ?? [] { try readPreTokenizer(part, into: &result) }
        case "ByteLevel":
            isByteLevel = true
            if json["add_prefix_space"]?.bool ?? true { result.append(.prefixSpace) }
            if json["use_regex"]?.bool ?? true {
                result.append(.split(try Pattern(PreTokenizer.gpt2Pattern), .isolated, inverted: false))
            }
        case "Split":
            let pattern = try Self.pattern(json["pattern"], "pre_tokenizer")
            let behavior = try Self.behavior(json["behavior"]?.string ?? "Isolated")
            result.append(.split(pattern, behavior, inverted: json["invert"]?.bool ?? false))
        case "Digits":
            let apart = json["individual_digits"]?.bool ?? false
            result.append(.split(try Pattern(apart ? #"\p{N}"# : #"\p{N}+"#), .isolated, inverted: false))
        case "Punctuation":
            let pattern = try Pattern(##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~\p{P}]"##)
            let behavior = try Self.behavior(json["behavior"]?.string ?? "Isolated")
            result.append(.split(pattern, behavior, inverted: false))
        case "Whitespace":
            result.append(.split(try Pattern(#"\w+|[^\w\s]+"#), .removed, inverted: true))
        case "WhitespaceSplit":
            result.append(.split(try Pattern(#"\s"#), .removed, inverted: false))
        case "Metaspace":
            result.append(try Self.metaspace(json))
        case let type:
            throw Self.unsupported("pre_tokenizer", type)
        }
    }

    private static func metaspace(_ json: JSON) throws(TokenizationError) -> PreTokenizer {
        let text = json["replacement"]?.string ?? "\u{2581}"
        let scheme = json["prepend_scheme"]?.string ?? (json["add_prefix_space"]?.bool ?? true ? "always" : "never")
        guard let prepend = PreTokenizer.Prepend(rawValue: scheme) else {
            throw unsupported("pre_tokenizer.prepend_scheme", scheme)
        }
        let pattern = json["split"]?.bool ?? true ? try Pattern(literal: text) : nil
        return .metaspace(replacement: Array(text.utf8), prepend: prepend, split: pattern)
    }

    static func pattern(_ json: JSON?, _ field: String) throws(TokenizationError) -> Pattern {
        if let regex = json?["Regex"]?.string { return try Pattern(regex) }
        if let text = json?["String"]?.string ?? json?.string, !text.isEmpty { return try Pattern(literal: text) }
        throw TokenizationError(.malformed, "tokenizer.json: '\(field).pattern' must hold a Regex or a String")
    }

    private static func behavior(_ name: String) throws(TokenizationError) -> PreTokenizer.Behavior {
        guard let behavior = PreTokenizer.Behavior(rawValue: name) else {
            throw unsupported("pre_tokenizer.behavior", name)
        }
        return behavior
    }

    static func unsupported(_ field: String, _ type: String?) -> TokenizationError {
        TokenizationError(.unsupported, "tokenizer.json: \(field) '\(type ?? "without a type")' is not supported")
    }

    private func readPostProcessor(
        _ json: JSON?, into parts: inout Tokenizer.Parts
    ) throws(TokenizationError) {
        guard let json, !json.isNull else { return }
        switch json["type"]?.string {
        case "Sequence":
            for part in json["processors"]?.array ?? [] { try readPostProcessor(part, into: &parts) }
        case "ByteLevel":
            break
        case "RobertaProcessing", "BertProcessing":
            if let id = json["cls"]?[1]?.int { parts.prefix.append(Int32(clamping: id)) }
            if let id = json["sep"]?[1]?.int { parts.suffix.append(Int32(clamping: id)) }
        case "TemplateProcessing":
            var isBefore = true
            for item in json["single"]?.array ?? [] {
                if item["Sequence"] != nil {
                    isBefore = false
                } else if let name = item["SpecialToken"]?["id"]?.string {
                    guard let ids = json["special_tokens"]?[name]?["ids"]?.array else {
                        throw TokenizationError(
                            .malformed, "tokenizer.json: 'post_processor.special_tokens' has no '\(name)'")
                    }
                    let known = ids.compactMap(\.int).map { Int32(clamping: $0) }
                    if isBefore { parts.prefix += known } else { parts.suffix += known }
                }
            }
        case let type:
            throw Self.unsupported("post_processor", type)
        }
        for id in parts.prefix + parts.suffix where id < 0 || id >= parts.pieces.count {
            throw TokenizationError(
                .malformed, "tokenizer.json: 'post_processor' names token \(id), which does not exist")
        }
    }
}

/// The decoder of a `tokenizer.json`, reduced to what it makes of each single token.
struct PieceDecoder {
    private var isByteLevel = false
    private var hasByteFallback = false
    private var replacements: [(Pattern, [UInt8])] = []
    /// Spaces that are stripped from the start of the whole text.
    private(set) var strippedSpaces = 0

    mutating func read(_ json: JSON?) throws(TokenizationError) {
        guard let json, !json.isNull else { return }
        switch json["type"]?.string {
        case "Sequence":
            for part in json["decoders"]?.array ?? [] { try read(part) }
        case "ByteLevel": isByteLevel = true
        case "ByteFallback": hasByteFallback = true
        case "Fuse": break
        case "Replace":
            let content = Array((json["content"]?.string ?? "").utf8)
            replacements.append((try TokenizerFileReader.pattern(json["pattern"], "decoder"), content))
        case "Strip":
            guard json["content"]?.string == " ", json["stop"]?.int ?? 0 == 0, let start = json["start"]?.int,
                (0...16).contains(start)
            else {
                throw TokenizationError(
                    .unsupported, "tokenizer.json: decoder 'Strip' is supported only for spaces at the start")
            }
            strippedSpaces += start
        case "Metaspace":
            let text = json["replacement"]?.string ?? "\u{2581}"
            replacements.append((try Pattern(literal: text), [0x20]))
            let prepends = json["prepend_scheme"]?.string.map { $0 != "never" } ?? json["add_prefix_space"]?.bool
            if prepends ?? true { strippedSpaces += 1 }
        case let type:
            throw TokenizerFileReader.unsupported("decoder", type)
        }
    }

    func bytes(of token: String) -> [UInt8] {
        if isByteLevel { return ByteAlphabet.bytes(of: token) ?? Array(token.utf8) }
        if hasByteFallback, let byte = ByteAlphabet.fallbackByte(of: token) { return [byte] }
        return replacements.reduce(Array(token.utf8)) { Normalizer.replacing($1.0, with: $1.1, in: $0) }
    }
}
