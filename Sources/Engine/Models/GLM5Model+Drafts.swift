import Glibc
package import Kernels
import ModelFormat

/// The draft layer (multi-token prediction): its KV for rows whose next token is known, and its drafts.
extension GLM5Model {
    /// Stores the draft layer's KV for the tokens of a batch, as far as the hidden state before them is known: that of
    /// the row before, or for a page's first token that in the page before it. A token within a page that begins a
    /// run has its KV already.
    func storeDrafts(
        _ batch: borrowing Batch, _ pages: UnsafePointer<UnsafeMutableRawPointer>, _ drafts: DraftLayer,
        _ memory: GLM5Workspace, _ pool: ComputePool
    ) {
        let (pageTokens, normed, hidden) = (
            layout.pageTokens, memory.rows.normed(batch.rowCount), config.common.hiddenSize
        )
        memory.sources.removeAll(keepingCapacity: true)
        memory.draftRows.removeAll(keepingCapacity: true)
        for run in batch.runs {
            let table = pages + run.firstPage
            for row in run.firstRow..<run.firstRow + run.count {
                let position = batch.positions[row]
                var source = row > run.firstRow ? UnsafePointer(normed[row - 1]) : nil
                if source == nil, position > 0, position % pageTokens == 0 {
                    let page = table[position / pageTokens - 1] + drafts.hiddenPlane
                    source = UnsafePointer(page.assumingMemoryBound(to: Float.self))
                }
                if position % pageTokens == pageTokens - 1 {
                    memcpy(
                        table[position / pageTokens] + drafts.hiddenPlane, normed[row],
                        hidden * MemoryLayout<Float>.size)
                }
                guard let source else { continue }
                (memory.attention.places + memory.draftRows.count).initialize(
                    to: RowPlace(pages: table, slot: position, first: 1))
                memory.sources.append(source)
                memory.draftRows.append(row)
            }
        }
        let count = memory.draftRows.count
        guard count > 0 else { return }
        mix(drafts, memory, pool) { batch.tokens[memory.draftRows[$0]] }
        drafts.layer.attention.store(
            count, drafts.layer.planes, geometry, memory.attention, memory.rows, table: table, pool: pool)
    }

    package func draft(
        _ batch: borrowing DraftBatch, chained: Bool, workspace: any ModelWorkspace, pool: ComputePool,
        hooks: ForwardHooks
    ) {
        guard let memory = workspace as? GLM5Workspace, let drafts else {
            preconditionFailure("another model's workspace, or no draft layer")
        }
        let (rows, count) = (memory.rows, batch.rows.count)
        precondition(count <= rows.rowLimit && count <= memory.logits.rows, "a batch too large")
        guard count > 0 else { return }
        rows.times?.begin()
        batch.pages.withUnsafeBufferPointer { pages in
            guard let pages = pages.baseAddress else { return }
            memory.sources.removeAll(keepingCapacity: true)
            for (index, row) in batch.rows.enumerated() {
                (memory.attention.places + index).initialize(
                    to: RowPlace(pages: pages + row.firstPage, slot: row.slot, first: 1))
                memory.sources.append((chained ? memory.drafted : rows.normed(rows.rowLimit))[row.source])
            }
            mix(drafts, memory, pool) { batch.rows[$0].token }
            drafts.layer.attention.store(
                count, drafts.layer.planes, geometry, memory.attention, rows, table: table, pool: pool)
            let (layer, reuses) = (layers.count, chained && sharesDraftSelection)
            if reuses {
                // Sources ascend and are not before their rows, so none is overwritten before it is read.
                for (index, row) in batch.rows.enumerated() {
                    memory.attention.selections[index] = memory.attention.selections[row.source]
                }
            }
            finish(
                drafts.layer, count, reusesSelection: reuses, memory, pool,
                decided: hooks.decisions(of: layer))
        }
        hooks.hidden?(0, rows.residual(count))
        rows.norm(count, drafts.outputNorm, epsilon: config.normEpsilon, table, pool)
        // The next pass builds on these, and overwrites what is normed.
        memory.drafted.base.update(from: rows.normed(count).base, count: count * config.common.hiddenSize)
        hooks.hidden?(1, rows.normed(count))
        writeLogits(count, memory, pool) { $0 }
        rows.times?.lap(.head)
    }

    /// Fills the residual stream with what the draft layer starts from, for the rows of `memory.sources`: embedding
    /// and hidden state, normed, side by side, projected. A row is rotated to the position before its slot.
    private func mix(
        _ drafts: DraftLayer, _ memory: GLM5Workspace, _ pool: ComputePool, token: (Int) -> TokenID
    ) {
        let (rows, width, epsilon) = (memory.rows, config.common.hiddenSize, config.normEpsilon)
        let (table, embedding, rotary) = (table, embedding, rotary)
        let (places, half, sources) = (memory.attention.places, rotary.rotaryDimensions / 2, memory.sources)
        let (cosines, sines) = (rows.cosines, rows.sines)
        rows.activations.encode(
            rows: sources.count, columns: 2 * width, as: drafts.projection.encodings, pool: pool
        ) { row, out in
            embedding.row(Int(token(row)), table: table, into: out)
            table.rmsNorm(out, weight: drafts.embeddingNorm.base, count: width, epsilon: epsilon, into: out)
            table.rmsNorm(
                sources[row], weight: drafts.hiddenNorm.base, count: width, epsilon: epsilon, into: out + width)
            rotary.angles(
                position: places[row].slot - 1, cosines: cosines + row * half, sines: sines + row * half)
        }
        matmul(drafts.projection, rows.activations, into: rows.residual(sources.count), pool: pool)
    }
}
