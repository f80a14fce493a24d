/// Where the rows of a pass lie in their sequences' pages.
struct RowPlace {
    /// The sequence's block table.
    var pages: UnsafePointer<UnsafeMutableRawPointer>
    /// The position whose place in the pages is the row's.
    var slot: Int
    /// The first position of the sequence that holds anything.
    var first: Int

    /// Positions the row may attend to.
    var visible: Range<Int> { first..<slot + 1 }
}
