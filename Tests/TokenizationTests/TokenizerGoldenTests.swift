import OrderedJSON
import Testing

@testable import Tokenization

/// Ids and texts against the reference implementation (see Fixtures/tokenizers/generate.py).
struct TokenizerGoldenTests {
    static let names = [
        "smollm2", "glm5-nano", "gpt2-digits", "llama3", "qwen2", "deepseek", "o200k", "added", "llama2", "metaspace",
    ]

    @Test(arguments: names) func agreesWithTheReference(_ name: String) throws {
        let goldens = try Fixtures.json("tokenizers/goldens.json")
        let texts = try #require(goldens["texts"]?.array).compactMap(\.string)
        let rows = try #require(goldens["tokenizers"]?[name]?.array)
        let tokenizer = try Tokenizer(tokenizerJSON: Fixtures.json(Fixtures.tokenizerPath(name)))
        try #require(texts.count == rows.count)
        for (text, row) in zip(texts, rows) {
            let ids = row["ids"]?.ids ?? []
            let what = "\(name): \(text.debugDescription)"
            #expect(tokenizer.encode(text, addSpecial: false, parseSpecial: true) == ids, "\(what)")
            let framed = row["framed"]?.ids ?? ids
            #expect(tokenizer.encode(text, addSpecial: true, parseSpecial: true) == framed, "\(what)")
            let plain = row["plain"]?.ids ?? ids
            #expect(tokenizer.encode(text, addSpecial: false, parseSpecial: false) == plain, "\(what)")
            let decoded = tokenizer.decode(ids, skipSpecial: true)
            #expect(same(decoded, row["text"]?.string ?? ""), "\(what) decoded \(decoded.debugDescription)")
        }
    }

    @Test func smollm2PromptsMatchTheModelsGoldens() throws {
        let tokenizer = try Tokenizer(tokenizerJSON: Fixtures.json("smollm2/tokenizer.json"))
        let prompts = try #require(Fixtures.json("smollm2/goldens.json")["prompts"]?.object)
        for (name, prompt) in prompts {
            let ids = tokenizer.encode(prompt["text"]?.string ?? "", addSpecial: false, parseSpecial: true)
            #expect(ids.count == prompt["n_tokens"]?.int, "\(name)")
        }
    }

    @Test func glm5GoldensMatch() throws {
        let tokenizer = try Tokenizer(
            tokenizerJSON: Fixtures.json("glm5-nano/tokenizer.json"),
            tokenizerConfig: Fixtures.json("glm5-nano/tokenizer_config.json"),
            generationConfig: Fixtures.json("glm5-nano/generation_config.json"))
        for row in try #require(Fixtures.json("glm5-nano/tokenizer_goldens.json").array) {
            let ids = tokenizer.encode(row["text"]?.string ?? "", addSpecial: false, parseSpecial: true)
            #expect(ids == row["ids"]?.ids)
            #expect(same(tokenizer.decode(ids), row["decoded"]?.string ?? ""))
        }
        #expect(tokenizer.eosText == "<|endoftext|>")
        #expect(tokenizer.endIDs == [3048, 3055, 3057])
        #expect(tokenizer.bosID == nil && tokenizer.bosText.isEmpty)
        #expect(tokenizer.chatTemplateSource?.hasPrefix("[gMASK]") == true)
    }

    /// The same vocabulary through the keys of a GGUF file gives the same ids.
    @Test(arguments: [
        ("smollm2", "smollm"), ("glm5-nano", "chatglm-bpe"), ("qwen2", "qwen2"), ("deepseek", "deepseek-v3"),
    ])
    func ggufMetadataAgreesWithTokenizerJSON(_ name: String, _ pre: String) throws {
        let file = try Fixtures.json(Fixtures.tokenizerPath(name))
        let reference = try Tokenizer(tokenizerJSON: file)
        var tokens = [String](repeating: "", count: reference.vocabularySize)
        var types = [Int32](repeating: 1, count: tokens.count)
        for (token, id) in try #require(file["model"]?["vocab"]?.object) { tokens[try #require(id.int)] = token }
        for token in try #require(file["added_tokens"]?.array) {
            let id = try #require(token["id"]?.int)
            tokens[id] = token["content"]?.string ?? ""
            types[id] = token["special"]?.bool == true ? 3 : 4
        }
        var metadata = GGUFTokenizerMetadata(model: "gpt2", tokens: tokens)
        metadata.pre = pre
        metadata.types = types
        metadata.merges = try #require(file["model"]?["merges"]?.array).map {
            ($0[0]?.string ?? "") + " " + ($0[1]?.string ?? "")
        }
        metadata.bosID = 1
        metadata.eosID = 2
        let tokenizer = try Tokenizer(gguf: metadata)
        for text in try #require(Fixtures.json("tokenizers/goldens.json")["texts"]?.array).compactMap(\.string) {
            // GGUF files name no normalizer.
            if name == "qwen2" && !text.utf8.allSatisfy({ $0 < 0xCC }) { continue }
            let ids = tokenizer.encode(text, addSpecial: false, parseSpecial: true)
            #expect(ids == reference.encode(text, addSpecial: false, parseSpecial: true), "\(text.debugDescription)")
            #expect(same(tokenizer.decode(ids), reference.decode(ids)))
        }
        #expect(tokenizer.eosID == 2 && tokenizer.endIDs.first == 2)
    }
}
