import Engine
import ModelFormat
import OrderedJSON
import SeededRandom

/// A small GLM-5 model drawn from a seed: odd sizes, any schedule in any of its published forms, any routing.
struct RandomGLM5 {
    let seed: UInt64
    var config = SlowGLM5.Config()
    var json: JSONObject = [:]
    var weights: RandomWeights
    /// A sequence, and what is drawn for its continuation.
    var prompt: [TokenID] = []
    var drafts = 1
    private var layerGain: Float = 1

    /// The longest sequence.
    static let context = 4096

    /// Says enough to draw it again.
    var description: String { "seed \(seed), \(weights.storage): \(JSON.object(json).text())" }

    /// - Parameters:
    ///   - draftLayer: nil draws whether there is one.
    ///   - length: of the prompt, for a model that is small enough for it; nil draws it.
    ///   - adjust: changes the sizes that were drawn.
    init(
        seed: UInt64, storage: RandomWeights.Storage? = nil, draftLayer: Bool? = nil, length: Int? = nil,
        adjust: (inout SlowGLM5.Config) -> Void = { _ in }
    ) {
        self.seed = seed
        let all = RandomWeights.Storage.allCases
        weights = RandomWeights(storage ?? all[Int(seed % UInt64(all.count))], seed: seed)
        var random = SplitMix64(state: seed ^ 0x5eed)
        drawShape(&random, draftLayer)
        if let length {
            config.heads = 1 + random.below(3)
            config.indexHeads = 1 + random.below(3)
            config.topK = 1 + random.below(length)
        }
        adjust(&config)
        drawMixture(&random)
        describeShape(&random)
        describeMixture(&random)
        drawSchedules(&random, layers: length == nil ? (weights.storage == .fp8 ? 3 : 5) : 2)
        drawWeights(&random)
        let length = length ?? (random.below(4) == 0 ? 1 + random.below(6) : 1 + random.below(64))
        prompt = (0..<length).map { _ in TokenID(random.below(config.vocabulary)) }
        drafts = 1 + random.below(4)
    }

    var slow: SlowGLM5 { SlowGLM5(config: config, weights: weights.values) }

    func write() throws -> CheckpointFolder { try weights.write(config: json) }

    // MARK: Config

    private mutating func drawShape(_ random: inout SplitMix64, _ draftLayer: Bool?) {
        func any(_ range: ClosedRange<Int>) -> Int { range.lowerBound + random.below(range.count) }
        config.vocabulary = any(7...70)
        // Blocks of scales must not hide in one.
        config.hidden = weights.storage == .fp8 ? any(120...150) : any(5...70)
        // Sixteen heads are computed at a time.
        config.heads = random.below(6) == 0 ? any(15...18) : any(1...6)
        config.queryRank = weights.storage == .fp8 && random.below(2) == 0 ? any(126...131) : any(1...40)
        config.latentRank = any(1...50)
        config.plain = any(2...20)
        config.rope = 2 * any(1...6)
        config.value = any(2...24)
        config.indexHeads = random.below(6) == 0 ? any(15...33) : any(1...6)
        config.indexDimension = config.rope + random.below(20)
        config.topK = random.below(8) == 0 ? 1 : any(1...30)
        config.denseSize = any(1...60)
        config.theta = [100, 1e4, 1e6, 8e6][random.below(4)]
        config.epsilon = [1e-6, 1e-5, 1e-3][random.below(3)]
        config.indexPairing = random.below(3) == 0 ? .halves : .neighbours
        config.hasDraftLayer = draftLayer ?? (random.below(4) > 0)
        config.sharesDraftSelection = random.below(2) == 0
    }

    private mutating func drawMixture(_ random: inout SplitMix64) {
        func any(_ range: ClosedRange<Int>) -> Int { range.lowerBound + random.below(range.count) }
        config.groups = random.below(2) == 0 ? 1 : any(2...4)
        config.groupLimit = any(1...config.groups)
        let size = config.groups == 1 ? any(1...13) : any(2...5)
        config.experts = size * config.groups
        config.perToken = any(1...min(6, size * config.groupLimit))
        config.shared = any(0...2)
        config.expertSize = weights.storage == .fp8 && random.below(3) == 0 ? any(127...130) : any(1...40)
        config.normalises = random.below(3) > 0
        config.scaling = [0.5, 1, 2.5][random.below(3)]
    }

