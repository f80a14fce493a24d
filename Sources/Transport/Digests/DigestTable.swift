package import Handoff
import Threads

/// The digests of pages that a node holds, by slot and generation.
///
/// A prefill node enters a page's digest when it first sends it: a page of its prefix cache that is sent again must
/// still have it. A decode node enters the pages of sealed handoffs that nobody writes any more. The scrub walks the
/// table. One entry per slot; an entry of an older generation is simply overwritten.
package final class DigestTable: Sendable {
    package struct Entry: Sendable, Equatable {
        package let slot: SlotRef
        /// Whose page it is; on a prefill node, who sent it first.
        package let handoff: HandoffID
        /// Position in that handoff's block table.
        package let page: Int
        /// Of the layers known so far.
        package fileprivate(set) var layers: [UInt64]
        /// A mismatch was reported already.
        package fileprivate(set) var isReported = false
    }

    private struct Guarded: Sendable {
        /// By slot index.
        var entries: [Entry?]
        var count = 0
        /// Entered whole and not looked at yet; the newest is looked at first.
        var fresh: [UInt32] = []
        var cursor = 0
        var passes: UInt64 = 0
        var isStopped = false
    }

    private let layerCount: Int
    private let guarded: Monitor<Guarded>
    /// Slots looked at under the lock at once.
    private static let strideMax = 4096

    package init(slotCount: Int, layerCount: Int) {
        self.layerCount = layerCount
        guarded = Monitor(Guarded(entries: Array(repeating: nil, count: slotCount)))
    }

    // MARK: Keeping

    /// Enters whole pages, to be looked at soon.
    package func enter(_ pages: [(slot: SlotRef, page: Int, digest: PageDigest)], of handoff: HandoffID) {
        change { guarded in
            for (slot, page, digest) in pages {
                precondition(digest.layers.count == layerCount, "\(digest.layers.count) layers of \(layerCount)")
                set(Entry(slot: slot, handoff: handoff, page: page, layers: digest.layers), &guarded)
                guarded.fresh.append(slot.index)
            }
            // Nobody looks, or too slowly: the oldest wait for the walk to reach them.
            let excess = guarded.fresh.count - guarded.entries.count
            if excess > 0 { guarded.fresh.removeFirst(excess) }
        }
    }

    /// The digests of these layers as they were when the slot was first sent at this generation. Layers not known
    /// yet are entered as given.
    func first(
        _ slot: SlotRef, of handoff: HandoffID, page: Int, layers: Range<Int>, digests: [UInt64]
    ) -> [UInt64] {
        change { guarded in
            var entry = Entry(slot: slot, handoff: handoff, page: page, layers: [])
            if let known = guarded.entries[Int(slot.index)], known.slot == slot { entry = known }
            // A lane sends a page's layers in order; of two that send the same page one may be ahead.
            if entry.layers.count >= layers.lowerBound, entry.layers.count < layers.upperBound {
                entry.layers += digests[(entry.layers.count - layers.lowerBound)...]
                set(entry, &guarded)
            }
            guard entry.layers.count >= layers.upperBound else { return digests }
            return Array(entry.layers[layers])
        }
    }

    /// Forgets a slot that is not at this generation any more.
    package func forget(_ slot: SlotRef) {
        guarded.withLock { guarded in
            guard guarded.entries[Int(slot.index)]?.slot == slot else { return }
            guarded.entries[Int(slot.index)] = nil
            guarded.count -= 1
        }
    }

    /// Whether this is the first mismatch of the slot at this generation.
    package func report(_ slot: SlotRef) -> Bool {
        guarded.withLock { guarded in
            guard guarded.entries[Int(slot.index)]?.slot == slot,
                guarded.entries[Int(slot.index)]?.isReported == false
            else { return false }
            guarded.entries[Int(slot.index)]?.isReported = true
            return true
        }
    }

    /// Wakes the walk only where it has nothing to look at: entries come many times a second.
    private func change<Result>(_ body: (inout Guarded) -> Result) -> Result {
        let (result, isFirst) = guarded.withLock { guarded in
            let wasEmpty = guarded.count == 0
            let result = body(&guarded)
            return (result, wasEmpty && guarded.count > 0)
        }
        if isFirst { guarded.update { _ in } }
        return result
    }

    private func set(_ entry: Entry, _ guarded: inout Guarded) {
        if guarded.entries[Int(entry.slot.index)] == nil { guarded.count += 1 }
        guarded.entries[Int(entry.slot.index)] = entry
    }

    // MARK: Looking

    /// How often the walk has come round.
    package var passes: UInt64 { guarded.withLock { $0.passes } }
    package var count: Int { guarded.withLock { $0.count } }

    /// The next whole page to look at: fresh ones first, then round and round; nil after many slots without one.
    func next() -> Entry? {
        guarded.withLock { guarded in
            while let index = guarded.fresh.popLast() {
                if let entry = whole(Int(index), guarded) { return entry }
            }
            guard guarded.count > 0 else { return nil }
            for _ in 0..<min(guarded.entries.count, DigestTable.strideMax) {
                let index = guarded.cursor
                guarded.cursor = (index + 1) % guarded.entries.count
                if guarded.cursor == 0 { guarded.passes += 1 }
                if let entry = whole(index, guarded) { return entry }
            }
            return nil
        }
    }

    private func whole(_ index: Int, _ guarded: Guarded) -> Entry? {
        guard let entry = guarded.entries[index], entry.layers.count == layerCount else { return nil }
        return entry
    }

    /// Waits until there are entries; false when `stop` was called.
    func waitForEntries() -> Bool {
        guarded.wait(until: nil) { guarded -> Bool? in
            if guarded.isStopped { return false }
            return guarded.count > 0 ? true : nil
        } ?? false
    }

    /// Waits that long; false when `stop` was called.
    func pause(_ time: Duration) -> Bool {
        guarded.wait(until: .after(time)) { $0.isStopped ? false : nil } ?? true
    }

    /// Ends all waiting for good.
    func stop() { guarded.update { $0.isStopped = true } }
}
