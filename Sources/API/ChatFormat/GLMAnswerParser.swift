import OrderedJSON

/// Tells a GLM model's answer apart as it comes: `<think>…</think>` is reasoning, `<tool_call>name<arg_key>key</arg_key>
/// <arg_value>value</arg_value>…</tool_call>` a tool call with its arguments as JSON, everything else content.
///
/// The form is that of the chat templates published with GLM-4.5 to GLM-5, in which strings are written as they are and
/// other values as JSON. A state machine without I/O: what comes out is the same however the text was cut into pieces,
/// and every piece is given out as soon as it is certain what it is. Only these wait: the beginning of a marker; white
/// space after a marker; a call until its name is followed by a key or its end; a key; and a value that may be JSON,
/// until its end (a value that can only be a string comes as it is written).
///
/// What a model can do wrong, and what comes of it:
/// - `<think>` counts at the beginning of the answer only (once more where the prompt has opened it already), and
///   `</think>` where something was to be closed. Elsewhere they are text.
/// - A call within reasoning ends the reasoning, as other servers have it: GLM sometimes forgets `</think>`.
/// - `<tool_call>` that is not followed by a name and then a key or the end is text, and so is all of it.
/// - A call that breaks the form after that, or that the answer's end cuts off, keeps what came of it, and its arguments
///   stay JSON without an end, so that nobody takes them for whole. (That is what OpenAI's servers give for a call that
///   `max_tokens` cuts off; what a stream has delivered could not be taken back.) Text that breaks the form is content.
/// - White space that is all there is between two markers, or after a call, is layout and left out, up to
///   `Limits.space` bytes of it. Everything else that is no marker is given out, once and in order.
/// - Without tools in the request nothing is a call.
///
/// Memory is bounded by `Limits.value` and a marker, plus the last piece.
package struct GLMAnswerParser: Sendable {
    /// Bytes that may wait, by what they are.
    enum Limits {
        /// White space after a marker, or on either side of a name.
        static let space = 64
        /// A tool's name: longer ones are no calls.
        static let name = 256
        /// A parameter's name.
        static let key = 256
        /// A value that may be JSON; a longer one is a string.
        static let value = 1 << 20
    }

    private enum State {
        /// Outside of calls.
        case text
        /// In a call, where a key or its end should follow.
        case arguments
        /// In a value of which nothing is decided yet.
        case value(ArgumentRule)
        /// In a value that is delivered as a string.
        case string
        /// In a value that may be JSON; no end is among its first `scanned` bytes.
        case json(ArgumentRule, scanned: Int)
        /// What follows is not wanted.
        case over
    }

    private let tools: ToolSchemas?
    private let callsMax: Int
    private var state = State.text
    /// What has come and is not settled: from `head` on.
    private var input: [UInt8] = []
    private var head = 0
    /// Bytes of the answer before `input`.
    private var base = 0
    private var isEnded = false

    /// Text is reasoning; otherwise content.
    private var isReasoning: Bool
    /// Nothing but white space has come: thinking may begin.
    private var mayThink = true
    /// Nothing but white space has come since the last marker, or the beginning.
    private var isAfterMarker = true
    private var isAfterCall = false
    private var reasoningStart: Int?
    private var reasoningEnd: Int?

    /// Calls that began.
    private var callCount = 0
    private var toolName = ""
    private var argumentCount = 0
    /// Calls whose end has come.
    package private(set) var finishedCalls = 0

    /// - Parameters:
    ///   - beginsInReasoning: the prompt has opened `<think>`.
    ///   - tools: the tools there are; nil: nothing is a call.
    ///   - callsMax: nothing is given out after so many calls; nil: no limit.
    package init(beginsInReasoning: Bool, tools: ToolSchemas?, callsMax: Int? = nil) {
        isReasoning = beginsInReasoning
        reasoningStart = beginsInReasoning ? 0 : nil
        self.tools = tools
        self.callsMax = callsMax ?? .max
    }

    /// All the calls that were allowed have come: the answer is over.
    package var isOver: Bool {
        if case .over = state { true } else { false }
    }

    /// More of the answer; what that makes certain is added to `piece`.
    package mutating func append(_ text: String, to piece: inout AnswerPiece) {
        input.removeFirst(head)
        base += head
        head = 0
        input.append(contentsOf: text.utf8)
        while step(&piece) {}
    }

    /// The answer ends here: what waited is what it is.
    package mutating func finish(_ piece: inout AnswerPiece) {
        isEnded = true
        while step(&piece) {}
    }

    /// Whether the byte at `offset` of the answer is reasoning; nil while that is not certain.
    package func isReasoning(at offset: Int) -> Bool? {
        guard let reasoningStart else { return mayThink && !isEnded ? nil : false }
        if offset < reasoningStart { return false }
        if let reasoningEnd { return offset < reasoningEnd }
        return isEnded || offset < base + head ? true : nil
    }

    /// Settles some of the input; false when there is nothing more to be said of it yet.
    private mutating func step(_ piece: inout AnswerPiece) -> Bool {
        switch state {
        case .text: return stepText(&piece)
        case .arguments: return stepArguments(&piece)
        case .value(let rule): return stepValue(rule, &piece)
        case .string: return stepString(&piece)
        case .json(let rule, let scanned): return stepJSON(rule, scanned, &piece)
        case .over:
            head = input.count
            return false
        }
    }
}

