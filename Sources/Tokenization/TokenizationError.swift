/// What went wrong while loading a tokenizer or running a chat template.
///
/// Encoding and decoding never fail: whatever the text or the ids, there is a defined answer.
package struct TokenizationError: Error, Sendable, Equatable, CustomStringConvertible {
    package enum Kind: Sendable {
        /// A tokenizer file or a template that breaks its format; the message names the field.
        case malformed
        /// Well formed, but asks for something this implementation does not have.
        case unsupported
        /// A bound was exceeded; the message names it.
        case limit
        /// A template failed while running: a value of the wrong type, an undefined variable.
        case template
        /// The template itself called `raise_exception`; the message is the template's own.
        case raised
    }

    package var kind: Kind
    package var message: String
    /// Line of the template, from 1; nil where no template is involved.
    package var line: Int?

    package init(_ kind: Kind, _ message: String, line: Int? = nil) {
        self.kind = kind
        self.message = message
        self.line = line
    }

    package var description: String {
        if let line { "chat template, line \(line): \(message)" } else { message }
    }
}
