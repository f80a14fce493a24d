package import Handoff

/// The rows of one forward pass: runs of consecutive positions of several sequences, one row per position.
/// Reused from step to step, so that a step allocates nothing once the buffers have grown.
package struct Batch {
    /// Whose logits are wanted: of that many rows at the end.
    package enum LogitRows: Sendable {
        case none, last, all
        case end(Int)
    }

    /// Consecutive positions of one sequence: rows `firstRow..<firstRow + count`.
    package struct Run: Sendable {
        package var firstRow: Int
        package var count: Int
        package var firstPosition: Int
        /// Where the sequence's block table begins in `pages`.
        package var firstPage: Int
    }

    package private(set) var runs: [Run] = []
    /// By row.
    package private(set) var tokens: [TokenID] = []
    package private(set) var positions: [Int] = []
    package private(set) var runOfRow: [Int] = []
    /// Rows whose logits are wanted, ascending.
    package private(set) var logitRows: [Int] = []
    /// The block tables of all runs: addresses of pages.
    package private(set) var pages: [UnsafeMutableRawPointer] = []

    package init() {}

    package var rowCount: Int { tokens.count }

    package mutating func clear() {
        runs.removeAll(keepingCapacity: true)
        tokens.removeAll(keepingCapacity: true)
        positions.removeAll(keepingCapacity: true)
        runOfRow.removeAll(keepingCapacity: true)
        logitRows.removeAll(keepingCapacity: true)
        pages.removeAll(keepingCapacity: true)
    }

    /// Adds positions `range` of a sequence, and of the drafts that may follow it. Its KV for earlier positions is in
    /// `slots`, whose pages also take the KV of these.
    package mutating func append(
        sequence: [TokenID], drafts: [TokenID] = [], range: Range<Int>, slots: [SlotRef], memory: KVMemory,
        logits: LogitRows
    ) {
        let pageTokens = memory.layout.pageTokens
        precondition(
            !range.isEmpty && range.upperBound <= sequence.count + drafts.count,
            "positions \(range) of \(sequence.count)")
        precondition(range.upperBound <= slots.count * pageTokens, "position \(range.upperBound) has no page")
        let run = Run(
            firstRow: rowCount, count: range.count, firstPosition: range.lowerBound, firstPage: pages.count)
        for position in range {
            runOfRow.append(runs.count)
            tokens.append(position < sequence.count ? sequence[position] : drafts[position - sequence.count])
            positions.append(position)
        }
        runs.append(run)
        for slot in slots.prefix(memory.layout.pages(for: range.upperBound)) { pages.append(memory.page(slot.index)) }
        switch logits {
        case .none: break
        case .last: logitRows.append(rowCount - 1)
        case .all: logitRows.append(contentsOf: run.firstRow..<rowCount)
        case .end(let count): logitRows.append(contentsOf: rowCount - count..<rowCount)
        }
    }
}
