import Kernels

/// What a forward pass spends its time on, for benchmarks.
extension Evaluation {
    /// Time by part of a prompt computed as a prefill node does it, and of tokens generated one by one after it.
    package struct Parts {
        package var prefill = PartTimes()
        package var prefillSeconds = 0.0
        package var decode = PartTimes()
        package var decodeSeconds = 0.0
        /// Of both.
        package var experts: [ExpertLoad] = []
    }

    /// Throws `tooLong` when the tokens don't fit the context. Generates greedily, without drafts.
    package func parts(of prompt: [TokenID], generating count: Int) throws(EngineError) -> Parts {
        try check(prompt)
        let session = try makeSession(capacity: prompt.count + count)
        session.tokens = prompt
        var parts = Parts()
        let clock = ContinuousClock()
        workspace.times = parts.prefill
        var began = clock.now
        var start = 0
        while start < prompt.count {
            let end = min(start + chunkTokens, prompt.count)
            _ = forward(session, start..<end, logits: end == prompt.count ? .last : .none)
            start = end
        }
        parts.prefillSeconds = (clock.now - began) / .seconds(1)
        workspace.times = parts.decode
        began = clock.now
        for _ in 0..<count {
            session.tokens.append(mostLikely(workspace.logits[0]))
            _ = forward(session, session.tokens.count - 1..<session.tokens.count, logits: .last)
        }
        parts.decodeSeconds = (clock.now - began) / .seconds(1)
        workspace.times = nil
        parts.experts = workspace.expertLoads
        return parts
    }
}
