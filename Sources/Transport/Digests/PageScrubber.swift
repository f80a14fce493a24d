import Glibc
package import Handoff
import Threads

/// Reads pages again, slowly and for ever, and compares them with the digests in a table. It has a thread of its own
/// at the lowest priority, and reads a bounded number of bytes per second.
///
/// It holds nothing: a page may leave its owner while it is read, and then a lane or an engine may write what is being
/// read. That is sound because what was read is used only if the slot is still at the entry's generation afterwards.
/// A generation never comes back, so the slot then had that owner all the time, and the table has only pages that their
/// owner does not write. Bytes of anybody else are hashed at worst, and the result is thrown away.
package final class PageScrubber: Sendable {
    package struct Settings: Sendable {
        /// Reading at 1/40 of what one core hashes, a GiB of pages in use is looked at every four seconds.
        package static let defaultBytesPerSecond = 256 << 20
        package var bytesPerSecond = defaultBytesPerSecond
        /// Sleeps are at least this long, so that a pause costs little beside what was read.
        package var pauseMin: Duration = .milliseconds(5)

        package init() {}
    }

    package struct Counters: Sendable, Equatable {
        package var pages: UInt64 = 0
        package var bytes: UInt64 = 0
        /// Pages that left their owner before or while they were read.
        package var discarded: UInt64 = 0
        package var mismatches: UInt64 = 0

        package init() {}
    }

    private let slab: SlabRegion
    private let table: DigestTable
    private let settings: Settings
    private let isOwned: @Sendable (SlotRef) -> Bool
    private let onMismatch: @Sendable (DigestTable.Entry, [DigestMismatch]) -> Void
    private let threads = ThreadGroup()
    private let totals = Monitor(Counters())

    /// Starts the thread. `isOwned`: whether the slot is at this generation and its contents in use. `onMismatch` is
    /// called on the scrubber's thread, once per slot and generation.
    package init(
        slab: SlabRegion, table: DigestTable, settings: Settings = Settings(),
        isOwned: @escaping @Sendable (SlotRef) -> Bool,
        onMismatch: @escaping @Sendable (DigestTable.Entry, [DigestMismatch]) -> Void
    ) throws(TransportError) {
        precondition(settings.bytesPerSecond > 0, "a scrub of \(settings.bytesPerSecond) bytes per second")
        self.slab = slab
        self.table = table
        self.settings = settings
        self.isOwned = isOwned
        self.onMismatch = onMismatch
        try threads.start("page-scrub") { [self] in run() }
    }

    package var counters: Counters { totals.withLock { $0 } }

    /// Ends the thread and waits for it. No mismatch is reported after that.
    package func shutdown() {
        table.stop()
        threads.waitForAll()
    }

    private func run() {
        // Of this thread alone: on Linux a priority is a thread's.
        _ = setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, 19)
        var owed = Duration.zero
        while table.waitForEntries() {
            guard let entry = table.next() else {
                // Entries, but none that is whole in this stretch.
                guard table.pause(settings.pauseMin) else { return }
                continue
            }
            owed += .seconds(1) * Double(look(at: entry)) / Double(settings.bytesPerSecond)
            guard owed >= settings.pauseMin else { continue }
            guard table.pause(owed) else { return }
            owed = .zero
        }
    }

    /// Compares one page; returns how many bytes were read.
    private func look(at entry: DigestTable.Entry) -> Int {
        guard isOwned(entry.slot) else { return discard(entry, 0) }
        var differences: [DigestMismatch] = []
        var bytes = 0
        for (layer, expected) in entry.layers.enumerated() {
            let range = slab.shape.bytes(of: layer..<layer + 1)
            let address = slab.address(of: entry.slot, offset: range.lowerBound)
            let found = PageDigest.of(layer: layer, at: UnsafeRawPointer(address), shape: slab.shape)
            bytes += range.count
            if found != expected {
                differences.append(
                    DigestMismatch(page: entry.page, layer: layer, expected: expected, found: found))
            }
        }
        guard isOwned(entry.slot) else { return discard(entry, bytes) }
        let isNews = !differences.isEmpty && table.report(entry.slot)
        totals.withLock { totals in
            totals.pages += 1
            totals.bytes += UInt64(bytes)
            if isNews { totals.mismatches += 1 }
        }
        if isNews { onMismatch(entry, differences) }
        return bytes
    }

    private func discard(_ entry: DigestTable.Entry, _ bytes: Int) -> Int {
        table.forget(entry.slot)
        totals.withLock { totals in
            totals.bytes += UInt64(bytes)
            totals.discarded += 1
        }
        return bytes
    }
}
