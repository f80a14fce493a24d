import Glibc
import ModelFormat
import OrderedJSON
import SeededRandom
import Testing

@Suite struct SafetensorsTests {
    static func file(_ header: String, data: Int) -> [UInt8] {
        little(UInt64(header.utf8.count)) + Array(header.utf8) + [UInt8](repeating: 0xAB, count: data)
    }

    @Test func readsPublishedFile() throws {
        let file = try SafetensorsFile(path: Fixture.tinyLlama("model.safetensors"))
        let embedding = try #require(file.table["model.embed_tokens.weight"])
        #expect(embedding.type == .bf16)
        #expect(embedding.shape == [512, 64])
        #expect(file.bytes(of: embedding).count == 512 * 64 * 2)
        #expect(file.table["lm_head.weight"] == nil)
        #expect(file.header.metadata.map(\.key) == ["format"])
        #expect(file.table.tensors.map(\.name) == file.table.tensors.map(\.name).sorted())
    }

    @Test func goldensHaveIntegersToo() throws {
        let file = try SafetensorsFile(path: Fixture.tinyLlama("goldens.safetensors"))
        #expect(file.table["short.greedy_ids"]?.type == .i32)
        #expect(file.table["short.greedy_ids"]?.shape == [64])
    }

    @Test func acceptsWhatTheFormatAllows() throws {
        let header = try safetensorsHeader(
            Self.file(
                #"{"b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]},"#
                    + #""a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"#
                    + #""empty":{"dtype":"F16","shape":[0,5],"data_offsets":[1,1]},"#
                    + #""scalar":{"dtype":"I64","shape":[],"data_offsets":[9,17]},"#
                    + #""new":{"dtype":"F6_E3M2","shape":[4],"data_offsets":[17,20]}}   "#,
                data: 20))
        #expect(header.tensors.map(\.name) == ["b", "a", "empty", "scalar", "new"])
        #expect(header.tensors[2].byteCount == 0)
        #expect(header.tensors[4].type.name == "F6_E3M2")
    }

    @Test func acceptsNoTensors() throws {
        #expect(try safetensorsHeader(Self.file("{}", data: 0)).tensors.isEmpty)
    }

