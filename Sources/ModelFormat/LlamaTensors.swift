/// The tensors of a Llama model by their role.
package enum LlamaTensor: Sendable, Hashable {
    /// [vocabulary, hidden]
    case embedding
    /// [hidden]
    case outputNorm
    /// [vocabulary, hidden]; absent when tied to the embedding
    case output
    case layer(Int, Layer)

    package enum Layer: Sendable, Hashable, CaseIterable {
        case attentionNorm, query, key, value, attentionOutput, mlpNorm, gate, up, down
        case queryBias, keyBias, valueBias, attentionOutputBias, gateBias, upBias, downBias
    }

    /// What the given kind of file calls it.
    package func name(in format: WeightFormat) -> String {
        switch (self, format) {
        case (.embedding, .safetensors): "model.embed_tokens.weight"
        case (.embedding, .gguf): "token_embd.weight"
        case (.outputNorm, .safetensors): "model.norm.weight"
        case (.outputNorm, .gguf): "output_norm.weight"
        case (.output, .safetensors): "lm_head.weight"
        case (.output, .gguf): "output.weight"
        case (.layer(let index, let tensor), .safetensors): "model.layers.\(index).\(tensor.safetensorsName)"
        case (.layer(let index, let tensor), .gguf): "blk.\(index).\(tensor.ggufName)"
        }
    }
}

extension LlamaTensor.Layer {
    fileprivate var safetensorsName: String {
        switch self {
        case .attentionNorm: "input_layernorm.weight"
        case .query: "self_attn.q_proj.weight"
        case .key: "self_attn.k_proj.weight"
        case .value: "self_attn.v_proj.weight"
        case .attentionOutput: "self_attn.o_proj.weight"
        case .mlpNorm: "post_attention_layernorm.weight"
        case .gate: "mlp.gate_proj.weight"
        case .up: "mlp.up_proj.weight"
        case .down: "mlp.down_proj.weight"
        case .queryBias: "self_attn.q_proj.bias"
        case .keyBias: "self_attn.k_proj.bias"
        case .valueBias: "self_attn.v_proj.bias"
        case .attentionOutputBias: "self_attn.o_proj.bias"
        case .gateBias: "mlp.gate_proj.bias"
        case .upBias: "mlp.up_proj.bias"
        case .downBias: "mlp.down_proj.bias"
        }
    }

    fileprivate var ggufName: String {
        switch self {
        case .attentionNorm: "attn_norm.weight"
        case .query: "attn_q.weight"
        case .key: "attn_k.weight"
        case .value: "attn_v.weight"
        case .attentionOutput: "attn_output.weight"
        case .mlpNorm: "ffn_norm.weight"
        case .gate: "ffn_gate.weight"
        case .up: "ffn_up.weight"
        case .down: "ffn_down.weight"
        case .queryBias: "attn_q.bias"
        case .keyBias: "attn_k.bias"
        case .valueBias: "attn_v.bias"
        case .attentionOutputBias: "attn_output.bias"
        case .gateBias: "ffn_gate.bias"
        case .upBias: "ffn_up.bias"
        case .downBias: "ffn_down.bias"
        }
    }
}

extension LlamaConfig {
    /// Every tensor of such a model with its shape, and those that may be there without being used.
    package func expectedTensors(in format: WeightFormat) -> [ExpectedTensor] {
        let hidden = common.hiddenSize
        let vocabulary = [common.vocabularySize, hidden]
        func tensor(_ role: LlamaTensor, _ shape: [Int], isOptional: Bool = false) -> ExpectedTensor {
            ExpectedTensor(name: role.name(in: format), shape: shape, isOptional: isOptional)
        }
        var tensors = [
            tensor(.embedding, vocabulary), tensor(.outputNorm, [hidden]),
            // Some tied checkpoints store the shared matrix twice.
            tensor(.output, vocabulary, isOptional: tiedEmbeddings),
        ]
        switch (format, rope.scaling) {
        case (.gguf, .divisors): tensors.append(ropeFactors("rope_freqs.weight"))
        case (.gguf, .longRope):
            tensors += [ropeFactors("rope_factors_short.weight"), ropeFactors("rope_factors_long.weight")]
        default: break
        }
        for layer in 0..<common.layerCount {
            for role in LlamaTensor.Layer.allCases where isPresent(role) {
                tensors.append(tensor(.layer(layer, role), shape(of: role)))
            }
            if format == .safetensors {
                // Old checkpoints store the plain inverse frequencies, which are computed here.
                tensors.append(
                    ExpectedTensor(
                        name: "model.layers.\(layer).self_attn.rotary_emb.inv_freq", shape: [rope.dimensions / 2],
                        isOptional: true))
            }
        }
        return tensors
    }

    private func ropeFactors(_ name: String) -> ExpectedTensor {
        ExpectedTensor(name: name, shape: [rope.dimensions / 2])
    }

    private func isPresent(_ role: LlamaTensor.Layer) -> Bool {
        switch role {
        case .queryBias: attentionBias.query
        case .keyBias: attentionBias.key
        case .valueBias: attentionBias.value
        case .attentionOutputBias: attentionBias.output
        case .gateBias, .upBias, .downBias: mlpBias
        default: true
        }
    }

    /// The shape of a layer's tensor; projections are [out, in].
    package func shape(of role: LlamaTensor.Layer) -> [Int] {
        let hidden = common.hiddenSize
        let queries = headCount * headDimension
        let keys = keyValueHeadCount * headDimension
        return switch role {
        case .attentionNorm, .mlpNorm, .attentionOutputBias, .downBias: [hidden]
        case .query: [queries, hidden]
        case .key, .value: [keys, hidden]
        case .attentionOutput: [hidden, queries]
        case .gate, .up: [intermediateSize, hidden]
        case .down: [hidden, intermediateSize]
        case .queryBias: [queries]
        case .keyBias, .valueBias: [keys]
        case .gateBias, .upBias: [intermediateSize]
        }
    }
}
