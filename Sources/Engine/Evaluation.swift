import Handoff
package import Kernels
import ModelFormat
import Synchronization

/// Runs a model without a cluster, and shows its numbers: the door through which an outside reference checks them.
/// Uses the same forward pass, pages and chunks as the nodes.
package final class Evaluation {
    package let model: LoadedModel
    let pool: ComputePool
    let chunkTokens: Int
    let workspace: any ModelWorkspace
    private var batch = Batch()

    /// - Parameter chunkTokens: positions per forward pass; rounded up to whole pages.
    package init(model: LoadedModel, threads: Int = 0, chunkTokens: Int = 512) throws(EngineError) {
        guard (1...16384).contains(chunkTokens) else {
            throw .invalid(field: "chunk", reason: "\(chunkTokens) is not in 1...16384")
        }
        self.model = model
        self.chunkTokens = model.layout.pages(for: chunkTokens) * model.layout.pageTokens
        pool = try ComputePool.make(threads: threads)
        // A round of speculative decoding computes a row for each draft, and one more.
        let rows = max(self.chunkTokens, 1 + EngineOptions.draftsMax)
        workspace = try model.model.makeWorkspace(rows: rows, logitRows: rows, pool: pool)
    }

    deinit { pool.shutdown() }

    /// A sequence's KV in a memory of its own.
    package final class Session {
        let memory: KVMemory
        let slots: [SlotRef]
        package internal(set) var tokens: [TokenID] = []

        init(layout: PageLayout, capacity: Int) throws(EngineError) {
            memory = try KVMemory(layout: layout, pageCount: max(1, layout.pages(for: capacity)))
            slots = memory.pool.withLock { [count = memory.pageCount] in $0.lease(count) ?? [] }
        }
    }

    /// Room for `capacity` positions, and for `spare` more that drafts take up for a while. Throws `tooLong` beyond the
    /// model's context.
    package func makeSession(capacity: Int, spare: Int = 0) throws(EngineError) -> Session {
        guard capacity <= model.facts.contextLimit else {
            throw .tooLong(tokens: capacity, limit: model.facts.contextLimit, what: "the context")
        }
        return try Session(layout: model.layout, capacity: capacity + spare)
    }

    /// What a caller wants to see of a forward pass, each with the first position of the rows it sees.
    package struct Taps {
        /// As in `ForwardHooks`.
        package var hidden: ((_ first: Int, _ index: Int, _ rows: FloatRows) -> Void)?
        package var decided: ((_ first: Int, _ layer: Int, _ decision: Decision) -> Void)?
        package var drafts: DraftTaps?

        package init() {}
    }

    /// The same for the draft layer, whose row for position i takes the token at i + 1; after the last token that is the
    /// most likely one.
    package struct DraftTaps {
        package var logits: (_ first: Int, _ rows: FloatRows) -> Void
        /// 0: the layer's output; 1: that, normed.
        package var hidden: ((_ first: Int, _ index: Int, _ rows: FloatRows) -> Void)?
        package var decided: ((_ first: Int, _ decision: Decision) -> Void)?

        package init(logits: @escaping (Int, FloatRows) -> Void) { self.logits = logits }
    }

    /// Appends tokens to a session in chunks, and gives `visit` the logits of their positions, chunk by chunk:
    /// row i of the view belongs to position `first + i`.
    package func extend(
        _ session: Session, by tokens: [TokenID], taps: Taps = Taps(),
        visit: (_ firstPosition: Int, _ logits: FloatRows) throws(EngineError) -> Void
    ) throws(EngineError) {
        try check(tokens)
        var start = session.tokens.count
        session.tokens += tokens
        while start < session.tokens.count {
            let page = model.layout.pageTokens
            var end = min(start + chunkTokens, session.tokens.count)
            if end < session.tokens.count { end = end / page * page }
            let logits = forward(session, start..<end, taps: taps)
            try visit(start, logits)
            if let drafts = taps.drafts {
                let last = logits[end - start - 1]
                let next = end < session.tokens.count ? session.tokens[end] : mostLikely(last)
                draft(session, start..<end, next: next, drafts)
            }
            start = end
        }
    }

    /// Computes some positions, which may reach over the session's tokens into `drafts`; returns the logits that were
    /// asked for.
    func forward(
        _ session: Session, drafts: [TokenID] = [], _ range: Range<Int>, logits: Batch.LogitRows = .all,
        taps: Taps = Taps()
    ) -> FloatRows {
        batch.clear()
        batch.append(
            sequence: session.tokens, drafts: drafts, range: range, slots: session.slots, memory: session.memory,
            logits: logits)
        var hooks = ForwardHooks()
        if let hidden = taps.hidden { hooks.hidden = { hidden(range.lowerBound, $0, $1) } }
        if let decided = taps.decided { hooks.decided = { decided(range.lowerBound, $0, $1) } }
        _ = model.model.forward(batch, workspace: workspace, pool: pool, hooks: hooks)
        return FloatRows(workspace.logits.base, rows: batch.logitRows.count, columns: model.facts.vocabularySize)
    }

    /// The lowest id wins a tie.
    func mostLikely(_ logits: UnsafePointer<Float>) -> TokenID {
        TokenID(model.table.argmax(logits, count: model.facts.vocabularySize))
    }

    func check(_ tokens: [TokenID]) throws(EngineError) {
        let vocabulary = model.facts.vocabularySize
        if let wrong = tokens.first(where: { $0 < 0 || $0 >= vocabulary }) {
            throw .invalid(field: "ids", reason: "\(wrong) is not in 0..<\(vocabulary)")
        }
    }

    /// The greedy continuation of a session whose last position has the logits `last`: its ids, and the rows of
    /// logits that chose them. The lowest id wins a tie; no token stops it.
    package func greedy(
        _ session: Session, count: Int, from last: [Float]
    ) throws(EngineError) -> (ids: [TokenID], logits: [Float]) {
        var ids: [TokenID] = []
        var rows = last
        var current = last
        while true {
            let next = mostLikely(current)
            ids.append(next)
            if ids.count == count { return (ids, rows) }
            try extend(session, by: [next]) { (_, logits) throws(EngineError) in
                current = Array(Self.buffer(logits, row: 0))
            }
            rows += current
        }
    }

    /// Mean negative log-likelihood (nats) of each token after the first, given those before it. Long texts are cut
    /// into windows of the context limit, each evaluated by itself.
    package func loss(of tokens: [TokenID]) throws(EngineError) -> (loss: Double, predictedTokens: Int) {
        guard tokens.count >= 2 else {
            throw .invalid(field: "perplexity", reason: "the text has \(tokens.count) tokens, at least 2 are needed")
        }
        var total = 0.0
        var predicted = 0
        var start = 0
        while start + 1 < tokens.count {
            let window = Array(tokens[start..<min(start + model.facts.contextLimit, tokens.count)])
            let session = try makeSession(capacity: window.count)
            try extend(session, by: window) { (first, logits) throws(EngineError) in
                for row in 0..<logits.rows where first + row + 1 < window.count {
                    let normaliser = model.table.logSumExp(logits[row], count: model.facts.vocabularySize)
                    total += Double(normaliser) - Double(logits[row][Int(window[first + row + 1])])
                    predicted += 1
                }
            }
            start += window.count
        }
        return (total / Double(predicted), predicted)
    }

    static func buffer(_ rows: FloatRows, row: Int) -> UnsafeBufferPointer<Float> {
        UnsafeBufferPointer(start: UnsafePointer(rows[row]), count: rows.columns)
    }
}
