import Engine
import Glibc
import Kernels
import ModelFormat
import Testing

@Suite struct EvaluationTests {
    @Test func inputShapes() throws {
        func parse(_ text: String) throws -> EvaluationInput { try EvaluationInput(json: Array(text.utf8)) }
        #expect(try parse("[1, 2]").prompts == [.init(name: "", tokens: [1, 2])])
        let two: [EvaluationInput.Prompt] = [.init(name: "0", tokens: [1]), .init(name: "1", tokens: [2, 3])]
        #expect(try parse("[[1], [2, 3]]").prompts == two)
        #expect(try parse(#"{"b": [1], "a": [2]}"#).prompts.map(\.name) == ["b", "a"])
        for wrong in ["", "[]", "{}", "[1, \"2\"]", "[1.5]", "{\"a\": 3}", "[[1], []]", "[99999999999]", "nul"] {
            #expect(throws: EngineError.self) { try parse(wrong) }
        }
    }

    @Test func writesTensorsNamedAndShapedAsTheGoldens() throws {
        let model = try TestModels.tinyLlama(kvType: .f32)
        let goldens = try Goldens("tiny-llama")
        let path = "/tmp/baton-evaluation-\(getpid()).safetensors"
        defer { unlink(path) }
        let input = EvaluationInput(
            prompts: try ["short", "long"].map { .init(name: $0, tokens: try goldens.ids("\($0).input_ids")) })
        var outputs = Evaluation.Outputs()
        outputs.greedy = 64
        outputs.hidden = true
        try Evaluation(model: model, threads: 2, chunkTokens: 32).write(input, outputs, to: path)
        let written = try SafetensorsFile(path: path)
        #expect(written.table.tensors.count == 8)
        for tensor in written.table.tensors {
            let golden = try #require(goldens.file.table[tensor.name])
            #expect(golden.shape == tensor.shape && golden.type == tensor.type)
            let (found, expected) = (written.bytes(of: tensor), goldens.file.bytes(of: golden))
            if tensor.type == .i32 {
                #expect(found.elementsEqual(expected))
            } else {
                let count = found.count / 4
                let values = { (bytes: UnsafeRawBufferPointer) in
                    (0..<count).map { bytes.loadUnaligned(fromByteOffset: $0 * 4, as: Float.self) }
                }
                #expect(greatestDifference(values(found), values(expected)) < 1e-4)
            }
        }
    }

    @Test func whatDoesNotFitIsRefusedBeforeAnythingIsWritten() throws {
        let evaluation = try Evaluation(model: TestModels.tinyLlama(), threads: 1, chunkTokens: 16)
        let path = "/tmp/baton-evaluation-refused-\(getpid()).safetensors"
        for tokens in [[TokenID(512)], [-1], Array(repeating: 1, count: 2049)] {
            #expect(throws: EngineError.self) {
                try evaluation.write(.init(prompts: [.init(name: "", tokens: tokens)]), .init(), to: path)
            }
        }
        #expect(!TextFile.exists(path))
        #expect(throws: EngineError.self) { try evaluation.model.requireDraftLayer() }
    }
}