// MARK: Text

extension GLMAnswerParser {
    private mutating func stepText(_ piece: inout AnswerPiece) -> Bool {
        var place = head
        if isAfterMarker {
            place = placeAfterSpace(from: head)
            if place - head > Limits.space {
                give(upTo: place, &piece)
                return true
            }
            if place == input.count {
                guard isEnded, place > head else { return false }
                if isAfterCall { head = place } else { give(upTo: place, &piece) }
                return false
            }
        }
        let marker = placeOfMarker(from: place)
        if marker > place { give(upTo: marker, &piece) }
        guard marker < input.count else { return false }
        return stepMarker(at: marker, &piece)
    }

    /// At a `<`, before which there is nothing but white space that waits.
    private mutating func stepMarker(at place: Int, _ piece: inout AnswerPiece) -> Bool {
        var mayBecomeOne = false
        for marker in GLMMarker.allCases where counts(marker) {
            switch marker.match(input, at: place) {
            case .whole: return take(marker, at: place, &piece)
            case .beginning: mayBecomeOne = true
            case .none: break
            }
        }
        if mayBecomeOne, !isEnded { return false }
        give(upTo: place + 1, &piece)
        return true
    }

    /// Whether the marker means something in text that stands here.
    private func counts(_ marker: GLMMarker) -> Bool {
        switch marker {
        case .thinkBegin: mayThink
        case .thinkEnd: isReasoning || mayThink
        case .callBegin: tools != nil
        default: false
        }
    }

    private mutating func take(_ marker: GLMMarker, at place: Int, _ piece: inout AnswerPiece) -> Bool {
        let end = place + marker.count
        switch marker {
        case .thinkBegin:
            isReasoning = true
            reasoningStart = base + end
        case .thinkEnd:
            if isReasoning { reasoningEnd = base + place }
            isReasoning = false
        default:
            return beginCall(at: place, &piece)
        }
        mayThink = false
        passMarker(end: end)
        return true
    }

    private mutating func passMarker(end: Int) {
        head = end
        isAfterMarker = true
        isAfterCall = false
    }

    /// Gives out text up to `end`.
    private mutating func give(upTo end: Int, _ piece: inout AnswerPiece) {
        let text = String(decoding: input[head..<end], as: UTF8.self)
        if isReasoning { piece.reasoning += text } else { piece.text += text }
        head = end
        mayThink = false
        isAfterMarker = false
        isAfterCall = false
    }

    private func placeAfterSpace(from start: Int) -> Int {
        input[start...].firstIndex { !$0.isWhiteSpace } ?? input.count
    }

    private func placeOfMarker(from start: Int) -> Int {
        input[start...].firstIndex(of: UInt8(ascii: "<")) ?? input.count
    }
}

