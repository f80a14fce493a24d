import ModelFormat
import OrderedJSON
import Testing

@Suite struct LargeCheckpointTests {
    /// A sixth of the tensors and shards of the largest published checkpoints (GLM-5: 59,870 in 282), all empty.
    @Test func manyTensorsInManyShards() throws {
        let shardCount = 47
        let tensorCount = 10_000
        let folder = try TemporaryFolder()
        var map: JSONObject = [:]
        for shard in 0..<shardCount {
            let file = "model-\(shard).safetensors"
            let names = stride(from: shard, to: tensorCount, by: shardCount).map {
                "model.layers.\($0 / 800).mlp.experts.\($0).down_proj.weight"
            }
            let writer = try SafetensorsWriter(
                path: folder.path + "/" + file, tensors: names.map { .init(name: $0, type: .bf16, shape: [0, 8]) })
            try writer.finish()
            for name in names { map[name] = .string(file) }
        }
        try folder.write("model.safetensors.index.json", (["weight_map": .object(map)] as JSON).bytes())
        try folder.write("config.json", ConfigTests.plain.bytes())
        let checkpoint = try Checkpoint.open(folder.path)
        #expect(checkpoint.tensors.count == tensorCount)
        #expect(try checkpoint.fingerprint().utf8.count == 64)
        let error = #expect(throws: ModelFormatError.self) {
            try checkpoint.check(expected: checkpoint.config.expectedTensors(in: .safetensors))
        }
        // All problems are there, but the message stays short.
        #expect((error?.problems.count ?? 0) > tensorCount)
        #expect((error?.description.utf8.count ?? 0) < 4096)
    }
}
