import ModelFormat
package import Tokenization

extension LoadedModel {
    /// The tokenizer that came with the checkpoint. Throws `model` when there is none or it cannot be used.
    package func tokenizer() throws(EngineError) -> Tokenizer {
        let source: TokenizerSource
        do throws(ModelFormatError) {
            source = try checkpoint.tokenizer()
        } catch {
            throw EngineError.model(path: error.subject, problems: error.problems)
        }
        do throws(TokenizationError) {
            switch source {
            case .huggingFace(let files):
                return try Tokenizer(
                    tokenizerJSON: files.tokenizer, tokenizerConfig: files.config, generationConfig: files.generation)
            case .gguf(let keys):
                return try Tokenizer(gguf: GGUFTokenizerMetadata(keys))
            case .missing(let reason):
                throw TokenizationError(.unsupported, reason)
            }
        } catch {
            throw EngineError.model(path: checkpoint.path, problems: ["tokenizer: \(error.message)"])
        }
    }
}

extension GGUFTokenizerMetadata {
    fileprivate init(_ keys: GGUFTokenizer) {
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
