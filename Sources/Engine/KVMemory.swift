import Glibc
package import Handoff
package import Synchronization

/// The one region of memory that holds a node's KV pages: zeroed at first, page-aligned, unmapped at the end.
///
/// `@unchecked Sendable`: the address and size never change. Who may touch which bytes is not decided here: a slot
/// is written and read only by its owner in the `SlotPool`, and owners change under that pool's mutex.
package final class Slab: @unchecked Sendable {
    package let base: UnsafeMutableRawPointer
    package let bytes: Int
    /// Whether it lies in huge pages that the operator set aside (`vm.nr_hugepages`): they are never broken up, and an
    /// RDMA adapter keeps one entry for each rather than 512.
    package let isInReservedPages: Bool

    /// Throws `memory` with the size and the limit when the system cannot back that many bytes.
    package init(bytes: Int) throws(EngineError) {
        guard bytes > 0 else { throw .memory(reason: "a slab of \(bytes) bytes") }
        self.bytes = bytes
        if let base = Slab.inReservedPages(bytes) {
            self.base = base
            isInReservedPages = true
            return
        }
        isInReservedPages = false
        let available = SystemMemory.availableBytes()
        guard bytes <= available else {
            throw .memory(
                reason: "\(SystemMemory.text(bytes)) wanted, but the system has only "
                    + "\(SystemMemory.text(available)) available; ask for fewer pages")
        }
        let flags = MAP_PRIVATE | MAP_ANONYMOUS
        guard let base = mmap(nil, bytes, PROT_READ | PROT_WRITE, flags, -1, 0), base != MAP_FAILED else {
            throw .memory(reason: "mmap of \(SystemMemory.text(bytes)) failed: \(String(cString: strerror(errno)))")
        }
        // Fewer TLB misses in attention; it is only advice, so a refusal does not matter.
        _ = madvise(base, bytes, MADV_HUGEPAGE)
        self.base = base
    }

    deinit { munmap(base, isInReservedPages ? Slab.wholeHugePages(bytes) : bytes) }

    /// Nil when there are not enough of them.
    private static func inReservedPages(_ bytes: Int) -> UnsafeMutableRawPointer? {
        let whole = wholeHugePages(bytes)
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | hugePageShift << 26  // MAP_HUGE_SHIFT
        guard let base = mmap(nil, whole, PROT_READ | PROT_WRITE, flags, -1, 0), base != MAP_FAILED else { return nil }
        // A container may see pages that it may not use, which a first write would end the process for; this asks.
        guard madvise(base, whole, 23) == 0 else {  // MADV_POPULATE_WRITE
            munmap(base, whole)
            return nil
        }
        return base
    }

    /// Of 2 MiB, which x86-64 and arm64 both have.
    private static let hugePageShift: Int32 = 21

    private static func wholeHugePages(_ bytes: Int) -> Int {
        let page = 1 << Int(hugePageShift)
        return (bytes + page - 1) / page * page
    }
}

/// A node's KV pages: the slab, and who owns which page of it. Shared by the engine loop, the handoff and the lanes.
package final class KVMemory: Sendable {
    package let layout: PageLayout
    package let slab: Slab
    package let pageCount: Int
    /// Held for bookkeeping only, never while computing or copying.
    package let pool: Mutex<SlotPool>

    /// Throws `invalid` for a page count out of range, `memory` when the system has not that much.
    package init(layout: PageLayout, pageCount: Int) throws(EngineError) {
        guard pageCount > 0, pageCount <= Int(UInt32.max), pageCount <= Int.max / max(layout.pageBytes, 1) else {
            throw .invalid(field: "KV pages", reason: "\(pageCount) is not in 1...\(UInt32.max)")
        }
        self.layout = layout
        self.pageCount = pageCount
        slab = try Slab(bytes: pageCount * layout.pageBytes)
        pool = Mutex(SlotPool(slotCount: pageCount))
    }

    /// As many whole pages as fit in `bytes`.
    package convenience init(layout: PageLayout, bytes: Int) throws(EngineError) {
        guard bytes >= layout.pageBytes else {
            throw .invalid(
                field: "KV memory",
                reason: "\(SystemMemory.text(bytes)) is less than one page of \(layout.pageBytes) bytes")
        }
        try self.init(layout: layout, pageCount: bytes / layout.pageBytes)
    }

    /// Where a page begins. The caller owns the slot, which is what makes the access safe.
    package func page(_ index: UInt32) -> UnsafeMutableRawPointer {
        precondition(Int(index) < pageCount, "slot \(index) of \(pageCount)")
        return slab.base + Int(index) * layout.pageBytes
    }

    package var counts: SlotPool.Counts { pool.withLock { $0.counts } }
}
