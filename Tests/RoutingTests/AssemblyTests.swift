import API
import ControlPlane
import Messages
import OrderedJSON
import Testing
import Tokenization

@testable import Routing

/// A tokenizer whose token i is the byte i, with one end token after them and then further control tokens.
func byteTokenizer(controls: [String] = []) throws -> Tokenizer {
    // GPT-2 writes bytes as printable characters: those that are stay, the others follow from U+0100 on.
    var next: UInt32 = 256
    var tokens = (0..<256 as Range<UInt32>).map { byte -> String in
        if (33...126).contains(byte) || (161...172).contains(byte) || (174...255).contains(byte) {
            return Unicode.Scalar(byte).map { String(Character($0)) } ?? ""
        }
        defer { next += 1 }
        return Unicode.Scalar(next).map { String(Character($0)) } ?? ""
    }
    tokens.append("<|end|>")
    tokens += controls
    var metadata = GGUFTokenizerMetadata(model: "gpt2", tokens: tokens)
    metadata.types = Array(repeating: 1, count: 256) + Array(repeating: 3, count: 1 + controls.count)
    metadata.pre = "gpt-2"
    metadata.eosID = 256
    metadata.bosID = 256
    return try Tokenizer(gguf: metadata)
}

private func bytes(_ text: String) -> [UInt32] { text.utf8.map { UInt32($0) } }

@Suite struct ChoiceAssemblerTests {
    @Test func charactersComeWhole() throws {
        var assembler = ChoiceAssembler(tokenizer: try byteTokenizer(), stops: [], logprobs: false)
        let emoji = bytes("a\u{1F600}b")
        #expect(assembler.append(Array(emoji[..<3]), alternatives: []).text == "a")
        #expect(assembler.append(Array(emoji[3...]), alternatives: []).text == "\u{1F600}b")
        #expect(assembler.finish().text == "")
        #expect(assembler.tokenCount == 6)
        #expect(assembler.charactersOut == 3)
    }

    @Test func halfACharacterAtTheEndIsReplaced() throws {
        var assembler = ChoiceAssembler(tokenizer: try byteTokenizer(), stops: [], logprobs: false)
        #expect(assembler.append([0xf0, 0x9f], alternatives: []).text == "")
        #expect(assembler.finish().text.unicodeScalars.allSatisfy { $0 == "\u{FFFD}" })
    }

    @Test func nothingOfAStopStringGoesOut() throws {
        var assembler = ChoiceAssembler(tokenizer: try byteTokenizer(), stops: ["END", "x"], logprobs: false)
        #expect(assembler.append(bytes("abE"), alternatives: []).text == "ab")
        #expect(assembler.append(bytes("N"), alternatives: []).text == "")
        #expect(!assembler.isStopped)
        #expect(assembler.append(bytes("Dfg"), alternatives: []).text == "")
        #expect(assembler.isStopped)
        // What a decode node sent before it heard of the stop is no part of the answer.
        #expect(assembler.tokenCount == 5)
        #expect(assembler.append(bytes("more"), alternatives: []).text == "")
        #expect(assembler.tokenCount == 5)
        #expect(assembler.finish().text == "")
    }

    @Test func aStopStringThatDidNotComeIsGivenOut() throws {
        var assembler = ChoiceAssembler(tokenizer: try byteTokenizer(), stops: ["END"], logprobs: false)
        #expect(assembler.append(bytes("aEN"), alternatives: []).text == "a")
        #expect(assembler.finish().text == "EN")
        #expect(!assembler.isStopped)
    }

    @Test func logprobsGoWithTheirText() throws {
        var assembler = ChoiceAssembler(tokenizer: try byteTokenizer(), stops: ["EN"], logprobs: true)
        func alternatives(_ text: String) -> [[TokenLogprob]] {
            bytes(text).map { [TokenLogprob(token: $0, logprob: -1), TokenLogprob(token: 65, logprob: -2)] }
        }
        let first = assembler.append(bytes("abE"), alternatives: alternatives("abE"))
        #expect(first.text == "ab")
        #expect(first.logprobs.map(\.chosen.text) == ["a", "b"])
        #expect(first.logprobs[0].top.map(\.text) == ["A"])
        let second = assembler.append(bytes("N"), alternatives: alternatives("N"))
        #expect(second.isEmpty)
        #expect(assembler.finish().isEmpty)
    }
}

@Suite struct PromptReaderTests {
    private func reader(template: String? = nil) throws -> PromptReader {
        PromptReader(
            name: "m", aliases: ["file"], created: 1, contextLimit: 100, tokenizer: try byteTokenizer(),
            template: try template.map { try ChatTemplate($0) })
    }

