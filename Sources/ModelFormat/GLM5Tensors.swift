/// The tensors of a GLM-5 model by their role, as safetensors files have them.
package enum GLM5Tensor: Sendable, Hashable {
    /// [vocabulary, hidden]
    case embedding
    /// [hidden]
    case outputNorm
    /// [vocabulary, hidden]
    case output
    /// The draft layer is the one behind the last.
    case layer(Int, Layer)
    case expert(layer: Int, expert: Int, Projection)

    package typealias Projection = ExpertProjection

    package enum Layer: Sendable, Hashable, CaseIterable {
        case attentionNorm, queryDown, queryNorm, queryUp, latentDown, latentNorm, latentUp, attentionOutput
        // Layers with an indexer.
        case indexQuery, indexKey, indexKeyNorm, indexKeyNormBias, indexWeights
        case mlpNorm
        // Dense layers.
        case gate, up, down
        // Layers with a mixture of experts.
        case router, routerBias, sharedGate, sharedUp, sharedDown
        // The draft layer.
        case embeddingNorm, hiddenNorm, draftProjection, draftNorm
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

extension GLM5Tensor.Layer {
    fileprivate var name: String {
        switch self {
        case .attentionNorm: "input_layernorm.weight"
        case .queryDown: "self_attn.q_a_proj.weight"
        case .queryNorm: "self_attn.q_a_layernorm.weight"
        case .queryUp: "self_attn.q_b_proj.weight"
        case .latentDown: "self_attn.kv_a_proj_with_mqa.weight"
        case .latentNorm: "self_attn.kv_a_layernorm.weight"
        case .latentUp: "self_attn.kv_b_proj.weight"
        case .attentionOutput: "self_attn.o_proj.weight"
        case .indexQuery: "self_attn.indexer.wq_b.weight"
        case .indexKey: "self_attn.indexer.wk.weight"
        case .indexKeyNorm: "self_attn.indexer.k_norm.weight"
        case .indexKeyNormBias: "self_attn.indexer.k_norm.bias"
        case .indexWeights: "self_attn.indexer.weights_proj.weight"
        case .mlpNorm: "post_attention_layernorm.weight"
        case .gate: "mlp.gate_proj.weight"
        case .up: "mlp.up_proj.weight"
        case .down: "mlp.down_proj.weight"
        case .router: "mlp.gate.weight"
        case .routerBias: "mlp.gate.e_score_correction_bias"
        case .sharedGate: "mlp.shared_experts.gate_proj.weight"
        case .sharedUp: "mlp.shared_experts.up_proj.weight"
        case .sharedDown: "mlp.shared_experts.down_proj.weight"
        case .embeddingNorm: "enorm.weight"
        case .hiddenNorm: "hnorm.weight"
        case .draftProjection: "eh_proj.weight"
        case .draftNorm: "shared_head.norm.weight"
        }
    }

    /// Matrices of products, which checkpoints may quantise to 8-bit floats. Norms, the router and the indexer's
    /// weights are not: they decide, and are small.
    fileprivate var isQuantisable: Bool {
        switch self {
        case .queryDown, .queryUp, .latentDown, .latentUp, .attentionOutput, .indexQuery, .indexKey, .gate, .up, .down,
            .sharedGate, .sharedUp, .sharedDown, .draftProjection:
            true
        case .attentionNorm, .queryNorm, .latentNorm, .indexKeyNorm, .indexKeyNormBias, .indexWeights, .mlpNorm,
            .router, .routerBias, .embeddingNorm, .hiddenNorm, .draftNorm:
            false
        }
    }
}

extension GLM5Config {
    /// The number of the draft layer in names of tensors: the one behind the last.
    package var draftLayer: Int { common.layerCount }

    /// Whether a checkpoint holds any tensor of the draft layer, whatever the config announces.
    package func hasDraftLayer(in checkpoint: Checkpoint) -> Bool {
        checkpoint.hasTensors(startingWith: "model.layers.\(draftLayer).")
    }

    /// Every tensor of such a model with its shape, with those of the draft layer if asked for, and those that may be
    /// there without being used. Only safetensors files hold such models.
    package func expectedTensors(in format: WeightFormat, draftLayer wantsDraft: Bool) -> [ExpectedTensor] {
        precondition(format == .safetensors, "a GLM-5 config comes from config.json")
        var tensors = [GLM5Tensor.embedding, .outputNorm, .output].map(expected)
        for layer in 0..<common.layerCount + (wantsDraft ? 1 : 0) {
            tensors += roles(inLayer: layer).map { expected(.layer(layer, $0)) }
            guard isMixture(layer) else { continue }
            for expert in 0..<mixture.expertCount {
                for projection in GLM5Tensor.Projection.allCases {
                    tensors.append(expected(.expert(layer: layer, expert: expert, projection)))
                }
            }
        }
        if wantsDraft {
            // Checkpoints in the manner of DeepSeek-V3 repeat what the draft layer shares with the model.
            for copy in ["embed_tokens.weight", "shared_head.head.weight"] {
                tensors.append(
                    ExpectedTensor(
                        name: "model.layers.\(draftLayer).\(copy)", shape: shape(of: .embedding), isOptional: true))
            }
        }
        return tensors
    }

    private func expected(_ tensor: GLM5Tensor) -> ExpectedTensor {
        let isQuantisable =
            switch tensor {
            case .embedding, .outputNorm: false
            case .output, .expert: true
            case .layer(_, let role): role.isQuantisable
            }
        let block = isQuantisable ? weightBlock : nil
        let publishedType: TensorType =
            switch tensor {
            case .layer(_, .routerBias): .f32
            // Left as they are when all else is quantised.
            case .output, .layer(_, .draftProjection): .bf16
            default: block == nil ? .bf16 : .f8E4M3
            }
        return ExpectedTensor(
            name: tensor.name, shape: shape(of: tensor), block: block, publishedType: publishedType)
    }

    /// What a layer consists of, its experts apart; `layer` may be the draft layer.
    package func roles(inLayer layer: Int) -> [GLM5Tensor.Layer] {
        let isDraft = layer == draftLayer
        return GLM5Tensor.Layer.allCases.filter { role in
            switch role {
            case .attentionNorm, .queryDown, .queryNorm, .queryUp, .latentDown, .latentNorm, .latentUp,
                .attentionOutput, .mlpNorm:
                true
            case .indexQuery, .indexKey, .indexKeyNorm, .indexKeyNormBias, .indexWeights:
                isDraft || ownsIndexer[layer]
            case .gate, .up, .down: !isMixture(layer)
            case .router, .routerBias: isMixture(layer)
            case .sharedGate, .sharedUp, .sharedDown: isMixture(layer) && mixture.sharedSize > 0
            case .embeddingNorm, .hiddenNorm, .draftProjection, .draftNorm: isDraft
            }
        }
    }

    private func isMixture(_ layer: Int) -> Bool {
        layer == draftLayer || isSparse[layer]
    }

    /// The shape of a tensor; projections are [out, in].
    package func shape(of tensor: GLM5Tensor) -> [Int] {
        switch tensor {
        case .embedding, .output: [common.vocabularySize, common.hiddenSize]
        case .outputNorm: [common.hiddenSize]
        case .layer(_, let role): shape(of: role)
        case .expert(_, _, let projection): shape(of: projection)
        }
    }

    /// The shape of an expert's matrix.
    package func shape(of projection: GLM5Tensor.Projection) -> [Int] {
        projection.shape(width: mixture.expertSize, hidden: common.hiddenSize)
    }

    /// The shape of a layer's tensor. Rows come head by head: of a query first the plain dimensions, then the rotated;
    /// of `latentUp` first the plain dimensions of the key, then the value; of the indexer first the rotated.
    package func shape(of role: GLM5Tensor.Layer) -> [Int] {
        let hidden = common.hiddenSize
        return switch role {
        case .attentionNorm, .mlpNorm, .embeddingNorm, .hiddenNorm, .draftNorm: [hidden]
        case .queryDown: [queryRank, hidden]
        case .queryNorm: [queryRank]
        case .queryUp: [headCount * (plainDimension + ropeDimension), queryRank]
        case .latentDown: [latentRank + ropeDimension, hidden]
        case .latentNorm: [latentRank]
        case .latentUp: [headCount * (plainDimension + valueDimension), latentRank]
        case .attentionOutput: [hidden, headCount * valueDimension]
        case .indexQuery: [indexHeadCount * indexDimension, queryRank]
        case .indexKey: [indexDimension, hidden]
        case .indexKeyNorm, .indexKeyNormBias: [indexDimension]
        case .indexWeights: [indexHeadCount, hidden]
        case .gate: GLM5Tensor.Projection.gate.shape(width: denseSize, hidden: hidden)
        case .up: GLM5Tensor.Projection.up.shape(width: denseSize, hidden: hidden)
        case .down: GLM5Tensor.Projection.down.shape(width: denseSize, hidden: hidden)
        case .router: [mixture.expertCount, hidden]
        case .routerBias: [mixture.expertCount]
        case .sharedGate: GLM5Tensor.Projection.gate.shape(width: mixture.sharedSize, hidden: hidden)
        case .sharedUp: GLM5Tensor.Projection.up.shape(width: mixture.sharedSize, hidden: hidden)
        case .sharedDown: GLM5Tensor.Projection.down.shape(width: mixture.sharedSize, hidden: hidden)
        // The embedding's half comes first.
        case .draftProjection: [hidden, 2 * hidden]
        }
    }
}
