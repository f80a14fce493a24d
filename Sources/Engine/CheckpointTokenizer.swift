import CheckpointText
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
            return try Tokenizer.load(source).tokenizer
        } catch {
            throw EngineError.model(path: checkpoint.path, problems: ["tokenizer: \(error.message)"])
        }
    }
}
