import Engine
import Glibc
import Kernels
import ModelFormat
import OrderedJSON
import Testing

/// What is planned for published configs, and that it is what loading takes.
@Suite struct MemoryPlanTests {
    private static let configs = TestModels.fixtures + "/published-configs"

    /// The plan of a published config, on request of its checkpoint of 8-bit floats.
    private func published(
        _ name: String, isQuantised: Bool = false, _ change: (inout PlanRequest) -> Void = { _ in }
    ) throws -> MemoryPlan {
        var fields = try #require(JSON.parse(TextFile.read("\(Self.configs)/\(name).json")).object)
        if isQuantised {
            fields["quantization_config"] = [
                "quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128],
            ]
        }
        var request = PlanRequest()
        change(&request)
        let config = try ModelConfig(huggingFace: .object(fields), subject: name)
        return try MemoryPlan(PlannedModel(config: config), request)
    }

    @Test(arguments: [
        ("glm5", CacheType.bf16, false, 109_824), ("glm5", .bf16, true, 111_232), ("glm5", .fp8, false, 61_464),
        ("glm5", .fp8, true, 62_252), ("glm52", .bf16, false, 95_232), ("glm52", .bf16, true, 96_640),
        ("glm52", .fp8, false, 53_940), ("glm52", .fp8, true, 54_728),
    ])
    func bytesPerTokenOfPublishedModels(_ name: String, _ type: CacheType, _ draftLayer: Bool, _ bytes: Int) throws {
        let plan = try published(name) {
            $0.kvType = type
            $0.draftLayer = draftLayer
        }
        #expect(plan.layout.tokenBytes == bytes && plan.hasDraftLayer == draftLayer)
        // No gaps: all planes are whole cache lines. The draft layer keeps one hidden state in a page.
        #expect(plan.layout.pageBytes == 32 * bytes + (draftLayer ? 6144 * 4 : 0))
    }

    /// Counted tensor by tensor, outside this program. Parameters of GLM-5.2 are the published ones and 256 biases of
    /// each of 76 routers, which are F32.
    @Test(arguments: [
        ("glm5", false, 753_864_139_008, 1_507_728_316_928, 1_505_822_638_080),
        ("glm5", true, 753_864_139_008, 756_162_687_872, 781_008_564_224),
        ("glm52", false, 753_329_921_024 + 76 * 256, 1_506_659_919_872, 1_504_754_270_208),
        ("glm52", true, 753_329_921_024 + 76 * 256, 755_617_140_416, 780_446_830_592),
    ])
    func weightsOfPublishedModels(
        _ name: String, _ isQuantised: Bool, _ parameters: Int, _ fileBytes: Int, _ packedBytes: Int
    ) throws {
        let weights = try published(name, isQuantised: isQuantised).weights
        #expect(weights.parameterCount == parameters)
        #expect(weights.fileBytes == fileBytes && weights.packedBytes == packedBytes)
        #expect(weights.mappedBytes == 154_880 * 6144 * 2)
        #expect(weights.fileTypes == (isQuantised ? [.f8E4M3, .bf16, .f32] : [.bf16, .f32]))
        // Without the draft layer a node holds less; the files do not change.
        let without = try published(name, isQuantised: isQuantised) { $0.draftLayer = false }.weights
        #expect(without.fileBytes == fileBytes && without.packedBytes < packedBytes)
    }

    // MARK: Planned as loaded

