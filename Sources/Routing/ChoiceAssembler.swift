package import API
package import ControlPlane
package import Tokenization

/// Turns one choice's tokens into text a client may see: whole characters, nothing of a stop string, and each
/// token's logprobs together with the text it is part of. Pure.
package struct ChoiceAssembler: Sendable {
    private let tokenizer: Tokenizer
    private var detokenizer: IncrementalDetokenizer
    private var stops: StopMatcher
    private let wantsLogprobs: Bool
    /// Tokens whose text is not out yet, with the byte offset at which it begins.
    private var pending: [(entry: TokenLogprobs, start: Int)] = []
    private var bytesOut = 0
    /// Characters given out so far.
    package private(set) var charactersOut = 0
    /// Tokens taken in; those after a stop string are not counted.
    package private(set) var tokenCount = 0
    /// A stop string was met: the choice is complete.
    package private(set) var isStopped = false

    package init(tokenizer: Tokenizer, stops: [String], logprobs: Bool) {
        self.tokenizer = tokenizer
        detokenizer = IncrementalDetokenizer(tokenizer)
        self.stops = StopMatcher(stops)
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
            let (text, matched) = stops.append(detokenizer.append(id))
            piece.text += text
            isStopped = matched != nil
        }
        release(&piece)
        return piece
    }

    /// The end came: what was held back.
    package mutating func finish() -> AnswerPiece {
        var piece = AnswerPiece()
        guard !isStopped else { return piece }
        let (text, matched) = stops.append(detokenizer.finish())
        piece.text = text
        isStopped = matched != nil
        if !isStopped { piece.text += stops.finish() }
        release(&piece, all: !isStopped)
        return piece
    }

    /// Moves the logprobs of tokens whose text has begun to go out.
    private mutating func release(_ piece: inout AnswerPiece, all: Bool = false) {
        bytesOut += piece.text.utf8.count
        charactersOut += piece.text.unicodeScalars.count
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
