/// The rows of one pass of a draft layer (multi-token prediction).
///
/// The draft layer's row for position i is made of the token at i + 1 and of the hidden state at i, so it belongs to
/// the token at i + 1 as far as caching goes, and its KV lies in that token's slot: a page then depends on nothing
/// but the tokens up to its end.
package struct DraftBatch {
    package struct Row: Sendable {
        /// Where the sequence's block table begins in `pages`.
        package var firstPage: Int
        /// Of the token: one more than the position that the row is rotated to.
        package var slot: Int
        package var token: TokenID
        /// The row whose hidden state it builds on.
        package var source: Int
    }

    package private(set) var rows: [Row] = []
    package private(set) var pages: [UnsafeMutableRawPointer] = []

    package init() {}

    package mutating func clear() {
        rows.removeAll(keepingCapacity: true)
        pages.removeAll(keepingCapacity: true)
    }

    /// Adds a block table; rows of its sequence name the number it gives.
    package mutating func addPages(_ addresses: some Sequence<UnsafeMutableRawPointer>) -> Int {
        defer { pages.append(contentsOf: addresses) }
        return pages.count
    }

    package mutating func append(_ row: Row) {
        precondition(row.slot > 0, "the first token has no row before it")
        rows.append(row)
    }

    /// Turns the first `count` rows into those that follow them, with these tokens; drops the others.
    package mutating func advance(_ count: Int, tokens: (_ row: Int) -> TokenID) {
        rows.removeLast(rows.count - count)
        for row in rows.indices {
            rows[row].slot += 1
            rows[row].token = tokens(row)
            rows[row].source = row
        }
    }
}
