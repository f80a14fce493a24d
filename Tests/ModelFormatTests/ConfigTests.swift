import ModelFormat
import OrderedJSON
import Testing

@Suite struct ConfigTests {
    static let plain: JSON = [
        "architectures": ["LlamaForCausalLM"], "vocab_size": 100, "hidden_size": 64, "num_attention_heads": 8,
        "num_hidden_layers": 2, "intermediate_size": 96, "max_position_embeddings": 4096, "hidden_act": "silu",
        "rms_norm_eps": 1e-5, "eos_token_id": 2,
    ]

    func llama(_ changes: JSONObject = [:], generation: JSON? = nil) throws -> LlamaConfig {
        var object = Self.plain.object ?? [:]
        for (key, value) in changes { object[key] = value }
        let config = try ModelConfig(huggingFace: .object(object), generation: generation, subject: "config.json")
        guard case .llama(let config) = config else { throw TestFailure("no Llama") }
        return config
    }

    func problems(_ changes: JSONObject, generation: JSON? = nil) -> [String] {
        let error = #expect(throws: ModelFormatError.self) { try llama(changes, generation: generation) }
        return error?.problems ?? []
    }

    @Test func defaultsAreThoseOfTransformers() throws {
        let config = try llama()
        #expect(config.keyValueHeadCount == 8 && config.headDimension == 8 && !config.tiedEmbeddings)
        #expect(!config.attentionBias.query && !config.mlpBias && config.normEpsilon == 1e-5)
        #expect(config.rope == RopeConfig(theta: 10000, dimensions: 8, pairing: .halfSplit, scaling: .none))
        #expect(config.common.eosTokens == [2] && config.common.bosToken == nil)
    }

    @Test func generationConfigTakesPrecedence() throws {
        let config = try llama(["bos_token_id": 1], generation: ["eos_token_id": [5, 6]])
        #expect(config.common.eosTokens == [5, 6] && config.common.bosToken == 1)
        #expect(try llama(generation: ["eos_token_id": .null]).common.eosTokens == [2])
    }

