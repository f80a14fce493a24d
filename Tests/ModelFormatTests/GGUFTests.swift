import ModelFormat
import SeededRandom
import Testing

@Suite struct GGUFTests {
    @Test func readsEveryKindOfMetadata() throws {
        let folder = try TemporaryFolder()
        let file = try GGUFFile(path: folder.write("a.gguf", GGUFBuilder.sample.bytes))
        let metadata = file.header.metadata
        #expect(metadata["u8"] == .unsigned(7) && metadata["i8"] == .signed(-1))
        #expect(metadata["u16"] == .unsigned(513) && metadata["i16"] == .signed(-2))
        #expect(metadata["f32"] == .float(0.5) && metadata["f64"] == .float(0.1))
        #expect(metadata["bool"] == .bool(true) && metadata["i64"] == .signed(-5))
        #expect(file.integer("u64") == 1 << 40 && file.integer("i32") == -9 && file.integer("f32") == nil)
        #expect(file.string("general.architecture") == "llama" && file.bool("bool") == true)
        #expect(try file.strings("strings") == ["a", "", "Ġü"])
        #expect(try file.floats("floats") == [1, -2])
        #expect(try file.int32s("ints") == [3, -4])
        #expect(try file.strings("absent") == nil)
        #expect(throws: ModelFormatError.self) { try file.strings("floats") }
        #expect(throws: ModelFormatError.self) { try file.int32s("u8") }
    }

    @Test func readsTensors() throws {
        let folder = try TemporaryFolder()
        let file = try GGUFFile(path: folder.write("a.gguf", GGUFBuilder.sample.bytes))
        let norm = try #require(file.table["norm"])
        #expect(norm.shape == [4] && norm.type == .f32)
        #expect(file.bytes(of: norm).loadUnaligned(fromByteOffset: 4, as: Float.self) == 2)
        let matrix = try #require(file.table["matrix"])
        #expect(matrix.shape == [3, 32] && matrix.type == .q4_0 && matrix.byteCount == 54)
        #expect(file.bytes(of: matrix).allSatisfy { $0 == 1 })
        #expect(file.table["odd"]?.type.name == "GGUF type 99" && file.table["odd"]?.byteCount == nil)
    }

    @Test func versionTwoReadsTheSame() throws {
        var builder = GGUFBuilder.sample
        builder.version = 2
        #expect(try ggufHeader(builder.bytes).tensors.count == 3)
    }

    @Test func alignmentIsObeyed() throws {
        var builder = GGUFBuilder()
        builder.alignment = 128
        builder.metadata = [("general.alignment", .uint32(128))]
        builder.add("a", [1], floats: [1])
        builder.add("b", [1], floats: [2])
        let header = try ggufHeader(builder.bytes)
        #expect(header.alignment == 128 && header.tensors[1].offset % 128 == 0)
    }

    @Test func everyPrefixIsRefused() throws {
        let bytes = GGUFBuilder.sample.bytes
        // The last tensor's type is unknown, so that only its offset can be checked: its 3 bytes may be missing.
        for length in 0..<bytes.count - 3 {
            #expect(throws: ModelFormatError.self, "\(length)") { try ggufHeader(Array(bytes[..<length])) }
        }
        #expect(try ggufHeader(bytes).tensors.count == 3)
    }

    private func problem(_ change: (inout GGUFBuilder) -> Void) -> String {
        var builder = GGUFBuilder.sample
        change(&builder)
        let error = #expect(throws: ModelFormatError.self) { try ggufHeader(builder.bytes) }
        return error?.description ?? ""
    }

    @Test func refusesOtherFiles() {
        #expect(throws: ModelFormatError.self) { try ggufHeader(Array("GGML0000".utf8)) }
        #expect(problem { $0.version = 1 }.contains("GGUF version 1; 2 and 3 are supported"))
        #expect(problem { $0.version = 4 }.contains("version 4"))
        #expect(problem { $0.version = 3 << 24 }.contains("big-endian"))
    }