    private mutating func describeShape(_ random: inout SplitMix64) {
        func int(_ value: Int) -> JSON { .int(Int64(value)) }
        json = [
            "architectures": ["GlmMoeDsaForCausalLM"], "model_type": "glm_moe_dsa", "hidden_act": "silu",
            "vocab_size": int(config.vocabulary), "hidden_size": int(config.hidden),
            "num_attention_heads": int(config.heads), "q_lora_rank": int(config.queryRank),
            "kv_lora_rank": int(config.latentRank), "qk_nope_head_dim": int(config.plain),
            "qk_rope_head_dim": int(config.rope), "v_head_dim": int(config.value),
            "index_n_heads": int(config.indexHeads), "index_head_dim": int(config.indexDimension),
            "index_topk": int(config.topK), "intermediate_size": int(config.denseSize),
            "max_position_embeddings": int(Self.context), "rms_norm_eps": .double(config.epsilon),
        ]
        // Published configs say something here that is no size of anything.
        if random.below(2) == 0 { json["head_dim"] = 64 }
        if random.below(2) == 0 { json["qk_head_dim"] = int(config.plain + config.rope) }
        if random.below(2) == 0 { json["num_key_value_heads"] = int(config.heads) }
        switch random.below(3) {
        case 0: json["rope_theta"] = .double(config.theta)
        case 1: json["rope_parameters"] = ["rope_theta": .double(config.theta), "rope_type": "default"]
        default:
            config.theta = 1e4
            json["rope_parameters"] = .null
        }
        if config.indexPairing == .halves || random.below(2) == 0 {
            json["indexer_rope_interleave"] = .bool(config.indexPairing == .neighbours)
        }
        if config.sharesDraftSelection || random.below(2) == 0 {
            json["index_share_for_mtp_iteration"] = .bool(config.sharesDraftSelection)
        }
        // A checkpoint may leave out the layer that its config announces.
        if config.hasDraftLayer || random.below(2) == 0 { json["num_nextn_predict_layers"] = 1 }
        if weights.storage == .fp8 {
            json["quantization_config"] = [
                "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                "weight_block_size": [128, 128],
            ]
        }
    }

    private mutating func describeMixture(_ random: inout SplitMix64) {
        func int(_ value: Int) -> JSON { .int(Int64(value)) }
        json[["n_routed_experts", "num_local_experts"][random.below(2)]] = int(config.experts)
        json["num_experts_per_tok"] = int(config.perToken)
        json["moe_intermediate_size"] = int(config.expertSize)
        json["norm_topk_prob"] = .bool(config.normalises)
        json["routed_scaling_factor"] = .double(config.scaling)
        // What is the default may be left out.
        if config.shared != 1 || random.below(2) == 0 { json["n_shared_experts"] = int(config.shared) }
        if config.groups > 1 || random.below(2) == 0 {
            json["n_group"] = int(config.groups)
            json["topk_group"] = int(config.groupLimit)
        }
    }

    private mutating func drawSchedules(_ random: inout SplitMix64, layers most: Int) {
        let layers = 1 + random.below(most)
        json["num_hidden_layers"] = .int(Int64(layers))
        let owns = (0..<layers).map { $0 == 0 || random.below(2) == 0 }
        switch random.below(4) {
        case 0:
            config.ownsIndexer = Array(repeating: true, count: layers)
        case 1:
            config.ownsIndexer = owns
            json["indexer_types"] = .array(owns.map { $0 ? "full" : "shared" })
        case 2:
            config.ownsIndexer = owns
            json["index_topk_pattern"] = .string(String(owns.map { $0 ? "F" : "S" }))
        default:
            let (frequency, offset) = (1 + random.below(4), 1 + random.below(4))
            json["index_topk_freq"] = .int(Int64(frequency))
            json["index_skip_topk_offset"] = .int(Int64(offset))
            config.ownsIndexer = (0..<layers).map { max($0 - offset + 1, 0) % frequency == 0 }
        }
        let dense = random.below(layers + 1)
        switch random.below(3) {
        case 0:
            config.isSparse = (0..<layers).map { $0 >= dense }
            json["first_k_dense_replace"] = .int(Int64(dense))
        case 1:
            config.isSparse = (0..<layers).map { _ in random.below(3) > 0 }
            json["mlp_layer_types"] = .array(config.isSparse.map { $0 ? "sparse" : "dense" })
        default:
            let frequency = 1 + random.below(3)
            config.isSparse = (0..<layers).map { $0 >= dense && $0 % frequency == 0 }
            json["first_k_dense_replace"] = .int(Int64(dense))
            json["moe_layer_freq"] = .int(Int64(frequency))
        }
    }

