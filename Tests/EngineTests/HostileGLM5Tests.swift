import Engine
import Glibc
import Handoff
import Kernels
import ModelFormat
import OrderedJSON
import Testing

/// GLM-5 checkpoints that are not what they say, or hold what is no number: an error that names the tensor, or numbers
/// of no use; never a crash, a hang or a look outside of anything.
@Suite struct HostileGLM5Tests {
    /// A model with everything: selection, sharing, groups, shared experts, a draft layer.
    private static let plain = model(.bf16), floats = model(.f32), quantised = model(.fp8)

    private static func model(_ storage: RandomWeights.Storage) -> RandomGLM5 {
        let fits = { (drawn: RandomGLM5) in
            drawn.config.groups > 1 && drawn.config.groupLimit < drawn.config.groups && drawn.config.shared > 0
                && drawn.config.topK < 20 && drawn.config.isSparse.contains(true)
                && drawn.config.isSparse.contains(false) && drawn.config.ownsIndexer.contains(false)
        }
        for seed in UInt64(0)... {
            let drawn = RandomGLM5(seed: seed, storage: storage, draftLayer: true)
            if fits(drawn) { return drawn }
        }
        preconditionFailure("no seed draws such a model")
    }

    private func problems(_ folder: CheckpointFolder) -> String? {
        do throws(EngineError) {
            var options = LoadOptions()
            options.threads = 1
            _ = try LoadedModel.load(path: folder.path, options: options)
            return nil
        } catch {
            guard case .model(_, let problems) = error else { return "\(error)" }
            return problems.joined(separator: "\n")
        }
    }

    // MARK: What is no number

    enum Poison: String, CaseIterable, Sendable { case nan, infinity, minusInfinity, someNaN, huge }

    /// Every role of the tensors, by a part of the name of one.
    static let roles = [
        "embed_tokens", "lm_head", "model.norm", "layers.0.input_layernorm", "layers.0.post_attention_layernorm",
        "layers.0.self_attn.q_a_proj", "layers.0.self_attn.q_a_layernorm", "layers.0.self_attn.q_b_proj",
        "layers.0.self_attn.kv_a_proj_with_mqa", "layers.0.self_attn.kv_a_layernorm",
        "layers.0.self_attn.kv_b_proj", "layers.0.self_attn.o_proj", "indexer.wq_b", "indexer.wk",
        "indexer.k_norm.weight", "indexer.k_norm.bias", "indexer.weights_proj", "mlp.gate_proj", "mlp.up_proj",
        "mlp.down_proj", "mlp.gate.weight", "mlp.gate.e_score_correction_bias", "experts.0.gate_proj",
        "experts.1.up_proj", "experts.0.down_proj", "shared_experts.gate_proj", "shared_experts.down_proj", "enorm",
        "hnorm", "shared_head.norm", "eh_proj",
    ]

    private func poison(_ tensor: inout RandomWeights.Tensor, _ poison: Poison) {
        let value: Float =
            switch poison {
            case .nan, .someNaN: .nan
            case .infinity: .infinity
            case .minusInfinity: -.infinity
            case .huge: .greatestFiniteMagnitude
            }
        let size = tensor.type == .f32 ? 4 : 2
        let bits = value.bitPattern
        let step = poison == .someNaN ? 7 : 1
        for element in stride(from: 0, to: tensor.bytes.count / size, by: step) {
            // BF16 is the upper half.
            let own = size == 4 ? bits : bits >> 16
            for byte in 0..<size {
                tensor.bytes[element * size + byte] = UInt8(truncatingIfNeeded: own >> UInt32(8 * byte))
            }
        }
    }

    @Test(arguments: roles, Poison.allCases)
    func whatIsNoNumberDoesNoHarm(role: String, poison: Poison) throws {
        var drawn = poison == .huge ? Self.floats : Self.plain
        let affected = drawn.weights.tensors.map(\.name).filter { $0.contains(role) }
        try #require(!affected.isEmpty)
        for name in affected { try drawn.weights.change(name) { self.poison(&$0, poison) } }
        let folder = try drawn.write()
        for type in [CacheType.f32, .fp8] {
            var options = LoadOptions()
            options.kvType = type
            options.pageTokens = 16
            options.threads = 1
            try run(try LoadedModel.load(path: folder.path, options: options), drawn)
        }
    }