    @Test func refusesLyingCounts() {
        for count: UInt64 in [1 << 20, 1 << 21, 1 << 63, .max] {
            #expect(problem { $0.tensorCount = count }.contains("number of tensors"))
            #expect(problem { $0.keyCount = count }.contains("number of metadata keys"))
            #expect(problem { $0.metadata[0].1 = .init(type: 8, bytes: little(count)) }.contains("metadata string"))
            #expect(problem { $0.metadata[0].1 = .array(4, [], count: count) }.contains("array"))
            #expect(problem { $0.metadata[0].1 = .array(8, [], count: count) }.contains("array"))
            #expect(problem { $0.metadata[0].1 = .array(9, [], count: count) }.contains("array"))
        }
        #expect(problem { $0.tensorCount = 4 } != "")
        #expect(
            problem {
                $0.tensorCount = 0
                $0.keyCount = 100
            } != "")
    }

    @Test func refusesBadMetadata() {
        #expect(problem { $0.metadata[0].1 = .init(type: 13, bytes: [0]) }.contains("no GGUF value type"))
        #expect(problem { $0.metadata[0].1 = .array(77, []) }.contains("no GGUF value type"))
        #expect(problem { $0.metadata[0].1 = .init(type: 7, bytes: [2]) }.contains("a boolean is 2"))
        #expect(problem { $0.metadata[0].1 = .init(type: 8, bytes: little(UInt64(1)) + [0xFF]) }.contains("UTF-8"))
        #expect(problem { $0.metadata.append($0.metadata[3]) }.contains("appears twice"))
        #expect(problem { $0.metadata.append(("general.alignment", .uint32(24))) }.contains("general.alignment"))
        #expect(problem { $0.metadata.append(("general.alignment", .uint32(0))) }.contains("general.alignment"))
        #expect(problem { $0.metadata.append(("general.alignment", .int32(-32))) }.contains("general.alignment"))
        var deep = GGUFBuilder.Value.ints([1])
        for _ in 0..<4 { deep = .array(9, [deep]) }
        #expect(problem { $0.metadata[0].1 = deep }.contains("arrays nest more than 4 deep"))
    }

    @Test func refusesBadTensors() {
        #expect(problem { $0.tensors[0].dimensions = [] }.contains("0 dimensions"))
        #expect(problem { $0.tensors[0].dimensions = [1, 1, 1, 1, 4] }.contains("5 dimensions"))
        #expect(problem { $0.tensors[0].dimensions = [1 << 63] }.contains("has the dimension"))
        #expect(problem { $0.tensors[0].dimensions = [1 << 32, 1 << 32] }.contains("overflows"))
        #expect(problem { $0.tensors[0].dimensions = [1 << 62] }.contains("overflow"))
        #expect(problem { $0.tensors[0].dimensions = [1 << 40] }.contains("outside the file"))
        #expect(problem { $0.tensors[1].dimensions = [33, 3] }.contains("not a multiple of 32"))
        #expect(problem { $0.tensors[0].offset = 8 }.contains("not a multiple of 32"))
        #expect(problem { $0.tensors[0].offset = 1 << 40 }.contains("outside the file"))
        #expect(problem { $0.tensors[0].offset = 1 << 63 }.contains("offset"))
        #expect(problem { $0.tensors[2].offset = 1 << 40 }.contains("outside the file"))
        #expect(problem { $0.tensors[1].offset = 0 }.contains("overlaps"))
    }

    @Test func refusesDuplicateTensors() throws {
        var builder = GGUFBuilder.sample
        builder.tensors[1].name = "norm"
        let folder = try TemporaryFolder()
        let path = try folder.write("a.gguf", builder.bytes)
        let error = #expect(throws: ModelFormatError.self) { try GGUFFile(path: path) }
        #expect(error?.description.contains("\"norm\" appears twice") == true)
    }

    /// The header of the published SmolLM2-135M-Instruct Q4_1, its vocabulary cut to 256 tokens; a hole stands
    /// for the weights.
    @Test func readsPublishedHeader() throws {
        let folder = try TemporaryFolder()
        let bytes = try Fixture.bytes(Fixture.gguf("smollm2-135m-instruct-header.gguf"))
        let path = try folder.write("SmolLM2-135M-Instruct.Q4_1.gguf", bytes, paddedTo: 96_624_640)
        let checkpoint = try Checkpoint.open(path)
        guard case .llama(let config) = checkpoint.config else {
            Issue.record("not a llama")
            return
        }
        #expect(checkpoint.name == "SmolLM2-135M-Instruct.Q4_1" && checkpoint.tensors.count == 272)
        #expect(config.headCount == 9 && config.keyValueHeadCount == 3 && config.headDimension == 64)
        #expect(config.common.hiddenSize == 576 && config.intermediateSize == 1536 && config.tiedEmbeddings)
        #expect(config.common.layerCount == 30 && config.common.contextLimit == 8192)
        #expect(config.rope == RopeConfig(theta: 100_000, dimensions: 64, pairing: .interleaved, scaling: .none))
        #expect(config.common.bosToken == 1 && config.common.eosTokens == [2])
        try checkpoint.check(expected: config.expectedTensors(in: .gguf))
        guard case .gguf(let tokenizer) = try checkpoint.tokenizer() else {
            Issue.record("no tokenizer")
            return
        }
        #expect(tokenizer.model == "gpt2" && tokenizer.pre == "smollm" && tokenizer.tokens.count == 256)
        #expect(tokenizer.tokens[1] == "<|im_start|>" && tokenizer.addBOS == false && tokenizer.merges.count == 256)
        #expect(tokenizer.chatTemplate?.hasPrefix("{% for message in messages %}") == true)
    }

    @Test func mutationsNeverCrash() throws {
        let seed = GGUFBuilder.sample.bytes
        var random = SplitMix64(state: 12)
        for _ in 0..<20_000 {
            var bytes = seed
            for _ in 0..<Int.random(in: 1...3, using: &random) {
                let place = Int.random(in: 0..<bytes.count, using: &random)
                switch Int.random(in: 0..<8, using: &random) {
                case 0: bytes.removeSubrange(place...)
                case 1: bytes.remove(at: place)
                case 2: bytes[place] ^= 1 << UInt8.random(in: 0..<8, using: &random)
                case 3: bytes[place] = 0xFF
                default: bytes[place] = UInt8.random(in: 0...16, using: &random)
                }
                if bytes.isEmpty { break }
            }
            guard let header = try? ggufHeader(bytes) else { continue }
            for tensor in header.tensors { #expect(tensor.offset + (tensor.byteCount ?? 0) <= bytes.count) }
        }
    }
}
