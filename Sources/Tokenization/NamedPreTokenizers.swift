/// The pre-tokenizers that GGUF files name in `tokenizer.ggml.pre`, by the patterns of the original models.
enum NamedPreTokenizers {
    struct Entry {
        var patterns: [String]
        /// Llama 3's rule that a whole piece found in the vocabulary is not split further.
        var ignoresMerges = false
    }

    private static let numbersApart = [#"\p{N}"#, PreTokenizer.gpt2Pattern]
    private static let contractions = #"(?i:'s|'t|'re|'ve|'m|'ll|'d)"#
    private static let tail = #" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"#
    private static let llama3 = contractions + #"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"# + tail
    private static let qwen2 = contractions + #"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"# + tail
    private static let upper = #"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"#
    private static let lower = #"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"#
    private static let slashTail = #" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"#

    private static let o200k =
        "[^\\r\\n\\p{L}\\p{N}]?\(upper)*\(lower)+\(contractions)?|[^\\r\\n\\p{L}\\p{N}]?\(upper)+\(lower)*"
        + "\(contractions)?|\\p{N}{1,3}|" + slashTail
    private static let tekken =
        "[^\\r\\n\\p{L}\\p{N}]?\(upper)*\(lower)+|[^\\r\\n\\p{L}\\p{N}]?\(upper)+\(lower)*|\\p{N}|" + slashTail
    private static let deepseek3 = [
        #"\p{N}{1,3}"#, "[一-龥぀-ゟ゠-ヿ]+",
        ##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"##
            + #"\s*[\r\n]+|\s+(?!\S)|\s+"#,
    ]
    private static let deepseekCoder = [
        #"[\r\n]"#, #"\s?\p{L}+"#, #"\s?\p{P}+"#, "[一-龥ࠀ-一가-\u{D7FF}]+", #"\p{N}"#,
    ]
    private static let falcon = [
        #"[\p{P}\$\+<=>\^~\|`]+"#, PreTokenizer.gpt2Pattern, "[0-9][0-9][0-9]",
    ]
    private static let fallback = [
        #"[\p{P}\$\+<=>\^~\|]+"#, PreTokenizer.gpt2Pattern, #"\p{N}+"#, "[0-9][0-9][0-9]",
    ]

    private static let table: [String: Entry] = {
        var table: [String: Entry] = [:]
        func add(_ names: [String], _ patterns: [String], ignoresMerges: Bool = false) {
            for name in names { table[name] = Entry(patterns: patterns, ignoresMerges: ignoresMerges) }
        }
        add(["gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4", "granite-docling"], [PreTokenizer.gpt2Pattern])
        add(["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"], numbersApart)
        add(
            ["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "lfm2"], [llama3],
            ignoresMerges: true)
        add(["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], [llama3])
        add(["qwen2", "stablelm2", "hunyuan", "megrez", "deepseek-r1-qwen"], [qwen2])
        add(["deepseek-v3", "hunyuan-dense"], deepseek3)
        add(["deepseek-coder"], deepseekCoder)
        add(["gpt-4o", "llama4"], [o200k])
        add(["tekken"], [tekken], ignoresMerges: true)
        add(["falcon"], falcon)
        add(["default"], fallback)
        return table
    }()

    /// - Throws: `.unsupported`, naming what is known.
    static func entry(_ name: String) throws(TokenizationError) -> Entry {
        guard let entry = table[name] else {
            throw TokenizationError(
                .unsupported,
                "tokenizer.ggml.pre: '\(name)' is not known; known are \(table.keys.sorted().joined(separator: ", "))")
        }
        return entry
    }
}
