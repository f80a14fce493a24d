import OrderedJSON
import Testing

@testable import API

/// Parses a chat request from JSON text.
private func chat(_ text: String) throws -> ChatRequest { try ChatRequest(JSON.parse(text)) }

/// A chat request with one more field.
private func chat(adding field: String) throws -> ChatRequest {
    try chat(#"{"model": "m", "messages": [{"role": "user", "content": "hi"}], \#(field)}"#)
}

/// The 400 a request gets.
private func refusal(_ body: () throws -> ChatRequest) -> APIError? {
    do {
        _ = try body()
        return nil
    } catch {
        return error as? APIError
    }
}

@Suite struct ChatRequestTests {
    @Test func defaultsAreThoseOfOpenAI() throws {
        let request = try chat(#"{"model": "m", "messages": [{"role": "user", "content": "hi"}]}"#)
        #expect(request.options == GenerationOptions())
        #expect(request.options.temperature == 1)
        #expect(request.options.maxTokens == nil)
        #expect(request.addsGenerationPrompt)
        #expect(!request.continuesFinalMessage)
        #expect(request.ignoredFields == [])
        #expect(request.tools == nil)
    }

    @Test func everyFieldIsRead() throws {
        let request = try chat(
            adding: """
                "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1,
                "presence_penalty": -1, "frequency_penalty": 2.0, "logit_bias": {"17": -100, "3": 5.5},
                "seed": -7, "stop": ["a", "b"], "stop_token_ids": [5, 6], "ignore_eos": true, "min_tokens": 2,
                "max_tokens": 9, "max_completion_tokens": 10, "n": 3, "logprobs": true, "top_logprobs": 20,
                "stream": true, "stream_options": {"include_usage": true}, "user": "u",
                "response_format": {"type": "text"}, "chat_template_kwargs": {"thinking": false}
                """)
        let options = request.options
        #expect(options.temperature == 0.5 && options.topP == 0.9 && options.topK == 40 && options.minP == 0.05)
        #expect(options.repetitionPenalty == 1.1 && options.presencePenalty == -1 && options.frequencyPenalty == 2)
        #expect(options.logitBias == [TokenBias(token: 3, bias: 5.5), TokenBias(token: 17, bias: -100)])
        #expect(options.seed == UInt64(bitPattern: -7))
        #expect(options.stopStrings == ["a", "b"] && options.stopTokens == [5, 6])
        #expect(options.ignoresEndOfSequence && options.minTokens == 2 && options.maxTokens == 10)
        #expect(options.choices == 3 && options.logprobs && options.topLogprobs == 20)
        #expect(options.streams && options.includesUsage)
        #expect(request.templateArguments["thinking"] == .bool(false))
        #expect(request.ignoredFields == [])
    }

    @Test func unknownFieldsAreNamedAndNullsAreAbsent() throws {
        let request = try chat(adding: #""frobnicate": 1, "stop": null, "seed": null, "zap": {}"#)
        #expect(request.ignoredFields == ["frobnicate", "zap"])
        #expect(request.options.stopStrings == [])
        #expect(request.options.seed == nil)
    }

    @Test func textPartsAreJoinedAndCallsGetObjects() throws {
        let request = try chat(
            #"""
            {"model": "m", "messages": [
              {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
              {"role": "assistant", "content": null, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}]},
              {"role": "tool", "tool_call_id": "1", "content": "done"}]}
            """#)
        #expect(request.messages[0]["content"]?.string == "a\nb")
        #expect(request.messages[1]["tool_calls"]?[0]?["function"]?["arguments"]?["x"]?.int == 1)
        #expect(request.messages[2]["content"]?.string == "done")
    }

    @Test func toolChoiceNoneHidesTools() throws {
        let tools = #""tools": [{"type": "function", "function": {"name": "f"}}]"#
        #expect(try chat(adding: tools).tools != nil)
        #expect(try chat(adding: tools + #", "tool_choice": "none""#).tools == nil)
        #expect(refusal { try chat(adding: tools + #", "tool_choice": "required""#) }?.param == "tool_choice")
    }

    @Test(arguments: [
        (#""temperature": "hot""#, "temperature"), (#""temperature": 2.5"#, "temperature"),
        (#""temperature": -0.1"#, "temperature"), (#""temperature": 1e999"#, ""),
        (#""temperature": true"#, "temperature"),
        (#""top_p": 1.01"#, "top_p"), (#""top_k": -2"#, "top_k"), (#""top_k": 1.5"#, "top_k"),
        (#""min_p": -1"#, "min_p"), (#""repetition_penalty": 0"#, "repetition_penalty"),
        (#""presence_penalty": 3"#, "presence_penalty"), (#""frequency_penalty": -2.1"#, "frequency_penalty"),
        (#""logit_bias": [1]"#, "logit_bias"), (#""logit_bias": {"x": 1}"#, "logit_bias"),
        (#""logit_bias": {"1": 101}"#, "logit_bias[1]"), (#""logit_bias": {"-1": 1}"#, "logit_bias"),
        (#""seed": 1.5"#, "seed"), (#""seed": 1e30"#, "seed"), (#""seed": "x""#, "seed"),
        (#""stop": 3"#, "stop"), (#""stop": [1]"#, "stop[0]"), (#""stop": [""]"#, "stop"),
        (#""stop": ["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"]"#, "stop"),
        (#""stop_token_ids": [-1]"#, "stop_token_ids[0]"), (#""stop_token_ids": 4"#, "stop_token_ids"),
        (#""max_tokens": 0"#, "max_tokens"), (#""max_tokens": 99999999999"#, "max_tokens"),
        (#""max_completion_tokens": -5"#, "max_completion_tokens"), (#""n": 0"#, "n"), (#""n": 129"#, "n"),
        (#""n": "2""#, "n"), (#""best_of": 2"#, "best_of"), (#""min_tokens": 5, "max_tokens": 4"#, "min_tokens"),
        (#""logprobs": 1"#, "logprobs"), (#""logprobs": true, "top_logprobs": 21"#, "top_logprobs"),
        (#""top_logprobs": 2"#, "top_logprobs"), (#""stream": "yes""#, "stream"),
        (#""stream_options": {"include_usage": true}"#, "stream_options"),
        (#""stream": true, "stream_options": {"include_usage": 1}"#, "stream_options.include_usage"),
        (#""response_format": {"type": "json_object"}"#, "response_format"),
        (#""response_format": {}"#, "response_format.type"), (#""tools": {}"#, "tools"),
        (#""tools": [1]"#, "tools[0]"), (#""functions": []"#, "functions"),
        (#""modalities": ["audio"]"#, "modalities"), (#""chat_template_kwargs": 1"#, "chat_template_kwargs"),
        (#""continue_final_message": true, "add_generation_prompt": true"#, "continue_final_message"),
        (#""model": 5"#, "model"),
    ])
    func badValuesAreNamed(field: String, param: String) {
        guard !param.isEmpty else {
            // Beyond the range of a double: the JSON itself is refused.
            #expect(throws: JSONError.self) { try chat(adding: field) }
            return
        }
        let error = refusal { try chat(adding: field) }
        #expect(error?.status == 400)
        #expect(error?.type == "invalid_request_error")
        #expect(error?.param == param)
        #expect(error?.message.isEmpty == false)
    }

    @Test(arguments: [
        ("5", "body"), ("[]", "body"), (#"{"messages": []}"#, "model"), (#"{"model": "m"}"#, "messages"),
        (#"{"model": "m", "messages": []}"#, "messages"), (#"{"model": "m", "messages": "hi"}"#, "messages"),
        (#"{"model": "m", "messages": [1]}"#, "messages[0]"),
        (#"{"model": "m", "messages": [{"content": "x"}]}"#, "messages[0].role"),
        (#"{"model": "m", "messages": [{"role": "emperor", "content": "x"}]}"#, "messages[0].role"),
        (#"{"model": "m", "messages": [{"role": "user"}]}"#, "messages[0].content"),
        (#"{"model": "m", "messages": [{"role": "user", "content": 5}]}"#, "messages[0].content"),
        (
            #"{"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}"#,
            "messages[0].content[0].type"
        ),
        (
            #"{"model": "m", "messages": [{"role": "user", "content": [{"type": "text"}]}]}"#,
            "messages[0].content[0].text"
        ),
        (
            #"{"model": "m", "messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]}"#,
            "messages[0].tool_calls[0].function.name"
        ),
    ])
    func badShapesAreNamed(text: String, param: String) {
        let error = refusal { try chat(text) }
        #expect(error?.status == 400)
        // The body itself is no field of the request.
        #expect(error?.param == param)
    }

    @Test func longNamesAreClippedInMessages() {
        let role = String(repeating: "x", count: 100_000)
        let error = refusal { try chat(#"{"model": "m", "messages": [{"role": "\#(role)", "content": ""}]}"#) }
        #expect((error?.message.utf8.count ?? .max) < 400)
    }
}

@Suite struct JSONBodyTests {
    private func parse(_ text: String) throws(APIError) -> JSON {
        let bytes = Array(text.utf8)
        let result = bytes.withUnsafeBytes { bytes -> Result<JSON, APIError> in
            do throws(APIError) { return .success(try JSONBody.parse(bytes)) } catch { return .failure(error) }
        }
        return try result.get()
    }

    @Test(arguments: ["", "{", "nul", "{\"a\": NaN}", "{\"a\": 01}", "{\"a\" 1}", "{} {}", "\u{0}"])
    func textThatIsNoJSONGets400(text: String) {
        #expect(throws: APIError.self) { try parse(text) }
    }

    @Test func depthIsBounded() {
        let text = String(repeating: "[", count: 100_000)
        let error = #expect(throws: APIError.self) { try parse(text) }
        #expect(error?.code == "invalid_json")
    }

    @Test func contentTypes() {
        #expect(throws: Never.self) { try JSONBody.check(contentType: nil) }
        #expect(throws: Never.self) { try JSONBody.check(contentType: "application/json; charset=utf-8") }
        let error = #expect(throws: APIError.self) { try JSONBody.check(contentType: "multipart/form-data") }
        #expect(error?.status == 415)
    }
}
