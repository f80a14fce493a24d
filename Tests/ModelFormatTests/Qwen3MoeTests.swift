import ModelFormat
import OrderedJSON
import Testing

@Suite struct Qwen3MoeTests {
    @Test func publishedModel() throws {
        let config = try qwen3()
        #expect(config.common.architecture == .qwen3Moe && config.common.layerCount == 48)
        #expect(config.common.bosToken == 151_643 && config.common.eosTokens == [151_645])
        #expect(config.headCount == 32 && config.keyValueHeadCount == 4 && config.headDimension == 128)
        #expect(config.isSparse == [Bool](repeating: true, count: 48) && config.denseSize == 6144)
        #expect(
            config.mixture
                == MixtureConfig(
                    expertCount: 128, expertsPerToken: 8, expertSize: 768, sharedSize: 0, scoring: .softmax,
                    groupCount: 1, groupLimit: 1, normalises: true, scalingFactor: 1))
        #expect(config.normEpsilon == 1e-6 && !config.tiedEmbeddings && !config.attentionBias)
        #expect(config.rope == RopeConfig(theta: 1e6, dimensions: 128, pairing: .halfSplit, scaling: .none))
        let tensors = config.expectedTensors(in: .safetensors)
        #expect(tensors.count == 18_867)
        #expect(tensors.reduce(0) { $0 + $1.shape.reduce(1, *) } == 30_532_122_624)
    }

    @Test func tinyModel() throws {
        var fields = try Fixture.config("tiny-qwen3-moe")
        let config = try qwen3(from: fields)
        #expect(config.mixture.expertCount == 8 && config.mixture.normalises && config.rope.theta == 1e6)
        let hollow = try HollowCheckpoint(fields)
        #expect(hollow.tensors.count == 102)
        #expect(try hollow.problems() == [])
        // Either name of the number of experts will do.
        fields["num_experts"] = nil
        #expect(try qwen3(from: fields) == config)
    }

    @Test func namesAndShapes() throws {
        let config = try qwen3(["attention_bias": true])
        for (tensor, name, shape) in [
            (.layer(0, .query), "model.layers.0.self_attn.q_proj.weight", [4096, 2048]),
            (.layer(1, .keyNorm), "model.layers.1.self_attn.k_norm.weight", [128]),
            (.layer(2, .valueBias), "model.layers.2.self_attn.v_proj.bias", [512]),
            (.layer(3, .attentionOutputBias), "model.layers.3.self_attn.o_proj.bias", [2048]),
            (.layer(4, .router), "model.layers.4.mlp.gate.weight", [128, 2048]),
            (.layer(5, .down), "model.layers.5.mlp.down_proj.weight", [2048, 6144]),
            (.expert(layer: 6, expert: 127, .up), "model.layers.6.mlp.experts.127.up_proj.weight", [768, 2048]),
            (.output, "lm_head.weight", [151_936, 2048]),
        ] as [(Qwen3MoeTensor, String, [Int])] {
            #expect(tensor.name == name && config.shape(of: tensor) == shape)
        }
        #expect(config.roles(inLayer: 0).contains(.queryBias))
        #expect(try !qwen3().roles(inLayer: 0).contains(.queryBias))
    }

    @Test(
        arguments: [
            (["mlp_only_layers": .null], "SSSSSS"), (["decoder_sparse_step": 2], "DSDSDS"),
            (["mlp_only_layers": [0, 5]], "DSSSSD"), (["decoder_sparse_step": 3, "mlp_only_layers": [2]], "DDDDDS"),
        ] as [(JSONObject, String)])
    func mixtureSchedules(changes: JSONObject, schedule: String) throws {
        let config = try qwen3(changes.changed(["num_hidden_layers": 6]))
        #expect(config.isSparse == schedule.map { $0 == "S" })
        let isDense = config.roles(inLayer: 0).contains(.gate)
        #expect(isDense == !config.isSparse[0] && config.roles(inLayer: 0).contains(.router) != isDense)
    }

    @Test func tiedModelsMayStoreTheMatrixTwice() throws {
        let fields = try Fixture.config("tiny-qwen3-moe").changed(["tie_word_embeddings": true])
        var hollow = try HollowCheckpoint(fields)
        #expect(hollow.tensors.count == 101)
        #expect(try hollow.problems() == [])
        hollow.add("lm_head.weight", .bf16, [512, 64])
        #expect(try hollow.problems() == [])
    }

    @Test func fieldsThatAreNotUsed() throws {
        // Older configs name a window that is switched off.
        #expect(try qwen3(["sliding_window": 4096]) == qwen3())
        #expect(try qwen3(["use_sliding_window": true, "layer_types": ["full_attention"]]) == qwen3())
        #expect(try qwen3(["head_dim": .null]).headDimension == 64)
        #expect(try qwen3(["norm_topk_prob": .null]).mixture.normalises == false)
        let yarn: JSON = ["rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768]
        guard case .yarn = try qwen3(["rope_scaling": yarn]).rope.scaling else {
            Issue.record("not yarn")
            return
        }
    }

    @Test(
        arguments: [
            (["use_sliding_window": true, "sliding_window": 4096], "sliding_window is not supported"),
            (["layer_types": ["full_attention", "sliding_attention"]], #"layer_types names "sliding_attention""#),
            (["hidden_act": "gelu"], #"hidden_act is "gelu"; supported: silu"#),
            (["quantization_config": PublishedConfig.fp8], "quantization_config is not supported"),
            (["mlp_only_layers": [48]], "mlp_only_layers must be numbers of layers in 0..<48"),
            (["mlp_only_layers": 3], "mlp_only_layers must be numbers of layers in 0..<48"),
            (["decoder_sparse_step": 0], "decoder_sparse_step 0 is not in 1...1024"),
            (["num_experts": .null], "num_experts is missing"),
            (["num_experts_per_tok": 129], "num_experts_per_tok 129 is above the 128 experts that can be chosen"),
            (["num_key_value_heads": 5], "num_attention_heads 32 is not a multiple of num_key_value_heads 5"),
            (["head_dim": 127], "are 127, not even"),
            (["moe_intermediate_size": .null], "moe_intermediate_size is missing"),
            (["mlp_bias": true], "mlp_bias true is not supported"),
        ] as [(JSONObject, String)])
    func refuses(changes: JSONObject, problem: String) {
        let found = configProblems(PublishedConfig.qwen3.changed(changes))
        #expect(found.contains { $0.contains(problem) }, "\(found)")
    }
}
