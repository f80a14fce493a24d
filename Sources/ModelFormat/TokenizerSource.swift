package import OrderedJSON

/// Where a model's tokenizer comes from, read but not interpreted.
package enum TokenizerSource: Sendable {
    case huggingFace(HuggingFaceTokenizer)
    case gguf(GGUFTokenizer)
    /// There is none; the text says what was looked for.
    case missing(String)
}

/// The tokenizer files beside a safetensors checkpoint.
package struct HuggingFaceTokenizer: Sendable {
    /// `tokenizer.json`
    package let tokenizer: JSON
    /// `tokenizer_config.json`
    package let config: JSON?
    /// `generation_config.json`
    package let generation: JSON?
    /// `chat_template.jinja`, which takes precedence over a template in `tokenizer_config.json`.
    package let chatTemplate: String?

    static let maxTokenizerBytes = 256 << 20
    static let maxConfigBytes = 64 << 20
    static let maxTemplateBytes = 4 << 20

    /// Reads the files of a folder; nil if it holds no `tokenizer.json`.
    static func read(directory: String) throws(ModelFormatError) -> HuggingFaceTokenizer? {
        guard
            let tokenizer = try JSONFile.readIfPresent(directory + "/tokenizer.json", maxBytes: maxTokenizerBytes)
        else { return nil }
        var template: String?
        let templatePath = directory + "/chat_template.jinja"
        if FileTree.exists(templatePath) {
            let file = try MappedFile(path: templatePath, maxBytes: maxTemplateBytes)
            guard let text = file.withBytes({ utf8($0, 0..<$0.count) }) else {
                throw ModelFormatError(.malformed, templatePath, "it is not UTF-8")
            }
            template = text
        }
        return HuggingFaceTokenizer(
            tokenizer: tokenizer,
            config: try JSONFile.readIfPresent(directory + "/tokenizer_config.json", maxBytes: maxConfigBytes),
            generation: try JSONFile.readIfPresent(directory + "/generation_config.json", maxBytes: maxConfigBytes),
            chatTemplate: template)
    }
}

/// The keys `tokenizer.*` of a GGUF file.
package struct GGUFTokenizer: Sendable {
    /// "gpt2" (byte-level BPE) or "llama" (SentencePiece), among others.
    package let model: String
    /// The pre-tokenizer's name.
    package let pre: String?
    package let tokens: [String]
    /// One of ggml's token types for each token; empty if the file has none.
    package let tokenTypes: [Int32]
    package let scores: [Float]
    /// "left right" in order of rank.
    package let merges: [String]
    package let bosID: Int?
    package let eosID: Int?
    package let eotID: Int?
    package let eomID: Int?
    package let unknownID: Int?
    package let paddingID: Int?
    package let addBOS: Bool?
    package let addEOS: Bool?
    package let addSpacePrefix: Bool?
    package let chatTemplate: String?

    /// Reads the keys; nil if the file holds no tokenizer. Costs time and memory for the whole vocabulary.
    package static func read(_ file: GGUFFile) throws(ModelFormatError) -> GGUFTokenizer? {
        let prefix = "tokenizer.ggml."
        guard let model = file.string(prefix + "model"), let tokens = try file.strings(prefix + "tokens") else {
            return nil
        }
        let tokenTypes = try file.int32s(prefix + "token_type") ?? []
        let scores = try file.floats(prefix + "scores") ?? []
        for (name, count) in [("token_type", tokenTypes.count), ("scores", scores.count)]
        where count != 0 && count != tokens.count {
            throw ModelFormatError(
                .malformed, file.file.path, "\(prefix)\(name) has \(count) elements for \(tokens.count) tokens")
        }
        return GGUFTokenizer(
            model: model, pre: file.string(prefix + "pre"), tokens: tokens, tokenTypes: tokenTypes, scores: scores,
            merges: try file.strings(prefix + "merges") ?? [],
            bosID: file.integer(prefix + "bos_token_id"), eosID: file.integer(prefix + "eos_token_id"),
            eotID: file.integer(prefix + "eot_token_id"), eomID: file.integer(prefix + "eom_token_id"),
            unknownID: file.integer(prefix + "unknown_token_id"),
            paddingID: file.integer(prefix + "padding_token_id"),
            addBOS: file.bool(prefix + "add_bos_token"), addEOS: file.bool(prefix + "add_eos_token"),
            addSpacePrefix: file.bool(prefix + "add_space_prefix"), chatTemplate: file.string("tokenizer.chat_template")
        )
    }
}
