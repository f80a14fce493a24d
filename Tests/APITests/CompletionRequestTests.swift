import OrderedJSON
import Testing

@testable import API

private func completion(_ fields: String) throws -> CompletionRequest {
    try CompletionRequest(JSON.parse(#"{"model": "m", \#(fields)}"#))
}

@Suite struct CompletionRequestTests {
    @Test func everyKindOfPrompt() throws {
        #expect(try completion(#""prompt": "a""#).prompts == [.text("a")])
        #expect(try completion(#""prompt": ["a", "b"]"#).prompts == [.text("a"), .text("b")])
        #expect(try completion(#""prompt": [1, 2, 3.0]"#).prompts == [.tokens([1, 2, 3])])
        #expect(try completion(#""prompt": [[1, 2], [3]]"#).prompts == [.tokens([1, 2]), .tokens([3])])
    }

    @Test func defaultsAndLogprobs() throws {
        let request = try completion(#""prompt": "a", "logprobs": 0"#)
        #expect(request.options.maxTokens == 16)
        #expect(request.options.logprobs && request.options.topLogprobs == 0)
        #expect(!request.echo && request.addsSpecialTokens)
        #expect(try completion(#""prompt": "a", "echo": true, "suffix": """#).echo)
    }

    @Test(arguments: [
        (#""prompt": 5"#, "prompt"), (#""prompt": []"#, "prompt"), (#""prompt": [[]]"#, "prompt"),
        (#""prompt": [1, "a"]"#, "prompt[1]"), (#""prompt": ["a", 1]"#, "prompt[1]"),
        (#""prompt": [-1]"#, "prompt[0]"), (#""prompt": [1.5]"#, "prompt[0]"), (#""prompt": [1e12]"#, "prompt[0]"),
        (#""prompt": [{}]"#, "prompt[0]"), (#""stop": "x""#, "prompt"),
        (#""prompt": "a", "suffix": "b""#, "suffix"), (#""prompt": "a", "echo": 1"#, "echo"),
        (#""prompt": "a", "echo": true, "logprobs": 1"#, "echo"), (#""prompt": "a", "logprobs": 21"#, "logprobs"),
        (#""prompt": "a", "logprobs": true"#, "logprobs"), (#""prompt": ["a", "b"], "n": 100"#, "n"),
    ])
    func badValuesAreNamed(fields: String, param: String) {
        let error = #expect(throws: APIError.self) { try completion(fields) }
        #expect(error?.status == 400)
        #expect(error?.param == param)
    }
}
