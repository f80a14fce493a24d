import Engine
import Glibc
import Kernels
import ModelFormat
import Testing

/// All numbers of small GLM-5 and Qwen3-MoE checkpoints against transformers' float32 ones, and those of the draft
/// layer against an independent float32 implementation.
///
/// Weights are multiplied in float32 as in the reference, also those of 8-bit checkpoints, so what differs is the order
/// of sums. The reference and its check differ by up to 2e-5 among themselves, at logits of magnitude 1; the limit is
/// 5e-5. Decisions (experts, positions, greedy and accepted tokens) must be equal: the margins that are recorded with
/// the goldens, 3e-5 and more, are above the differences of what is compared there.
@Suite struct GLM5GoldenTests {
    struct Case: Sendable, CustomTestStringConvertible {
        var model: String
        var share = false
        var drafts = 3
        var tolerance: Float = 5e-5
        var prompts = ["short", "medium", "long"]
        var greedy = 64
        var path: String {
            model == "glm5-nano" ? "\(TestModels.root)/Models/glm5-nano" : "\(TestModels.fixtures)/\(model)"
        }
        var testDescription: String { "\(model)\(share ? ", shared selection" : "")" }
    }

    static let nanoPrompts = ["chat", "kjv", "tool", "long"]
    static let cases = [
        Case(model: "tiny-glm5"), Case(model: "tiny-glm5", share: true), Case(model: "tiny-glm52"),
        Case(model: "tiny-glm52", share: true), Case(model: "tiny-glm5-fp8", greedy: 32),
        Case(model: "tiny-glm5-fp8", share: true, greedy: 32), Case(model: "tiny-qwen3-moe", drafts: 0),
        Case(model: "glm5-nano", tolerance: 5e-4, prompts: nanoPrompts),
        Case(model: "glm5-nano", share: true, tolerance: 5e-4, prompts: nanoPrompts),
    ]

    @Test(arguments: cases, [16, 512])
    func everythingEqualsTheReference(test: Case, chunk: Int) throws {
        var options = LoadOptions()
        options.kvType = .f32
        options.pageTokens = 16
        options.threads = 2
        options.sharesDraftSelection = test.share
        let model = try LoadedModel.load(path: test.path, options: options)
        try compare(test, try Evaluation(model: model, threads: 2, chunkTokens: chunk))
    }

    /// How many drafts each round accepts, which shows every broken state of the draft layer.
    @Test(arguments: ["tiny-glm5", "tiny-glm52", "tiny-glm5-fp8"], 1...3)
    func acceptedDrafts(name: String, drafts: Int) throws {
        var options = LoadOptions()
        options.kvType = .f32
        options.pageTokens = 16
        options.sharesDraftSelection = false
        let goldens = try Goldens(name)
        let evaluation = try Evaluation(
            model: try LoadedModel.load(path: "\(TestModels.fixtures)/\(name)", options: options), threads: 2)
        for prompt in ["short", "medium", "long"] {
            let expected = try goldens.ids("\(prompt).greedy_ids")
            let (ids, accepted) = try evaluation.speculate(
                after: goldens.ids("\(prompt).input_ids"), count: expected.count, drafts: drafts)
            #expect(ids == expected)
            #expect(try accepted == goldens.ids("\(prompt).spec\(drafts)_accepted"))
        }
    }

    private func compare(_ test: Case, _ evaluation: Evaluation) throws {
        let goldens = try Goldens(test.model)
        let path = "/tmp/baton-goldens-\(getpid())-\(UInt64.random(in: 0...UInt64.max)).safetensors"
        defer { unlink(path) }
        var outputs = Evaluation.Outputs()
        outputs.hidden = true
        outputs.decisions = true
        outputs.greedy = test.greedy
        outputs.drafts = test.drafts
        let input = EvaluationInput(
            prompts: try test.prompts.map { .init(name: $0, tokens: try goldens.ids("\($0).input_ids")) })
        try evaluation.write(input, outputs, to: path)
        let written = try SafetensorsFile(path: path)
        var (greatest, compared): (Float, [String: Int]) = (0, [:])
        for tensor in written.table.tensors {
            guard let golden = goldens.file.table[tensor.name] else { continue }
            #expect(golden.shape == tensor.shape && golden.type == tensor.type, "\(tensor.name)")
            let (found, expected) = (written.bytes(of: tensor), goldens.file.bytes(of: golden))
            if tensor.type == .i32 {
                #expect(found.elementsEqual(expected), "\(tensor.name)")
            } else {
                let values = { (bytes: UnsafeRawBufferPointer) in
                    (0..<bytes.count / 4).map { bytes.loadUnaligned(fromByteOffset: $0 * 4, as: Float.self) }
                }
                let difference = greatestDifference(values(found), values(expected))
                #expect(difference < test.tolerance, "\(tensor.name) differs by \(difference)")
                greatest = max(greatest, difference)
            }
            compared[String(tensor.name.split(separator: ".").last ?? ""), default: 0] += 1
        }
        print("\(test.testDescription): greatest difference \(greatest); compared \(compared)")
        var kinds = ["logits", "hidden", "greedy_ids", "experts", "expert_weights"]
        if test.model != "glm5-nano" { kinds.append("greedy_logits") }
        if test.drafts > 0 {
            let chain = "mtp_draft3_\(test.share ? "share" : "own")"
            kinds += ["topk", "mtp_logits", "mtp_hidden", "mtp_norm_hidden", "\(chain)_ids", "\(chain)_logits"]
        } else {
            kinds.append("router_logits")
        }
        for kind in kinds { #expect((compared[kind] ?? 0) > 0, "nothing to compare with for \(kind)") }
    }
}
