import Handoff
import Kernels

/// Speculative decoding without a cluster: the draft layer over a whole sequence, chains of drafts, and greedy decoding
/// with verification.
extension Evaluation {
    /// The draft layer's rows for positions that the last forward pass computed.
    func draft(_ session: Session, _ range: Range<Int>, next: TokenID, _ taps: DraftTaps) {
        var batch = DraftBatch()
        let firstPage = batch.addPages(pages(session, tokens: range.upperBound + 1))
        for position in range {
            let following = position + 1 < range.upperBound ? session.tokens[position + 1] : next
            batch.append(
                DraftBatch.Row(
                    firstPage: firstPage, slot: position + 1, token: following, source: position - range.lowerBound))
        }
        var hooks = ForwardHooks()
        if let hidden = taps.hidden { hooks.hidden = { hidden(range.lowerBound, $0, $1) } }
        if let decided = taps.decided { hooks.decided = { decided(range.lowerBound, $1) } }
        model.model.draft(batch, chained: false, workspace: workspace, pool: pool, hooks: hooks)
        taps.logits(
            range.lowerBound, FloatRows(workspace.logits.base, rows: range.count, columns: model.facts.vocabularySize))
    }

    /// Continues the draft layer's row `row` of the pass before, which predicts the token after `position` + 1, by
    /// `count` - 1 more; returns the drafts and the logits that chose them.
    func chain(
        _ session: Session, from row: Int, position: Int, count: Int
    ) -> (ids: [TokenID], logits: [Float]) {
        let logits = FloatRows(workspace.logits.base, rows: row + 1, columns: model.facts.vocabularySize)
        var values = Array(Self.buffer(logits, row: row))
        var ids = [mostLikely(values)]
        var batch = DraftBatch()
        let firstPage = batch.addPages(pages(session, tokens: position + 1 + count))
        batch.append(DraftBatch.Row(firstPage: firstPage, slot: position + 2, token: ids[0], source: row))
        while ids.count < count {
            model.model.draft(batch, chained: true, workspace: workspace, pool: pool, hooks: ForwardHooks())
            let last = Array(Self.buffer(logits, row: 0))
            ids.append(mostLikely(last))
            values += last
            batch.advance(1) { _ in ids[ids.count - 1] }
        }
        return (ids, values)
    }

    /// Greedy decoding of `count` tokens after a prompt with `drafts` drafted ahead each round. Returns the tokens,
    /// and how many drafts each round accepted.
    package func speculate(
        after tokens: [TokenID], count: Int, drafts: Int
    ) throws(EngineError) -> (ids: [TokenID], accepted: [Int32]) {
        try model.requireDraftLayer()
        let session = try makeSession(capacity: tokens.count + count, spare: 2 * drafts + 1)
        var (row, ids, accepted) = (0, [TokenID](), [Int32]())
        try extend(session, by: tokens) { (first, logits) throws(EngineError) in
            row = logits.rows - 1
            ids = [mostLikely(logits[row])]
        }
        while ids.count < count {
            let newest = ids[ids.count - 1]
            let drafted = draftNext(session, newest: newest, row: row, count: drafts)
            let first = session.tokens.count
            let logits = forward(session, drafts: [newest] + drafted, first..<first + 1 + drafted.count)
            var right = 0
            while right < drafts, mostLikely(logits[right]) == drafted[right] { right += 1 }
            session.tokens += [newest] + drafted[..<right]
            ids += drafted[..<right] + [mostLikely(logits[right])]
            accepted.append(Int32(right))
            row = right
        }
        return (Array(ids.prefix(count)), accepted)
    }

    /// Drafts from the newest token, which follows the session's, and the hidden state in that row of the last pass.
    private func draftNext(_ session: Session, newest: TokenID, row: Int, count: Int) -> [TokenID] {
        let slot = session.tokens.count
        var batch = DraftBatch()
        let firstPage = batch.addPages(pages(session, tokens: slot + 1))
        batch.append(DraftBatch.Row(firstPage: firstPage, slot: slot, token: newest, source: row))
        model.model.draft(batch, chained: false, workspace: workspace, pool: pool, hooks: ForwardHooks())
        return chain(session, from: 0, position: slot - 1, count: count).ids
    }

    private func pages(_ session: Session, tokens: Int) -> [UnsafeMutableRawPointer] {
        session.slots.prefix(model.layout.pages(for: tokens)).map { session.memory.page($0.index) }
    }
}
