import OrderedJSON
import SeededRandom
import Testing

@testable import API

/// Random answers, right, nearly right and wrong, in random pieces, against the reference that sees them whole.
@Suite struct GLMAnswerFuzzTests {
    private static let parts = [
        "<think>", "</think>", "<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>",
        "get_weather", "city", "days", "units", "where", "any", "flag", "other", "{\"a\": [1, null]}", "[1, 2", "17",
        "-1.5e3", "true", "null", "\"quoted\"", "é", "😀", "e\u{301}", "\u{0}", "\\", "\"", "<", "</", ">", "<t", "</a",
        " ", "\n", "\t\r\n", "a", "two words", "<|user|>", "{", "}",
    ]

    private static func wellFormed(_ generator: inout SplitMix64) -> String {
        let gap = ["", "\n", "  "].randomElement(using: &generator) ?? ""
        let keys = ["city", "days", "units", "where", "any", "flag", "other", " a key "]
        let values = [
            "Rome", "3", "null", "{\"x\": 1}", "true", "", " ", "\"s\"", "12345678901234567890", "[1", "é<b>",
        ]
        var text = "<tool_call>" + (["get_weather", "f"].randomElement(using: &generator) ?? "") + gap
        for _ in 0..<generator.below(4) {
            text += "<arg_key>\(keys.randomElement(using: &generator) ?? "")</arg_key>\(gap)"
            text += "<arg_value>\(values.randomElement(using: &generator) ?? "")</arg_value>\(gap)"
        }
        return text + "</tool_call>"
    }

    private static func answer(_ generator: inout SplitMix64) -> String {
        var text = ""
        for _ in 0..<generator.below(12) {
            switch generator.below(4) {
            case 0: text += wellFormed(&generator)
            case 1:
                // A call with a hole in it, or cut off.
                let bytes = Array(wellFormed(&generator).unicodeScalars)
                let start = generator.below(bytes.count)
                let end = start + generator.below(bytes.count - start + 1)
                for scalar in generator.below(2) == 0 ? bytes[..<start] + bytes[end...] : bytes[..<start] {
                    text.unicodeScalars.append(scalar)
                }
            default:
                for _ in 0..<generator.below(6) { text += parts.randomElement(using: &generator) ?? "" }
            }
        }
        return text
    }

    private static func cut(_ text: String, _ generator: inout SplitMix64) -> [String] {
        var pieces: [String] = [""]
        let often = 1 + generator.below(12)
        for scalar in text.unicodeScalars {
            if generator.below(often) == 0 { pieces.append("") }
            pieces[pieces.count - 1].unicodeScalars.append(scalar)
        }
        return pieces
    }

    @Test(arguments: 1...8)
    func whateverComesIsReadAsTheReferenceReadsIt(seed: Int) {
        var generator = SplitMix64(state: UInt64(seed))
        for _ in 0..<600 {
            let text = Self.answer(&generator)
            let thinking = generator.below(2) == 0
            let tools = generator.below(4) == 0 ? nil : exampleTools
            let wanted = GLMReference.read(text, thinking: thinking, tools: tools)
            let pieces = Self.cut(text, &generator)
            let got = read(pieces, thinking: thinking, tools: tools)
            #expect(got == wanted, "\(text.debugDescription) thinking \(thinking) cut \(pieces)")
            if got != wanted { return }
            #expect(read(text, thinking: thinking, tools: tools) == wanted, "\(text.debugDescription)")
        }
    }

    /// Arguments of calls that ended are JSON objects, those of others never parse.
    @Test(arguments: 1...4)
    func argumentsParseExactlyWhereTheCallEnded(seed: Int) {
        var generator = SplitMix64(state: UInt64(100 + seed))
        for _ in 0..<1500 {
            let text = Self.answer(&generator)
            let answer = read(text)
            let whole = answer.calls.filter { (try? JSON.parse($0.arguments))?.object != nil }
            #expect(whole.count == answer.finishedCalls, "\(text.debugDescription)")
        }
    }

    /// Nothing is lost or invented: without tools everything but the outer marks of thinking and layout beside them
    /// comes out; with tools, what comes out is in the text in that order.
    @Test(arguments: 1...4)
    func nothingIsLostOrInvented(seed: Int) {
        var generator = SplitMix64(state: UInt64(200 + seed))
        for _ in 0..<1500 {
            let text = Self.answer(&generator)
            let plain = read(Self.cut(text, &generator), tools: nil)
            let visible = text.utf8.filter { !$0.isWhiteSpace }.count
            let out = (plain.reasoning + plain.content).utf8.filter { !$0.isWhiteSpace }.count
            let marks = visible - out
            #expect([0, "<think>".utf8.count, "</think>".utf8.count, "<think></think>".utf8.count].contains(marks))
            if Array(text.utf8).firstRange(of: "think>".utf8) == nil {
                #expect(plain.content.utf8.elementsEqual(text.utf8))
            }
            let answer = read(text)
            for part in [answer.reasoning, answer.content] { #expect(isWithin(part, text), "\(text.debugDescription)") }
        }
    }

    /// Whether the bytes of `part` come in `whole` in the same order.
    private func isWithin(_ part: String, _ whole: String) -> Bool {
        var rest = whole.utf8[...]
        for byte in part.utf8 {
            guard let place = rest.firstIndex(of: byte) else { return false }
            rest = rest[rest.index(after: place)...]
        }
        return true
    }
}
