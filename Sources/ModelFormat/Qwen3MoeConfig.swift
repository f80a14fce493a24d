import OrderedJSON

/// The shape of a Qwen3-MoE model (arXiv:2505.09388): grouped-query attention with a norm on each head's query and
/// key, and mixtures of experts.
package struct Qwen3MoeConfig: Sendable, Equatable {
    package let common: CommonConfig
    package let headCount: Int
    /// Heads of keys and values; divides `headCount`.
    package let keyValueHeadCount: Int
    package let headDimension: Int
    /// Per layer: true for a mixture of experts, false for a dense MLP.
    package let isSparse: [Bool]
    /// Width of a dense MLP (`intermediate_size`).
    package let denseSize: Int
    package let mixture: MixtureConfig
    /// Added to the mean square in RMSNorm.
    package let normEpsilon: Float
    /// The output projection is the embedding.
    package let tiedEmbeddings: Bool
    /// All four projections of the attention add a bias.
    package let attentionBias: Bool
    package let rope: RopeConfig

    /// From `config.json` with transformers' defaults, but for the dimensions, which must be there. Problems are left
    /// in `fields`.
    init(huggingFace fields: inout ConfigFields, generation: JSON) {
        common = CommonConfig(huggingFace: &fields, generation: generation, .qwen3Moe, defaultContext: 32768)
        headCount = fields.integer("num_attention_heads", CommonConfig.headCounts)
        keyValueHeadCount = fields.integer("num_key_value_heads", CommonConfig.headCounts)
        headDimension = fields.integer(
            "head_dim", CommonConfig.headDimensions, default: max(2, common.hiddenSize / headCount))
        if headCount % keyValueHeadCount != 0 {
            fields.report(
                "num_attention_heads \(headCount) is not a multiple of num_key_value_heads \(keyValueHeadCount)")
        }
        isSparse = Self.mixtureSchedule(&fields, layerCount: common.layerCount)
        // Published configs have it even if all layers are mixtures.
        denseSize = fields.integer("intermediate_size", CommonConfig.widths)
        mixture = .qwen3(&fields, layerCount: common.layerCount)
        normEpsilon = Float(fields.number("rms_norm_eps", LlamaConfig.epsilons, default: 1e-6))
        tiedEmbeddings = fields.flag("tie_word_embeddings", default: false)
        attentionBias = fields.flag("attention_bias", default: false)
        rope = RopeConfig(huggingFace: &fields, headDimension: headDimension, contextLimit: common.contextLimit)
        fields.require("hidden_act", "silu")
        fields.require("mlp_bias", false)
        Self.refuseSlidingWindow(&fields)
        if fields.value("quantization_config") != nil {
            fields.report("quantization_config is not supported: use F32, F16 or BF16 weights")
        }
    }

    /// Which layers have a mixture of experts: every `decoder_sparse_step`-th, counted from 1, but for those in
    /// `mlp_only_layers`.
    private static func mixtureSchedule(_ fields: inout ConfigFields, layerCount: Int) -> [Bool] {
        let step = fields.integer("decoder_sparse_step", CommonConfig.layerCounts, default: 1)
        var schedule = (0..<layerCount).map { ($0 + 1) % step == 0 }
        guard let list = fields.value("mlp_only_layers") else { return schedule }
        let layers = list.array?.compactMap(\.int) ?? []
        guard layers.count == list.array?.count, layers.allSatisfy((0..<layerCount).contains) else {
            fields.report("mlp_only_layers must be numbers of layers in 0..<\(layerCount)")
            return schedule
        }
        for layer in layers { schedule[layer] = false }
        return schedule
    }

    private static func refuseSlidingWindow(_ fields: inout ConfigFields) {
        // Configs name a window they do not use.
        if fields.flag("use_sliding_window", default: false), fields.value("sliding_window") != nil {
            fields.report("sliding_window is not supported: use_sliding_window is true")
        }
        let types = fields.value("layer_types")?.array?.compactMap(\.string) ?? []
        if let other = types.first(where: { $0 != "full_attention" }) {
            fields.report("layer_types names \(shown(other)); supported: full_attention")
        }
    }
}