    @Test func ropeScalingVariants() throws {
        func scaling(_ rope: JSON, in field: String = "rope_scaling") throws -> RopeScaling {
            try llama([field: rope]).rope.scaling
        }
        #expect(try scaling(["type": "linear", "factor": 4]) == .linear(factor: 4))
        #expect(
            try scaling(["rope_type": "dynamic", "factor": 2.0]) == .dynamic(factor: 2, originalContext: 4096))
        #expect(
            try scaling([
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 1024,
            ])
                == .llama3(factor: 8, lowFrequencyFactor: 1, highFrequencyFactor: 4, originalContext: 1024))
        let yarn = try scaling(
            [
                "rope_type": "yarn", "factor": 40, "beta_fast": 16, "mscale": 1.0, "mscale_all_dim": 0.5,
                "original_max_position_embeddings": 512, "truncate": false, "rope_theta": 5e5,
            ], in: "rope_parameters")
        guard case .yarn(let yarn) = yarn else {
            Issue.record("not yarn")
            return
        }
        #expect(yarn.factor == 40 && yarn.betaFast == 16 && yarn.betaSlow == 1 && yarn.attentionFactor == nil)
        #expect(yarn.mscale == 1 && yarn.mscaleAllDimensions == 0.5 && !yarn.truncate && yarn.originalContext == 512)
        let long = try scaling([
            "type": "longrope", "short_factor": [1, 1, 1.5, 2], "long_factor": [1, 2, 3, 4],
        ])
        guard case .longRope(let long) = long else {
            Issue.record("not longrope")
            return
        }
        #expect(
            long.shortFactors == [1, 1, 1.5, 2] && long.longFactors == [1, 2, 3, 4] && long.originalContext == 4096)
        #expect(try llama(["rope_parameters": ["rope_theta": 5e5, "rope_type": "default"]]).rope.theta == 5e5)
        #expect(try llama(["rope_theta": 1000000]).rope.theta == 1e6)
        #expect(try llama(["rope_scaling": .null]).rope.scaling == .none)
        #expect(try llama(["partial_rotary_factor": 0.5]).rope.dimensions == 4)
    }

    @Test func allProblemsAreReportedTogether() {
        let found = problems([
            "hidden_size": "64", "num_hidden_layers": 0, "vocab_size": .null, "hidden_act": "gelu",
            "rms_norm_eps": -1, "num_key_value_heads": 3, "tie_word_embeddings": 1,
            "rope_scaling": ["type": "mystery"], "quantization_config": ["quant_method": "gptq"],
        ])
        for fragment in [
            "hidden_size must be an integer, not a string", "num_hidden_layers 0 is not in 1...1024",
            "vocab_size is missing", "hidden_act is \"gelu\"; supported: silu", "rms_norm_eps -1.0 is not in",
            "num_attention_heads 8 is not a multiple of num_key_value_heads 3",
            "tie_word_embeddings must be true or false",
            "rope_scaling.type is \"mystery\"; supported: default, linear", "quantization_config is not supported",
        ] {
            #expect(found.contains { $0.contains(fragment) }, "\(fragment) in \(found)")
        }
    }

    @Test(
        arguments: [
            (["hidden_size": 1_099_511_627_776], "hidden_size"),
            (["hidden_size": 63], "not a multiple of num_attention_heads"),
            (["rope_scaling": "linear"], "rope_scaling must be an object, not a string"),
            (["head_dim": 7], "not even"), (["head_dim": 1], "head_dim"), (["eos_token_id": 100], "eos_token_id"),
            (["eos_token_id": [1, "x"]], "eos_token_id"), (["eos_token_id": -1], "eos_token_id"),
            (["rope_theta": 0], "rope_theta"), (["rope_theta": "x"], "rope_theta"),
            (["rope_scaling": ["type": "linear"]], "rope_scaling.factor is missing"),
            (["rope_scaling": ["type": "linear", "factor": 0.5]], "rope_scaling.factor 0.5 is not in"),
            (
                ["rope_scaling": ["type": "longrope", "short_factor": [1], "long_factor": [1, 1, 1, 1]]], "short_factor"
            ),
            (
                ["rope_scaling": ["type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4]],
                "high_freq_factor 4.0 is not above"
            ),
            (["intermediate_size": 1.5], "intermediate_size must be an integer"),
            (["attention_bias": "yes"], "attention_bias"),
        ] as [(JSONObject, String)])
    func refuses(changes: JSONObject, problem: String) {
        let found = problems(changes)
        #expect(found.contains { $0.contains(problem) }, "\(found)")
    }

    @Test func problemsOfGenerationConfigNameTheFile() {
        #expect(problems([:], generation: ["eos_token_id": 1000]).contains { $0.hasPrefix("generation_config.json: ") })
    }

    @Test func otherArchitecturesAreNamed() {
        let error = #expect(throws: ModelFormatError.self) { try llama(["architectures": ["MambaForCausalLM"]]) }
        #expect(error?.kind == .unsupported)
        #expect(
            error?.description
                == "config.json: architectures names \"MambaForCausalLM\"; "
                + "supported: LlamaForCausalLM, GlmMoeDsaForCausalLM, Qwen3MoeForCausalLM")
        #expect(throws: ModelFormatError.self) { try ModelConfig(huggingFace: [], subject: "config.json") }
    }

    // MARK: GGUF

    static func gguf(_ changes: [String: GGUFBuilder.Value?] = [:]) -> GGUFBuilder {
        var builder = GGUFBuilder()
        var metadata: [(String, GGUFBuilder.Value)] = [
            ("general.architecture", .string("llama")), ("llama.block_count", .uint32(1)),
            ("llama.context_length", .uint32(128)), ("llama.embedding_length", .uint32(8)),
            ("llama.feed_forward_length", .uint32(16)), ("llama.attention.head_count", .uint32(2)),
            ("llama.attention.head_count_kv", .array(4, [.uint32(1)])),
            ("llama.attention.layer_norm_rms_epsilon", .float32(1e-5)), ("llama.rope.freq_base", .float32(5000)),
            ("tokenizer.ggml.tokens", .strings(["a", "b", "c"])), ("tokenizer.ggml.eos_token_id", .uint32(1)),
            ("tokenizer.ggml.eot_token_id", .uint32(2)), ("tokenizer.ggml.eom_token_id", .uint32(1)),
        ]
        for (key, value) in changes.sorted(by: { $0.key < $1.key }) {
            metadata.removeAll { $0.0 == key }
            if let value { metadata.append((key, value)) }
        }
        builder.metadata = metadata
        return builder
    }

    func read(_ builder: GGUFBuilder) throws -> LlamaConfig {
        let folder = try TemporaryFolder()
        let config = try ModelConfig(gguf: GGUFFile(path: folder.write("a.gguf", builder.bytes)))
        guard case .llama(let config) = config else { throw TestFailure("no Llama") }
        return config
    }

    @Test func readsMetadata() throws {
        var builder = Self.gguf()
        builder.add("blk.0.attn_q.bias", [8], floats: [Float](repeating: 0, count: 8))
        let config = try read(builder)
        #expect(config.common.vocabularySize == 3 && config.common.eosTokens == [1, 2])
        #expect(config.headDimension == 4 && config.keyValueHeadCount == 1 && config.rope.theta == 5000)
        #expect(config.attentionBias.query && !config.attentionBias.key && config.tiedEmbeddings)
        builder.add("output.weight", [1], floats: [0])
        #expect(try !read(builder).tiedEmbeddings)
    }

    @Test func readsRopeVariantsOfGGUF() throws {
        var builder = Self.gguf()
        builder.add("rope_freqs.weight", [2], floats: [1, 8])
        #expect(try read(builder).rope.scaling == .divisors([1, 8]))
        let linear = Self.gguf([
            "llama.rope.scaling.type": .string("linear"), "llama.rope.scaling.factor": .float32(4),
        ])
        #expect(try read(linear).rope.scaling == .linear(factor: 4))
        var long = Self.gguf(["llama.rope.scaling.type": .string("longrope")])
        #expect(throws: ModelFormatError.self) { try read(long) }
        long.add("rope_factors_short.weight", [2], floats: [1, 2])
        long.add("rope_factors_long.weight", [2], floats: [3, 4])
        #expect(
            try read(long).rope.scaling
                == .longRope(
                    LongRopeScaling(
                        shortFactors: [1, 2], longFactors: [3, 4], originalContext: 128, attentionFactor: nil)))
        var wrong = Self.gguf()
        wrong.add("rope_freqs.weight", [3], floats: [1, 8, 2])
        #expect(throws: ModelFormatError.self) { try read(wrong) }
        var negative = Self.gguf()
        negative.add("rope_freqs.weight", [2], floats: [1, .nan])
        #expect(throws: ModelFormatError.self) { try read(negative) }
    }

    @Test(
        arguments: [
            (["llama.block_count": nil], "llama.block_count is missing"),
            (["llama.block_count": .string("x")], "llama.block_count must be an integer"),
            (["llama.expert_count": .uint32(8)], "mixture-of-experts"),
            (["llama.attention.head_count": .uint32(0)], "llama.attention.head_count 0 is not in"),
            (["llama.attention.head_count_kv": .array(4, [.uint32(1), .uint32(2)])], "the same number for all layers"),
            (["llama.attention.value_length": .uint32(2)], "differs from key_length"),
            (["llama.rope.dimension_count": .uint32(3)], "not even"),
            (["llama.rope.dimension_count": .uint32(6)], "llama.rope.dimension_count 6 is not in 2...4"),
            (["tokenizer.ggml.eos_token_id": .uint32(3)], "tokenizer.ggml.eos_token_id"),
            (["general.architecture": .string("mamba")], "supported: llama"),
            (["general.architecture": nil], "general.architecture is missing"),
            (
                ["general.architecture": .string("glm-dsa")],
                "GlmMoeDsaForCausalLM is supported from safetensors files, not from GGUF"
            ),
            (
                ["general.architecture": .string("qwen3moe")],
                "Qwen3MoeForCausalLM is supported from safetensors files, not from GGUF"
            ),
            (["split.count": Optional(GGUFBuilder.Value(type: 2, bytes: [3, 0]))], "one of 3 parts"),
            (["llama.rope.scaling.type": .string("odd")], "supported: none, linear, yarn, longrope"),
        ] as [([String: GGUFBuilder.Value?], String)])
    func refusesMetadata(changes: [String: GGUFBuilder.Value?], problem: String) {
        let error = #expect(throws: ModelFormatError.self) { try read(Self.gguf(changes)) }
        #expect(error?.description.contains(problem) == true, "\(String(describing: error))")
    }
}