    private let template =
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}|{% endfor %}{% if add_generation_prompt %}>{% endif %}"

    private func chat(_ text: String) throws -> ChatRequest { try ChatRequest(JSON.parse(text)) }

    private func text(_ tokens: [UInt32]) -> String {
        String(decoding: tokens.map { UInt8(truncatingIfNeeded: $0) }, as: UTF8.self)
    }

    @Test func chatGoesThroughTheTemplate() throws {
        let request = try chat(#"{"model": "m", "messages": [{"role": "user", "content": "hi"}]}"#)
        let prompt = try reader(template: template).prompt(for: request, now: CivilTime(secondsSince1970: 0))
        #expect(text(prompt.tokens) == "[user]hi|>")
        #expect(prompt.parser == nil)
        let error = #expect(throws: APIError.self) {
            try reader().prompt(for: request, now: CivilTime(secondsSince1970: 0))
        }
        #expect(error?.status == 400)
    }

    @Test func theLastMessageCanBeContinued() throws {
        let request = try chat(
            #"""
            {"model": "m", "continue_final_message": true, "messages": [
              {"role": "user", "content": "hi"}, {"role": "assistant", "content": "I am"}]}
            """#)
        let prompt = try reader(template: template).prompt(for: request, now: CivilTime(secondsSince1970: 0))
        #expect(text(prompt.tokens) == "[user]hi|[assistant]I am")
    }

    @Test func whatATemplateRaisesIsA400() throws {
        let request = try chat(#"{"model": "m", "messages": [{"role": "user", "content": "hi"}]}"#)
        let error = #expect(throws: APIError.self) {
            try reader(template: "{{ raise_exception('roles must alternate') }}").prompt(
                for: request, now: CivilTime(secondsSince1970: 0))
        }
        #expect(error?.status == 400)
        #expect(error?.message.contains("roles must alternate") == true)
    }

    @Test func idsOutsideTheVocabularyAreRefused() throws {
        let reader = try reader()
        #expect(try reader.prompt(for: .tokens([1, 256]), addSpecial: true) == [1, 256])
        #expect(throws: APIError.self) { try reader.prompt(for: .tokens([257]), addSpecial: true) }
        // An empty prompt has something to begin with.
        #expect(try reader.prompt(for: .text(""), addSpecial: false) == [256])
        #expect(throws: APIError.self) { try reader.check(model: "other") }
        #expect(throws: Never.self) { try reader.check(model: "file") }
    }

    @Test func emptyAndHugePromptsAreRefused() throws {
        let request = try chat(#"{"model": "m", "messages": [{"role": "user", "content": "hi"}]}"#)
        let empty = #expect(throws: APIError.self) {
            try reader(template: "{{ '' }}").prompt(for: request, now: CivilTime(secondsSince1970: 0))
        }
        #expect(empty?.status == 400 && empty?.param == "messages")
        #expect(throws: APIError.self) { try reader().prompt(for: .tokens([]), addSpecial: true) }
        let long = String(repeating: "a", count: 100_000)
        let error = #expect(throws: APIError.self) { try reader().prompt(for: .text(long), addSpecial: true) }
        #expect(error?.code == "context_length_exceeded")
        let limit = try reader().terms(
            GenerationOptions(), promptTokens: 1, limit: Int(Int32.max), seed: 0, choice: 0, promptField: "prompt"
        ).maxTokens
        #expect(limit == ControlLimits.tokens - 1)
    }

    @Test func termsAreHeldToTheContext() throws {
        let reader = try reader()
        func terms(_ options: GenerationOptions, prompt: Int) throws -> SamplingTerms {
            try reader.terms(options, promptTokens: prompt, limit: 100, seed: 9, choice: 2, promptField: "messages")
        }
        var options = GenerationOptions()
        #expect(try terms(options, prompt: 60).maxTokens == 40)
        #expect(try terms(options, prompt: 60).seed == 11)
        #expect(try terms(options, prompt: 60).stopTokens == [256])
        options.ignoresEndOfSequence = true
        options.stopTokens = [3]
        options.topP = 0
        #expect(try terms(options, prompt: 60).stopTokens == [3])
        #expect(try terms(options, prompt: 60).topP > 0)
        #expect(throws: APIError.self) { try terms(options, prompt: 100) }
        options.maxTokens = 41
        let error = #expect(throws: APIError.self) { try terms(options, prompt: 60) }
        #expect(error?.code == "context_length_exceeded")
        options.maxTokens = 40
        options.stopTokens = [257]
        #expect(throws: APIError.self) { try terms(options, prompt: 60) }
    }
}
