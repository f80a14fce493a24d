import Glibc
import Kernels
import ModelFormat
import OrderedJSON
import Testing

@Suite struct CheckpointTests {
    @Test func opensTinyLlama() throws {
        let checkpoint = try Checkpoint.open(Fixture.tinyLlama())
        #expect(checkpoint.name == "tiny-llama" && checkpoint.format == .safetensors)
        guard case .llama(let config) = checkpoint.config else { return }
        #expect(config.headCount == 8 && config.keyValueHeadCount == 2 && config.headDimension == 8)
        #expect(config.common.eosTokens == [1] && config.tiedEmbeddings)
        try checkpoint.check(expected: checkpoint.config.expectedTensors(in: .safetensors))
        let tensor = try #require(checkpoint.tensor(named: "model.layers.2.mlp.down_proj.weight"))
        #expect(tensor.shape == [64, 160] && tensor.type.elementType == .bf16)
        #expect(try checkpoint.bytes(of: tensor).count == 64 * 160 * 2)
        guard case .missing = try checkpoint.tokenizer() else {
            Issue.record("tiny-llama has no tokenizer")
            return
        }
        #expect(try Checkpoint.open(Fixture.tinyLlama("model.safetensors")).config == checkpoint.config)
    }

    /// tiny-llama again, cut into two shards.
    func shards(_ folder: TemporaryFolder, change: (inout JSONObject) -> Void = { _ in }) throws {
        let whole = try SafetensorsFile(path: Fixture.tinyLlama("model.safetensors"))
        var map: JSONObject = [:]
        for part in 0..<2 {
            let tensors = whole.table.tensors.enumerated().filter { $0.offset % 2 == part }.map(\.element)
            let name = "model-0000\(part + 1)-of-00002.safetensors"
            var writer = try SafetensorsWriter(
                path: folder.path + "/" + name,
                tensors: tensors.map { .init(name: $0.name, type: $0.type, shape: $0.shape) })
            for tensor in tensors {
                try writer.write(whole.bytes(of: tensor))
                map[tensor.name] = .string(name)
            }
            try writer.finish()
        }
        change(&map)
        let index: JSON = ["metadata": ["total_size": 0], "weight_map": .object(map)]
        try folder.write("model.safetensors.index.json", index.bytes())
        try folder.write("config.json", try Fixture.bytes(Fixture.tinyLlama("config.json")))
        try folder.write("generation_config.json", try Fixture.bytes(Fixture.tinyLlama("generation_config.json")))
    }

    @Test func shardsEqualTheWhole() throws {
        let folder = try TemporaryFolder()
        try shards(folder)
        let sharded = try Checkpoint.open(folder.path)
        let whole = try Checkpoint.open(Fixture.tinyLlama())
        #expect(sharded.tensors.map(\.name) == whole.tensors.map(\.name))
        for (a, b) in zip(sharded.tensors, whole.tensors) {
            #expect(try sharded.bytes(of: a).elementsEqual(whole.bytes(of: b)))
        }
        #expect(try sharded.fingerprint() == whole.fingerprint())
    }

    @Test(arguments: [
        ("model.norm.weight", "../model.safetensors" as JSON, "not the plain name"),
        ("model.norm.weight", "/etc/passwd", "not the plain name"),
        ("model.norm.weight", 7, "not a string"),
        ("model.norm.weight", "gone.safetensors", "cannot be opened"),
        ("model.extra.weight", "model-00001-of-00002.safetensors", "\"model.extra.weight\" is not in model-00001"),
    ])
    func refusesIndex(tensor: String, file: JSON, problem: String) throws {
        let folder = try TemporaryFolder()
        try shards(folder) { $0[tensor] = file }
        let error = #expect(throws: ModelFormatError.self) { try Checkpoint.open(folder.path) }
        #expect(error?.description.contains(problem) == true, "\(String(describing: error))")
    }