// MARK: Calls

extension GLMAnswerParser {
    private enum Found<Value> {
        /// More has to come before it is certain.
        case unfinished
        /// It is not what it should be.
        case broken
        case whole(Value, end: Int)
    }

    /// At `<tool_call>`: either a call begins, or it is text.
    private mutating func beginCall(at place: Int, _ piece: inout AnswerPiece) -> Bool {
        let end = place + GLMMarker.callBegin.count
        switch name(from: end) {
        case .unfinished where !isEnded:
            return false
        case .unfinished, .broken:
            give(upTo: end, &piece)
        case .whole(let name, let next):
            if isReasoning { reasoningEnd = base + place }
            isReasoning = false
            mayThink = false
            head = next
            toolName = name
            argumentCount = 0
            // The brace comes with the name: arguments of which nothing else comes must not look like none at all.
            piece.append(ToolCallPiece(index: callCount, name: name, arguments: "{"))
            callCount += 1
            state = .arguments
        }
        return true
    }

    /// A tool's name and what must follow it, a key or the call's end, at which it ends.
    private func name(from start: Int) -> Found<String> {
        let first = placeAfterSpace(from: start)
        let last = input[first...].firstIndex { !$0.isPartOfName } ?? input.count
        let next = placeAfterSpace(from: last)
        let isTooLong =
            first - start > Limits.space || last - first > Limits.name || next - last > Limits.space
        guard !isTooLong else { return .broken }
        guard next < input.count else { return .unfinished }
        guard last > first else { return .broken }
        var found = Found<String>.broken
        for marker in [GLMMarker.keyBegin, .callEnd] {
            switch marker.match(input, at: next) {
            case .whole: return .whole(String(decoding: input[first..<last], as: UTF8.self), end: next)
            case .beginning: found = .unfinished
            case .none: break
            }
        }
        return found
    }

    private mutating func stepArguments(_ piece: inout AnswerPiece) -> Bool {
        head = placeAfterSpace(from: head)
        guard head < input.count else { return false }
        let ending = GLMMarker.callEnd.match(input, at: head)
        if ending == .whole {
            endCall(&piece)
            return true
        }
        let key = GLMMarker.keyBegin.match(input, at: head)
        if key == .whole { return stepKey(&piece) }
        if ending == .beginning || key == .beginning {
            // A marker that the answer's end cuts off is no text.
            if isEnded { head = input.count }
            return false
        }
        breakCall()
        return true
    }

    private mutating func endCall(_ piece: inout AnswerPiece) {
        addArguments("}", &piece)
        finishedCalls += 1
        passMarker(end: head + GLMMarker.callEnd.count)
        isAfterCall = true
        state = finishedCalls < callsMax ? .text : .over
    }

    /// The call's form is broken at `head`: from there on it is content.
    private mutating func breakCall() {
        state = .text
        isAfterMarker = false
        isAfterCall = false
    }

    /// At `<arg_key>`.
    private mutating func stepKey(_ piece: inout AnswerPiece) -> Bool {
        switch key(from: head + GLMMarker.keyBegin.count) {
        case .unfinished:
            guard isEnded else { return false }
            // As much of the key as came, without the marker that the end cuts off.
            let text = input[(head + GLMMarker.keyBegin.count)...].prefix { $0 != UInt8(ascii: "<") }
            addArguments(separator + "\"" + Self.escaped(text), &piece)
            head = input.count
            return false
        case .broken:
            breakCall()
        case .whole(let key, let end):
            addArguments(separator + JSON.quoted(key) + ": ", &piece)
            argumentCount += 1
            head = end
            state = .value(ArgumentRule(kinds: tools?.kinds(ofParameter: key, tool: toolName)))
        }
        return true
    }

