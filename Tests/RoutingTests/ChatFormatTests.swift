import API
import ControlPlane
import Messages
import OrderedJSON
import Testing
import Tokenization

@testable import Routing

/// GLM's format from a request to the pieces of its answer, with a tokenizer whose tokens are bytes and, as in GLM's
/// checkpoints, one token for each marker.
@Suite struct GLMChatTests {
    private static let markers = AnswerFormat.glm.markers

    private static let template = """
        {%- for m in messages -%}<|{{ m.role }}|>
        {%- if m.reasoning_content is defined -%}<think>{{ m.reasoning_content }}</think>{%- endif -%}{{ m.content }}
        {%- for c in m.tool_calls or [] -%}<tool_call>{{ c.function.name }}
        {%- for k, v in c.function.arguments.items() -%}
        <arg_key>{{ k }}</arg_key><arg_value>{{ v if v is string else v | tojson }}</arg_value>
        {%- endfor -%}</tool_call>{%- endfor -%}
        {%- endfor -%}{{ reasoning_effort or '' }}
        {%- if add_generation_prompt -%}<|assistant|>{{ '</think>' if enable_thinking is false else '<think>' }}{%- endif -%}
        """

    private func reader(template: String = Self.template) throws -> PromptReader {
        PromptReader(
            name: "m", aliases: [], created: 1, contextLimit: 1000,
            tokenizer: try byteTokenizer(controls: Self.markers + ["<|user|>"]), template: try ChatTemplate(template))
    }

