import CheckpointText
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
            let (tokenizer, source) = try Tokenizer.load(files)
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
}
