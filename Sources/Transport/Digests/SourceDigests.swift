import Handoff

/// The digests of the pages of one handoff, taken on its lane as they are sent.
struct SourceDigests {
    /// Bytes whose digests are taken before they are sent, so that they are still in the cache.
    static let strideBytes = 1 << 19

    private let slab: SlabRegion
    private let table: DigestTable?
    /// By position in the handoff's block table.
    private var pages: [PageDigest] = []

    /// `table`: where the digests of pages are kept that may be sent again.
    init(slab: SlabRegion, table: DigestTable?) {
        self.slab = slab
        self.table = table
    }

    /// Another handoff.
    mutating func begin() { pages.removeAll(keepingCapacity: true) }

    /// Takes the digests of a range that is about to be sent. Where it was sent before, by a handoff with the same
    /// prefix, the digests of then are what the decode node is told, and how they differ is returned.
    mutating func take(_ range: WriteRange, of handoff: HandoffID) -> [DigestMismatch] {
        let shape = slab.shape
        guard let first = shape.layer(startingAt: range.offset),
            let last = shape.layer(startingAt: range.offset + range.length)
        else { preconditionFailure("a range that is not whole layers") }
        while pages.count <= range.page { pages.append(PageDigest()) }
        if pages[range.page].layers.isEmpty { pages[range.page] = PageDigest(firstLayer: first) }
        let known = pages[range.page]
        precondition(known.nextLayer == first, "layer \(first) of a page after layer \(known.nextLayer)")
        let bytes = slab.address(of: range.source, offset: range.offset)
        pages[range.page].add(layers: first..<last, at: bytes, shape: shape)
        guard let table else { return [] }
        let found = Array(pages[range.page].layers[known.layers.count...])
        let expected = table.first(range.source, of: handoff, page: range.page, layers: first..<last, digests: found)
        guard expected != found else { return [] }
        pages[range.page] = PageDigest(layers: known.layers + expected, firstLayer: known.firstLayer)
        return (first..<last).filter { expected[$0 - first] != found[$0 - first] }.map {
            DigestMismatch(page: range.page, layer: $0, expected: expected[$0 - first], found: found[$0 - first])
        }
    }

    /// The frame that says that all of a part has been written: header, then its pages, with their digests if the lane
    /// has any.
    func completion(_ terms: PartTerms, sequence: UInt32, digests: Bool) -> [UInt8] {
        let layout = CompletionLayout(of: terms, digests: digests)
        precondition(!digests || pages.count == terms.pages.upperBound, "digests of \(pages.count) pages")
        let header = FrameHeader(
            .completion, count: terms.slots.count, handoff: terms.handoff, part: terms.number, epoch: terms.epoch,
            sequence: sequence)
        let count = LaneWire.headerBytes + layout.bytes
        return [UInt8](unsafeUninitializedCapacity: count) { bytes, initialized in
            let bytes = UnsafeMutableRawBufferPointer(bytes)
            header.write(to: bytes)
            layout.write(
                zip(terms.pages, terms.slots).map { page, slot in
                    CompletionLayout.Page(slot: slot, digest: digests ? pages[page] : PageDigest())
                }, to: UnsafeMutableRawBufferPointer(rebasing: bytes[LaneWire.headerBytes..<count]))
            initialized = count
        }
    }
}
