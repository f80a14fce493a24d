import OrderedJSON

@testable import API

/// The tools of the answers below.
let exampleTools: JSON = [
    [
        "type": "function",
        "function": [
            "name": "get_weather",
            "parameters": [
                "type": "object",
                "properties": [
                    "city": ["type": "string"], "days": ["type": "integer"], "units": ["type": ["string", "null"]],
                    "where": ["type": "object"], "any": ["description": "no type"], "flag": ["type": "boolean"],
                ],
            ],
        ],
    ]
]

/// What a whole answer is made of.
struct ReadAnswer: Equatable, CustomStringConvertible {
    struct Call: Equatable {
        var name: String
        var arguments: String
    }

    var reasoning = ""
    var content = ""
    var calls: [Call] = []
    var finishedCalls = 0

    init(reasoning: String = "", content: String = "", calls: [Call] = [], finishedCalls: Int? = nil) {
        self.reasoning = reasoning
        self.content = content
        self.calls = calls
        self.finishedCalls = finishedCalls ?? calls.count
    }

    init(_ piece: AnswerPiece, finishedCalls: Int) {
        reasoning = piece.reasoning
        content = piece.text
        calls = piece.calls.map { Call(name: $0.name ?? "", arguments: $0.arguments) }
        self.finishedCalls = finishedCalls
    }

    /// Byte by byte, where `String` would take canonically equal texts for the same.
    static func == (left: ReadAnswer, right: ReadAnswer) -> Bool {
        func bytes(_ answer: ReadAnswer) -> [[UInt8]] {
            [answer.reasoning, answer.content].map { Array($0.utf8) }
                + answer.calls.flatMap { [Array($0.name.utf8), Array($0.arguments.utf8)] }
        }
        return left.finishedCalls == right.finishedCalls && bytes(left) == bytes(right)
    }

    var description: String {
        "reasoning \(reasoning.debugDescription), content \(content.debugDescription), \(finishedCalls) of \(calls)"
    }
}

/// Reads an answer that comes in these pieces.
func read(_ pieces: [String], thinking: Bool = false, tools: JSON? = exampleTools, callsMax: Int? = nil) -> ReadAnswer {
    var parser = GLMAnswerParser(
        beginsInReasoning: thinking, tools: tools.map { ToolSchemas($0) }, callsMax: callsMax)
    var whole = AnswerPiece()
    for text in pieces {
        // As the router does: what comes is gathered in pieces, and those are put together.
        var piece = AnswerPiece()
        parser.append(text, to: &piece)
        whole.append(piece)
    }
    var last = AnswerPiece()
    parser.finish(&last)
    whole.append(last)
    return ReadAnswer(whole, finishedCalls: parser.finishedCalls)
}

func read(_ text: String, thinking: Bool = false, tools: JSON? = exampleTools) -> ReadAnswer {
    read([text], thinking: thinking, tools: tools)
}

/// A call as models write it.
func call(_ name: String, _ arguments: [(String, String)]) -> String {
    let pairs = arguments.map { "<arg_key>\($0.0)</arg_key><arg_value>\($0.1)</arg_value>" }.joined()
    return "<tool_call>\(name)\(pairs)</tool_call>"
}
