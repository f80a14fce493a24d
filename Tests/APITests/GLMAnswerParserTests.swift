import OrderedJSON
import Testing

@testable import API

@Suite struct GLMAnswerParserTests {
    /// Answers with what they say: text, whether the prompt has opened `<think>`, and the parts.
    static let examples: [(text: String, thinking: Bool, answer: ReadAnswer)] = [
        ("", false, ReadAnswer()),
        ("Hello, wörld 😀", false, ReadAnswer(content: "Hello, wörld 😀")),
        ("  two\n\nlines\n", false, ReadAnswer(content: "  two\n\nlines\n")),
        ("a < b, <b>, <tool_calls>, </", false, ReadAnswer(content: "a < b, <b>, <tool_calls>, </")),
        ("Hm.</think>Yes.", true, ReadAnswer(reasoning: "Hm.", content: "Yes.")),
        ("Hm", true, ReadAnswer(reasoning: "Hm")),
        ("<think>Hm.</think>Yes.", true, ReadAnswer(reasoning: "Hm.", content: "Yes.")),
        // GLM-4.5 opens thinking itself, and puts layout between the parts.
        ("\n<think>Hm.\nSo.</think>\nYes.", false, ReadAnswer(reasoning: "Hm.\nSo.", content: "\nYes.")),
        ("\n<think></think>\nYes.", false, ReadAnswer(content: "\nYes.")),
        ("</think>Yes.", false, ReadAnswer(content: "Yes.")),
        // Elsewhere these are text.
        ("Write <think> and </think>.", false, ReadAnswer(content: "Write <think> and </think>.")),
        ("A <think> b</think>c</think>", true, ReadAnswer(reasoning: "A <think> b", content: "c</think>")),
        (
            call("get_weather", [("city", "Rome")]), false,
            ReadAnswer(calls: [.init(name: "get_weather", arguments: #"{"city": "Rome"}"#)])
        ),
        (call("now", []), false, ReadAnswer(calls: [.init(name: "now", arguments: "{}")])),
        (
            "I look.</think>I'll look.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n"
                + "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>\n"
                + call("now", []) + "\n", true,
            ReadAnswer(
                reasoning: "I look.", content: "I'll look.\n",
                calls: [
                    .init(name: "get_weather", arguments: #"{"city": "Rome", "days": 3}"#),
                    .init(name: "now", arguments: "{}"),
                ])
        ),
        (
            "\n" + call("now", []) + " Done.", false,
            ReadAnswer(content: " Done.", calls: [.init(name: "now", arguments: "{}")])
        ),
        // `</think>` forgotten.
        (
            "I'll look." + call("now", []), true,
            ReadAnswer(reasoning: "I'll look.", calls: [.init(name: "now", arguments: "{}")])
        ),
        // Strings are what they are, quotes, markers and line ends included.
        (
            call("get_weather", [("city", "\"a\"\\\n\t<b></arg_key>\u{1}é"), ("any", " x ")]), false,
            ReadAnswer(calls: [
                .init(
                    name: "get_weather",
                    arguments: #"{"city": "\"a\"\\\n\t<b></arg_key>\u0001é", "any": " x "}"#)
            ])
        ),
    ]

    @Test(arguments: examples.indices)
    func answersAreToldApart(_ index: Int) {
        let example = Self.examples[index]
        #expect(read(example.text, thinking: example.thinking) == example.answer)
    }

    /// Cut in two anywhere, in three around everywhere, and into single characters.
    @Test(arguments: examples.indices)
    func cutsDoNotMatter(_ index: Int) {
        let example = Self.examples[index]
        let scalars = example.text.unicodeScalars.map { String(Character($0)) }
        #expect(read(scalars, thinking: example.thinking) == example.answer)
        for first in scalars.indices {
            let head = scalars[..<first].joined()
            #expect(
                read([head, scalars[first...].joined()], thinking: example.thinking) == example.answer, "at \(first)")
            let next = min(first + 1 + first % 7, scalars.count)
            let parts = [head, scalars[first..<next].joined(), scalars[next...].joined()]
            #expect(read(parts, thinking: example.thinking) == example.answer, "at \(first) and \(next)")
        }
    }

    /// What is no call stays text, whatever it looks like; and the end cuts calls off without ending them.
    @Test(arguments: [
        "<tool_call>", "<tool_call>get_weather", "<tool_call>get_weather<arg_k", "<tool_call></tool_call>",
        "<tool_call>two words<arg_key>a</arg_key>", "<tool_call>{\"name\": \"now\"}</tool_call>",
        "<tool_call>now</arg_key>", "<tool_call>now\n\nand then", "a<tool_call>\n", "<arg_key>a</arg_key>",
        "<tool_call>a<tool_call>", "</tool_call>", "<tool_call>\(String(repeating: "n", count: 257))</tool_call>",
        "<tool_call>n\(String(repeating: " ", count: 65))</tool_call>",
    ])
    func whatIsNoCallIsText(_ text: String) {
        #expect(read(text) == ReadAnswer(content: text))
        #expect(read(text.unicodeScalars.map { String(Character($0)) }) == ReadAnswer(content: text))
        // Within reasoning it is part of that.
        let reasoned = read("So: \(text)</think>ok", thinking: true)
        #expect(reasoned == ReadAnswer(reasoning: "So: " + text, content: "ok"))
    }

    @Test func withoutToolsNothingIsACall() {
        let text = "a " + call("get_weather", [("city", "Rome")])
        #expect(read(text, tools: nil) == ReadAnswer(content: text))
        #expect(
            read("x" + text + "</think>b", thinking: true, tools: nil)
                == ReadAnswer(reasoning: "x" + text, content: "b"))
    }

    /// Arguments of a call that never ended are no JSON, whatever they were cut in.
    @Test func cutCallsDoNotParse() throws {
        let whole = call("get_weather", [("city", "Rome"), ("days", "3"), ("where", "{\"a\": [1, 2]}"), ("any", "}")])
        let certain = "<tool_call>get_weather<arg_key>".utf8.count
        let all = read(whole)
        #expect(try JSON.parse(all.calls[0].arguments)["where"]?["a"] == [1, 2])
        for end in certain..<whole.utf8.count {
            let cut = read(String(decoding: Array(whole.utf8)[..<end], as: UTF8.self))
            #expect(cut.calls.count == 1 && cut.finishedCalls == 0 && cut.content.isEmpty, "at \(end)")
            #expect(throws: JSONError.self, "at \(end)") { try JSON.parse(cut.calls[0].arguments) }
        }
        #expect(read(#"<tool_call>f<arg_key>a</arg_key><arg_value>1}"#).calls[0].arguments == #"{"a": "1}"#)
        #expect(read(#"<tool_call>f<arg_key>a</arg"#).calls[0].arguments == #"{"a"#)
    }

    @Test(arguments: [
        ("so what", #"{"a": 1"#), ("<tool_call>", #"{"a": 1"#), ("<arg_value>2</arg_value>", #"{"a": 1"#),
        ("<arg_key>b<arg_value>2", #"{"a": 1"#), ("<arg_key></arg_key><arg_value>2", #"{"a": 1"#),
        ("<arg_key>b</arg_key>2", #"{"a": 1"#), ("</arg_key>", #"{"a": 1"#),
        ("<arg_key>\(String(repeating: "k", count: 257))</arg_key>", #"{"a": 1"#),
    ])
    func aBrokenCallGoesOnAsContent(_ rest: String, _ arguments: String) {
        let text = "<tool_call>f<arg_key>a</arg_key><arg_value>1</arg_value>" + rest
        let wanted = ReadAnswer(content: rest, calls: [.init(name: "f", arguments: arguments)], finishedCalls: 0)
        #expect(read(text) == wanted)
        #expect(read(text.unicodeScalars.map { String(Character($0)) }) == wanted)
        // A whole call after it is one.
        let after = read(text + call("g", []))
        #expect(after.content == rest && after.finishedCalls == 1 && after.calls.map(\.name) == ["f", "g"])
    }

    /// Characters that become one with the quotes and markers beside them.
    @Test(arguments: ["\u{301}", "\u{200D}", "\u{600}"])
    func combiningCharactersAreText(_ mark: String) {
        let text = mark + "a" + mark
        let answer = read(text + "</think>" + text + call("f", [(text, text)]), thinking: true)
        let arguments = "{\(JSON.quoted(text)): \(JSON.quoted(text))}"
        #expect(
            answer == ReadAnswer(reasoning: text, content: text, calls: [.init(name: "f", arguments: arguments)]))
        let cut = read("<tool_call>f<arg_key>" + text)
        #expect(cut.calls[0].arguments.utf8.elementsEqual("{\"\(text)".utf8))
    }

    @Test func textComesAtOnce() {
        var parser = GLMAnswerParser(beginsInReasoning: true, tools: ToolSchemas(exampleTools))
        func next(_ text: String) -> AnswerPiece {
            var piece = AnswerPiece()
            parser.append(text, to: &piece)
            return piece
        }
        #expect(next("I think").reasoning == "I think")
        #expect(next(" <t").reasoning == " ")
        #expect(next("his> </thin").reasoning == "<this> ")
        #expect(next("k>\n").isEmpty)
        #expect(next("Well").text == "\nWell")
        #expect(next(", 1 < 2").text == ", 1 < 2")
        #expect(next("<tool_call>get_weather<").isEmpty)
        let begun = next("arg_key>").calls
        #expect(begun == [ToolCallPiece(index: 0, name: "get_weather", arguments: "{")])
        #expect(next("city</arg_key><arg_value>").calls.map(\.arguments) == [#""city": ""#])
        #expect(next("R\"").calls.map(\.arguments) == [#"R\""#])
        #expect(next("o<").calls == [ToolCallPiece(index: 0, name: nil, arguments: "o")])
        #expect(next("/arg_value><arg_key>any</arg_key><arg_value>a").calls.map(\.arguments) == [#"", "any": "a"#])
        #expect(next("</arg_value><arg_key>any</arg_key><arg_value>[1").calls.map(\.arguments) == [#"", "any": "#])
        #expect(next(", 2]").isEmpty)
        #expect(next("</arg_value></tool_call>").calls.map(\.arguments) == ["[1, 2]}"])
        #expect(next("<tool_call>now</tool_call>").calls == [ToolCallPiece(index: 1, name: "now", arguments: "{}")])
    }

    @Test func oneCallCanBeAllThatIsWanted() {
        let text = "a" + call("now", []) + call("now", []) + "b"
        let one = ReadAnswer(content: "a", calls: [.init(name: "now", arguments: "{}")])
        #expect(read([text], callsMax: 1) == one)
        #expect(read(text.map { String($0) }, callsMax: 1) == one)
        var parser = GLMAnswerParser(beginsInReasoning: false, tools: ToolSchemas(exampleTools), callsMax: 1)
        var piece = AnswerPiece()
        parser.append(text, to: &piece)
        #expect(parser.isOver)
    }

    /// A value that could be JSON waits for its end only so long.
    @Test func whatWaitsIsBounded() {
        let limit = GLMAnswerParser.Limits.value
        for excess in [0, 1] {
            let value = "[" + String(repeating: " ", count: limit + excess - 2) + "]"
            let text = call("get_weather", [("any", value)])
            let wanted = excess == 0 ? "{\"any\": \(value)}" : "{\"any\": \"\(value)\"}"
            #expect(read(text).calls[0].arguments == wanted)
            let bytes = Array(text.utf8)
            let pieces = stride(from: 0, to: bytes.count, by: 100_003).map {
                String(decoding: bytes[$0..<min($0 + 100_003, bytes.count)], as: UTF8.self)
            }
            #expect(read(pieces).calls[0].arguments == wanted)
        }
        let spaces = String(repeating: " ", count: 100)
        #expect(read("</think>\(spaces)<tool_call>now</tool_call>").content == spaces)
    }

    @Test func reasoningIsKnownByItsOffsets() {
        var parser = GLMAnswerParser(beginsInReasoning: false, tools: nil)
        var piece = AnswerPiece()
        parser.append("\n", to: &piece)
        #expect(parser.isReasoning(at: 0) == nil)
        parser.append("<think>ab</th", to: &piece)
        #expect([0, 1, 7, 8, 9].map { parser.isReasoning(at: $0) } == [false, false, false, true, true])
        #expect(parser.isReasoning(at: 10) == nil)
        parser.append("ink>c", to: &piece)
        #expect([8, 9, 10, 18, 19].map { parser.isReasoning(at: $0) } == [true, true, false, false, false])
        var open = GLMAnswerParser(beginsInReasoning: true, tools: nil)
        open.append("ab <", to: &piece)
        #expect(open.isReasoning(at: 2) == true && open.isReasoning(at: 3) == nil)
        open.finish(&piece)
        #expect(open.isReasoning(at: 3) == true)
        var plain = GLMAnswerParser(beginsInReasoning: false, tools: nil)
        plain.append("a", to: &piece)
        #expect(plain.isReasoning(at: 0) == false)
    }
}
