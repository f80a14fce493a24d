import Engine
import Kernels
import Testing
import Tokenization

/// Numbers against transformers' float32 ones.
///
/// Tolerances: dense weights are multiplied in float32 as in the reference, so tiny-llama differs by rounding only,
/// 2e-5 where logits have a deviation of 2. A float16 KV cache rounds keys and values by up to 5e-4 of themselves,
/// which comes to 0.01 there; the limit is 0.02. Quantised weights meet activations rounded to 16-bit integers per
/// block of 32, an error of 1.5e-5 of the block's maximum per product; over SmolLM2's 30 layers, at logits of about
/// 20, 0.006 was seen and the limit is 0.02; with float16 KV 0.033, and the limit is 0.05. Greedy ids must be equal.
@Suite struct TinyLlamaGoldenTests {
    @Test(arguments: ["short", "medium", "long"], [CacheType.f32, .f16])
    func logits(prompt: String, kvType: CacheType) throws {
        let goldens = try Goldens("tiny-llama")
        let evaluation = try Evaluation(model: TestModels.tinyLlama(kvType: kvType), threads: 2, chunkTokens: 32)
        let found = try evaluation.all(goldens.ids("\(prompt).input_ids")).logits
        let difference = try greatestDifference(found, goldens.floats("\(prompt).logits"))
        print("tiny-llama \(prompt) \(kvType): logits differ by at most \(difference)")
        #expect(difference < (kvType == .f32 ? 2e-5 : 0.02))
    }

    @Test(arguments: ["short", "long"])
    func hiddenStates(prompt: String) throws {
        let goldens = try Goldens("tiny-llama")
        let evaluation = try Evaluation(model: TestModels.tinyLlama(kvType: .f32), threads: 1, chunkTokens: 48)
        let found = try evaluation.all(goldens.ids("\(prompt).input_ids"), hidden: true).hidden
        let difference = try greatestDifference(found, goldens.floats("\(prompt).hidden"))
        print("tiny-llama \(prompt): hidden states differ by at most \(difference)")
        #expect(difference < 1e-4)
    }

    @Test(arguments: ["short", "medium", "long"], [CacheType.f32, .f16])
    func greedy(prompt: String, kvType: CacheType) throws {
        let goldens = try Goldens("tiny-llama")
        let evaluation = try Evaluation(model: TestModels.tinyLlama(kvType: kvType), threads: 2)
        let (ids, logits) = try evaluation.greedy(after: goldens.ids("\(prompt).input_ids"), count: 64)
        #expect(try ids == goldens.ids("\(prompt).greedy_ids"))
        let difference = try greatestDifference(logits, goldens.floats("\(prompt).greedy_logits"))
        print("tiny-llama \(prompt) \(kvType): greedy logits differ by at most \(difference)")
        #expect(difference < (kvType == .f32 ? 2e-5 : 0.02))
    }

    @Test(arguments: ISA.allCases.filter(\.isAvailable))
    func everyInstructionSet(isa: ISA) throws {
        let goldens = try Goldens("tiny-llama")
        let evaluation = try Evaluation(model: TestModels.tinyLlama(isa: isa), threads: 1)
        let (ids, _) = try evaluation.greedy(after: goldens.ids("medium.input_ids"), count: 64)
        #expect(try ids == goldens.ids("medium.greedy_ids"))
    }
}

@Suite struct SmolLM2GoldenTests {
    static let prompts = ["raw_short", "raw_code", "raw_mixed", "chat_capital", "chat_story", "chat_turns"]

    @Test(arguments: prompts, [CacheType.f32, .f16])
    func logits(prompt: String, kvType: CacheType) throws {
        let goldens = try Goldens("smollm2")
        let model = try TestModels.smolLM2(kvType: kvType)
        let evaluation = try Evaluation(model: model, threads: 2, chunkTokens: 32)
        let tokens = try goldens.ids("\(prompt).input_ids")
        let vocabulary = model.facts.vocabularySize
        let logits = try evaluation.all(tokens).logits
        let limit: Float = kvType == .f32 ? 0.02 : 0.05
        let last = try greatestDifference(logits.suffix(vocabulary), goldens.floats("\(prompt).last_logits"))
        #expect(last < limit)
        // The eight greatest of every position.
        let top = try zip(goldens.ids("\(prompt).top8_ids"), goldens.floats("\(prompt).top8_logits"))
        var greatest: Float = 0
        for (index, (token, value)) in top.enumerated() {
            greatest = max(greatest, abs(logits[index / 8 * vocabulary + Int(token)] - value))
        }
        print("SmolLM2 \(prompt) \(kvType): last \(last), top 8 of all positions \(greatest)")
        #expect(greatest < limit)
        if prompt == "raw_short" {
            #expect(try greatestDifference(logits, goldens.floats("raw_short.logits")) < limit)
        }
    }

    @Test(arguments: prompts)
    func greedy(prompt: String) throws {
        let goldens = try Goldens("smollm2")
        let evaluation = try Evaluation(model: TestModels.smolLM2(), threads: 2)
        let expected = try goldens.ids("\(prompt).greedy_ids")
        let (ids, logits) = try evaluation.greedy(after: goldens.ids("\(prompt).input_ids"), count: expected.count)
        #expect(ids == expected)
        let vocabulary = evaluation.model.facts.vocabularySize
        let top = try zip(goldens.ids("\(prompt).greedy_top8_ids"), goldens.floats("\(prompt).greedy_top8_logits"))
        var greatest: Float = 0
        for (index, (token, value)) in top.enumerated() {
            greatest = max(greatest, abs(logits[index / 8 * vocabulary + Int(token)] - value))
        }
        print("SmolLM2 \(prompt): greedy top 8 differ by at most \(greatest)")
        #expect(greatest < 0.05)
    }

    @Test func perplexityAndTokenizer() throws {
        let model = try TestModels.smolLM2()
        let text = "The quick brown fox jumps over the lazy dog. The sun rises in the east and sets in the west."
        let tokens = try model.tokenizer().encode(text, addSpecial: true, parseSpecial: false)
        let (loss, count) = try Evaluation(model: model, threads: 2).loss(of: tokens)
        #expect(count == tokens.count - 1)
        #expect(loss > 1 && loss < 4)
    }
}