    private func expectLoaded(_ path: String, _ model: PlannedModel, _ request: PlanRequest) throws {
        let plan = try MemoryPlan(model, request)
        var options = LoadOptions()
        options.kvType = request.kvType
        options.pageTokens = request.pageTokens
        options.draftLayer = request.draftLayer
        options.threads = 1
        let loaded = try LoadedModel.load(path: path, options: options)
        #expect(plan.weights.packedBytes == loaded.facts.weightBytes)
        #expect(plan.layout == loaded.layout && plan.layout.pageBytes == loaded.layout.pageBytes)
        #expect(plan.contextLimit == loaded.facts.contextLimit && plan.layerCount == loaded.facts.layerCount)
        #expect(plan.hasDraftLayer == (loaded.model.draftLayer != nil))
        let tensors = loaded.checkpoint.tensors
        #expect(plan.weights.fileBytes == tensors.reduce(0) { $0 + ($1.byteCount ?? 0) })
        let scales = tensors.compactMap { loaded.checkpoint.scales(of: $0) }.reduce(0) { $0 + $1.elementCount }
        #expect(plan.weights.parameterCount == loaded.facts.parameterCount - scales)
        let memory = try KVMemory(layout: loaded.layout, pageCount: plan.pages)
        #expect(memory.slab.bytes == plan.slabBytes)
        #expect(try KVMemory(layout: loaded.layout, bytes: plan.slabBytes).pageCount == plan.pages)
    }

    @Test(arguments: ["tiny-llama", "tiny-glm5", "tiny-glm52", "tiny-glm5-fp8", "tiny-qwen3-moe"])
    func aPlanIsWhatLoadingTakes(_ name: String) throws {
        let path = "\(TestModels.fixtures)/\(name)"
        for (kvType, pageTokens, draftLayer) in [
            (CacheType.f16, 32, true), (.bf16, 16, false), (.f32, 48, true), (.fp8, 32, true), (.fp8, 16, false),
        ] where kvType != .fp8 || name.contains("glm") {
            var request = PlanRequest()
            (request.kvType, request.pageTokens, request.draftLayer) = (kvType, pageTokens, draftLayer)
            (request.context, request.sequences) = (777, 3)
            // From the config alone and from the tensors themselves.
            for planned in [path + "/config.json", path] {
                let model = try PlannedModel(path: planned)
                #expect(try MemoryPlan(model, request).isOfConfigAlone == (planned != path))
                try expectLoaded(path, model, request)
            }
        }
    }

    @Test func aPlanOfQuantisedBlocksIsWhatLoadingTakes() throws {
        let path = try TestModels.smolLM2Path
        var request = PlanRequest()
        request.context = 100
        try expectLoaded(path, try PlannedModel(path: path), request)
    }

    /// Rows that fill no group of 16, biases, and an output matrix of its own.
    @Test func aPlanOfOddShapesIsWhatLoadingTakes() throws {
        let folder = "/tmp/baton-plan-\(getpid())"
        mkdir(folder, 0o700)
        let config: JSON = [
            "architectures": ["LlamaForCausalLM"], "hidden_size": 24, "num_attention_heads": 3, "head_dim": 8,
            "num_key_value_heads": 1, "num_hidden_layers": 2, "intermediate_size": 37, "vocab_size": 101,
            "attention_bias": true, "mlp_bias": true, "max_position_embeddings": 900, "tie_word_embeddings": false,
        ]
        let file = try #require(fopen(folder + "/config.json", "wb"))
        defer {
            for name in ["config.json", "model.safetensors"] { unlink("\(folder)/\(name)") }
            rmdir(folder)
        }
        fputs(config.text(), file)
        fclose(file)
        // Without weights a folder is its config.
        #expect(try MemoryPlan(PlannedModel(path: folder), PlanRequest()).isOfConfigAlone)
        let tensors = try PlannedModel(path: folder).config.expectedTensors(in: .safetensors).filter { !$0.isOptional }
        var writer = try SafetensorsWriter(
            path: folder + "/model.safetensors",
            tensors: tensors.map { .init(name: $0.name, type: .bf16, shape: $0.shape) })
        for tensor in tensors {
            let zeros = [UInt16](repeating: 0, count: tensor.shape.reduce(1, *))
            try zeros.withUnsafeBytes { try writer.write($0) }
        }
        try writer.finish()
        try expectLoaded(folder, try PlannedModel(path: folder + "/config.json"), PlanRequest())
        try expectLoaded(folder, try PlannedModel(path: folder), PlanRequest())
    }

    // MARK: Pages, handoffs, what fits

