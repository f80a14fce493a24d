package import OrderedJSON

/// The model architectures the engine can run. A further one is a case here, a config file and a model file.
package enum Architecture: String, Sendable, CaseIterable {
    case llama
    case glm5 = "glm_moe_dsa"
    case qwen3Moe = "qwen3_moe"

    /// The class name in `config.json`'s `architectures`. Raw values are `model_type`.
    var className: String {
        switch self {
        case .llama: "LlamaForCausalLM"
        case .glm5: "GlmMoeDsaForCausalLM"
        case .qwen3Moe: "Qwen3MoeForCausalLM"
        }
    }

    /// llama.cpp's name for it: `general.architecture` in a GGUF file.
    private var ggufName: String {
        switch self {
        case .llama: "llama"
        case .glm5: "glm-dsa"
        case .qwen3Moe: "qwen3moe"
        }
    }

    static func detect(huggingFace config: JSON, subject: String) throws(ModelFormatError) -> Architecture {
        let names = config["architectures"]?.array?.compactMap(\.string) ?? []
        if let found = allCases.first(where: { names.contains($0.className) }) { return found }
        // Hand-made configs may leave the class out.
        if names.isEmpty, let type = config["model_type"]?.string, let found = Architecture(rawValue: type) {
            return found
        }
        let found = names.isEmpty ? config["model_type"]?.string ?? "" : names.joined(separator: ", ")
        throw unsupported("architectures", found, allCases.map(\.className), subject)
    }

    static func detect(gguf file: GGUFFile) throws(ModelFormatError) -> Architecture {
        let name = file.string("general.architecture") ?? ""
        guard let found = allCases.first(where: { $0.ggufName == name }) else {
            throw unsupported("general.architecture", name, [Architecture.llama.ggufName], file.file.path)
        }
        return found
    }

    private static func unsupported(
        _ field: String, _ found: String, _ supported: [String], _ subject: String
    ) -> ModelFormatError {
        ModelFormatError(
            .unsupported, subject,
            (found.isEmpty ? "\(field) is missing" : "\(field) names \(shown(found))")
                + "; supported: \(supported.joined(separator: ", "))")
    }
}

/// What every model has, whatever its architecture.
package struct CommonConfig: Sendable, Equatable {
    package let architecture: Architecture
    /// Rows of the embedding; token ids are below it.
    package let vocabularySize: Int
    package let hiddenSize: Int
    package let layerCount: Int
    /// Positions the model was made for (`max_position_embeddings`).
    package let contextLimit: Int
    package let bosToken: Int?
    /// Tokens that end an answer.
    package let eosTokens: [Int]

    init(
        architecture: Architecture, vocabularySize: Int, hiddenSize: Int, layerCount: Int, contextLimit: Int,
        bosToken: Int?, eosTokens: [Int]
    ) {
        self.architecture = architecture
        self.vocabularySize = vocabularySize
        self.hiddenSize = hiddenSize
        self.layerCount = layerCount
        self.contextLimit = contextLimit
        self.bosToken = bosToken
        self.eosTokens = eosTokens
    }

    /// From `config.json`. Token ids of `generation_config.json` take precedence, as in transformers' generate().
    init(
        huggingFace fields: inout ConfigFields, generation: JSON, _ architecture: Architecture, defaultContext: Int
    ) {
        let vocabularySize = fields.integer("vocab_size", Self.vocabularySizes)
        var generationFields = ConfigFields(json: generation)
        func tokens(_ name: String, _ fields: inout ConfigFields) -> [Int]? {
            generationFields.tokens(name, vocabularySize: vocabularySize)
                ?? fields.tokens(name, vocabularySize: vocabularySize)
        }
        self.init(
            architecture: architecture, vocabularySize: vocabularySize,
            hiddenSize: fields.integer("hidden_size", Self.widths),
            layerCount: fields.integer("num_hidden_layers", Self.layerCounts),
            contextLimit: fields.integer("max_position_embeddings", Self.contexts, default: defaultContext),
            bosToken: tokens("bos_token_id", &fields)?.first, eosTokens: tokens("eos_token_id", &fields) ?? [])
        for problem in generationFields.problems { fields.report("generation_config.json: \(problem)") }
    }

    // Bounds on what a config may ask for, far above any published model.
    static let vocabularySizes = 1...(1 << 22)
    static let widths = 1...(1 << 20)
    static let layerCounts = 1...1024
    static let headCounts = 1...4096
    static let headDimensions = 2...4096
    static let contexts = 1...(1 << 28)
}