    private func prompt(_ fields: String, _ reader: PromptReader) throws -> ChatPrompt {
        let request = try ChatRequest(JSON.parse(#"{"model": "m", \#(fields)}"#))
        return try reader.prompt(for: request, now: CivilTime(secondsSince1970: 0))
    }

    private let hi = #""messages": [{"role": "user", "content": "hi"}]"#
    private let tools =
        #""tools": [{"function": {"name": "f", "parameters": {"properties": {"s": {"type": "string"}}}}}]"#

    private func text(_ tokens: [UInt32], _ reader: PromptReader) -> String {
        reader.tokenizer.decode(tokens.map { Int32(bitPattern: $0) })
    }

    private func tokens(_ text: String, _ reader: PromptReader) -> [UInt32] {
        reader.tokenizer.encode(text, addSpecial: false, parseSpecial: true).map { UInt32(bitPattern: $0) }
    }

    private func assembler(
        _ fields: String, stops: [String] = [], logprobs: Bool = false, _ reader: PromptReader
    ) throws -> ChoiceAssembler {
        ChoiceAssembler(
            tokenizer: reader.tokenizer, stops: stops, logprobs: logprobs, parser: try prompt(fields, reader).parser,
            markers: reader.markers)
    }

    @Test func thePromptSaysHowTheAnswerBegins() throws {
        let reader = try reader()
        #expect(reader.format == .glm && reader.markers.count == Self.markers.count)
        #expect(text(try prompt(hi, reader).tokens, reader) == "<|user|>hi<|assistant|><think>")
        var thinking = try assembler(hi, reader)
        #expect(thinking.append(tokens("a", reader), alternatives: []).reasoning == "a")
        let off = #", "chat_template_kwargs": {"enable_thinking": false}"#
        #expect(text(try prompt(hi + off, reader).tokens, reader).hasSuffix("</think>"))
        var plain = try assembler(hi + off, reader)
        #expect(plain.append(tokens("a", reader), alternatives: []).text == "a")
    }

    @Test func effortIsTheTemplatesToRead() throws {
        let reader = try reader()
        func end(_ fields: String) throws -> String {
            String(text(try prompt(hi + fields, reader).tokens, reader).dropFirst(10))
        }
        #expect(try end(#", "reasoning_effort": "high""#) == "high<|assistant|><think>")
        #expect(try end(#", "reasoning_effort": "none""#) == "none<|assistant|></think>")
        let both = #", "reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": true}"#
        #expect(try end(both) == "none<|assistant|><think>")
        #expect(try prompt(hi + #", "reasoning_effort": "high", "zap": 1"#, reader).ignoredFields == ["zap"])
        let plain = try self.reader(template: "{{ messages[0].content }}")
        let ignored = try prompt(hi + #", "reasoning_effort": "high", "zap": 1"#, plain)
        #expect(ignored.ignoredFields == ["zap", "reasoning_effort"] && ignored.parser == nil)
    }

    @Test func callsOfThePastAreWritten() throws {
        let reader = try reader()
        let past = try prompt(
            #"""
            "messages": [{"role": "assistant", "content": null, "reasoning_content": "r", "tool_calls": [
              {"function": {"name": "f", "arguments": "{\"a\": \"b\", \"c\": [1]}"}}]}]
            """#, reader)
        let wanted =
            "<|assistant|><think>r</think><tool_call>f<arg_key>a</arg_key><arg_value>b</arg_value>"
            + "<arg_key>c</arg_key><arg_value>[1]</arg_value></tool_call><|assistant|><think>"
        #expect(text(past.tokens, reader) == wanted)
    }

    @Test func answersAreToldApartAndCounted() throws {
        let reader = try reader()
        let answer = "Hm.</think><|user|>Ok<tool_call>f<arg_key>s</arg_key><arg_value>1</arg_value></tool_call>"
        var assembler = try assembler(hi + "," + tools, logprobs: true, reader)
        var whole = AnswerPiece()
        let all = tokens(answer, reader)
        for token in all {
            let alternatives = [[TokenLogprob(token: token, logprob: -1)]]
            whole.append(assembler.append([token], alternatives: alternatives))
        }
        whole.append(assembler.finish())
        #expect(whole.reasoning == "Hm." && whole.text == "Ok")
        #expect(whole.calls == [ToolCallPiece(index: 0, name: "f", arguments: #"{"s": "1"}"#)])
        #expect(assembler.finishReason(.stop) == .toolCalls && assembler.finishReason(.length) == .length)
        // Every token has its logprob, markers and control tokens too.
        #expect(whole.logprobs.count == all.count && assembler.tokenCount == all.count)
        #expect(assembler.reasoningCount == 3)
    }

    @Test func stopsAreFoundInWhatTheModelWrites() throws {
        let reader = try reader()
        var thoughts = try assembler(hi, stops: ["</think>"], reader)
        var piece = thoughts.append(tokens("a b</think>c", reader), alternatives: [])
        #expect(thoughts.isStopped && piece.reasoning == "a b" && piece.text.isEmpty)
        #expect(thoughts.reasoningCount == thoughts.tokenCount && thoughts.finishReason(.stop) == .stop)
        var call = try assembler(hi + "," + tools, stops: ["<arg_value>"], reader)
        piece = call.append(tokens("</think><tool_call>f<arg_key>s</arg_key><arg_value>1", reader), alternatives: [])
        #expect(piece.calls.map(\.arguments) == [#"{"s"#])
        #expect(call.finishReason(.stop) == .stop)
        // Held back for the stop string, and then given out.
        var held = try assembler(hi, stops: ["bcd"], reader)
        #expect(held.append(tokens("abc", reader), alternatives: []).reasoning == "a")
        #expect(held.finish().reasoning == "bc")
        #expect(held.reasoningCount == 3)
    }

    @Test func oneCallIsTheEndWhereOneIsWanted() throws {
        let reader = try reader()
        var assembler = try assembler(hi + "," + tools + #", "parallel_tool_calls": false"#, reader)
        let call = "<tool_call>f</tool_call>"
        let piece = assembler.append(tokens("</think>" + call + call, reader), alternatives: [])
        #expect(piece.calls == [ToolCallPiece(index: 0, name: "f", arguments: "{}")])
        #expect(assembler.isStopped && assembler.tokenCount == 4 && assembler.finishReason(.length) == .toolCalls)
        #expect(assembler.append(tokens("x", reader), alternatives: []).isEmpty && assembler.finish().isEmpty)
    }

    @Test func otherFormatsAreLeftAlone() throws {
        var assembler = ChoiceAssembler(
            tokenizer: try byteTokenizer(controls: Self.markers), stops: [], logprobs: false)
        let reader = try reader()
        let piece = assembler.append(tokens("a</think>b", reader), alternatives: [])
        #expect(piece.text == "ab" && assembler.reasoningCount == nil && assembler.finishReason(.stop) == .stop)
    }
}
