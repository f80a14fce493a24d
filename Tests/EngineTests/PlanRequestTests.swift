import Engine
import Kernels
import ModelFormat
import OrderedJSON
import Testing

/// What a plan refuses: each error names the flag and its limit.
@Suite struct PlanRequestTests {
    private func request(
        sequences: Int = 1, kvDtype: String = "f16", pageTokens: Int = 32, mtp: String = "auto", links: String? = nil,
        memoryGiB: Double? = nil
    ) throws(EngineError) -> PlanRequest {
        try PlanRequest(
            context: nil, sequences: sequences, kvDtype: kvDtype, pageTokens: pageTokens, mtp: mtp, links: links,
            memoryGiB: memoryGiB)
    }

    private func problem(_ body: () throws(EngineError) -> some Any) -> String {
        do throws(EngineError) {
            return "no error: \(try body())"
        } catch {
            return error.description
        }
    }

    @Test func flagsAreRead() throws {
        let defaults = try request()
        #expect(defaults == PlanRequest() && defaults.links == [10, 25, 100, 200, 400])
        let given = try request(
            sequences: 32, kvDtype: "fp8", pageTokens: 64, mtp: "off", links: "25,2.5", memoryGiB: 1.5)
        #expect(given.sequences == 32 && given.kvType == .fp8 && given.pageTokens == 64 && !given.draftLayer)
        #expect(given.links == [25, 2.5] && given.memoryBytes == 3 << 29)
    }

    @Test func badFlagsAreNamedWithTheirLimit() {
        for (problem, wanted) in [
            (problem { () throws(EngineError) in try request(sequences: 0) }, "--sequences: 0 is not in 1...4096"),
            (
                problem { () throws(EngineError) in try request(sequences: 4097) },
                "--sequences: 4097 is not in 1...4096"
            ),
            (
                problem { () throws(EngineError) in try request(kvDtype: "int8") },
                "--kv-dtype: int8 is none of f32, f16, bf16, fp8"
            ),
            (
                problem { () throws(EngineError) in try request(pageTokens: 20) },
                "--page-tokens: 20 is no multiple of 16 in 16...1024"
            ),
            (problem { () throws(EngineError) in try request(mtp: "on") }, "--mtp: on is neither auto nor off"),
            (
                problem { () throws(EngineError) in try request(memoryGiB: 0) },
                "--ram: 0.0 is not above 0 and at most 1048576 GiB"
            ),
            (
                problem { () throws(EngineError) in try request(memoryGiB: .nan) },
                "--ram: nan is not above 0 and at most 1048576 GiB"
            ),
            (
                problem { () throws(EngineError) in
                    try request(links: Array(repeating: "1", count: 17).joined(separator: ","))
                }, "--link: 17 speeds, the limit is 16"
            ),
        ] {
            #expect(problem == wanted)
        }
        for bad in ["", "25,", "0", "-1", "fast", "nan", "inf", "200000"] {
            let problem = problem { () throws(EngineError) in try request(links: bad) }
            #expect(
                problem.hasSuffix("is no speed in 0.001...100000 Gbit/s") && problem.hasPrefix("--link: "), "\(bad)")
        }
    }

    @Test func whatTheModelDoesNotAllowIsNamed() throws {
        let llama = try PlannedModel(path: TestModels.tinyLlamaPath)
        func problem(_ model: PlannedModel, _ change: (inout PlanRequest) -> Void) -> String {
            var request = PlanRequest()
            change(&request)
            return self.problem { () throws(EngineError) in try MemoryPlan(model, request) }
        }
        for context in [0, 2049] {
            #expect(
                problem(llama) { $0.context = context }
                    == "--context: \(context) is not in 1...2048, which the model allows")
        }
        #expect(
            problem(llama) { $0.kvType = .fp8 }
                == "--kv-dtype: fp8 is for latent attention, which llama has not; use f32, f16 or bf16")
        let qwen = try PlannedModel(path: TestModels.fixtures + "/tiny-qwen3-moe")
        #expect(problem(qwen) { $0.kvType = .fp8 }.hasPrefix("--kv-dtype: fp8"))
    }

    /// The greatest shapes that configs may ask for add up without a crash.
    @Test func absurdModelsAreRefused() throws {
        let config: JSON = [
            "architectures": ["LlamaForCausalLM"], "hidden_size": 1_048_576, "num_attention_heads": 1024,
            "head_dim": 256, "num_key_value_heads": 1024, "num_hidden_layers": 1024, "intermediate_size": 1_048_576,
            "vocab_size": 4_194_304, "max_position_embeddings": 268_435_456,
        ]
        let model = PlannedModel(config: try ModelConfig(huggingFace: config, subject: "config.json"))
        var request = PlanRequest()
        (request.kvType, request.memoryBytes) = (.f32, 1 << 50)
        #expect(try MemoryPlan(model, request).text.contains("too much"))
        request.sequences = 4096
        let problem = problem { () throws(EngineError) in try MemoryPlan(model, request) }
        #expect(problem.hasPrefix("--sequences: ") && problem.hasSuffix("are above the limit of 1 EiB"))
    }

    @Test func whatIsNoModelIsNamed() {
        for (path, wanted) in [
            ("/nowhere", "no such file or folder"), ("/nowhere/config.json", "/nowhere/config.json"),
            (TestModels.fixtures + "/tiny-llama/goldens.json", "supported: LlamaForCausalLM"),
            (TestModels.root + "/README.md", "a model must be"),
            (TestModels.fixtures, "neither config.json nor a .gguf file"),
        ] {
            let problem = problem { () throws(EngineError) in try PlannedModel(path: path) }
            #expect(problem.hasPrefix("--config: ") && problem.contains(wanted), "\(problem)")
        }
    }
}
