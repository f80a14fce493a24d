import Testing

@testable import Tokenization

/// SentencePiece vocabularies of GGUF files (model "llama").
struct ScoredVocabularyTests {
    private func tokenizer(addSpacePrefix: Bool? = nil) throws -> Tokenizer {
        var tokens = ["<unk>", "<s>", "</s>"]
        var types: [Int32] = [2, 3, 3]
        var scores: [Float] = [0, 0, 0]
        for byte in 0..<256 {
            let digits = String(byte, radix: 16, uppercase: true)
            tokens.append("<0x" + (byte < 16 ? "0" : "") + digits + ">")
            types.append(6)
            scores.append(0)
        }
        let words = ["▁", "a", "b", "c", "t", "h", "e", "▁t", "he", "▁the", "ab", "bc", "abc", "▁a", "é"]
        for (index, word) in words.enumerated() {
            tokens.append(word)
            types.append(1)
            scores.append(-Float(index))
        }
        // "bc" is preferred over "ab".
        scores[tokens.firstIndex(of: "bc") ?? 0] = -1.5
        tokens.append("<tool>")
        types.append(4)
        scores.append(0)
        var metadata = GGUFTokenizerMetadata(model: "llama", tokens: tokens)
        metadata.types = types
        metadata.scores = scores
        metadata.bosID = 1
        metadata.eosID = 2
        metadata.unknownID = 0
        metadata.addSpacePrefix = addSpacePrefix
        return try Tokenizer(gguf: metadata)
    }

    private func texts(_ tokenizer: Tokenizer, _ text: String) -> [String] {
        tokenizer.encode(text, addSpecial: false, parseSpecial: true).map { tokenizer.text(of: $0) }
    }

    @Test func mergesByScore() throws {
        let tokenizer = try tokenizer()
        #expect(texts(tokenizer, "the") == [" the"])
        #expect(texts(tokenizer, "the abc") == [" the", " ", "abc"])
        #expect(tokenizer.encode("the", addSpecial: true, parseSpecial: true).first == 1)
        #expect(tokenizer.decode(tokenizer.encode("the abc", addSpecial: false, parseSpecial: true)) == "the abc")
    }

    @Test func unknownCharactersBecomeBytes() throws {
        let tokenizer = try tokenizer(addSpacePrefix: false)
        let ids = tokenizer.encode("aé日", addSpecial: false, parseSpecial: true)
        #expect(ids.count == 5)
        #expect(tokenizer.decode(ids) == "aé日")
        #expect(Array(ids.suffix(3)) == [233, 154, 168] as [Int32])
    }

    @Test func controlTokensSplitTextAndStartWithASpace() throws {
        let tokenizer = try tokenizer()
        #expect(texts(tokenizer, "<s>the</s>the") == ["<s>", " the", "</s>", " the"])
        #expect(texts(tokenizer, "a<tool>a") == [" a", "<tool>", "a"])
        let plain = tokenizer.encode("<s>", addSpecial: false, parseSpecial: false)
        #expect(!plain.contains(1))
    }

    @Test func completionsKeepTheirLeadingSpace() throws {
        let tokenizer = try tokenizer()
        let ids = tokenizer.encode("the", addSpecial: false, parseSpecial: true)
        var detokenizer = IncrementalDetokenizer(tokenizer)
        #expect(ids.map { detokenizer.append($0) }.joined() == " the")
    }
}
