import FoundationEssentials
import OrderedJSON
import Testing
import Tokenization

@testable import API

/// The rules of GLM's chat format, both ways: what templates make of a conversation, and what the parser makes of what
/// templates write for the model's own turns.
@Suite struct ChatFormatTests {
    private static let folder = #filePath.split(separator: "/").dropLast(2).reduce("") { $0 + "/" + $1 } + "/Fixtures"

    private static func bytes(_ path: String) throws -> [UInt8] {
        [UInt8](try Data(contentsOf: URL(filePath: "\(folder)/\(path)")))
    }

    private static func template(_ name: String) throws -> ChatTemplate {
        try ChatTemplate(String(decoding: bytes("jinja/templates/\(name).jinja"), as: UTF8.self))
    }

    /// The prompt a request gets.
    private func prompt(
        _ messages: String, template: String = "glm5-thinking", tools: JSON? = nil, _ extra: [String: JSON] = [:]
    ) throws -> String {
        var request = try ChatRequest(JSON.parse(#"{"model": "m", "messages": [\#(messages)]}"#))
        request.fillContent()
        var variables: [String: JSON] = ["messages": .array(request.messages), "add_generation_prompt": true]
        variables["tools"] = tools ?? .null
        for (key, value) in extra { variables[key] = value }
        return try Self.template(template).render(variables, now: CivilTime(secondsSince1970: 0))
    }

    @Test(arguments: [
        ("glm5-thinking", "glm"), ("glm5", "glm"), ("glm45", "glm"), ("smollm2", "plain"), ("qwen3", "plain"),
        ("qwen25", "plain"), ("hermes3", "plain"), ("llama31-tools", "plain"), ("deepseek-r1", "plain"),
        ("gpt-oss", "plain"), ("mistral-v3", "plain"),
    ])
    func theFormatIsThatOfTheTemplate(_ name: String, _ format: String) throws {
        #expect("\(AnswerFormat(template: try Self.template(name).source))" == format)
    }

    @Test func thinkingIsAsThePromptEnds() throws {
        let user = #"{"role": "user", "content": "Is <think> a tag?"}"#
        let on = try prompt(user)
        #expect(on == "[gMASK]<sop><|user|>Is <think> a tag?<|assistant|><think>")
        #expect(AnswerFormat.leavesThinkingOpen(on))
        let off = try prompt(user, ["enable_thinking": false])
        #expect(off == "[gMASK]<sop><|user|>Is <think> a tag?<|assistant|></think>")
        #expect(!AnswerFormat.leavesThinkingOpen(off))
        #expect(try !AnswerFormat.leavesThinkingOpen(prompt(user, template: "glm5")))
        // GLM-4.5's model opens it itself.
        #expect(try !AnswerFormat.leavesThinkingOpen(prompt(user, template: "glm45")))
        #expect(try !AnswerFormat.leavesThinkingOpen(prompt(user, template: "glm45", ["enable_thinking": false])))
        // An answer that is gone on with, in its thoughts and after.
        #expect(AnswerFormat.leavesThinkingOpen("<|assistant|><think>Let me see: a <b"))
        #expect(!AnswerFormat.leavesThinkingOpen("<|assistant|><think>Let me see.</think>Well <b"))
        #expect(!AnswerFormat.leavesThinkingOpen("<think"))
        #expect(!AnswerFormat.leavesThinkingOpen(""))
        let effort = try prompt(user, ["reasoning_effort": "high"])
        #expect(effort.hasPrefix("[gMASK]<sop><|system|>Reasoning Effort: High<|user|>"))
    }

    @Test func pastThoughtsAreDroppedUnlessTheClientKeepsThem() throws {
        let turns = #"""
            {"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello.", "reasoning_content": "A greeting."},
            {"role": "user", "content": "Bye"}
            """#
        let start = "[gMASK]<sop><|system|>Be kind.<|user|>Hi<|assistant|>"
        let end = "Hello.<|user|>Bye<|assistant|><think>"
        #expect(try prompt(turns) == start + "</think>" + end)
        #expect(try prompt(turns, ["clear_thinking": false]) == start + "<think>A greeting.</think>" + end)
    }

    /// Between a call and its result the thoughts that led to it stay.
    @Test func toolsGoInAndResultsComeBack() throws {
        let turns = #"""
            {"role": "user", "content": "Rome and Oslo?"},
            {"role": "assistant", "content": null, "reasoning_content": "Two calls.", "tool_calls": [
              {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\": \"Rome\"}"}},
              {"id": "b", "type": "function",
               "function": {"name": "get_weather", "arguments": "{\"city\": \"Oslo\", \"days\": 2}"}}]},
            {"role": "tool", "tool_call_id": "a", "content": "windy"},
            {"role": "tool", "tool_call_id": "b", "content": "{\"sky\": \"grey\"}"}
            """#
        let tools: JSON = [
            ["type": "function", "function": ["name": "get_weather", "parameters": ["type": "object"]]]
        ]
        let text = try prompt(turns, tools: tools)
        let listed = #"{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}"#
        #expect(text.contains("<tools>\n\(listed)\n</tools>"))
        let told =
            "<|user|>Rome and Oslo?<|assistant|><think>Two calls.</think>"
            + "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Rome</arg_value></tool_call>"
            + "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Oslo</arg_value>"
            + "<arg_key>days</arg_key><arg_value>2</arg_value></tool_call>"
            + "<|observation|><tool_response>windy</tool_response><tool_response>{\"sky\": \"grey\"}</tool_response>"
            + "<|assistant|><think>"
        #expect(text.hasSuffix(told))
    }

    /// Exactly what the nano model was trained with, member order included.
    @Test func theNanoModelsOwnTemplate() throws {
        let parameters = #"{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}"#
        let function = #"{"name": "get_weather", "description": "Weather of a city", "parameters": \#(parameters)}"#
        let tools = try JSON.parse(#"[{"type": "function", "function": \#(function)}]"#)
        let text = try prompt(
            #"{"role": "user", "content": "What is the weather in Rome?"}"#, template: "glm5", tools: tools)
        let wanted =
            "[gMASK]<sop><|system|>You may call functions.\n<tools>\n\(function)\n</tools>"
            + "<|user|>What is the weather in Rome?<|assistant|></think>"
        #expect(text == wanted)
    }

    /// What a template writes for a past call is what its model writes for a new one: read again, it is the same call.
    @Test(arguments: ["glm5", "glm5-thinking", "glm45"])
    func callsSurviveTheRoundTrip(_ template: String) throws {
        let arguments: JSON = [
            "city": "Zürich <b>\n\"quoted\" \\ 😀", "days": 3, "units": .null,
            "where": ["lat": 47.5, "tags": ["a", "<b>"]],
            "any": "text", "flag": true,
        ]
        let call: JSON = ["name": "get_weather", "arguments": .string(arguments.text())]
        let message: JSON = [
            "role": "assistant", "content": "I look.", "reasoning_content": "Weather.",
            "tool_calls": [
                ["id": "a", "type": "function", "function": call], ["id": "b", "function": ["name": "now"]],
            ],
        ]
        let text = try prompt(
            #"{"role": "user", "content": "?"}, "# + message.text(), template: template,
            ["add_generation_prompt": false])
        let turn = try #require(text.firstRange(of: "<|assistant|>"))
        let answer = read(String(text[turn.upperBound...]))
        #expect(answer.content.trimming == "I look.")
        #expect(answer.reasoning == (template == "glm5" ? "" : "Weather."))
        #expect(answer.finishedCalls == 2 && answer.calls.map(\.name) == ["get_weather", "now"])
        #expect(try JSON.parse(answer.calls[0].arguments) == arguments)
        #expect(try JSON.parse(answer.calls[0].arguments).object?.keys == arguments.object?.keys)
        #expect(answer.calls[1].arguments == "{}")
    }

    /// The markers may be control tokens, whose text is otherwise left out.
    @Test func theParserSeesMarkersAndNoOtherControlTokens() throws {
        let tokenizer = try Tokenizer(
            tokenizerJSON: JSON.parse(Self.bytes("../../Models/glm5-nano/tokenizer.json")),
            tokenizerConfig: JSON.parse(Self.bytes("../../Models/glm5-nano/tokenizer_config.json")),
            generationConfig: JSON.parse(Self.bytes("../../Models/glm5-nano/generation_config.json")))
        let markers = Set(AnswerFormat.glm.markers.compactMap { tokenizer.id(of: $0) })
        #expect(markers.count == 8 && markers.allSatisfy(tokenizer.isSpecial))
        let text = "Hm.</think><|user|>I look." + call("get_weather", [("city", "Paris")]) + "<|observation|>"
        var detokenizer = IncrementalDetokenizer(tokenizer, showing: markers)
        let pieces = tokenizer.encode(text, addSpecial: false, parseSpecial: true).map { detokenizer.append($0) }
        let wanted = ReadAnswer(
            reasoning: "Hm.", content: "I look.", calls: [.init(name: "get_weather", arguments: #"{"city": "Paris"}"#)])
        #expect(read(pieces, thinking: true) == wanted)
    }
}

extension String {
    fileprivate var trimming: String { String(decoding: Array(utf8)[...].trimmed, as: UTF8.self) }
}
