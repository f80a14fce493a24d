import OrderedJSON

/// Why a model's files cannot be used. Everything that is wrong with one file or config is reported at once.
package struct ModelFormatError: Error, Sendable, Equatable, CustomStringConvertible {
    package enum Kind: Sendable, Equatable {
        /// The file is missing, unreadable or no file of a kind we read.
        case file
        /// The bytes contradict the format: truncated, lying or damaged.
        case malformed
        /// Well formed, but nothing we can compute.
        case unsupported
        /// The model's config has missing, wrong or unsupported fields.
        case config
        /// Tensors are missing, unexpected or of the wrong shape.
        case tensors
    }

    /// Problems beyond this many are only counted in the message.
    static let shownProblems = 20

    package let kind: Kind
    /// The file or folder at fault.
    package let subject: String
    package let problems: [String]

    package init(_ kind: Kind, _ subject: String, _ problems: [String]) {
        self.kind = kind
        self.subject = subject
        self.problems = problems
    }

    package init(_ kind: Kind, _ subject: String, _ problem: String) {
        self.init(kind, subject, [problem])
    }

    init(_ subject: String, _ error: JSONError) {
        self.init(.malformed, subject, error.description)
    }

    package var description: String {
        let hidden = problems.count - Self.shownProblems
        return "\(subject): " + problems.prefix(Self.shownProblems).joined(separator: "; ")
            + (hidden > 0 ? "; and \(hidden) more" : "")
    }
}

/// Text from a file as an error message may show it: quoted, escaped and cut.
func shown(_ text: some StringProtocol) -> String {
    let limit = 120
    let start = String(text.prefix(limit))
    return JSON.quoted(start, escapesNonASCII: true) + (start.utf8.count < text.utf8.count ? "…" : "")
}
