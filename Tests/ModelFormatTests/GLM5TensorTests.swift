import Kernels
import ModelFormat
import OrderedJSON
import Testing

@Suite struct GLM5TensorTests {
    private func expected(_ fields: JSONObject, draftLayer: Bool) throws -> [ExpectedTensor] {
        try glm5(from: fields).expectedTensors(in: .safetensors, draftLayer: draftLayer)
    }

    private func parameters(_ tensors: [ExpectedTensor]) -> Int {
        tensors.filter { !$0.isOptional }.reduce(0) { $0 + $1.shape.reduce(1, *) }
    }

    @Test func countsOfPublishedModels() throws {
        let glm5 = try expected(PublishedConfig.glm5, draftLayer: true)
        #expect(glm5.count { !$0.isOptional } == 59_870)
        #expect(parameters(glm5) == 753_864_139_008)
        #expect(Set(glm5.map(\.name)).count == glm5.count)
        // The published number is that of the BF16 tensors; the router's biases are F32.
        let glm52 = try expected(PublishedConfig.glm52, draftLayer: true)
        #expect(parameters(glm52.filter { !$0.name.hasSuffix("e_score_correction_bias") }) == 753_329_921_024)
        #expect(glm52.count { !$0.isOptional } == 59_870 - 57 * 5)
    }

    @Test func namesAndShapesOfGLM5() throws {
        let config = try glm5()
        for (tensor, name, shape) in [
            (.embedding, "model.embed_tokens.weight", [154_880, 6144]),
            (.outputNorm, "model.norm.weight", [6144]), (.output, "lm_head.weight", [154_880, 6144]),
            (.layer(0, .queryDown), "model.layers.0.self_attn.q_a_proj.weight", [2048, 6144]),
            (.layer(1, .queryUp), "model.layers.1.self_attn.q_b_proj.weight", [16384, 2048]),
            (.layer(2, .latentDown), "model.layers.2.self_attn.kv_a_proj_with_mqa.weight", [576, 6144]),
            (.layer(3, .latentUp), "model.layers.3.self_attn.kv_b_proj.weight", [28672, 512]),
            (.layer(4, .attentionOutput), "model.layers.4.self_attn.o_proj.weight", [6144, 16384]),
            (.layer(5, .indexQuery), "model.layers.5.self_attn.indexer.wq_b.weight", [4096, 2048]),
            (.layer(6, .indexKey), "model.layers.6.self_attn.indexer.wk.weight", [128, 6144]),
            (.layer(7, .indexKeyNormBias), "model.layers.7.self_attn.indexer.k_norm.bias", [128]),
            (.layer(8, .indexWeights), "model.layers.8.self_attn.indexer.weights_proj.weight", [32, 6144]),
            (.layer(2, .down), "model.layers.2.mlp.down_proj.weight", [6144, 12288]),
            (.layer(9, .router), "model.layers.9.mlp.gate.weight", [256, 6144]),
            (.layer(9, .routerBias), "model.layers.9.mlp.gate.e_score_correction_bias", [256]),
            (.layer(9, .sharedUp), "model.layers.9.mlp.shared_experts.up_proj.weight", [2048, 6144]),
            (.expert(layer: 9, expert: 255, .down), "model.layers.9.mlp.experts.255.down_proj.weight", [6144, 2048]),
            (.layer(78, .draftProjection), "model.layers.78.eh_proj.weight", [6144, 12288]),
            (.layer(78, .draftNorm), "model.layers.78.shared_head.norm.weight", [6144]),
        ] as [(GLM5Tensor, String, [Int])] {
            #expect(tensor.name == name && config.shape(of: tensor) == shape)
        }
    }

    @Test func layersHoldWhatTheScheduleSays() throws {
        let config = try glm5(from: PublishedConfig.glm52)
        #expect(config.roles(inLayer: 0).contains(.gate) && config.roles(inLayer: 0).contains(.indexKey))
        #expect(!config.roles(inLayer: 3).contains(.gate) && !config.roles(inLayer: 3).contains(.indexKey))
        #expect(config.roles(inLayer: 3).contains(.router) && config.roles(inLayer: 3).contains(.sharedDown))
        #expect(config.roles(inLayer: 78).contains(.indexKey) && config.roles(inLayer: 78).contains(.hiddenNorm))
        #expect(!config.roles(inLayer: 77).contains(.hiddenNorm))
        let plain = try glm5(["n_shared_experts": 0])
        #expect(!plain.roles(inLayer: 3).contains(.sharedDown) && plain.roles(inLayer: 3).contains(.routerBias))
    }