    @Test func tensorProblemsAreReportedTogether() throws {
        let folder = try TemporaryFolder()
        let path = folder.path + "/model.safetensors"
        let writer = try SafetensorsWriter(
            path: path,
            tensors: [
                .init(name: "a", type: .f32, shape: [0]), .init(name: "b", type: .i64, shape: [0, 2]),
                .init(name: "surplus", type: .f32, shape: [0]),
            ])
        try writer.finish()
        let table = try SafetensorsFile(path: path).table
        let problems = table.problems(expecting: [
            ExpectedTensor(name: "a", shape: [0]), ExpectedTensor(name: "b", shape: [0, 3]),
            ExpectedTensor(name: "c", shape: [5]), ExpectedTensor(name: "d", shape: [5], isOptional: true),
        ])
        #expect(
            problems == [
                "b has shape [0, 2], the config asks for [0, 3]", "b has the unsupported type I64",
                "c is missing (shape [5])", "supported types: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q5_K, Q6_K",
                "\"surplus\" [0] is no tensor of this model",
            ])
    }

    @Test func tensorsOfUnknownTypeAreNamedWhenUsed() throws {
        let folder = try TemporaryFolder()
        var builder = ConfigTests.gguf()
        builder.add("token_embd.weight", [3, 8], type: 23, bytes: [1, 2, 3])
        let checkpoint = try Checkpoint.open(folder.write("a.gguf", builder.bytes))
        let tensor = try #require(checkpoint.tensor(named: "token_embd.weight"))
        let error = #expect(throws: ModelFormatError.self) { try checkpoint.bytes(of: tensor) }
        #expect(error?.problems == ["token_embd.weight has the unsupported type IQ4_XS (GGUF type 23)"])
    }

    @Test func fingerprintTellsModelsApart() throws {
        let folder = try TemporaryFolder()
        func fingerprint(
            config: String = "", tokenizer: String? = nil, flip: Int? = nil
        ) throws -> String {
            var weights = try Fixture.bytes(Fixture.tinyLlama("model.safetensors"))
            if let flip { weights[flip] ^= 1 }
            try folder.write("model.safetensors", weights)
            try folder.write("config.json", try Fixture.bytes(Fixture.tinyLlama("config.json")) + Array(config.utf8))
            if let tokenizer { try folder.write("tokenizer.json", tokenizer) }
            return try Checkpoint.open(folder.path).fingerprint()
        }
        let plain = try fingerprint()
        #expect(plain.utf8.count == 64)
        #expect(try fingerprint() == plain)
        #expect(try fingerprint(config: " ") != plain)
        // A model this small is sampled in full.
        for place in [10_000, 200_000, 315_215] { #expect(try fingerprint(flip: place) != plain) }
        #expect(try fingerprint(tokenizer: "{}") != plain)
    }

    /// As many pairs of weight and scales as there are windows: every second tensor holds scales.
    @Test func fingerprintCoversScales() throws {
        let folder = try TemporaryFolder()
        let names = (0..<4096).flatMap { ["w\($0).weight", "w\($0).weight_scale_inv"] }
        func fingerprint(flip: String?) throws -> String {
            var writer = try SafetensorsWriter(
                path: folder.path + "/model.safetensors",
                tensors: names.map { .init(name: $0, type: .f32, shape: [1]) })
            try writer.write(names.map { $0 == flip ? 1 : 0 } as [Float])
            try writer.finish()
            return try Checkpoint.open(folder.path).fingerprint()
        }
        try folder.write("config.json", ConfigTests.plain.bytes())
        let plain = try fingerprint(flip: nil)
        #expect(try fingerprint(flip: nil) == plain)
        for name in ["w0.weight", "w7.weight_scale_inv", "w4095.weight_scale_inv"] {
            #expect(try fingerprint(flip: name) != plain)
        }
    }

    @Test func readsTokenizerFiles() throws {
        let folder = try TemporaryFolder()
        try folder.write("config.json", try Fixture.bytes(Fixture.tinyLlama("config.json")))
        try folder.write("tokenizer.json", #"{"model":{"type":"BPE"}}"#)
        try folder.write("tokenizer_config.json", #"{"bos_token":"<s>"}"#)
        try folder.write("chat_template.jinja", "{{ messages }}")
        let checkpoint = try Checkpoint.open(folder.path, weights: .ignored)
        #expect(checkpoint.tensors.isEmpty)
        guard case .huggingFace(let files) = try checkpoint.tokenizer() else {
            Issue.record("no tokenizer")
            return
        }
        #expect(files.tokenizer["model"]?["type"] == "BPE" && files.config?["bos_token"] == "<s>")
        #expect(files.chatTemplate == "{{ messages }}" && files.generation == nil)
        try folder.write("chat_template.jinja", [0xFF])
        #expect(throws: ModelFormatError.self) { try checkpoint.tokenizer() }
        #expect(throws: ModelFormatError.self) { try Checkpoint.open(folder.path) }
    }

    @Test func pathsThatAreNoModels() throws {
        let folder = try TemporaryFolder()
        func problem(_ path: String) -> String {
            let error = #expect(throws: ModelFormatError.self) { try Checkpoint.open(path) }
            return error?.description ?? ""
        }
        #expect(problem(folder.path + "/absent").contains("no such file or folder"))
        #expect(problem(folder.path).contains("neither config.json nor a .gguf file"))
        #expect(problem(try folder.write("model.bin", "x")).contains("must be a .gguf file"))
        #expect(problem(try folder.write("empty.gguf", "")).contains("the file ends inside the magic number"))
        try folder.write("other.gguf", "")
        #expect(problem(folder.path).contains("holds 2 .gguf files; name one: empty.gguf, other.gguf"))
        try folder.write("config.json", "{]")
        #expect(problem(folder.path).contains("neither model.safetensors.index.json nor model.safetensors"))
        try folder.write("model.safetensors", SafetensorsTests.file("{}", data: 0))
        #expect(problem(folder.path).contains("invalid JSON at line 1, byte 1"))
        mkfifo(folder.path + "/pipe.gguf", 0o600)
        #expect(problem(folder.path + "/pipe.gguf").contains("not a regular file"))
    }
}
