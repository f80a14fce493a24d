package import API
import ControlPlane
package import Messages
package import Tokenization

/// Turns one choice's tokens into what a client may see: whole characters, nothing of a stop string, told apart where
/// the model's format has more than text, and each token's logprobs together with the text it is part of. Pure.
///
/// Stop strings are looked for in the text as the model wrote it, markers of its format included, before it is told
/// apart: a client may stop at `</think>` as at any other text.
package struct ChoiceAssembler: Sendable {
    private let tokenizer: Tokenizer
    private var detokenizer: IncrementalDetokenizer
    private var stops: StopMatcher
    private var parser: GLMAnswerParser?
    private let wantsLogprobs: Bool
    /// Tokens whose text is not out yet, with the byte offset at which it begins.
    private var pending: [(entry: TokenLogprobs, start: Int)] = []
    /// Bytes that came, and those that no stop string takes back.
    private var bytesIn = 0
    private var bytesOut = 0
    /// Where the tokens begin of which it is not certain yet whether they are reasoning.
    private var uncertain: [Int] = []
    /// Characters given out so far.
    package private(set) var charactersOut = 0
    /// Tokens taken in; those after a stop string are not counted.
    package private(set) var tokenCount = 0
    /// How many of them are reasoning; nil where the format has none. Complete once the choice is.
    package private(set) var reasoningCount: Int?
    /// A stop string was met, or no further tool call is wanted: the choice is complete.
    package private(set) var isStopped = false

    /// - Parameters:
    ///   - parser: tells the answer apart; nil: it is plain text.
    ///   - markers: control tokens whose text the parser must see.
    package init(
        tokenizer: Tokenizer, stops: [String], logprobs: Bool, parser: GLMAnswerParser? = nil,
        markers: Set<Int32> = []
    ) {
        self.tokenizer = tokenizer
        detokenizer = IncrementalDetokenizer(tokenizer, showing: parser == nil ? [] : markers)
        self.stops = StopMatcher(stops)
        self.parser = parser
        reasoningCount = parser == nil ? nil : 0
        wantsLogprobs = logprobs
    }

    /// More tokens; what they make certain. After a stop string nothing more comes.
    package mutating func append(_ tokens: [UInt32], alternatives: [[TokenLogprob]]) -> AnswerPiece {
        var piece = AnswerPiece()
        for (index, token) in tokens.enumerated() {
            guard !isStopped else { break }
            guard let id = Int32(exactly: token) else { continue }
            tokenCount += 1
            if wantsLogprobs, index < alternatives.count {
                pending.append((entry: Self.entry(alternatives[index], id, tokenizer), start: detokenizer.byteOffset))
            }
            if parser != nil { uncertain.append(bytesIn) }
            let portion = detokenizer.append(id)
            bytesIn += portion.utf8.count
            let (text, matched) = stops.append(portion)
            isStopped = matched != nil
            take(text, isLast: isStopped, &piece)
        }
        release(&piece)
        return piece
    }

    /// The end came: what was held back.
    package mutating func finish() -> AnswerPiece {
        var piece = AnswerPiece()
        guard !isStopped else { return piece }
        let (text, matched) = stops.append(detokenizer.finish())
        isStopped = matched != nil
        take(isStopped ? text : text + stops.finish(), isLast: true, &piece)
        release(&piece, all: !isStopped)
        return piece
    }

    /// Why the choice ended, for the client, when its tokens ended for `reason`.
    package func finishReason(_ reason: FinishReason) -> FinishReason {
        let reason = isStopped ? .stop : reason
        return reason == .stop && (parser?.finishedCalls ?? 0) > 0 ? .toolCalls : reason
    }

    /// Adds text that no stop string takes back.
    private mutating func take(_ text: String, isLast: Bool, _ piece: inout AnswerPiece) {
        bytesOut += text.utf8.count
        charactersOut += text.unicodeScalars.count
        guard parser != nil else {
            piece.text += text
            return
        }
        parser?.append(text, to: &piece)
        if isLast { parser?.finish(&piece) }
        if parser?.isOver ?? false { isStopped = true }
        countReasoning()
    }

    /// Counts the tokens of which it is certain by now.
    private mutating func countReasoning() {
        var certain = 0
        var reasoning = 0
        for start in uncertain {
            guard let isReasoning = parser?.isReasoning(at: start) else { break }
            certain += 1
            reasoning += isReasoning ? 1 : 0
        }
        uncertain.removeFirst(certain)
        reasoningCount = (reasoningCount ?? 0) + reasoning
    }

    /// Moves the logprobs of tokens whose text has begun to go out.
    private mutating func release(_ piece: inout AnswerPiece, all: Bool = false) {
        let count = all ? pending.count : pending.prefix { $0.start < bytesOut }.count
        piece.logprobs = pending.prefix(count).map(\.entry)
        pending.removeFirst(count)
    }

    private static func entry(_ alternatives: [TokenLogprob], _ chosen: Int32, _ tokenizer: Tokenizer) -> TokenLogprobs
    {
        func candidate(_ logprob: TokenLogprob) -> TokenLogprobs.Candidate {
            TokenLogprobs.Candidate(
                bytes: tokenizer.bytes(of: Int32(exactly: logprob.token) ?? -1), logprob: Double(logprob.logprob))
        }
        guard let first = alternatives.first else {
            return TokenLogprobs(
                chosen: TokenLogprobs.Candidate(bytes: tokenizer.bytes(of: chosen), logprob: -.infinity), top: [])
        }
        return TokenLogprobs(chosen: candidate(first), top: alternatives.dropFirst().map(candidate))
    }
}