/// The config of a model of any supported architecture.
package enum ModelConfig: Sendable, Equatable {
    case llama(LlamaConfig)
    case glm5(GLM5Config)
    case qwen3Moe(Qwen3MoeConfig)

    package var common: CommonConfig {
        switch self {
        case .llama(let config): config.common
        case .glm5(let config): config.common
        case .qwen3Moe(let config): config.common
        }
    }

    /// The tensors such a model consists of, as the given kind of file names them. With `draftLayer` also those of a
    /// layer of multi-token prediction, where the architecture has one.
    package func expectedTensors(in format: WeightFormat, draftLayer: Bool = false) -> [ExpectedTensor] {
        switch self {
        case .llama(let config): config.expectedTensors(in: format)
        case .glm5(let config): config.expectedTensors(in: format, draftLayer: draftLayer)
        case .qwen3Moe(let config): config.expectedTensors(in: format)
        }
    }

    /// Whether a checkpoint of this config holds any tensor of a layer of multi-token prediction.
    package func hasDraftLayer(in checkpoint: Checkpoint) -> Bool {
        switch self {
        case .llama, .qwen3Moe: false
        case .glm5(let config): config.hasDraftLayer(in: checkpoint)
        }
    }

    /// From a `config.json`, and a `generation_config.json` whose token ids take precedence.
    package init(huggingFace config: JSON, generation: JSON? = nil, subject: String) throws(ModelFormatError) {
        guard config.object != nil else {
            throw ModelFormatError(.config, subject, "it is \(config.kindName), not an object")
        }
        var fields = ConfigFields(json: config)
        let generation = generation ?? [:]
        switch try Architecture.detect(huggingFace: config, subject: subject) {
        case .llama: self = .llama(LlamaConfig(huggingFace: &fields, generation: generation))
        case .glm5: self = .glm5(GLM5Config(huggingFace: &fields, generation: generation))
        case .qwen3Moe: self = .qwen3Moe(Qwen3MoeConfig(huggingFace: &fields, generation: generation))
        }
        guard fields.problems.isEmpty else { throw ModelFormatError(.config, subject, fields.problems) }
    }

    /// From a `config.json`, whatever its name, and the `generation_config.json` beside it if there is one.
    package init(file path: String) throws(ModelFormatError) {
        self = try ModelConfig(
            huggingFace: try JSONFile.read(path, maxBytes: Checkpoint.maxConfigBytes),
            generation: try JSONFile.readIfPresent(
                FileTree.parent(path) + "/generation_config.json", maxBytes: Checkpoint.maxConfigBytes),
            subject: path)
    }

    /// From a GGUF file's metadata, and the few small tensors that belong to its config.
    package init(gguf file: GGUFFile) throws(ModelFormatError) {
        var fields = ConfigFields { file.field($0) }
        if let parts = file.integer("split.count"), parts > 1 {
            throw ModelFormatError(.unsupported, file.file.path, "it is one of \(parts) parts; merge them first")
        }
        let architecture = try Architecture.detect(gguf: file)
        switch architecture {
        case .llama: self = .llama(try LlamaConfig(gguf: &fields, file))
        case .glm5, .qwen3Moe:
            throw ModelFormatError(
                .unsupported, file.file.path,
                "\(architecture.className) is supported from safetensors files, not from GGUF")
        }
        guard fields.problems.isEmpty else { throw ModelFormatError(.config, file.file.path, fields.problems) }
    }
}

/// The two families of weight files; they name the same tensors differently.
package enum WeightFormat: String, Sendable {
    case safetensors
    case gguf
}
