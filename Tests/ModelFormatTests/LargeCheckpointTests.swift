import ModelFormat
import OrderedJSON
import Testing

/// The largest published checkpoints, by names, types, shapes and number of files.
@Suite struct LargeCheckpointTests {
    private func open(_ hollow: HollowCheckpoint, shards: Int, _ folder: TemporaryFolder) throws -> Checkpoint {
        try hollow.write(to: folder, shards: shards)
        let checkpoint = try Checkpoint.open(folder.path)
        #expect(checkpoint.tensors.count == hollow.tensors.count)
        return checkpoint
    }

    /// GLM-5: 1404 GB of BF16.
    @Test func glm5() throws {
        let folder = try TemporaryFolder()
        let hollow = try HollowCheckpoint(PublishedConfig.glm5, draftLayer: true)
        #expect(hollow.tensors.count == 59_870)
        let checkpoint = try open(hollow, shards: 282, folder)
        #expect(checkpoint.tensors.reduce(0) { $0 + $1.elementCount } == 753_864_139_008)
        try checkpoint.check()
        #expect(try checkpoint.fingerprint().utf8.count == 64)
        // Another model's tensors: all problems are there, but the message stays short.
        let error = #expect(throws: ModelFormatError.self) {
            try checkpoint.check(expected: modelConfig(PublishedConfig.qwen3).expectedTensors(in: .safetensors))
        }
        #expect((error?.problems.count ?? 0) > 59_870)
        #expect((error?.description.utf8.count ?? 0) < 4096)
    }

    /// GLM-5.2 in 8-bit floats: most layers without an indexer, scales beside the weights.
    @Test func glm52() throws {
        let folder = try TemporaryFolder()
        let config = PublishedConfig.glm52.changed(["quantization_config": PublishedConfig.fp8])
        let hollow = try HollowCheckpoint(config, draftLayer: true, isQuantised: true)
        // As many as its published index names.
        #expect(hollow.tensors.count == 118_629)
        let checkpoint = try open(hollow, shards: 141, folder)
        try checkpoint.check()
        let down = try #require(checkpoint.tensor(named: "model.layers.77.self_attn.kv_a_proj_with_mqa.weight"))
        #expect(checkpoint.scales(of: down)?.shape == [5, 48])
        #expect(try checkpoint.fingerprint().utf8.count == 64)
    }
}
