import Glibc
import ModelFormat
import OrderedJSON
import Routing
import Tokenization

/// An error of the command line: one line, with the fix.
struct CommandError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// What the router reads of a model: everything but its weights.
struct RouterModel {
    var prompts: PromptReader
    /// Nil when only tokenizer and configuration are here: then nodes are held to each other.
    var fingerprint: String?
}

extension RouterModel {
    /// Opens a GGUF file, or a folder or file of safetensors.
    /// - Parameter name: what clients call the model; nil: the checkpoint's own name.
    static func load(path: String, name: String?) throws(CommandError) -> RouterModel {
        let checkpoint: Checkpoint
        let fingerprint: String?
        let files: TokenizerSource
        do throws(ModelFormatError) {
            (checkpoint, fingerprint) = try open(path)
            files = try checkpoint.tokenizer()
        } catch {
            throw CommandError("--model: \(error)")
        }
        do throws(TokenizationError) {
            let (tokenizer, source) = try tokenizer(from: files)
            let template = try source.map { source throws(TokenizationError) in try ChatTemplate(source) }
            let prompts = PromptReader(
                name: name ?? checkpoint.name, aliases: name == nil ? [] : [checkpoint.name],
                created: wallClockSeconds(), contextLimit: checkpoint.config.common.contextLimit,
                tokenizer: tokenizer, template: template)
            return RouterModel(prompts: prompts, fingerprint: fingerprint)
        } catch {
            throw CommandError("--model \(path): \(error)")
        }
    }

    /// A router's host may hold the tokenizer without the weights: then there is no fingerprint.
    private static func open(_ path: String) throws(ModelFormatError) -> (Checkpoint, String?) {
        do throws(ModelFormatError) {
            let checkpoint = try Checkpoint.open(path)
            return (checkpoint, try checkpoint.fingerprint())
        } catch  where error.kind == .file {
            return (try Checkpoint.open(path, weights: .ignored), nil)
        }
    }

    private static func tokenizer(from files: TokenizerSource) throws(TokenizationError) -> (Tokenizer, String?) {
        switch files {
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
