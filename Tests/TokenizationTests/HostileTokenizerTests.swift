import OrderedJSON
import SeededRandom
import Testing

@testable import Tokenization

/// Damaged and lying files, and texts meant to take long.
struct HostileTokenizerTests {
    private func failure(_ text: String) throws -> TokenizationError? {
        do throws(TokenizationError) {
            _ = try Tokenizer(tokenizerJSON: (try? JSON.parse(text)) ?? .null)
            return nil
        } catch {
            return error
        }
    }

    @Test(arguments: [
        ("null", "model"),
        ("{}", "model"),
        (#"{"model": {"type": "Unigram", "vocab": []}}"#, "vocab"),
        (#"{"model": {"type": "WordPiece", "vocab": {}, "merges": []}}"#, "WordPiece"),
        (#"{"model": {"vocab": {"a": 0}}}"#, "merges"),
        (#"{"model": {"vocab": {"a": -1}, "merges": []}}"#, "'a'"),
        (#"{"model": {"vocab": {"a": 2147483648}, "merges": []}}"#, "'a'"),
        (#"{"model": {"vocab": {"a": 3999999}, "merges": []}}"#, "'a'"),
        (#"{"model": {"vocab": {"a": 1.5}, "merges": []}}"#, "'a'"),
        (#"{"model": {"vocab": {"a": "x"}, "merges": []}}"#, "'a'"),
        (#"{"model": {"vocab": {"a": 0, "b": 0}, "merges": []}}"#, "share id 0"),
        (#"{"model": {"vocab": {"a": 0}, "merges": ["a b"]}}"#, "merges[0]"),
        (#"{"model": {"vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]]}}"#, "'ab'"),
        (#"{"model": {"vocab": {"a": 0}, "merges": ["ab"]}}"#, "merges[0]"),
        (#"{"model": {"vocab": {"a": 0}, "merges": [["a"]]}}"#, "merges[0]"),
        (#"{"model": {"vocab": {"a": 0}, "merges": [7]}}"#, "merges[0]"),
        (#"{"model": {"vocab": {"a": 0}, "merges": [], "unk_token": "u"}}"#, "unk_token"),
        (#"{"model": {"vocab": {"a": 0}, "merges": [], "end_of_word_suffix": "</w>"}}"#, "end_of_word_suffix"),
        (#"{"model": {"vocab": {}, "merges": []}, "added_tokens": 5}"#, "added_tokens"),
        (
            #"{"model": {"vocab": {}, "merges": []}, "added_tokens": [{"id": 9999999, "content": "x"}]}"#,
            "added_tokens[0]"
        ),
        (#"{"model": {"vocab": {}, "merges": []}, "added_tokens": [{"id": 1, "content": ""}]}"#, "added_tokens[0]"),
        (#"{"model": {"vocab": {}, "merges": []}, "normalizer": {"type": "NFKC"}}"#, "NFKC"),
        (#"{"model": {"vocab": {}, "merges": []}, "normalizer": {}}"#, "normalizer"),
        (#"{"model": {"vocab": {}, "merges": []}, "pre_tokenizer": {"type": "BertPreTokenizer"}}"#, "BertPreTokenizer"),
        (#"{"model": {"vocab": {}, "merges": []}, "pre_tokenizer": {"type": "Split"}}"#, "pattern"),
        (
            #"{"model": {"vocab": {}, "merges": []}, "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(?<=a)b"}}}"#,
            "(?<=a)b"
        ),
        (#"{"model": {"vocab": {}, "merges": []}, "decoder": {"type": "CTC"}}"#, "CTC"),
        (
            #"{"model": {"vocab": {}, "merges": []}, "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "s"}}]}}"#,
            "'s'"
        ),
        (
            #"{"model": {"vocab": {}, "merges": []}, "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "s"}}], "special_tokens": {"s": {"ids": [5]}}}}"#,
            "token 5"
        ),
    ])
    func namesWhatIsWrong(_ file: String, _ part: String) throws {
        let error = try #require(try failure(file), "\(file)")
        #expect(error.message.contains(part), "\(error)")
    }

    /// Every truncation and many single-byte changes of a real file either load or fail cleanly.
    @Test func survivesDamage() throws {
        let bytes = try Fixtures.bytes("tokenizers/metaspace.json")
        var generator = SplitMix64(state: 5)
        for _ in 0..<150 {
            var damaged = bytes
            for _ in 0..<Int.random(in: 1...3, using: &generator) {
                let place = Int.random(in: 0..<damaged.count, using: &generator)
                damaged[place] = [0x22, 0x2C, 0x5B, 0x7B, 0x30, 0x39, 0x2D, 0x61].randomElement(using: &generator) ?? 0
            }
            guard let json = try? JSON.parse(damaged) else { continue }
            guard let tokenizer = try? Tokenizer(tokenizerJSON: json) else { continue }
            let ids = tokenizer.encode("the quick brown fox", addSpecial: true, parseSpecial: true)
            _ = tokenizer.decode(ids)
        }
    }

    @Test func rejectsInconsistentMetadata() throws {
        func message(_ change: (inout GGUFTokenizerMetadata) -> Void) -> String? {
            var metadata = GGUFTokenizerMetadata(model: "gpt2", tokens: ["a", "b", "ab"])
            metadata.pre = "gpt-2"
            change(&metadata)
            do throws(TokenizationError) {
                _ = try Tokenizer(gguf: metadata)
                return nil
            } catch {
                return error.message
            }
        }
        #expect(message { _ in } == nil)
        #expect(message { $0.model = "bert" }?.contains("bert") == true)
        #expect(message { $0.pre = "martian" }?.contains("martian") == true)
        #expect(message { $0.tokens = [] }?.contains("tokens") == true)
        #expect(message { $0.types = [1] }?.contains("token_type") == true)
        #expect(message { $0.bosID = 3 }?.contains("bos") == true)
        #expect(message { $0.eosID = -1 }?.contains("eos") == true)
        #expect(message { $0.merges = ["a c"] }?.contains("'c'") == true)
        #expect(message { $0.merges = [" "] }?.contains("merges[0]") == true)
        #expect(message { $0.model = "llama" }?.contains("scores") == true)
    }

    @Test func rejectsPatternsItCannotRun() {
        let patterns = [
            "(", ")", "[", "[a", "a{2,1}", "a{999}", "*a", "\\", "\\p{Greek}", "(?<n>a)", "(?<!a)b", "[[a]]", "[a&&b]",
            "(a*)*", "[z-a]", "\\x{110000}", "\\k", String(repeating: "(", count: 100), "(?=a",
            "(?:(?:ab){256}){256}", "a" + String(repeating: "??", count: 30_000),
        ]
        for pattern in patterns {
            #expect(throws: TokenizationError.self, "\(pattern)") { try Pattern(pattern) }
        }
    }

    @Test func exponentialPatternsEnd() throws {
        let pattern = try Pattern("(?:a|aa)+b|(?:a+)+c")
        let text = [UInt8](repeating: 0x61, count: 2000)
        var sections = 0
        text.withUnsafeBufferPointer {
            var matcher = PatternMatcher(byteCount: text.count)
            matcher.split(pattern, $0, 0..<text.count) { _, isMatch in
                #expect(!isMatch)
                sections += 1
            }
        }
        #expect(sections == 1)
    }

    /// Long runs of one character are the worst case of merging and of backtracking.
    @Test(arguments: ["a", " ", "\n", "1", "!", "é", "日", "\u{301}", "<", "a ", "\r\n"])
    func longRunsTakeLinearTime(_ unit: String) throws {
        let tokenizers = try ["llama3", "deepseek", "o200k", "llama2"].map {
            try Tokenizer(tokenizerJSON: Fixtures.json("tokenizers/\($0).json"))
        }
        let text = String(repeating: unit, count: 20_000)
        for tokenizer in tokenizers {
            let ids = tokenizer.encode(text, addSpecial: false, parseSpecial: true)
            #expect(same(tokenizer.decode(ids), text))
        }
    }

    @Test func manyThreadsShareOneTokenizer() async throws {
        let tokenizer = try Tokenizer(tokenizerJSON: Fixtures.json("glm5-nano/tokenizer.json"))
        let text = "The quick brown fox, 12345 jumps – over 日本語."
        let wanted = tokenizer.encode(text, addSpecial: false, parseSpecial: false)
        await withTaskGroup(of: Bool.self) { group in
            for _ in 0..<8 {
                group.addTask {
                    (0..<50).allSatisfy { _ in tokenizer.encode(text, addSpecial: false, parseSpecial: false) == wanted
                    }
                }
            }
            for await isEqual in group { #expect(isEqual) }
        }
    }
}
