import ModelFormat
import OrderedJSON
import Testing

/// `config.json` of published checkpoints, without the fields that say nothing about the model.
enum PublishedConfig {
    /// GLM-5 and GLM-5.1, which have the same shape.
    static let glm5: JSONObject = [
        "architectures": ["GlmMoeDsaForCausalLM"], "model_type": "glm_moe_dsa", "attention_bias": false,
        "dtype": "bfloat16", "eos_token_id": [154820, 154827, 154829], "pad_token_id": 154820,
        "first_k_dense_replace": 3, "hidden_act": "silu", "head_dim": 64, "hidden_size": 6144, "index_head_dim": 128,
        "index_n_heads": 32, "index_topk": 2048, "indexer_rope_interleave": true, "intermediate_size": 12288,
        "kv_lora_rank": 512, "max_position_embeddings": 202_752, "moe_intermediate_size": 2048, "moe_layer_freq": 1,
        "n_group": 1, "n_routed_experts": 256, "n_shared_experts": 1, "norm_topk_prob": true,
        "num_attention_heads": 64, "num_experts_per_tok": 8, "num_hidden_layers": 78, "num_key_value_heads": 64,
        "num_nextn_predict_layers": 1, "q_lora_rank": 2048, "qk_head_dim": 256, "qk_nope_head_dim": 192,
        "qk_rope_head_dim": 64, "rms_norm_eps": 1e-05, "rope_interleave": true,
        "rope_parameters": ["rope_theta": 1_000_000, "rope_type": "default"], "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid", "tie_word_embeddings": false, "topk_group": 1, "topk_method": "noaux_tc",
        "v_head_dim": 256, "vocab_size": 154_880,
    ]

    /// Layers of GLM-5.2 with an indexer of their own: 0, 1, and every fourth from 2 on.
    static let glm52Indexers = [0, 1] + stride(from: 2, to: 78, by: 4)

    static let glm52: JSONObject = glm5.changed([
        "head_dim": 192, "max_position_embeddings": 1_048_576, "moe_router_dtype": "float32",
        "rope_parameters": ["rope_theta": 8_000_000, "rope_type": "default"],
        "indexer_types": .array((0..<78).map { glm52Indexers.contains($0) ? "full" : "shared" }),
        "index_topk_freq": 4, "index_skip_topk_offset": 3, "index_topk_pattern": .null,
        "index_share_for_mtp_iteration": true,
    ])

    static let fp8: JSON = [
        "quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic",
        "modules_to_not_convert": ["lm_head", "model.embed_tokens", "model.layers.0.self_attn.indexers_proj"],
    ]

    /// Qwen3-30B-A3B
    static let qwen3: JSONObject = [
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "attention_bias": false,
        "bos_token_id": 151_643, "eos_token_id": 151_645, "decoder_sparse_step": 1, "head_dim": 128,
        "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 6144, "max_position_embeddings": 40960,
        "max_window_layers": 48, "mlp_only_layers": [], "moe_intermediate_size": 768, "norm_topk_prob": true,
        "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
        "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_scaling": .null, "rope_theta": 1000000.0,
        "sliding_window": .null, "tie_word_embeddings": false, "use_sliding_window": false, "vocab_size": 151_936,
    ]
}

extension JSONObject {
    /// With some members added or replaced; null counts as missing in a config.
    func changed(_ changes: JSONObject) -> JSONObject {
        var result = self
        for (key, value) in changes { result[key] = value }
        return result
    }
}

/// The config of these fields.
func modelConfig(_ fields: JSONObject) throws -> ModelConfig {
    try ModelConfig(huggingFace: .object(fields), subject: "config.json")
}

/// What is wrong with these fields.
func configProblems(_ fields: JSONObject) -> [String] {
    let error = #expect(throws: ModelFormatError.self) { try modelConfig(fields) }
    return error?.problems ?? []
}

func glm5(_ changes: JSONObject = [:], from fields: JSONObject = PublishedConfig.glm5) throws -> GLM5Config {
    guard case .glm5(let config) = try modelConfig(fields.changed(changes)) else { throw TestFailure("no GLM-5") }
    return config
}

func qwen3(_ changes: JSONObject = [:], from fields: JSONObject = PublishedConfig.qwen3) throws -> Qwen3MoeConfig {
    guard case .qwen3Moe(let config) = try modelConfig(fields.changed(changes)) else { throw TestFailure("no Qwen3") }
    return config
}