    /// All ways through a model; its choices stay within their bounds.
    private func run(_ model: LoadedModel, _ drawn: RandomGLM5) throws {
        let (vocabulary, config) = (TokenID(drawn.config.vocabulary), drawn.config)
        let prompt = (0..<40).map { TokenID($0) % vocabulary }
        let evaluation = try Evaluation(model: model, threads: 2, chunkTokens: 16)
        let folder = try CheckpointFolder()
        let trace = try EngineTrace(evaluation, prompt, in: folder, drafts: 3)
        for name in trace.names where name.hasSuffix(".topk") {
            for (row, positions) in try trace.integers(name).enumerated() {
                #expect(
                    positions.count == min(config.topK, row + 1) && zip(positions, positions.dropFirst()).allSatisfy(<))
                #expect(positions.allSatisfy { $0 >= 0 && $0 <= row })
            }
        }
        for name in trace.names where name.hasSuffix(".experts") {
            for experts in try trace.integers(name) {
                #expect(Set(experts).count == config.perToken && experts.allSatisfy { $0 < config.experts })
            }
        }
        let (ids, _) = try evaluation.greedy(after: prompt, count: 6)
        #expect(try evaluation.speculate(after: prompt, count: 6, drafts: 2).ids == ids)
        #expect(ids.allSatisfy { $0 >= 0 && $0 < vocabulary })
        try decode(model, prompt)
    }

    /// A request ends, with tokens of the vocabulary or an error.
    private func decode(_ model: LoadedModel, _ prompt: [TokenID]) throws {
        let memory = try poisonedMemory(model, pages: 8)
        let log = EventLog()
        let loop = try EngineLoop(
            model: model, memory: memory, options: .init(role: .decode, threads: 1, drafts: 2), onEvent: log.record)
        defer { loop.shutdown() }
        for (index, temperature) in [Float(0), 0.8].enumerated() {
            var sampling = SamplingParameters()
            sampling.temperature = temperature
            sampling.topP = 0.9
            sampling.topLogprobs = 2
            sampling.maxTokens = 5
            loop.start(DecodeJob(id: handoff(index), tokens: prompt, sampling: sampling, slots: []))
            try #require(log.wait(handoff(index)))
            let answer = log[handoff(index)]
            #expect(answer.error != nil || answer.tokens.count == 5)
            #expect(answer.tokens.allSatisfy { $0 >= 0 && $0 < TokenID(model.facts.vocabularySize) })
        }
    }

    // MARK: Scales

    private func eightBitWeight() throws -> (RandomGLM5, name: String) {
        let drawn = Self.quantised
        let name = try #require(drawn.weights.tensors.first { $0.type == .f8E4M3 && $0.name.contains("q_b_proj") }).name
        return (drawn, name)
    }

    private func bytes(_ value: Float, _ count: Int) -> [UInt8] {
        (0..<count).flatMap { _ in withUnsafeBytes(of: value.bitPattern.littleEndian) { Array($0) } }
    }

    @Test(arguments: [Float.nan, .infinity, -.infinity, 0, -1, .greatestFiniteMagnitude, .leastNonzeroMagnitude])
    func scalesOfAnyValue(value: Float) throws {
        var drawn = Self.quantised
        for tensor in drawn.weights.tensors where tensor.name.hasSuffix("_scale_inv") {
            try drawn.weights.change(tensor.name) { $0.bytes = bytes(value, $0.bytes.count / 4) }
        }
        let folder = try drawn.write()
        try run(try LoadedModel.load(path: folder.path), drawn)
    }

    @Test func scalesThatDoNotFitAreNamed() throws {
        let (drawn, name) = try eightBitWeight()
        let scale = name + "_scale_inv"
        func refused(_ change: (inout RandomWeights) throws -> Void) throws {
            var copy = drawn
            try change(&copy.weights)
            let text = try #require(problems(copy.write()))
            #expect(text.contains(name), "\(text)")
        }
        try refused { try $0.remove(scale) }
        try refused { try $0.change(scale) { ($0.shape, $0.bytes) = ([1], bytes(1, 1)) } }
        try refused {
            try $0.change(scale) {
                ($0.shape, $0.bytes) = ([$0.shape[1] + 1, $0.shape[0]], bytes(1, $0.shape[0] * ($0.shape[1] + 1)))
            }
        }
        try refused {
            try $0.change(scale) { ($0.type, $0.bytes) = (.bf16, Array($0.bytes.prefix($0.bytes.count / 2))) }
        }
        // A code that is no number.
        try refused { try $0.change(name) { $0.bytes[$0.bytes.count - 1] = 0xff } }
        // Scales without a weight that has any.
        try refused { weights in
            try weights.change(name) { ($0.type, $0.bytes) = (.bf16, $0.bytes + $0.bytes) }
        }
    }

    @Test func eightBitWeightsThatTheConfigDoesNotAnnounceAreNamed() throws {
        var (drawn, name) = try eightBitWeight()
        drawn.json["quantization_config"] = nil
        let text = try #require(problems(drawn.write()))
        #expect(text.contains(name) && text.contains("F8_E4M3"))
    }

    // MARK: Files

    @Test(arguments: [0, 1, 7, 8, 9, 500, 5000, -1, -100, -4000])
    func truncatedFiles(bytes: Int) throws {
        let folder = try Self.plain.write()
        let all = try TextFile.read("\(folder.path)/model.safetensors")
        try folder.write("model.safetensors", Array(all.prefix(bytes < 0 ? all.count + bytes : bytes)))
        #expect(problems(folder) != nil)
    }

    @Test(arguments: ["eh_proj.weight", "indexer.wk.weight", "mlp.gate.e_score_correction_bias", "lm_head.weight"])
    func missingAndMisshapenTensorsAreNamed(role: String) throws {
        let drawn = Self.plain
        let name = try #require(drawn.weights.tensors.last { $0.name.contains(role) }).name
        var missing = drawn
        try missing.weights.remove(name)
        #expect(try #require(problems(missing.write())).contains(name))
        var misshapen = drawn
        try misshapen.weights.change(name) { $0.shape = [$0.shape.reduce(1, *), 1] }
        #expect(try #require(problems(misshapen.write())).contains(name))
        var unknown = drawn
        unknown.weights.add(.init(name: name + "_too", type: .u8, shape: [1], bytes: [0]))
        #expect(try #require(problems(unknown.write())).contains(name + "_too"))
    }

    /// Sizes above what the kernels take are refused, and 8-bit caches of long index keys.
    @Test(arguments: 0..<4)
    func shapesBeyondTheKernels(index: Int) throws {
        let drawn = RandomGLM5(seed: 1, storage: .bf16) { config in
            switch index {
            case 0: config.latentRank = 1025
            case 1: (config.rope, config.indexDimension) = (258, 258)
            case 2: (config.indexHeads, config.indexDimension) = (127, 130)
            default: config.indexDimension = 129
            }
        }
        let folder = try drawn.write()
        var options = LoadOptions()
        options.threads = 1
        options.kvType = index == 3 ? .fp8 : .f32
        #expect(throws: EngineError.self) { try LoadedModel.load(path: folder.path, options: options) }
        options.kvType = .bf16
        if index == 3 { _ = try LoadedModel.load(path: folder.path, options: options) }
    }

    /// Sizes that only the config names, and no tensor shows.
    @Test(arguments: [1, 1 << 16, 1 << 28])
    func contextsAndSelectionsOfAnySize(size: Int) throws {
        var drawn = Self.plain
        drawn.json["max_position_embeddings"] = .int(Int64(size))
        drawn.json["index_topk"] = .int(Int64(size))
        let folder = try drawn.write()
        let model = try LoadedModel.load(path: folder.path)
        do throws(EngineError) {
            let evaluation = try Evaluation(model: model, threads: 1, chunkTokens: 16)
            let session = try evaluation.makeSession(capacity: 1)
            try evaluation.extend(session, by: [1]) { _, _ in }
        } catch {
            // No memory for it.
            #expect(size > 1 << 16, "\(error)")
        }
    }
}