    @Test func pagesAndHandoffsOfAFullContext() throws {
        let plan = try published("glm5") {
            ($0.context, $0.sequences, $0.kvType, $0.links) = (200_001, 32, .fp8, [100])
        }
        let pageBytes = 32 * 62_252 + 6144 * 4
        #expect(plan.pagesPerSequence == 6251 && plan.pages == 6251 * 32 && plan.slabBytes == 6251 * 32 * pageBytes)
        #expect(plan.handoffBytes == 6251 * pageBytes)
        #expect(plan.handoffSeconds(gigabits: 100) == Double(6251 * pageBytes) * 8 / 100e9)
        #expect(plan.fit == nil)
        #expect(try published("glm52").context == 1_048_576)
    }

    @Test func whatFitsIsWholePagesBesideTheWeights() throws {
        func fit(_ memory: (MemoryPlan) -> Int) throws -> (plan: MemoryPlan, fit: MemoryPlan.Fit) {
            let change = { (request: inout PlanRequest) in (request.context, request.sequences) = (1000, 4) }
            let bytes = memory(try published("glm52", change))
            let plan = try published("glm52") {
                change(&$0)
                $0.memoryBytes = bytes
            }
            return (plan, try #require(plan.fit))
        }
        let (plan, exact) = try fit { $0.weights.memoryBytes + $0.slabBytes }
        #expect(exact.holdsWeights && exact.pages == plan.pages && exact.sequences == 4)
        #expect(exact.tokens == plan.pages * 32 && exact.longestContext == 1024)
        let (_, scarce) = try fit { $0.weights.memoryBytes + $0.slabBytes - 1 }
        #expect(scarce.pages == plan.pages - 1 && scarce.sequences == 3 && scarce.longestContext == 992)
        let (_, bare) = try fit { $0.weights.memoryBytes }
        #expect(bare.holdsWeights && bare.pages == 0 && bare.sequences == 0 && bare.longestContext == 0)
        let (short, none) = try fit { $0.weights.memoryBytes - 1 }
        #expect(!none.holdsWeights && none.missingBytes == 1 && none.tokens == 0)
        #expect(short.text.contains("one node holds the whole model"))
        let (_, ample) = try fit { _ in 1 << 50 }
        #expect(ample.longestContext == 1_048_576 && ample.tokens > 4 * 1_048_576)
    }

    @Test func machinesReadTheSame() throws {
        let plan = try published("glm5") { ($0.context, $0.kvType, $0.memoryBytes) = (64, .fp8, 1 << 41) }
        let json = try JSON.parse(Array(plan.json.text().utf8))
        #expect(json["kv"]?["token_bytes"]?.int == 62_252 && json["kv"]?["dtype"] == "fp8")
        #expect(json["weights"]?["checkpoint_bytes"]?.int == 1_507_728_316_928)
        #expect(json["plan"]?["slab_bytes"]?.int == 2 * plan.layout.pageBytes)
        #expect(json["handoff"]?["links"]?.array?.map { $0["gbit_per_second"]?.double } == [10, 25, 100, 200, 400])
        #expect(json["fit"]?["tokens"]?.int == plan.fit?.tokens)
        #expect(try published("glm5").json["fit"]?.isNull == true)
    }

    /// The manual shows what the command prints.
    @Test func theManualIsUpToDate() throws {
        let manual = String(decoding: try TextFile.read(TestModels.root + "/docs/operating.md"), as: UTF8.self)
        func text(gibibytes: Int) throws -> String {
            let plan = try published("glm5") {
                ($0.context, $0.sequences, $0.kvType, $0.memoryBytes) = (200_000, 32, .fp8, gibibytes << 30)
            }
            let lines = plan.text.split(separator: "\n", omittingEmptySubsequences: false)
            #expect(!lines.contains { $0.last == " " })
            return lines.map { $0.isEmpty ? "" : "    \($0)" }.joined(separator: "\n")
        }
        let whole = try text(gibibytes: 512)
        // Of the second one its end.
        let ample = try text(gibibytes: 2048)
        let end = try #require(ample.ranges(of: "    in 2,048 GiB").first.map { ample[$0.lowerBound...] })
        for block in [whole, String(end)] {
            let isShown = manual.contains(block)
            #expect(isShown, "docs/operating.md lacks this:\n\(block)")
        }
    }
}
