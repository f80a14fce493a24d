import Engine
import Glibc
import Testing

/// Checkpoints that are not what they say: one clear error each, never a crash.
@Suite struct HostileModelTests {
    private func problems(_ path: String) -> [String]? {
        do throws(EngineError) {
            var options = LoadOptions()
            options.threads = 1
            _ = try LoadedModel.load(path: path, options: options)
            return nil
        } catch {
            guard case .model(_, let problems) = error else { return ["\(error)"] }
            return problems
        }
    }

    /// A copy of tiny-llama's folder whose config or weights were changed.
    private func variant(_ name: String, config: (String) -> String = { $0 }, weights: ([UInt8]) -> [UInt8] = { $0 })
        throws -> String
    {
        let directory = "/tmp/baton-hostile-\(getpid())-\(name)"
        mkdir(directory, 0o700)
        let text = try String(decoding: TextFile.read(TestModels.tinyLlamaPath + "/config.json"), as: UTF8.self)
        try write(Array(config(text).utf8), to: directory + "/config.json")
        let tensors = try TextFile.read(TestModels.tinyLlamaPath + "/model.safetensors")
        try write(weights(tensors), to: directory + "/model.safetensors")
        return directory
    }

    private func write(_ bytes: [UInt8], to path: String) throws {
        let file = try #require(fopen(path, "wb"))
        defer { fclose(file) }
        #expect(fwrite(bytes, 1, bytes.count, file) == bytes.count)
    }

    private func remove(_ directory: String) {
        unlink(directory + "/config.json")
        unlink(directory + "/model.safetensors")
        rmdir(directory)
    }

    private func replacing(_ text: String, _ old: String, _ new: String) -> String {
        text.split(separator: old, omittingEmptySubsequences: false).joined(separator: new)
    }

    @Test func missingTensorsAreAllNamedAtOnce() throws {
        let path = try variant("layers") { replacing($0, "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 5") }
        defer { remove(path) }
        let text = try #require(problems(path)).joined(separator: "\n")
        #expect(text.contains("model.layers.3.self_attn.q_proj.weight"))
        #expect(text.contains("model.layers.4.mlp.down_proj.weight"))
    }

    @Test func wrongShapesAreNamed() throws {
        let path = try variant("width") { replacing($0, "\"intermediate_size\": 160", "\"intermediate_size\": 192") }
        defer { remove(path) }
        let text = try #require(problems(path)).joined(separator: "\n")
        #expect(text.contains("model.layers.0.mlp.gate_proj.weight") && text.contains("192"))
    }

    @Test func anUnknownArchitectureIsNamed() throws {
        let path = try variant("architecture") { replacing($0, "LlamaForCausalLM", "MambaForCausalLM") }
        defer { remove(path) }
        #expect(try #require(problems(path)).joined().contains("MambaForCausalLM"))
    }

    @Test(arguments: [0, 7, 8, 100, 3000, 100_000])
    func truncatedWeights(bytes: Int) throws {
        let path = try variant("truncated-\(bytes)", weights: { Array($0.prefix(bytes)) })
        defer { remove(path) }
        #expect(problems(path) != nil)
    }

    @Test func optionsThatDoNotFit() throws {
        for change in [
            { (options: inout LoadOptions) in options.pageTokens = 24 }, { $0.pageTokens = 0 },
            { $0.contextLimit = 0 }, { $0.threads = 100_000 },
        ] {
            var options = LoadOptions()
            options.threads = 1
            change(&options)
            #expect(throws: EngineError.self) {
                try LoadedModel.load(path: TestModels.tinyLlamaPath, options: options)
            }
        }
        #expect(problems("/nowhere/at/all.gguf") != nil)
    }
}
