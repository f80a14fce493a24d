package import ModelFormat
package import Tokenization

extension Tokenizer {
    /// The tokenizer that came with a checkpoint, and its chat template if it has one. Throws when there is none or it
    /// cannot be used.
    package static func load(
        _ source: TokenizerSource
    ) throws(TokenizationError) -> (tokenizer: Tokenizer, chatTemplate: String?) {
        switch source {
        case .huggingFace(let files):
            let tokenizer = try Tokenizer(
                tokenizerJSON: files.tokenizer, tokenizerConfig: files.config, generationConfig: files.generation)
            return (tokenizer, files.chatTemplate ?? tokenizer.chatTemplateSource)
        case .gguf(let keys):
            let tokenizer = try Tokenizer(gguf: GGUFTokenizerMetadata(keys))
            return (tokenizer, tokenizer.chatTemplateSource)
        case .missing(let reason):
            throw TokenizationError(.unsupported, "the model has no tokenizer: \(reason)")
        }
    }
}

extension GGUFTokenizerMetadata {
    /// The keys as the file has them.
    init(_ keys: GGUFTokenizer) {
        self.init(model: keys.model, tokens: keys.tokens)
        pre = keys.pre
        types = keys.tokenTypes
        merges = keys.merges
        scores = keys.scores
        bosID = keys.bosID.flatMap { Int32(exactly: $0) }
        eosID = keys.eosID.flatMap { Int32(exactly: $0) }
        eotID = keys.eotID.flatMap { Int32(exactly: $0) }
        eomID = keys.eomID.flatMap { Int32(exactly: $0) }
        unknownID = keys.unknownID.flatMap { Int32(exactly: $0) }
        addBOS = keys.addBOS
        addEOS = keys.addEOS
        addSpacePrefix = keys.addSpacePrefix
        chatTemplate = keys.chatTemplate
    }
}