    /// The numbers of tensors in the files that these configs were written with.
    @Test(arguments: [("tiny-glm5", 153), ("tiny-glm52", 229), ("tiny-glm5-fp8", 140), ("glm5-nano", 196)])
    func tinyModels(name: String, count: Int) throws {
        let config = try Fixture.config(name)
        let hollow = try HollowCheckpoint(
            config, draftLayer: true, isQuantised: config["quantization_config"] != nil)
        #expect(hollow.tensors.count == count)
        #expect(try hollow.problems() == [])
    }

    // MARK: Draft layer

    @Test func draftLayerIsThereOrNot() throws {
        let folder = try TemporaryFolder()
        for announced in [0, 1] {
            let fields = try Fixture.config("tiny-glm5").changed(["num_nextn_predict_layers": .int(Int64(announced))])
            let config = try glm5(from: fields)
            for isThere in [false, true] {
                try HollowCheckpoint(fields, draftLayer: isThere).write(to: folder)
                let checkpoint = try Checkpoint.open(folder.path)
                #expect(config.hasDraftLayer(in: checkpoint) == isThere)
                #expect(checkpoint.config.hasDraftLayer(in: checkpoint) == isThere)
                try checkpoint.check()
                let ignored = try Checkpoint.open(folder.path, weights: .ignored)
                #expect(!config.hasDraftLayer(in: ignored))
            }
        }
    }

    @Test func partialDraftLayerIsReportedInFull() throws {
        let fields = try Fixture.config("tiny-glm5")
        var hollow = try HollowCheckpoint(fields)
        let whole = try HollowCheckpoint(fields, draftLayer: true)
        hollow.add("model.layers.3.hnorm.weight", .bf16, [64])
        let found = try hollow.problems()
        #expect(found.count == whole.tensors.count - hollow.tensors.count)
        #expect(found.allSatisfy { $0.hasPrefix("model.layers.3.") && $0.contains("is missing") })
        #expect(found.contains("model.layers.3.eh_proj.weight is missing (shape [64, 128])"))
    }

