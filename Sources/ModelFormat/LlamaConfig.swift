import OrderedJSON

/// The shape of a Llama model: dense, pre-norm, grouped-query attention, SwiGLU.
package struct LlamaConfig: Sendable, Equatable {
    /// Which attention projections add a bias.
    package struct AttentionBias: Sendable, Equatable {
        package let query: Bool
        package let key: Bool
        package let value: Bool
        package let output: Bool
    }

    package let common: CommonConfig
    package let headCount: Int
    /// Heads of keys and values; divides `headCount`.
    package let keyValueHeadCount: Int
    package let headDimension: Int
    package let intermediateSize: Int
    /// Added to the mean square in RMSNorm.
    package let normEpsilon: Float
    /// The output projection is the embedding.
    package let tiedEmbeddings: Bool
    package let attentionBias: AttentionBias
    package let mlpBias: Bool
    package let rope: RopeConfig

    static let epsilons = 0...0.1

    /// From `config.json` with transformers' defaults. Problems are left in `fields`.
    init(huggingFace fields: inout ConfigFields, generation: JSON) {
        common = CommonConfig(huggingFace: &fields, generation: generation, .llama, defaultContext: 2048)
        let hiddenSize = common.hiddenSize
        headCount = fields.integer("num_attention_heads", CommonConfig.headCounts)
        keyValueHeadCount = fields.integer("num_key_value_heads", CommonConfig.headCounts, default: headCount)
        headDimension = fields.integer(
            "head_dim", CommonConfig.headDimensions, default: max(2, hiddenSize / headCount))
        if fields.value("head_dim") == nil, hiddenSize % headCount != 0 {
            fields.report("hidden_size \(hiddenSize) is not a multiple of num_attention_heads \(headCount)")
        }
        if headCount % keyValueHeadCount != 0 {
            fields.report(
                "num_attention_heads \(headCount) is not a multiple of num_key_value_heads \(keyValueHeadCount)")
        }
        intermediateSize = fields.integer("intermediate_size", CommonConfig.widths)
        normEpsilon = Float(fields.number("rms_norm_eps", Self.epsilons, default: 1e-6))
        tiedEmbeddings = fields.flag("tie_word_embeddings", default: false)
        let bias = fields.flag("attention_bias", default: false)
        attentionBias = AttentionBias(query: bias, key: bias, value: bias, output: bias)
        mlpBias = fields.flag("mlp_bias", default: false)
        rope = RopeConfig(huggingFace: &fields, headDimension: headDimension, contextLimit: common.contextLimit)
        fields.require("hidden_act", "silu")
        if fields.value("quantization_config") != nil {
            fields.report("quantization_config is not supported: use F32, F16 or BF16 weights, or a GGUF file")
        }
    }

    /// From the metadata of a GGUF file (keys `llama.*`); ties and biases show in its table of tensors.
    init(gguf fields: inout ConfigFields, _ file: GGUFFile) throws(ModelFormatError) {
        let tokenCount = file.count("tokenizer.ggml.tokens")
        let vocabularySize = fields.integer("llama.vocab_size", CommonConfig.vocabularySizes, default: tokenCount)
        let hiddenSize = fields.integer("llama.embedding_length", CommonConfig.widths)
        let contextLimit = fields.integer("llama.context_length", CommonConfig.contexts)
        headCount = Self.uniform("llama.attention.head_count", &fields, default: nil)
        keyValueHeadCount = Self.uniform("llama.attention.head_count_kv", &fields, default: headCount)
        headDimension = fields.integer(
            "llama.attention.key_length", CommonConfig.headDimensions, default: max(2, hiddenSize / headCount))
        let valueDimension = fields.integer(
            "llama.attention.value_length", CommonConfig.headDimensions, default: headDimension)
        if valueDimension != headDimension {
            fields.report("llama.attention.value_length \(valueDimension) differs from key_length \(headDimension)")
        }
        if headCount % keyValueHeadCount != 0 {
            fields.report(
                "llama.attention.head_count \(headCount) is not a multiple of head_count_kv \(keyValueHeadCount)")
        }
        intermediateSize = Self.uniform("llama.feed_forward_length", &fields, default: nil, CommonConfig.widths)
        normEpsilon = Float(fields.number("llama.attention.layer_norm_rms_epsilon", Self.epsilons))
        if fields.integer("llama.expert_count", 0...Int(Int32.max), default: 0) > 0 {
            fields.report("llama.expert_count: mixture-of-experts models are not supported")
        }
        tiedEmbeddings = file.table["output.weight"] == nil
        func has(_ tensor: LlamaTensor.Layer) -> Bool {
            file.table[LlamaTensor.layer(0, tensor).name(in: .gguf)] != nil
        }
        attentionBias = AttentionBias(
            query: has(.queryBias), key: has(.keyBias), value: has(.valueBias), output: has(.attentionOutputBias))
        mlpBias = has(.gateBias) || has(.upBias) || has(.downBias)
        rope = try RopeConfig(
            gguf: &fields, prefix: "llama.", file, headDimension: headDimension, contextLimit: contextLimit)
        let eos = ["eos", "eot", "eom"].flatMap {
            fields.tokens("tokenizer.ggml.\($0)_token_id", vocabularySize: vocabularySize) ?? []
        }
        var distinct: [Int] = []
        for token in eos where !distinct.contains(token) { distinct.append(token) }
        common = CommonConfig(
            architecture: .llama, vocabularySize: vocabularySize, hiddenSize: hiddenSize,
            layerCount: fields.integer("llama.block_count", CommonConfig.layerCounts), contextLimit: contextLimit,
            bosToken: fields.tokens("tokenizer.ggml.bos_token_id", vocabularySize: vocabularySize)?.first,
            eosTokens: distinct)
    }

    /// A number that GGUF may also give per layer; all layers must agree.
    private static func uniform(
        _ name: String, _ fields: inout ConfigFields, default standIn: Int?,
        _ limits: ClosedRange<Int> = CommonConfig.headCounts
    ) -> Int {
        guard let list = fields.value(name)?.array else {
            return fields.integer(name, limits, default: standIn)
        }
        let values = Set(list.map(\.int))
        guard values.count == 1, let value = list.first?.int, limits.contains(value) else {
            fields.report(
                "\(name) must be the same number for all layers, in \(limits.lowerBound)...\(limits.upperBound)")
            return limits.lowerBound
        }
        return value
    }
}
