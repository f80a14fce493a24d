import OrderedJSON

@testable import API

/// Reads whole answers, by the rules in the parser's documentation and without its code: it sees all of the text at
/// once, which is what makes it short.
struct GLMReference {
    private let text: [UInt8]
    private let schemas: ToolSchemas?
    private var place = 0
    private var reasoning: [UInt8] = []
    private var content: [UInt8] = []
    private var answer = ReadAnswer()

    static func read(_ text: String, thinking: Bool, tools: JSON?) -> ReadAnswer {
        var reference = GLMReference(text: Array(text.utf8), schemas: tools.map { ToolSchemas($0) })
        reference.readText(isReasoning: thinking)
        reference.answer.reasoning = String(decoding: reference.reasoning, as: UTF8.self)
        reference.answer.content = String(decoding: reference.content, as: UTF8.self)
        return reference.answer
    }

    private init(text: [UInt8], schemas: ToolSchemas?) {
        self.text = text
        self.schemas = schemas
    }

    private func sees(_ marker: String, at place: Int) -> Bool { text[place...].starts(with: marker.utf8) }

    private func spaces(at place: Int) -> Int { text[place...].prefix { " \n\r\t".utf8.contains($0) }.count }

    private func string(_ range: Range<Int>) -> String { String(decoding: text[range], as: UTF8.self) }

    /// A JSON string without its last quote.
    private func unended(_ text: String) -> String {
        String(decoding: JSON.quoted(text).utf8.dropLast(), as: UTF8.self)
    }

    private mutating func readText(isReasoning: Bool) {
        var isReasoning = isReasoning
        var isFirst = true
        var isAfterMarker = true
        var isAfterCall = false
        while place < text.count {
            let blank = isAfterMarker ? spaces(at: place) : 0
            let start = place + (blank <= 64 ? blank : 0)
            if isAfterCall, start == text.count { return }
            var passed: Int?
            if isFirst, sees("<think>", at: start) {
                passed = 7
                isReasoning = true
            } else if isFirst || isReasoning, sees("</think>", at: start) {
                passed = 8
                isReasoning = false
            } else if let name = callName(at: start) {
                isReasoning = false
                place = name.end
                isAfterCall = readCall(string(name.range))
                isAfterMarker = isAfterCall
                isFirst = false
                continue
            }
            isFirst = false
            if let passed {
                place = start + passed
                isAfterMarker = true
                isAfterCall = false
                continue
            }
            // The next character; its bytes follow one another, so they may as well go singly.
            let end = min(max(start, place) + 1, text.count)
            let bytes = text[place..<end]
            if isReasoning { reasoning += bytes } else { content += bytes }
            place = end
            isAfterMarker = false
            isAfterCall = false
        }
    }

    /// The name of the call that begins at `start`, and where what follows it stands.
    private func callName(at start: Int) -> (range: Range<Int>, end: Int)? {
        guard schemas != nil, sees("<tool_call>", at: start) else { return nil }
        let before = spaces(at: start + 11)
        let first = start + 11 + before
        let length = text[first...].prefix { $0 > 0x20 && $0 != 0x7F && !"<>\"{}".utf8.contains($0) }.count
        let after = spaces(at: first + length)
        let end = first + length + after
        guard before <= 64, after <= 64, (1...256).contains(length) else { return nil }
        guard sees("<arg_key>", at: end) || sees("</tool_call>", at: end) else { return nil }
        return (first..<first + length, end)
    }

    /// Whether the call came to its end.
    private mutating func readCall(_ name: String) -> Bool {
        var arguments = "{"
        var count = 0
        defer { answer.calls.append(.init(name: name, arguments: arguments)) }
        while true {
            place += spaces(at: place)
            if sees("</tool_call>", at: place) {
                place += 12
                arguments += "}"
                answer.finishedCalls += 1
                return true
            }
            guard sees("<arg_key>", at: place) else {
                let rest = text[place...]
                let isCutOff = "</tool_call>".utf8.starts(with: rest) || "<arg_key>".utf8.starts(with: rest)
                if isCutOff { place = text.count }
                return false
            }
            let comma = count == 0 ? "" : ", "
            guard let key = key(at: place + 9) else { return false }
            guard let value = key.value else {
                arguments += comma + unended(key.text)
                place = text.count
                return false
            }
            count += 1
            place = value
            arguments += comma + JSON.quoted(key.text) + ": "
            guard let end = readValue(ArgumentRule(kinds: schemas?.kinds(ofParameter: key.text, tool: name))) else {
                arguments += unended(string(place..<text.count))
                place = text.count
                return false
            }
            arguments += end
        }
    }

    /// The key at `start` and where its value begins; no value: the text ends before it is clear that there is none.
    /// Nil: it is no key.
    private func key(at start: Int) -> (text: String, value: Int?)? {
        let length = text[start...].prefix { $0 != UInt8(ascii: "<") }.count
        guard length <= 256 else { return nil }
        let open = (text: string(start..<start + length), value: Int?.none)
        let end = start + length
        let rest = text[end...]
        guard sees("</arg_key>", at: end) else { return "</arg_key>".utf8.starts(with: rest) ? open : nil }
        let trimmed = Array(text[start..<end].trimmed)
        let blank = spaces(at: end + 10)
        guard !trimmed.isEmpty, blank <= 64 else { return nil }
        let next = end + 10 + blank
        guard sees("<arg_value>", at: next) else { return "<arg_value>".utf8.starts(with: text[next...]) ? open : nil }
        return (String(decoding: trimmed, as: UTF8.self), next + 11)
    }

    /// The JSON of the value at `place`, past which it goes; nil: it has no end.
    private mutating func readValue(_ rule: ArgumentRule) -> String? {
        guard let end = text[place...].indices.first(where: { sees("</arg_value>", at: $0) }) else { return nil }
        let value = text[place..<end]
        place = end + 12
        let mayBeJSON = !rule.isText && value.count <= GLMAnswerParser.Limits.value
        return mayBeJSON ? rule.json(value) : JSON.quoted(String(decoding: value, as: UTF8.self))
    }
}
