package import OrderedJSON

/// How a model writes its answers: what beside plain text there is in them.
package enum AnswerFormat: Equatable, Sendable {
    /// Text, delivered as it is.
    case plain
    /// Thoughts and tool calls between the markers of GLM-4.5 to GLM-5.
    case glm

    /// The format that goes with a chat template: a template that writes past tool calls in GLM's markers comes with a
    /// model that writes its own so.
    package init(template: String) {
        let needed: [GLMMarker] = [.thinkEnd, .callBegin, .keyBegin, .valueBegin]
        self = needed.allSatisfy { template.contains($0.rawValue) } ? .glm : .plain
    }

    /// What the parser must see of the answer even where the tokenizer calls it a control token.
    package var markers: [String] {
        switch self {
        case .plain: []
        case .glm: GLMMarker.allCases.map(\.rawValue)
        }
    }

    /// The parser for one choice's answer; nil where there is nothing to tell apart.
    /// - Parameters:
    ///   - prompt: the rendered prompt, whose end says whether the answer begins with thoughts.
    ///   - tools: the request's tools; nil: what looks like a call is text.
    ///   - callsMax: the answer is over after so many calls.
    package func parser(prompt: String, tools: JSON?, callsMax: Int?) -> GLMAnswerParser? {
        switch self {
        case .plain: nil
        case .glm:
            GLMAnswerParser(
                beginsInReasoning: Self.leavesThinkingOpen(prompt), tools: tools.map(ToolSchemas.init),
                callsMax: callsMax)
        }
    }

    /// Whether the prompt's last turn has opened `<think>` and not closed it. (Published templates end the prompt of
    /// an answer with `<|assistant|><think>`, or with `</think>` when thinking is off; GLM-4.5's leave the opening to
    /// the model.)
    static func leavesThinkingOpen(_ prompt: String) -> Bool {
        let text = Array(prompt.utf8)
        for start in text.indices.reversed() where text[start] == UInt8(ascii: "<") {
            if GLMMarker.thinkBegin.match(text, at: start) == .whole { return true }
            if GLMMarker.thinkEnd.match(text, at: start) == .whole { return false }
            // What came before this turn has no say in it.
            if text[start...].starts(with: "<|assistant|>".utf8) { return false }
        }
        return false
    }
}
