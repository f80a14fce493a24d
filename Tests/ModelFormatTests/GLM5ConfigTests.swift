import ModelFormat
import OrderedJSON
import Testing

@Suite struct GLM5ConfigTests {
    @Test func publishedGLM5() throws {
        let config = try glm5()
        #expect(config.common.architecture == .glm5 && config.common.layerCount == 78)
        #expect(config.common.vocabularySize == 154_880 && config.common.hiddenSize == 6144)
        #expect(config.common.contextLimit == 202_752 && config.common.eosTokens == [154_820, 154_827, 154_829])
        #expect(config.headCount == 64 && config.queryRank == 2048 && config.latentRank == 512)
        #expect(config.plainDimension == 192 && config.ropeDimension == 64 && config.valueDimension == 256)
        #expect(config.indexHeadCount == 32 && config.indexDimension == 128 && config.indexTopK == 2048)
        #expect(config.ownsIndexer == [Bool](repeating: true, count: 78))
        #expect(config.isSparse == (0..<78).map { $0 >= 3 } && config.denseSize == 12288)
        #expect(
            config.mixture
                == MixtureConfig(
                    expertCount: 256, expertsPerToken: 8, expertSize: 2048, sharedSize: 2048, scoring: .sigmoid,
                    groupCount: 1, groupLimit: 1, normalises: true, scalingFactor: 2.5))
        #expect(config.draftLayerCount == 1 && config.draftLayer == 78 && !config.sharesDraftSelection)
        #expect(config.normEpsilon == 1e-5 && config.weightBlock == nil)
        #expect(config.rope == RopeConfig(theta: 1e6, dimensions: 64, pairing: .interleaved, scaling: .none))
        #expect(config.indexerRopePairing == .interleaved)
    }

    /// Other test targets read the same configs from files.
    @Test func publishedConfigsAreThoseOfTheFixtures() throws {
        #expect(try Fixture.publishedConfig("glm5") == .object(PublishedConfig.glm5))
        #expect(try Fixture.publishedConfig("glm52") == .object(PublishedConfig.glm52))
    }

    @Test func publishedGLM52() throws {
        let config = try glm5(from: PublishedConfig.glm52)
        #expect(config.ownsIndexer.count { $0 } == 21 && config.ownsIndexer.count == 78)
        #expect(config.rope.theta == 8e6 && config.common.contextLimit == 1_048_576)
        #expect(config.sharesDraftSelection && config.ropeDimension == 64)
        let quantised = try glm5(["quantization_config": PublishedConfig.fp8], from: PublishedConfig.glm52)
        #expect(quantised.weightBlock == WeightBlock(rows: 128, columns: 128))
    }

    @Test func readsTinyModels() throws {
        let plain = try Fixture.config("tiny-glm5")
        #expect(plain["head_dim"] == 8)
        let config = try glm5(from: plain)
        #expect(config.ownsIndexer == [true, true, true] && config.isSparse == [false, true, true])
        #expect(config.headCount == 4 && config.plainDimension == 24 && config.ropeDimension == 8)

        let shared = try glm5(from: Fixture.config("tiny-glm52"))
        #expect(shared.ownsIndexer == [true, true, false, false, true])
        #expect(shared.isSparse == [false, true, true, true, true] && shared.sharesDraftSelection)
        #expect(shared.mixture.groupCount == 4 && shared.mixture.groupLimit == 2 && shared.mixture.expertsPerToken == 2)

        let quantised = try glm5(from: Fixture.config("tiny-glm5-fp8"))
        #expect(quantised.weightBlock == WeightBlock(rows: 128, columns: 128) && quantised.isSparse == [false, true])

        let nano = try glm5(from: Fixture.config("glm5-nano"))
        #expect(nano.indexTopK == 256 && nano.rope.theta == 10000 && nano.common.layerCount == 4)
    }

    @Test func classMayBeLeftOut() throws {
        #expect(try glm5(["architectures": .null]) == glm5())
    }

    // MARK: Schedules

    /// GLM-5.2's own formula gives its list.
    @Test func scheduleFormsAgree() throws {
        let list = try glm5(from: PublishedConfig.glm52)
        let letters = (0..<78).map { PublishedConfig.glm52Indexers.contains($0) ? "F" : "S" }.joined()
        let formula = PublishedConfig.glm52.changed(["indexer_types": .null])
        #expect(try glm5(from: formula) == list)
        #expect(
            try glm5(
                ["index_topk_pattern": .string(letters), "index_topk_freq": 7, "index_skip_topk_offset": 7],
                from: formula) == list)
    }

    @Test(
        arguments: [
            ([:], "FFFFFF"), (["index_topk_freq": 1, "index_skip_topk_offset": 5], "FFFFFF"),
            (["index_topk_freq": 0], "FFFFFF"), (["index_topk_freq": 2], "FFSFSF"),
            (["index_topk_freq": 4, "index_skip_topk_offset": 3], "FFFSSS"),
            (["index_topk_freq": 3, "index_skip_topk_offset": 1], "FSSFSS"),
            (["index_topk_freq": 3, "index_skip_topk_offset": 9], "FFFFFF"),
            (["index_topk_pattern": "FSFSSF", "index_topk_freq": 2], "FSFSSF"),
            (
                [
                    "indexer_types": ["full", "shared", "shared", "full", "shared", "full"],
                    "index_topk_pattern": "FFFFFF", "index_topk_freq": 2,
                ], "FSSFSF"
            ),
        ] as [(JSONObject, String)])
    func indexerSchedules(changes: JSONObject, schedule: String) throws {
        let config = try glm5(changes.changed(["num_hidden_layers": 6]))
        #expect(config.ownsIndexer == schedule.map { $0 == "F" })
    }

    @Test(
        arguments: [
            ([:], "DDDSSS"), (["first_k_dense_replace": 0], "SSSSSS"), (["first_k_dense_replace": 9], "DDDDDD"),
            (["first_k_dense_replace": .null], "DDDSSS"),
            (["first_k_dense_replace": 1, "moe_layer_freq": 2], "DDSDSD"),
            (
                [
                    "mlp_layer_types": ["dense", "sparse", "dense", "dense", "sparse", "dense"],
                    "first_k_dense_replace": 0,
                ], "DSDDSD"
            ),
        ] as [(JSONObject, String)])
    func mixtureSchedules(changes: JSONObject, schedule: String) throws {
        let config = try glm5(changes.changed(["num_hidden_layers": 6]))
        #expect(config.isSparse == schedule.map { $0 == "S" })
    }

    // MARK: Layouts of fields

    @Test func ropeOfEitherLayout() throws {
        let flat: JSONObject = ["rope_parameters": .null, "rope_theta": 8_000_000.0]
        #expect(try glm5(flat).rope.theta == 8e6)
        #expect(try glm5(flat.changed(["rope_scaling": .null])).rope.scaling == .none)
        let yarn: JSON = [
            "type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "mscale_all_dim": 1.0,
        ]
        guard case .yarn(let scaling) = try glm5(flat.changed(["rope_scaling": yarn])).rope.scaling else {
            Issue.record("not yarn")
            return
        }
        #expect(scaling.factor == 40 && scaling.mscaleAllDimensions == 1)
        #expect(try glm5(["indexer_rope_interleave": false]).indexerRopePairing == .halfSplit)
        #expect(try glm5(["indexer_rope_interleave": false]).rope.pairing == .interleaved)
    }

    @Test func defaultsAreThoseOfTransformers() throws {
        let absent = [
            "n_group", "topk_group", "n_shared_experts", "norm_topk_prob", "routed_scaling_factor", "scoring_func",
            "topk_method", "rms_norm_eps", "rope_interleave", "indexer_rope_interleave", "hidden_act", "attention_bias",
            "max_position_embeddings", "qk_head_dim", "num_key_value_heads", "moe_layer_freq", "head_dim",
        ]
        let config = try glm5(JSONObject(absent.map { ($0, JSON.null) }))
        #expect(config == (try glm5()))
        #expect(try glm5(["num_nextn_predict_layers": .null]).draftLayerCount == 0)
        #expect(try glm5(["n_routed_experts": .null, "num_experts": 128]).mixture.expertCount == 128)
        #expect(try glm5(["n_shared_experts": 0]).mixture.sharedSize == 0)
        #expect(try glm5(["n_shared_experts": 2]).mixture.sharedSize == 4096)
    }

    @Test func quantisationMayLeaveTheFormatOut() throws {
        let config = try glm5(["quantization_config": ["quant_method": "fp8", "weight_block_size": [128, 128]]])
        #expect(config.weightBlock == WeightBlock(rows: 128, columns: 128))
    }

    // MARK: Problems

    @Test func allProblemsAreReportedTogether() {
        let found = configProblems(
            PublishedConfig.glm5.changed([
                "q_lora_rank": .null, "kv_lora_rank": "512", "index_topk": 0, "num_experts_per_tok": 300,
                "scoring_func": "softmax", "topk_method": "greedy", "hidden_act": "gelu", "attention_bias": true,
                "tie_word_embeddings": true, "rope_interleave": false, "num_nextn_predict_layers": 2,
                "quantization_config": ["quant_method": "gptq"], "indexer_types": ["full"],
                "mlp_layer_types": ["dense"], "rope_parameters": ["rope_type": "mystery", "rope_theta": 0],
            ]))
        for fragment in [
            "q_lora_rank is missing", "kv_lora_rank must be an integer, not a string",
            "index_topk 0 is not in 1...268435456", "num_experts_per_tok 300 is above the 256 experts",
            #"scoring_func is "softmax"; supported: sigmoid"#, #"topk_method is "greedy"; supported: noaux_tc"#,
            #"hidden_act is "gelu"; supported: silu"#, "attention_bias true is not supported",
            "tie_word_embeddings true is not supported", "rope_interleave false is not supported",
            "num_nextn_predict_layers 2 is not in 0...1",
            #"quantization_config.quant_method is "gptq"; supported: fp8"#,
            #"indexer_types must be 78 times "full" or "shared""#,
            #"mlp_layer_types must be 78 times "sparse" or "dense""#,
            #"rope_parameters.rope_type is "mystery""#, "rope_parameters.rope_theta 0.0 is not in",
        ] {
            #expect(found.contains { $0.hasPrefix(fragment) }, "\(fragment) in \(found)")
        }
        #expect(found.count == 16, "\(found)")
    }

    @Test(
        arguments: [
            (
                ["qk_rope_head_dim": 63, "qk_head_dim": 255],
                "qk_rope_head_dim × partial_rotary_factor) are 63, not even"
            ),
            (["qk_rope_head_dim": 130, "qk_head_dim": .null], "qk_rope_head_dim 130 is above index_head_dim 128"),
            (["rope_parameters": ["partial_rotary_factor": 0.5]], "partial_rotary_factor is not supported"),
            (["rope_parameters": "default"], "rope_parameters must be an object, not a string"),
            (["qk_head_dim": 255], "qk_head_dim 255 is not qk_nope_head_dim + qk_rope_head_dim, 256"),
            (["num_key_value_heads": 8], "num_key_value_heads 8 is not num_attention_heads 64"),
            (["v_head_dim": 0], "v_head_dim 0 is not in 2...4096"),
            (["index_n_heads": 5000], "index_n_heads 5000 is not in 1...4096"),
            (["mlp_bias": true], "mlp_bias true is not supported"),
            (["rms_norm_eps": 1], "rms_norm_eps 1.0 is not in 0.0...0.1"),
            (["eos_token_id": [154_880]], "eos_token_id must be token ids below"),
            (["index_share_for_mtp_iteration": 1], "index_share_for_mtp_iteration must be true or false"),
        ] as [(JSONObject, String)])
    func refusesDimensions(changes: JSONObject, problem: String) {
        let found = configProblems(PublishedConfig.glm5.changed(changes))
        #expect(found.count == 1 && found[0].contains(problem), "\(found)")
    }

    @Test(
        arguments: [
            (["indexer_types": .array([JSON](repeating: "shared", count: 78))], "indexer_types leaves layer 0"),
            (["indexer_types": .array([JSON](repeating: "none", count: 78))], "indexer_types must be 78 times"),
            (["indexer_types": "full"], "indexer_types must be 78 times"),
            (["index_topk_pattern": .string(String(repeating: "S", count: 78))], "index_topk_pattern leaves layer 0"),
            (
                ["index_topk_pattern": .string(String(repeating: "f", count: 78))],
                "index_topk_pattern must be 78 letters"
            ),
            (["index_topk_pattern": "FFS"], "index_topk_pattern must be 78 letters"),
            (["index_topk_pattern": ["full"]], "index_topk_pattern must be 78 letters"),
            (["index_topk_freq": 4, "index_skip_topk_offset": 0], "index_skip_topk_offset leaves layer 0"),
            (["index_topk_freq": -1], "index_topk_freq -1 is not in 0...1024"),
            (["mlp_layer_types": ["sparse", 1]], "mlp_layer_types must be 78 times"),
            (["first_k_dense_replace": -1], "first_k_dense_replace -1 is not in 0...1024"),
            (["moe_layer_freq": 0], "moe_layer_freq 0 is not in 1...1024"),
        ] as [(JSONObject, String)])
    func refusesSchedules(changes: JSONObject, problem: String) {
        let found = configProblems(PublishedConfig.glm5.changed(changes))
        #expect(found.count == 1 && found[0].hasPrefix(problem), "\(found)")
    }

    @Test(
        arguments: [
            (["n_group": 3], "n_routed_experts 256 is not a multiple of n_group 3"),
            (["topk_group": 2], "topk_group 2 is above n_group 1"),
            (["n_group": 256, "topk_group": 8], "leaves fewer than 2 experts in a group"),
            (["n_group": 64, "topk_group": 1], "num_experts_per_tok 8 is above the 4 experts that can be chosen from"),
            (["num_experts_per_tok": 0], "num_experts_per_tok 0 is not in 1...4096"),
            (["n_routed_experts": .null], "n_routed_experts is missing"),
            (
                ["n_routed_experts": 4096, "num_hidden_layers": 78],
                "num_hidden_layers 78 × n_routed_experts 4096 is above"
            ),
            (["n_shared_experts": 65], "n_shared_experts 65 is not in 0...64"),
            (["routed_scaling_factor": 0], "routed_scaling_factor 0.0 is not in"),
        ] as [(JSONObject, String)])
    func refusesMixtures(changes: JSONObject, problem: String) {
        let found = configProblems(PublishedConfig.glm5.changed(changes))
        #expect(found.contains { $0.contains(problem) }, "\(found)")
    }

    @Test(
        arguments: [
            ([:], "quant_method is missing; supported: fp8"),
            (["quant_method": "compressed-tensors"], #"quant_method is "compressed-tensors"; supported: fp8"#),
            (
                ["quant_method": "fp8", "fmt": "e5m2", "weight_block_size": [128, 128]],
                #"fmt is "e5m2"; supported: e4m3"#
            ),
            (["quant_method": "fp8"], "weight_block_size is missing; supported: [128, 128]"),
            (
                ["quant_method": "fp8", "weight_block_size": [1, 128]],
                #"weight_block_size is "[1,128]"; supported: [128, 128]"#
            ),
            (["quant_method": "fp8", "weight_block_size": 128], #"weight_block_size is "128"; supported"#),
        ] as [(JSON, String)])
    func refusesQuantisation(config: JSON, problem: String) {
        let found = configProblems(PublishedConfig.glm5.changed(["quantization_config": config]))
        #expect(found.count == 1 && found[0].hasPrefix("quantization_config." + problem), "\(found)")
    }
}