    @Test(arguments: [
        (#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 7, "outside the file's 7 bytes"),
        (#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 9, "end at byte"),
        (#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, 8, "needs 12 bytes, data_offsets give 8"),
        (#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, 8, "outside the file"),
        (#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}"#, 8, "outside the file"),
        (#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}}"#, 8, "data_offsets must be two integers"),
        (#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#, 8, "shape must hold integers"),
        (#"{"a":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}}"#, 8, "shape must hold integers"),
        (#"{"a":{"dtype":"F32","shape":2,"data_offsets":[0,8]}}"#, 8, "shape must be an array"),
        (#"{"a":{"dtype":32,"shape":[2],"data_offsets":[0,8]}}"#, 8, "dtype must be a string"),
        (#"{"a":7}"#, 0, "dtype must be a string"),
        (#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#, 8, "overflows"),
        (#"{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,8]}}"#, 8, "bytes overflow"),
        (#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}}"#, 0, "overflows"),
        (
            #"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"#
                + #""b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}}"#,
            7, "overlaps"
        ),
        (
            #"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"#
                + #""b":{"dtype":"U8","shape":[2],"data_offsets":[5,7]}}"#,
            7, "hole"
        ),
        (#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#, 3, "hole"),
        (
            #"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"#
                + #""a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#,
            2, "appears twice"
        ),
        (#"{"__metadata__":{"a":1}}"#, 0, "not a string"), (#"{"__metadata__":[]}"#, 0, "not an object"),
        (" {}", 0, "does not start with '{'"), ("{", 0, "ends inside a value"), ("{}x", 0, "something follows"),
        (#"{"a":{"b":{"c":{"d":{"e":1}}}}}"#, 0, "nest more than"),
    ])
    func refuses(header: String, data: Int, problem: String) throws {
        let error = #expect(throws: ModelFormatError.self) { try safetensorsHeader(Self.file(header, data: data)) }
        #expect(error?.description.contains(problem) == true, "\(String(describing: error))")
    }

    @Test func refusesLyingHeaderLengths() {
        for length: UInt64 in [3, 100, 100_000_000, 100_000_001, 1 << 62, .max] {
            #expect(throws: ModelFormatError.self) { try safetensorsHeader(little(length) + Array("{}".utf8)) }
        }
    }

    @Test func everyPrefixIsRefused() throws {
        let bytes = try Fixture.bytes(Fixture.tinyLlama("model.safetensors"))
        let headerEnd = 8 + Int(bytes[0]) + Int(bytes[1]) << 8
        for length in Array(0..<headerEnd + 64) + [bytes.count - 1] {
            let error = #expect(throws: ModelFormatError.self) { try safetensorsHeader(Array(bytes[..<length])) }
            #expect(error?.kind == .malformed)
        }
    }

    @Test func writerAndReaderAgree() throws {
        let folder = try TemporaryFolder()
        let path = folder.path + "/out.safetensors"
        var writer = try SafetensorsWriter(
            path: path,
            tensors: [
                .init(name: "logits", type: .f32, shape: [2, 3]), .init(name: "greedy_ids", type: .i32, shape: [4]),
                .init(name: "none", type: .f32, shape: [0]),
            ],
            metadata: [("format", "pt"), ("note", "ü")])
        try writer.write([1, 2, 3] as [Float])
        try writer.write([4, 5, -6] as [Float])
        try writer.write([7, 8, 9, -10] as [Int32])
        #expect(access(path, F_OK) != 0)
        try writer.finish()

        let file = try SafetensorsFile(path: path)
        let logits = try #require(file.table["logits"])
        #expect(logits.shape == [2, 3] && logits.offset % 8 == 0)
        let values = (0..<6).map { file.bytes(of: logits).loadUnaligned(fromByteOffset: 4 * $0, as: Float.self) }
        #expect(values == [1, 2, 3, 4, 5, -6])
        #expect(file.table["greedy_ids"]?.type == .i32)
        #expect(file.header.metadata.map(\.value) == ["pt", "ü"])
    }

    @Test func unfinishedFilesVanish() throws {
        let folder = try TemporaryFolder()
        let path = folder.path + "/out.safetensors"
        func begin() throws {
            var writer = try SafetensorsWriter(path: path, tensors: [.init(name: "a", type: .f32, shape: [2])])
            try writer.write([1] as [Float])
            #expect(throws: ModelFormatError.self) { try writer.write([1, 2] as [Float]) }
            try writer.finish()
        }
        #expect(throws: ModelFormatError.self) { try begin() }
        #expect(access(path, F_OK) != 0 && access(path + ".partial", F_OK) != 0)
        #expect(throws: ModelFormatError.self) {
            _ = try SafetensorsWriter(path: folder.path + "/no/such/folder", tensors: [])
        }
    }

    @Test func mutationsNeverCrash() throws {
        let seed = Self.file(
            #"{"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"#
                + #""b":{"dtype":"BF16","shape":[2],"data_offsets":[8,12]}}"#,
            data: 12)
        let alphabet = Array("{}[]\",:0123456789-eFBU_\\ ".utf8) + [0, 0x7F, 0x80, 0xFF]
        var random = SplitMix64(state: 11)
        for _ in 0..<10_000 {
            var bytes = seed
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                let place = Int.random(in: 0..<bytes.count, using: &random)
                switch Int.random(in: 0..<4, using: &random) {
                case 0: bytes.remove(at: place)
                case 1: bytes.insert(alphabet.randomElement(using: &random) ?? 0, at: place)
                default: bytes[place] = alphabet.randomElement(using: &random) ?? 0
                }
            }
            guard let header = try? safetensorsHeader(bytes) else { continue }
            for tensor in header.tensors { #expect(tensor.offset + (tensor.byteCount ?? 0) <= bytes.count) }
        }
    }
}
