/// Everything this module can fail with. The message names the field and the limit, and is fit for a person.
package enum EngineError: Error, Sendable, Equatable, CustomStringConvertible {
    /// The model's files, config or tensors cannot be used; `problems` holds everything that was found at once.
    case model(path: String, problems: [String])
    /// An option or job from outside has a value that cannot be used.
    case invalid(field: String, reason: String)
    /// The memory for the KV slab is not there.
    case memory(reason: String)
    /// A sequence that can never fit this node.
    case tooLong(tokens: Int, limit: Int, what: String)
    /// The loop was shut down before the job ended.
    case shutDown

    package var description: String {
        switch self {
        case .model(let path, let problems):
            "model \(path): " + problems.joined(separator: "; ")
        case .invalid(let field, let reason):
            "\(field): \(reason)"
        case .memory(let reason):
            "KV memory: \(reason)"
        case .tooLong(let tokens, let limit, let what):
            "the sequence has \(tokens) tokens, but \(what) allows \(limit)"
        case .shutDown:
            "the engine was shut down"
        }
    }
}