    /// A parameter's name, up to where its value begins.
    private func key(from start: Int) -> Found<String> {
        let last = placeOfMarker(from: start)
        guard last - start <= Limits.key else { return .broken }
        guard last < input.count else { return .unfinished }
        let ending = GLMMarker.keyEnd.match(input, at: last)
        guard ending == .whole else { return ending == .beginning ? .unfinished : .broken }
        let name = input[start..<last].trimmed
        guard !name.isEmpty else { return .broken }
        let after = last + GLMMarker.keyEnd.count
        let next = placeAfterSpace(from: after)
        guard next - after <= Limits.space else { return .broken }
        switch GLMMarker.valueBegin.match(input, at: next) {
        case .whole:
            return .whole(String(decoding: name, as: UTF8.self), end: next + GLMMarker.valueBegin.count)
        case .beginning: return .unfinished
        case .none: return .broken
        }
    }

    private var separator: String { argumentCount == 0 ? "" : ", " }

    private func addArguments(_ text: String, _ piece: inout AnswerPiece) {
        piece.append(ToolCallPiece(index: callCount - 1, name: nil, arguments: text))
    }
}

// MARK: Values

extension GLMAnswerParser {
    /// At the beginning of a value: is it a string whatever it says?
    private mutating func stepValue(_ rule: ArgumentRule, _ piece: inout AnswerPiece) -> Bool {
        if !rule.isText {
            let first = placeAfterSpace(from: head)
            if first - head <= Limits.value, !isEnded {
                guard first < input.count else { return false }
                if rule.mayBeJSON(beginningWith: input[first]) {
                    state = .json(rule, scanned: 0)
                    return true
                }
            }
        }
        addArguments("\"", &piece)
        state = .string
        return true
    }

    private mutating func stepString(_ piece: inout AnswerPiece) -> Bool {
        let place = placeOfMarker(from: head)
        if place > head { addString(upTo: place, &piece) }
        guard place < input.count else { return false }
        switch GLMMarker.valueEnd.match(input, at: place) {
        case .whole:
            addArguments("\"", &piece)
            endValue(at: place)
        case .beginning where !isEnded: return false
        default: addString(upTo: place + 1, &piece)
        }
        return true
    }

    /// Some of a string, escaped as JSON has it. Pieces end between characters, so each is escaped by itself.
    private mutating func addString(upTo end: Int, _ piece: inout AnswerPiece) {
        addArguments(Self.escaped(input[head..<end]), &piece)
        head = end
    }

    /// Text as it stands within a JSON string, without the quotes.
    private static func escaped(_ text: ArraySlice<UInt8>) -> String {
        let quoted = JSON.quoted(String(decoding: text, as: UTF8.self))
        // By bytes: a quote may be one character with what it stands beside.
        return String(decoding: quoted.utf8.dropFirst().dropLast(), as: UTF8.self)
    }

    private mutating func stepJSON(_ rule: ArgumentRule, _ scanned: Int, _ piece: inout AnswerPiece) -> Bool {
        var place = placeOfMarker(from: head + scanned)
        while place < input.count, place - head <= Limits.value {
            switch GLMMarker.valueEnd.match(input, at: place) {
            case .whole:
                addArguments(rule.json(input[head..<place]), &piece)
                endValue(at: place)
                return true
            case .beginning where !isEnded:
                state = .json(rule, scanned: place - head)
                return false
            default:
                place = placeOfMarker(from: place + 1)
            }
        }
        guard isEnded || place - head > Limits.value else {
            state = .json(rule, scanned: place - head)
            return false
        }
        // Too long, or cut off; as a string without end it cannot be taken for whole.
        addArguments("\"", &piece)
        state = .string
        return true
    }

    private mutating func endValue(at place: Int) {
        head = place + GLMMarker.valueEnd.count
        state = .arguments
    }
}

extension UInt8 {
    /// Tools have names of letters, digits, dashes and the like; what has white space or the marks of markup and JSON
    /// is none.
    fileprivate var isPartOfName: Bool {
        switch self {
        case 0...0x20, 0x7F, UInt8(ascii: "<"), UInt8(ascii: ">"), UInt8(ascii: "\""), UInt8(ascii: "{"),
            UInt8(ascii: "}"):
            false
        default: true
        }
    }
}
