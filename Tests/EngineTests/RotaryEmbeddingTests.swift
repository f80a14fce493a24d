import Engine
import ModelFormat
import OrderedJSON
import Testing

/// Frequencies against values computed in Python (numpy) from the formulas of transformers' modeling_rope_utils, and
/// of vLLM for `dynamic`: 64 dimensions, pairs 0, 1, 5, 9, 16, 23 and 31.
@Suite struct RotaryEmbeddingTests {
    private static let pairs = [0, 1, 5, 9, 16, 23, 31]

    /// A config of 64-dimensional heads as a checkpoint would have it.
    private func rope(theta: Double, _ scaling: JSON?) throws -> RopeConfig {
        var fields: [(String, JSON)] = [
            ("architectures", ["LlamaForCausalLM"]), ("hidden_size", 128), ("intermediate_size", 128),
            ("num_attention_heads", 2), ("num_key_value_heads", 2), ("num_hidden_layers", 1), ("vocab_size", 32),
            ("max_position_embeddings", 131072), ("rms_norm_eps", 1e-5), ("rope_theta", .double(theta)),
        ]
        if let scaling { fields.append(("rope_scaling", scaling)) }
        let config = try ModelConfig(huggingFace: .object(JSONObject(fields)), subject: "test")
        guard case .llama(let llama) = config else { throw EngineError.shutDown }
        return llama.rope
    }

    private func expect(
        _ config: RopeConfig, served: Int = 131072, factor: Double = 1, _ expected: [Double]
    ) throws {
        let rotary = try RotaryEmbedding(config, trainedContext: 131072, servedContext: served)
        #expect(rotary.rotaryDimensions == 64)
        for (pair, value) in zip(Self.pairs, expected) {
            let found = Double(rotary.inverseFrequencies[pair])
            #expect(abs(found - value) <= 2e-7 * value, "pair \(pair): \(found), expected \(value)")
        }
        #expect(abs(Double(rotary.attentionFactor) - factor) < 1e-6)
    }

    @Test func plain() throws {
        try expect(
            rope(theta: 10000, nil),
            [
                1.0, 0.7498942017555237, 0.23713737726211548, 0.0749894231557846, 0.009999999776482582,
                0.0013335214462131262, 0.0001333521504420787,
            ])
    }

    @Test func linear() throws {
        try expect(
            rope(theta: 10000, ["rope_type": "linear", "factor": 4]),
            [
                0.25, 0.18747355043888092, 0.05928434431552887, 0.01874735578894615, 0.0024999999441206455,
                0.00033338036155328155, 3.333803761051968e-05,
            ])
    }

    @Test func dynamic() throws {
        try expect(
            rope(theta: 10000, ["rope_type": "dynamic", "factor": 4]),
            [
                1.0, 0.6903452277183533, 0.15679481625556946, 0.03561205789446831, 0.0026611017528921366,
                0.00019885014626197517, 1.0257856956741307e-05,
            ])
    }

    @Test func llama3() throws {
        try expect(
            rope(
                theta: 500_000,
                [
                    "rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
                    "original_max_position_embeddings": 8192,
                ]),
            [
                1.0, 0.6636012196540833, 0.12868736684322357, 0.02495540864765644, 0.000524846138432622,
                1.0017868589784484e-05, 3.76732259610435e-07,
            ])
    }

    @Test func yarn() throws {
        try expect(
            rope(
                theta: 10000,
                ["rope_type": "yarn", "factor": 16, "original_max_position_embeddings": 4096]),
            factor: 1.2772588722239782,
            [
                1.0, 0.7498942017555237, 0.23713737726211548, 0.0749894231557846, 0.005673076957464218,
                8.334509038832039e-05, 8.33450940262992e-06,
            ])
    }

    @Test func longRopeTakesItsFactorsByTheServedContext() throws {
        let count = 32
        let ramp = { (top: Double) in
            JSON.array((0..<count).map { .double(1 + (top - 1) * Double($0) / Double(count - 1)) })
        }
        let config = try rope(
            theta: 10000,
            [
                "rope_type": "longrope", "short_factor": ramp(2), "long_factor": ramp(40),
                "original_max_position_embeddings": 4096,
            ])
        try expect(
            config, served: 131072, factor: 1.1902380714238083,
            [
                1.0, 0.33209601044654846, 0.03252769261598587, 0.006085528992116451, 0.00047328244545497,
                4.4546512071974576e-05, 3.3338035336782923e-06,
            ])
        try expect(
            config, served: 4096, factor: 1.1902380714238083,
            [
                1.0, 0.7264600396156311, 0.2042016237974167, 0.05811680108308792, 0.006595744751393795,
                0.0007655400549992919, 6.667607522103935e-05,
            ])
        #expect(try RotaryEmbedding(config, trainedContext: 131072, servedContext: 1).dependsOnServedContext)
    }

    @Test func anglesAreCosinesAndSines() throws {
        let rotary = try RotaryEmbedding(rope(theta: 10000, nil), trainedContext: 2048, servedContext: 2048)
        var cosines = [Float](repeating: 0, count: 32)
        var sines = [Float](repeating: 0, count: 32)
        rotary.angles(position: 0, cosines: &cosines, sines: &sines)
        #expect(cosines.allSatisfy { $0 == 1 } && sines.allSatisfy { $0 == 0 })
        rotary.angles(position: 1000, cosines: &cosines, sines: &sines)
        for pair in 0..<32 { #expect(abs(cosines[pair] * cosines[pair] + sines[pair] * sines[pair] - 1) < 1e-6) }
        #expect(abs(cosines[0] - 0.5623791) < 1e-6 && abs(sines[0] - 0.8268795) < 1e-6)
    }
}