    // MARK: Weights

    private mutating func drawWeights(_ random: inout SplitMix64) {
        // The less a layer adds, the more the last token alone tells.
        layerGain = random.below(2) == 0 ? 1 : 0.2
        // Large, so that the next token depends on the last one above all, which a draft layer may then guess.
        weights.matrix(
            "model.embed_tokens", config.vocabulary, config.hidden, gain: 3 * Float(config.hidden).squareRoot(),
            isQuantisable: false)
        weights.matrix("lm_head", config.vocabulary, config.hidden, gain: 3)
        norm("model.norm", config.hidden)
        let layers = config.ownsIndexer.count
        for layer in 0..<layers { drawLayer(layer, owns: config.ownsIndexer[layer], sparse: config.isSparse[layer]) }
        guard config.hasDraftLayer else { return }
        drawLayer(layers, owns: true, sparse: true)
        let (name, hidden, skill) = ("model.layers.\(layers)", config.hidden, [Float(0), 2, 5, 10][random.below(4)])
        for part in ["enorm", "hnorm", "shared_head.norm"] { norm("\(name).\(part)", hidden) }
        weights.matrix("\(name).eh_proj", hidden, 2 * hidden) { matrix, _ in
            // The more of the embedding gets through, the better it guesses.
            for row in 0..<hidden { matrix[row][row] += skill }
        }
    }

    private mutating func norm(_ name: String, _ count: Int) {
        weights.vector(name + ".weight", count, in: 0.5...1.5)
    }

    private mutating func drawLayer(_ layer: Int, owns: Bool, sparse: Bool) {
        let (name, hidden, heads) = ("model.layers.\(layer)", config.hidden, config.heads)
        let attention = "\(name).self_attn"
        norm("\(name).input_layernorm", hidden)
        norm("\(name).post_attention_layernorm", hidden)
        norm("\(attention).q_a_layernorm", config.queryRank)
        norm("\(attention).kv_a_layernorm", config.latentRank)
        weights.matrix("\(attention).q_a_proj", config.queryRank, hidden)
        weights.matrix("\(attention).q_b_proj", heads * (config.plain + config.rope), config.queryRank, gain: 1.5)
        weights.matrix("\(attention).kv_a_proj_with_mqa", config.latentRank + config.rope, hidden)
        weights.matrix("\(attention).kv_b_proj", heads * (config.plain + config.value), config.latentRank)
        weights.matrix("\(attention).o_proj", hidden, heads * config.value, gain: layerGain)
        if owns {
            let (index, width) = ("\(attention).indexer", config.indexDimension)
            weights.matrix("\(index).wq_b", config.indexHeads * width, config.queryRank)
            weights.matrix("\(index).wk", width, hidden)
            weights.matrix("\(index).weights_proj", config.indexHeads, hidden, isQuantisable: false)
            norm("\(index).k_norm", width)
            weights.vector("\(index).k_norm.bias", width, in: -0.5...0.5)
        }
        if sparse {
            drawMixtureLayer("\(name).mlp")
        } else {
            drawMLP("\(name).mlp", config.denseSize)
        }
    }

    private mutating func drawMLP(_ name: String, _ width: Int) {
        weights.matrix("\(name).gate_proj", width, config.hidden, gain: 1.5)
        weights.matrix("\(name).up_proj", width, config.hidden)
        weights.matrix("\(name).down_proj", config.hidden, width, gain: layerGain)
    }

    private mutating func drawMixtureLayer(_ name: String) {
        // Experts that score the same for every row show who wins a tie.
        let twins = (0..<config.experts).map { $0 > 0 && seed % 3 == 0 && weights.random.below(2) == 0 }
        weights.matrix("\(name).gate", config.experts, config.hidden, gain: 2, isQuantisable: false) { matrix, _ in
            for expert in twins.indices where twins[expert] { matrix[expert] = matrix[expert - 1] }
        }
        var bias = twins.map { _ in Float.random(in: -0.3...0.3, using: &weights.random) }
        for expert in twins.indices where twins[expert] { bias[expert] = bias[expert - 1] }
        weights.vector("\(name).gate.e_score_correction_bias", bias, .f32)
        for expert in 0..<config.experts { drawMLP("\(name).experts.\(expert)", config.expertSize) }
        if config.shared > 0 { drawMLP("\(name).shared_experts", config.shared * config.expertSize) }
    }
}
