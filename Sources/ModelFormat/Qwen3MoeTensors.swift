/// The tensors of a Qwen3-MoE model by their role, as safetensors files have them.
package enum Qwen3MoeTensor: Sendable, Hashable {
    /// [vocabulary, hidden]
    case embedding
    /// [hidden]
    case outputNorm
    /// [vocabulary, hidden]; absent when tied to the embedding
    case output
    case layer(Int, Layer)
    case expert(layer: Int, expert: Int, Projection)

    package typealias Projection = ExpertProjection

    package enum Layer: Sendable, Hashable, CaseIterable {
        case attentionNorm, query, key, value, attentionOutput, queryNorm, keyNorm, mlpNorm
        case queryBias, keyBias, valueBias, attentionOutputBias
        // Dense layers.
        case gate, up, down
        // Layers with a mixture of experts.
        case router
    }

    package var name: String {
        switch self {
        case .embedding: "model.embed_tokens.weight"
        case .outputNorm: "model.norm.weight"
        case .output: "lm_head.weight"
        case .layer(let index, let tensor): "model.layers.\(index).\(tensor.name)"
        case .expert(let layer, let expert, let projection):
            "model.layers.\(layer).mlp.experts.\(expert).\(projection.name)"
        }
    }
}

extension Qwen3MoeTensor.Layer {
    fileprivate var name: String {
        switch self {
        case .attentionNorm: "input_layernorm.weight"
        case .query: "self_attn.q_proj.weight"
        case .key: "self_attn.k_proj.weight"
        case .value: "self_attn.v_proj.weight"
        case .attentionOutput: "self_attn.o_proj.weight"
        case .queryNorm: "self_attn.q_norm.weight"
        case .keyNorm: "self_attn.k_norm.weight"
        case .mlpNorm: "post_attention_layernorm.weight"
        case .queryBias: "self_attn.q_proj.bias"
        case .keyBias: "self_attn.k_proj.bias"
        case .valueBias: "self_attn.v_proj.bias"
        case .attentionOutputBias: "self_attn.o_proj.bias"
        case .gate: "mlp.gate_proj.weight"
        case .up: "mlp.up_proj.weight"
        case .down: "mlp.down_proj.weight"
        case .router: "mlp.gate.weight"
        }
    }
}

extension Qwen3MoeConfig {
    /// Every tensor of such a model with its shape, and those that may be there without being used. Only safetensors
    /// files hold such models.
    package func expectedTensors(in format: WeightFormat) -> [ExpectedTensor] {
        precondition(format == .safetensors, "a Qwen3-MoE config comes from config.json")
        func expected(_ tensor: Qwen3MoeTensor, isOptional: Bool = false) -> ExpectedTensor {
            ExpectedTensor(name: tensor.name, shape: shape(of: tensor), isOptional: isOptional)
        }
        // Some tied checkpoints store the shared matrix twice.
        var tensors = [
            expected(.embedding), expected(.outputNorm), expected(.output, isOptional: tiedEmbeddings),
        ]
        for layer in 0..<common.layerCount {
            tensors += roles(inLayer: layer).map { expected(.layer(layer, $0)) }
            guard isSparse[layer] else { continue }
            for expert in 0..<mixture.expertCount {
                for projection in Qwen3MoeTensor.Projection.allCases {
                    tensors.append(expected(.expert(layer: layer, expert: expert, projection)))
                }
            }
        }
        return tensors
    }

    /// What a layer consists of, its experts apart.
    package func roles(inLayer layer: Int) -> [Qwen3MoeTensor.Layer] {
        Qwen3MoeTensor.Layer.allCases.filter { role in
            switch role {
            case .attentionNorm, .query, .key, .value, .attentionOutput, .queryNorm, .keyNorm, .mlpNorm: true
            case .queryBias, .keyBias, .valueBias, .attentionOutputBias: attentionBias
            case .gate, .up, .down: !isSparse[layer]
            case .router: isSparse[layer]
            }
        }
    }

    /// The shape of a tensor; projections are [out, in].
    package func shape(of tensor: Qwen3MoeTensor) -> [Int] {
        switch tensor {
        case .embedding, .output: [common.vocabularySize, common.hiddenSize]
        case .outputNorm: [common.hiddenSize]
        case .layer(_, let role): shape(of: role)
        case .expert(_, _, let projection): shape(of: projection)
        }
    }

    /// The shape of an expert's matrix.
    package func shape(of projection: Qwen3MoeTensor.Projection) -> [Int] {
        projection.shape(width: mixture.expertSize, hidden: common.hiddenSize)
    }

    /// The shape of a layer's tensor.
    package func shape(of role: Qwen3MoeTensor.Layer) -> [Int] {
        let hidden = common.hiddenSize
        let queries = headCount * headDimension
        let keys = keyValueHeadCount * headDimension
        return switch role {
        case .attentionNorm, .mlpNorm, .attentionOutputBias: [hidden]
        case .query: [queries, hidden]
        case .key, .value: [keys, hidden]
        case .attentionOutput: [hidden, queries]
        // One vector for all heads.
        case .queryNorm, .keyNorm: [headDimension]
        case .queryBias: [queries]
        case .keyBias, .valueBias: [keys]
        case .gate: Qwen3MoeTensor.Projection.gate.shape(width: denseSize, hidden: hidden)
        case .up: Qwen3MoeTensor.Projection.up.shape(width: denseSize, hidden: hidden)
        case .down: Qwen3MoeTensor.Projection.down.shape(width: denseSize, hidden: hidden)
        case .router: [mixture.expertCount, hidden]
        }
    }
}
