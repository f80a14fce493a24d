import Glibc

/// Page-aligned, zeroed memory that this object owns, outside the allocator: weights, slabs, scratch.
///
/// Pointers into it are valid while the object lives. Swift may release an object after its last mention, so
/// whoever works on pointers alone holds on to it with `withExtendedLifetime`.
///
/// The system hands out its pages at their first use, so unused parts cost nothing.
///
/// `@unchecked`: the object itself never changes; who may touch which bytes is the callers' contract, as it
/// is for the pointers they take.
package final class MemoryRegion: @unchecked Sendable {
    package let byteCount: Int
    package let base: UnsafeMutableRawPointer

    /// - Parameter hugePages: ask for transparent huge pages (advice; worth it for what is read end to end).
    package init(bytes: Int, hugePages: Bool = false) throws(KernelError) {
        guard bytes > 0 else { throw .badShape("memory: a region of \(bytes) bytes") }
        let mapped = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let mapped, mapped != MAP_FAILED else { throw .outOfMemory(bytes: bytes) }
        // Advice: refusing it changes no result.
        if hugePages { _ = madvise(mapped, bytes, MADV_HUGEPAGE) }
        byteCount = bytes
        base = mapped
    }

    deinit { munmap(base, byteCount) }

    /// The bytes from `byteOffset` on, as elements of `type`; the offset must be aligned and inside.
    package func pointer<Element: BitwiseCopyable>(
        to type: Element.Type, byteOffset: Int = 0
    ) -> UnsafeMutablePointer<Element> {
        precondition(byteOffset >= 0 && byteOffset <= byteCount && byteOffset % MemoryLayout<Element>.alignment == 0)
        return (base + byteOffset).assumingMemoryBound(to: type)
    }
}
