import OrderedJSON
import SeededRandom
import Testing

@testable import Tokenization

struct DetokenizerTests {
    /// A tokenizer in which token `b` is the byte `b`, and token 256 a control token.
    private func byteTokenizer() throws -> Tokenizer {
        var tokens = ByteAlphabet.scalars.map { String(Character($0)) }
        tokens.append("<|end|>")
        var metadata = GGUFTokenizerMetadata(model: "gpt2", tokens: tokens)
        metadata.types = [Int32](repeating: 1, count: 256) + [3]
        metadata.pre = "gpt-2"
        metadata.eosID = 256
        return try Tokenizer(gguf: metadata)
    }

    @Test func deltasAreWholeCharacters() throws {
        let tokenizer = try byteTokenizer()
        var detokenizer = IncrementalDetokenizer(tokenizer)
        let text = "aé日😀z"
        var output = ""
        for byte in text.utf8 {
            let delta = detokenizer.append(Int32(byte))
            #expect(!delta.unicodeScalars.contains("\u{FFFD}"))
            output += delta
        }
        #expect(same(output, text) && detokenizer.finish().isEmpty)
        #expect(detokenizer.byteOffset == text.utf8.count)
    }

    @Test func skipsControlTokensWhenAsked() throws {
        let tokenizer = try byteTokenizer()
        var skipping = IncrementalDetokenizer(tokenizer)
        let skipped: String = [97, 256, 98].map { skipping.append($0) }.joined()
        #expect(skipped == "ab")
        #expect(skipping.byteOffset == 2)
        var keeping = IncrementalDetokenizer(tokenizer, skipSpecial: false)
        let kept: String = [97, 256].map { keeping.append($0) }.joined()
        #expect(kept == "a<|end|>")
        #expect(keeping.append(9999).isEmpty && keeping.append(-1).isEmpty)
        #expect(tokenizer.isSpecial(256))
        #expect(tokenizer.specialText(of: 256) == "<|end|>")
        #expect(tokenizer.specialText(of: 97) == nil)
        #expect(tokenizer.id(of: "<|end|>") == 256)
        #expect(tokenizer.id(of: "a") == 97)
        #expect(tokenizer.id(of: "nope") == nil)
        #expect(tokenizer.bytes(of: 0xC3) == [0xC3])
        #expect(tokenizer.text(of: 0xC3) == "\u{FFFD}")
    }

    /// Random bytes, mostly ill-formed: deltas, one-shot decoding and the standard library agree.
    @Test func repairsIllFormedBytesLikeOneShotDecoding() throws {
        let tokenizer = try byteTokenizer()
        var generator = SplitMix64(state: 11)
        let interesting: [UInt8] = [
            0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xED, 0xEE, 0xEF,
            0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF,
        ]
        for _ in 0..<3000 {
            let bytes = (0..<Int.random(in: 0...12, using: &generator)).map { _ in
                interesting.randomElement(using: &generator) ?? 0
            }
            var detokenizer = IncrementalDetokenizer(tokenizer)
            var output = ""
            for byte in bytes { output += detokenizer.append(Int32(byte)) }
            output += detokenizer.finish()
            let ids = bytes.map(Int32.init)
            #expect(same(output, tokenizer.decode(ids)), "\(bytes)")
            #expect(same(output, String(decoding: bytes, as: UTF8.self)), "\(bytes)")
        }
    }

    @Test func smollmTextSurvivesTheRoundTripTokenByToken() throws {
        let tokenizer = try Tokenizer(tokenizerJSON: Fixtures.json("glm5-nano/tokenizer.json"))
        let text = "Café – 日本語 😀👩‍👩‍👧 mixed\n\n\twith <|user|> tokens"
        let ids = tokenizer.encode(text, addSpecial: false, parseSpecial: true)
        var detokenizer = IncrementalDetokenizer(tokenizer, skipSpecial: false)
        var output: String = ids.map { detokenizer.append($0) }.joined()
        output += detokenizer.finish()
        #expect(same(output, text))
    }
}
