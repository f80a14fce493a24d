import API
import OrderedJSON

/// Any answer is read the same however it is cut, gives arguments that are JSON where a call has ended and only there,
/// and invents no text.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let input = UnsafeBufferPointer(start: start, count: count)
    guard let options = input.first else { return 0 }
    let text = String(decoding: input.dropFirst(), as: UTF8.self)
    let whole = read([text], options)
    let scalars = text.unicodeScalars.map { String(Character($0)) }
    guard read(scalars, options) == whole else { fatalError("cut into characters it reads otherwise") }
    var pieces: [String] = [""]
    var random = UInt64(options) &* 0x9E37_79B9_7F4A_7C15 | 1
    for scalar in scalars {
        random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        if random >> 61 == 0 { pieces.append("") }
        pieces[pieces.count - 1] += scalar
    }
    guard read(pieces, options) == whole else { fatalError("cut at random it reads otherwise") }
    precondition(whole.piece.text.utf8.count + whole.piece.reasoning.utf8.count <= text.utf8.count)
    let parsed = whole.piece.calls.count { (try? JSON.parse($0.arguments))?.object != nil }
    guard parsed == whole.finishedCalls else { fatalError("\(parsed) arguments, \(whole.finishedCalls) calls ended") }
    return 0
}

private struct Outcome: Equatable {
    var piece = AnswerPiece()
    var finishedCalls = 0

    // Byte by byte; strings would be compared by canonical equivalence.
    static func == (left: Outcome, right: Outcome) -> Bool {
        left.finishedCalls == right.finishedCalls && left.bytes == right.bytes
    }

    private var bytes: [[UInt8]] {
        [Array(piece.text.utf8), Array(piece.reasoning.utf8)]
            + piece.calls.flatMap { [Array(($0.name ?? "").utf8), Array($0.arguments.utf8)] }
    }
}

private let tools: JSON = [
    [
        "function": [
            "name": "f",
            "parameters": [
                "properties": ["s": ["type": "string"], "n": ["type": "number"], "u": ["type": ["string", "null"]]]
            ],
        ]
    ]
]

private func read(_ pieces: [String], _ options: UInt8) -> Outcome {
    var outcome = Outcome()
    var parser = GLMAnswerParser(
        beginsInReasoning: options & 1 == 1, tools: options & 2 == 0 ? ToolSchemas(tools) : nil,
        callsMax: options & 4 == 0 ? nil : 1)
    for text in pieces {
        var piece = AnswerPiece()
        parser.append(text, to: &piece)
        outcome.piece.append(piece)
    }
    parser.finish(&outcome.piece)
    outcome.finishedCalls = parser.finishedCalls
    return outcome
}
