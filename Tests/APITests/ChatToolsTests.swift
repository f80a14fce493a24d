import OrderedJSON
import Testing

@testable import API

private func chat(adding field: String) throws -> ChatRequest {
    try ChatRequest(JSON.parse(#"{"model": "m", "messages": [{"role": "user", "content": "hi"}], \#(field)}"#))
}

private func chat(messages: String) throws -> ChatRequest {
    try ChatRequest(JSON.parse(#"{"model": "m", "messages": [\#(messages)]}"#))
}

@Suite struct ChatToolsTests {
    @Test(arguments: [
        (#""tools": [{"type": "custom", "function": {"name": "f"}}]"#, "tools[0].type"),
        (#""tools": [{"type": "function"}]"#, "tools[0].function"),
        (#""tools": [{"type": "function", "function": 3}]"#, "tools[0].function"),
        (#""tools": [{"type": "function", "function": {}}]"#, "tools[0].function.name"),
        (#""tools": [{"type": "function", "function": {"name": ""}}]"#, "tools[0].function.name"),
        (
            #""tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]"#,
            "tools[0].function.parameters"
        ),
        (#""tool_choice": {"type": "function", "function": {"name": "f"}}"#, "tool_choice"),
        (#""tool_choice": "required""#, "tool_choice"), (#""parallel_tool_calls": "no""#, "parallel_tool_calls"),
        (#""reasoning_effort": "enormous""#, "reasoning_effort"), (#""reasoning_effort": 3"#, "reasoning_effort"),
    ])
    func badToolsAreNamed(field: String, param: String) {
        let error = #expect(throws: APIError.self) { try chat(adding: field) }
        #expect(error?.status == 400)
        #expect(error?.param == param)
    }

    @Test func fieldsAreRead() throws {
        let request = try chat(adding: #""reasoning_effort": "low", "parallel_tool_calls": false"#)
        #expect(request.reasoningEffort == "low" && !request.allowsParallelCalls)
        #expect(request.ignoredFields == [])
        let plain = try chat(adding: #""tools": null, "tool_choice": "auto", "reasoning_effort": null"#)
        #expect(plain.tools == nil && plain.reasoningEffort == nil && plain.allowsParallelCalls)
    }

    /// A message as the official client gives it back has every field, most of them null.
    @Test func answersComeBackAsMessages() throws {
        let request = try chat(
            messages: #"""
                {"role": "user", "content": "Weather?"},
                {"role": "assistant", "content": null, "refusal": null, "audio": null, "function_call": null,
                 "reasoning_content": "I look.", "tool_calls": [
                  {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"b\": 1, \"a\": [2]}"}},
                  {"id": "call_2", "type": "function", "function": {"name": "g", "arguments": ""}},
                  {"id": "call_3", "type": "function", "function": {"name": "h"}},
                  {"id": "call_4", "type": "function", "function": {"name": "i", "arguments": "{\"cut"}}]},
                {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "windy"}]},
                {"role": "assistant", "content": "It is windy.", "tool_calls": null, "reasoning_content": null},
                {"role": "assistant", "content": null, "tool_calls": []}
                """#)
        let past = try #require(request.messages[1].object)
        #expect(past.keys == ["role", "content", "reasoning_content", "tool_calls"])
        #expect(past["content"] == .null && past["reasoning_content"] == "I look.")
        let calls = past["tool_calls"]
        #expect(calls?[0]?["function"]?["arguments"]?.object?.keys == ["b", "a"])
        #expect(calls?[1]?["function"]?["arguments"] == .object(JSONObject()))
        #expect(calls?[2]?["function"]?["arguments"] == .object(JSONObject()))
        #expect(calls?[3]?["function"]?["arguments"] == "{\"cut")
        #expect(request.messages[2]["content"] == "windy" && request.messages[2]["tool_call_id"] == "call_1")
        #expect(request.messages[3].object?.keys == ["role", "content"])
        #expect(request.messages[4] == ["role": "assistant", "content": ""])
        var filled = request
        filled.fillContent()
        #expect(filled.messages[1]["content"] == "" && filled.messages[3] == request.messages[3])
    }

    @Test func badMessagesAreNamed() {
        for (message, param) in [
            (#"{"role": "assistant", "content": "a", "reasoning_content": 3}"#, "messages[0].reasoning_content"),
            (#"{"role": "assistant", "tool_calls": {}}"#, "messages[0].tool_calls"),
            (#"{"role": "assistant", "tool_calls": [{}]}"#, "messages[0].tool_calls[0].function"),
        ] {
            let error = #expect(throws: APIError.self) { try chat(messages: message) }
            #expect(error?.param == param)
        }
    }
}