    @Test func copiesInTheDraftLayerAreAccepted() throws {
        var hollow = try HollowCheckpoint(Fixture.config("tiny-glm5"), draftLayer: true)
        hollow.add("model.layers.3.embed_tokens.weight", .bf16, [512, 64])
        hollow.add("model.layers.3.shared_head.head.weight", .bf16, [512, 64])
        #expect(try hollow.problems() == [])
        try hollow.change("model.layers.3.embed_tokens.weight") { $0.shape = [511, 64] }
        #expect(
            try hollow.problems() == [
                "model.layers.3.embed_tokens.weight has shape [511, 64], the config asks for [512, 64]"
            ])
    }

    @Test func layersBeyondTheDraftLayerAreUnexpected() throws {
        var hollow = try HollowCheckpoint(Fixture.config("tiny-glm5"), draftLayer: true)
        hollow.add("model.layers.30.enorm.weight", .bf16, [64])
        #expect(try hollow.problems() == [#""model.layers.30.enorm.weight" [64] is no tensor of this model"#])
        hollow = try HollowCheckpoint(Fixture.config("tiny-glm5"))
        hollow.add("model.layers.30.enorm.weight", .bf16, [64])
        #expect(try hollow.problems().count == 1)
    }

    @Test func indexersOfSharingLayersAreUnexpected() throws {
        var hollow = try HollowCheckpoint(Fixture.config("tiny-glm52"))
        hollow.add("model.layers.2.self_attn.indexer.wk.weight", .bf16, [16, 64])
        try hollow.remove("model.layers.4.self_attn.indexer.wk.weight")
        #expect(
            try hollow.problems() == [
                "model.layers.4.self_attn.indexer.wk.weight is missing (shape [16, 64])",
                #""model.layers.2.self_attn.indexer.wk.weight" [16, 64] is no tensor of this model"#,
            ])
    }

    // MARK: 8-bit floats

    private func quantised() throws -> HollowCheckpoint {
        try HollowCheckpoint(Fixture.config("tiny-glm5-fp8"), draftLayer: true, isQuantised: true)
    }

    @Test func scalesHaveOneNumberForEachBlock() throws {
        let hollow = try quantised()
        let shapes = Dictionary(uniqueKeysWithValues: hollow.tensors.map { ($0.name, $0.shape) })
        #expect(shapes["model.layers.0.mlp.down_proj.weight_scale_inv"] == [2, 3])
        #expect(shapes["model.layers.0.self_attn.kv_a_proj_with_mqa.weight_scale_inv"] == [1, 2])
        #expect(shapes["model.layers.1.self_attn.kv_b_proj.weight_scale_inv"] == [2, 1])
        #expect(WeightBlock(rows: 128, columns: 128).scaleShape(of: [576, 6144]) == [5, 48])
    }

    @Test func scalesGoWithTheWeightsType() throws {
        let weight = "model.layers.1.mlp.experts.2.up_proj.weight"
        var hollow = try quantised()
        try hollow.change(weight) { $0.type = .bf16 }
        #expect(
            try hollow.problems() == [
                "\"\(weight)_scale_inv\" [1, 2] is no tensor of this model: \"\(weight)\" is BF16, not F8_E4M3"
            ])
        try hollow.remove(weight + "_scale_inv")
        #expect(try hollow.problems() == [])
        // The config's list of exceptions has no say.
        try hollow.change("lm_head.weight") { $0.type = .f8E4M3 }
        hollow.add("lm_head.weight_scale_inv", .f32, [4, 2])
        #expect(try hollow.problems() == [])
    }

    @Test func scaleProblemsAreReportedTogether() throws {
        var hollow = try quantised()
        try hollow.remove("model.layers.0.mlp.up_proj.weight_scale_inv")
        try hollow.change("model.layers.0.mlp.gate_proj.weight_scale_inv") { $0.shape = [2, 2] }
        try hollow.change("model.layers.0.mlp.down_proj.weight_scale_inv") { $0.type = .bf16 }
        try hollow.remove("model.layers.1.self_attn.o_proj.weight")
        hollow.add("model.norm.weight_scale_inv", .f32, [1, 1])
        #expect(
            try hollow.problems() == [
                "model.layers.0.mlp.gate_proj.weight_scale_inv has shape [2, 2], its weight asks for [3, 2]",
                "model.layers.0.mlp.up_proj.weight_scale_inv is missing (F32, shape [3, 2]): its weight is F8_E4M3",
                "model.layers.0.mlp.down_proj.weight_scale_inv has the type BF16; supported: F32",
                "model.layers.1.self_attn.o_proj.weight is missing (shape [192, 128])",
                #""model.layers.1.self_attn.o_proj.weight_scale_inv" [2, 1] is no tensor of this model"#,
                #""model.norm.weight_scale_inv" [1, 1] is no tensor of this model: "#
                    + #""model.norm.weight" is BF16, not F8_E4M3"#,
            ])
    }

    @Test(arguments: ["model.embed_tokens.weight", "model.layers.1.mlp.gate.weight"])
    func someTensorsAreNeverQuantised(name: String) throws {
        var hollow = try quantised()
        try hollow.change(name) { $0.type = .f8E4M3 }
        #expect(
            try hollow.problems().first == "\(name) has the unsupported type F8_E4M3: by the config it has no scales")
    }

    @Test func weightsOf8BitsNeedTheConfigToSaySo() throws {
        var hollow = try quantised()
        hollow.config["quantization_config"] = nil
        let found = try hollow.problems()
        #expect(
            found.contains(
                "model.layers.0.mlp.up_proj.weight has the unsupported type F8_E4M3: by the config it has no scales"))
        #expect(found.contains("\"model.layers.0.mlp.up_proj.weight_scale_inv\" [3, 2] is no tensor of this model"))
    }

    @Test func scalesAreFoundByTheirWeight() throws {
        let folder = try TemporaryFolder()
        try quantised().write(to: folder)
        let checkpoint = try Checkpoint.open(folder.path)
        let weight = try #require(checkpoint.tensor(named: "model.layers.0.mlp.up_proj.weight"))
        #expect(weight.type.elementType == .f8E4M3)
        let scales = try #require(checkpoint.scales(of: weight))
        #expect(scales.type == .f32 && scales.shape == [3, 2])
        let norm = try #require(checkpoint.tensor(named: "model.norm.weight"))
        #expect(checkpoint.scales(of: norm) == nil)
    }
}
