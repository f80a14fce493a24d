package import OrderedJSON

/// The body of `POST /v1/completions`.
package struct CompletionRequest: Equatable, Sendable {
    /// One prompt: text to tokenise, or token ids as they are.
    package enum Prompt: Equatable, Sendable {
        case text(String)
        case tokens([UInt32])
    }

    package static let promptsMax = 128
    package static let promptTokensMax = 4 << 20
    /// OpenAI's default where `max_tokens` is absent.
    package static let maxTokensDefault = 16

    package var model: String
    package var prompts: [Prompt]
    package var options: GenerationOptions
    /// The prompt's text comes before the completion's.
    package var echo: Bool
    /// Special tokens (such as a beginning-of-sequence token) the model wants are added to text prompts.
    package var addsSpecialTokens: Bool
    package var ignoredFields: [String]

    /// Throws a 400 that names the field.
    package init(_ body: JSON) throws(APIError) {
        var fields = RequestFields(try RequestFields.object(body, "body"))
        model = try RequestFields.string(try fields.required("model"), "model", maxBytes: 256)
        prompts = try Self.readPrompts(try fields.required("prompt"))
        options = try GenerationOptions(&fields)
        if let count = try fields.int("logprobs", in: GenerationOptions.Limits.topLogprobs) {
            options.logprobs = true
            options.topLogprobs = count
        }
        options.maxTokens = options.maxTokens ?? max(Self.maxTokensDefault, options.minTokens)
        echo = try fields.bool("echo") ?? false
        if echo, options.logprobs {
            throw .unsupported(
                "'echo' with 'logprobs' is not supported: logprobs of prompt tokens are not computed.", param: "echo")
        }
        if let suffix = try fields.string("suffix", maxBytes: 1 << 20), !suffix.isEmpty {
            throw .unsupported("'suffix' is not supported by this model.", param: "suffix")
        }
        addsSpecialTokens = try fields.bool("add_special_tokens") ?? true
        for name in GenerationOptions.inertFields { _ = fields.value(name) }
        ignoredFields = fields.unknown
        guard prompts.count * options.choices <= Self.promptsMax else {
            throw .invalid(
                "'prompt' × 'n' asks for \(prompts.count * options.choices) completions; the limit is "
                    + "\(Self.promptsMax).", param: "n")
        }
    }

    private static func readPrompts(_ value: JSON) throws(APIError) -> [Prompt] {
        if case .string(let text) = value { return [.text(text)] }
        guard case .array(let items) = value else {
            throw .wrongType("prompt", expected: "a string, an array of strings or an array of token ids", got: value)
        }
        guard let first = items.first else { throw .invalid("'prompt' is empty.", param: "prompt") }
        switch first {
        case .int, .double:
            return [.tokens(try readTokens(items, "prompt"))]
        default:
            let prompts = try RequestFields.array(value, "prompt", maxCount: promptsMax)
            var result: [Prompt] = []
            for (index, item) in prompts.enumerated() {
                switch item {
                case .string(let text): result.append(.text(text))
                case .array(let tokens): result.append(.tokens(try readTokens(tokens, "prompt[\(index)]")))
                default:
                    throw .wrongType(
                        "prompt[\(index)]", expected: "a string or an array of token ids", got: item)
                }
            }
            return result
        }
    }

    private static func readTokens(_ items: [JSON], _ name: String) throws(APIError) -> [UInt32] {
        guard !items.isEmpty else { throw .invalid("'\(name)' is empty.", param: "prompt") }
        guard items.count <= promptTokensMax else {
            throw .invalid("'\(name)' has \(items.count) tokens; the limit is \(promptTokensMax).", param: "prompt")
        }
        var tokens: [UInt32] = []
        tokens.reserveCapacity(items.count)
        for (index, item) in items.enumerated() {
            // The common case first: error texts are only built when one is thrown.
            if case .int(let id) = item, id >= 0, id <= Int64(Int32.max) {
                tokens.append(UInt32(id))
            } else {
                tokens.append(
                    UInt32(try RequestFields.int(item, "\(name)[\(index)]", in: GenerationOptions.Limits.tokenID)))
            }
        }
        return tokens
    }
}
