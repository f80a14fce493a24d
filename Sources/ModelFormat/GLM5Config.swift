import OrderedJSON

/// The shape of a GLM-5 model (`GlmMoeDsaForCausalLM`: GLM-5, 5.1, 5.2): latent attention over the positions that an
/// indexer selects (DeepSeek-V2 and -V3.2; arXiv:2405.04434, arXiv:2512.02556), and mixtures of experts.
package struct GLM5Config: Sendable, Equatable {
    package let common: CommonConfig
    package let headCount: Int
    /// Width of the queries' low-rank form (`q_lora_rank`).
    package let queryRank: Int
    /// Width of the latent that stands for all keys and values of a position (`kv_lora_rank`).
    package let latentRank: Int
    /// Dimensions of a query or key that are not rotated (`qk_nope_head_dim`); they come first.
    package let plainDimension: Int
    /// Rotated dimensions (`qk_rope_head_dim`), of one key for all heads.
    package let ropeDimension: Int
    /// Dimensions of a value (`v_head_dim`).
    package let valueDimension: Int
    package let indexHeadCount: Int
    /// Dimensions of an indexer's query or key, of which the first `ropeDimension` are rotated.
    package let indexDimension: Int
    /// Positions that a query attends to at most.
    package let indexTopK: Int
    /// Per layer: true where the layer has an indexer of its own ("full"), false where it reuses the selection of the
    /// nearest earlier one. The draft layer has its own, whatever these say.
    package let ownsIndexer: [Bool]
    /// Per layer: true for a mixture of experts, false for a dense MLP. The draft layer has a mixture.
    package let isSparse: [Bool]
    /// Width of a dense MLP (`intermediate_size`).
    package let denseSize: Int
    package let mixture: MixtureConfig
    /// Layers of multi-token prediction in the config (`num_nextn_predict_layers`): 0 or 1. Checkpoints may leave an
    /// announced one out; see `hasDraftLayer`.
    package let draftLayerCount: Int
    /// Drafts after a round's first reuse the selection of its last verified row (`index_share_for_mtp_iteration`).
    package let sharesDraftSelection: Bool
    /// Added to the mean square in RMSNorm.
    package let normEpsilon: Float
    /// Of queries and keys of the attention; `dimensions` is `ropeDimension`.
    package let rope: RopeConfig
    /// Of the indexer's queries and keys, which turn by the same angles.
    package let indexerRopePairing: RopeConfig.Pairing
    /// How 8-bit weights share scales; nil if the config announces none.
    package let weightBlock: WeightBlock?

    static let draftLayerCounts = 0...1

    /// From `config.json` with transformers' defaults, but for the dimensions, which must be there. `head_dim` is not
    /// read: its meaning differs between the published configs. Problems are left in `fields`.
    init(huggingFace fields: inout ConfigFields, generation: JSON) {
        common = CommonConfig(huggingFace: &fields, generation: generation, .glm5, defaultContext: 202_752)
        headCount = fields.integer("num_attention_heads", CommonConfig.headCounts)
        queryRank = fields.integer("q_lora_rank", CommonConfig.widths)
        latentRank = fields.integer("kv_lora_rank", CommonConfig.widths)
        plainDimension = fields.integer("qk_nope_head_dim", CommonConfig.headDimensions)
        ropeDimension = fields.integer("qk_rope_head_dim", CommonConfig.headDimensions)
        valueDimension = fields.integer("v_head_dim", CommonConfig.headDimensions)
        indexHeadCount = fields.integer("index_n_heads", CommonConfig.headCounts)
        indexDimension = fields.integer("index_head_dim", CommonConfig.headDimensions)
        indexTopK = fields.integer("index_topk", CommonConfig.contexts)
        ownsIndexer = Self.indexerSchedule(&fields, layerCount: common.layerCount)
        isSparse = Self.mixtureSchedule(&fields, layerCount: common.layerCount)
        denseSize = fields.integer("intermediate_size", CommonConfig.widths)
        mixture = .glm5(&fields, layerCount: common.layerCount)
        draftLayerCount = fields.integer("num_nextn_predict_layers", Self.draftLayerCounts, default: 0)
        sharesDraftSelection = fields.flag("index_share_for_mtp_iteration", default: false)
        normEpsilon = Float(fields.number("rms_norm_eps", LlamaConfig.epsilons, default: 1e-5))
        rope = RopeConfig(
            huggingFace: &fields, headDimension: ropeDimension, contextLimit: common.contextLimit,
            pairing: .interleaved, dimensionName: "qk_rope_head_dim")
        indexerRopePairing = fields.flag("indexer_rope_interleave", default: true) ? .interleaved : .halfSplit
        weightBlock = WeightBlock(huggingFace: &fields)
        fields.require("hidden_act", "silu")
        fields.require("rope_interleave", true)
        for flag in ["attention_bias", "mlp_bias", "tie_word_embeddings"] { fields.require(flag, false) }
        checkDimensions(&fields)
    }

    private func checkDimensions(_ fields: inout ConfigFields) {
        if ropeDimension > indexDimension {
            fields.report(
                "qk_rope_head_dim \(ropeDimension) is above index_head_dim \(indexDimension), of which it is a part")
        }
        let both = plainDimension + ropeDimension
        if let sum = fields.optionalInteger("qk_head_dim", 1...8192), sum != both {
            fields.report("qk_head_dim \(sum) is not qk_nope_head_dim + qk_rope_head_dim, \(both)")
        }
        let keyHeads = fields.integer("num_key_value_heads", CommonConfig.headCounts, default: headCount)
        if keyHeads != headCount {
            fields.report("num_key_value_heads \(keyHeads) is not num_attention_heads \(headCount)")
        }
        if rope.dimensions != ropeDimension {
            fields.report("partial_rotary_factor is not supported: qk_rope_head_dim says how much is rotated")
        }
    }

    // MARK: Schedules

    /// Which layers have an indexer: `indexer_types`, or else `index_topk_pattern`, or else one in
    /// `index_topk_freq` layers from layer `index_skip_topk_offset` - 1 on and all before (arXiv:2603.12201).
    private static func indexerSchedule(_ fields: inout ConfigFields, layerCount: Int) -> [Bool] {
        let everywhere = [Bool](repeating: true, count: layerCount)
        let schedule: [Bool]
        let source: String
        if fields.value("indexer_types") != nil {
            source = "indexer_types"
            schedule = fields.choices(source, count: layerCount, "full", "shared") ?? everywhere
        } else if let pattern = fields.value("index_topk_pattern") {
            source = "index_topk_pattern"
            schedule = (pattern.string ?? "").map { $0 == "F" }
            if schedule.count != layerCount || pattern.string?.allSatisfy({ $0 == "F" || $0 == "S" }) != true {
                fields.report("\(source) must be \(layerCount) letters F or S, one for each layer")
                return everywhere
            }
        } else {
            source = "index_skip_topk_offset"
            // As in transformers, 0 means 1: every layer.
            let frequency = max(fields.integer("index_topk_freq", 0...1024, default: 1), 1)
            let offset = fields.integer(source, 0...1024, default: 2)
            schedule = (0..<layerCount).map { max($0 - offset + 1, 0) % frequency == 0 }
        }
        if schedule.first == false {
            fields.report("\(source) leaves layer 0 without an indexer; there is no earlier one to share")
        }
        return schedule
    }

    /// Which layers have a mixture of experts: `mlp_layer_types`, or else every `moe_layer_freq`-th after the first
    /// `first_k_dense_replace`.
    private static func mixtureSchedule(_ fields: inout ConfigFields, layerCount: Int) -> [Bool] {
        if let types = fields.choices("mlp_layer_types", count: layerCount, "sparse", "dense") { return types }
        let denseCount = fields.integer("first_k_dense_replace", 0...1024, default: 3)
        let frequency = fields.integer("moe_layer_freq", CommonConfig.layerCounts, default: 1)
        return (0..<layerCount).map { $0 >= denseCount && $0 % frequency == 0 }
    }
}
