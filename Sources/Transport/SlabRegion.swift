import CRDMA
package import Handoff

/// The memory that lanes read from and write to: `slotCount` pages, one after the other.
///
/// `@unchecked Sendable`: an address and sizes that never change. Who may touch which page when is what the
/// handoff contract decides; the owner keeps the memory mapped until every lane is shut down.
package struct SlabRegion: @unchecked Sendable {
    package let base: UnsafeMutableRawPointer
    package let slotCount: Int
    package let shape: PageShape

    package init(base: UnsafeMutableRawPointer, slotCount: Int, shape: PageShape) {
        precondition(slotCount > 0 && slotCount <= Int(UInt32.max), "slot count \(slotCount) out of range")
        self.base = base
        self.slotCount = slotCount
        self.shape = shape
    }

    /// The NUMA node it begins on; nil where the system does not say.
    var numaNode: Int? {
        let node = crdma_numa_node(base)
        return node < 0 ? nil : Int(node)
    }

    /// The digests of a part's pages as they are in memory now. All of it has landed, and nobody may touch it before the
    /// seal.
    func digests(of part: PartTerms) -> [PageDigest] {
        part.slots.map { PageDigest.of(page: address(of: $0, offset: 0), layers: part.layers, shape: shape) }
    }

    /// Where a slot's bytes are. The index must be one of this slab's.
    func address(of slot: SlotRef, offset: Int) -> UnsafeMutableRawPointer {
        precondition(Int(slot.index) < slotCount, "slot \(slot.index) is outside the slab")
        return base + (Int(slot.index) * shape.pageBytes + offset)
    }
}
