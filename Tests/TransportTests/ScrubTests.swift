import Glibc
import Handoff
import Testing
import Threads

@testable import Transport

extension Lanes {
    /// The scrub by itself: pages in memory, a table of their digests, and who owns which slot.
    @Suite struct ScrubTests {
        /// The generation of every slot, as a slot pool would say.
        private final class Owners: Sendable {
            let generations: Monitor<[UInt32: UInt32]>
            init(_ slots: Range<UInt32>) {
                generations = Monitor(Dictionary(uniqueKeysWithValues: slots.map { ($0, 1) }))
            }
            func owns(_ slot: SlotRef) -> Bool {
                generations.withLock { $0[slot.index] == slot.generation.value }
            }
        }

        private struct Found: Sendable {
            let slot: SlotRef
            let mismatches: [DigestMismatch]
            /// How often the walk had come round.
            let passes: UInt64
        }

        private let handoff = HandoffID(router: Incarnation(1), request: 1, attempt: 1)

        private func entries(
            _ slab: TestSlab, _ slots: Range<Int>
        ) -> [(slot: SlotRef, page: Int, digest: PageDigest)] {
            slots.map { slot in
                (
                    SlotRef(index: UInt32(slot), generation: Generation(1)), slot,
                    PageDigest.of(page: slab.start(of: slot), shape: testShape)
                )
            }
        }

        private func scrubber(
            _ slab: TestSlab, _ table: DigestTable, _ owners: Owners, _ found: EventLog<Found>, rate: Int = 1 << 30
        ) throws -> PageScrubber {
            var settings = PageScrubber.Settings()
            settings.bytesPerSecond = rate
            settings.pauseMin = .milliseconds(1)
            return try PageScrubber(
                slab: slab.region, table: table, settings: settings, isOwned: { owners.owns($0) },
                onMismatch: { found.append(Found(slot: $0.slot, mismatches: $1, passes: table.passes)) })
        }

        @Test func aByteThatChangesIsFoundWithinTwoPassesAndToldOnce() throws {
            let slab = TestSlab(slots: 16)
            slab.fillWithPattern(3)
            let table = DigestTable(slotCount: 16, layerCount: testShape.layerCount)
            let (owners, found) = (Owners(0..<16), EventLog<Found>())
            table.enter(entries(slab, 0..<16), of: handoff)
            let scrubber = try scrubber(slab, table, owners, found)
            defer { scrubber.shutdown() }
            wait("two clean passes") { table.passes >= 2 }
            #expect(found.all.isEmpty)
            slab.page(9)[testShape.layerStarts[3] + 1] ^= 0x80
            let changed = table.passes
            let first = try #require(found.first { $0 })
            // The pass that was under way may have been past the page.
            #expect(first.passes <= changed + 1)
            #expect(first.slot.index == 9)
            #expect(first.mismatches.map { [$0.page, $0.layer] } == [[9, 3]])
            let after = table.passes
            wait("two more passes") { table.passes >= after + 2 }
            #expect(found.all.count == 1 && scrubber.counters.mismatches == 1)
        }

        @Test func aPageThatLeftItsOwnerIsNeverReported() throws {
            let slab = TestSlab(slots: 8)
            slab.fillWithPattern(3)
            let table = DigestTable(slotCount: 8, layerCount: testShape.layerCount)
            let (owners, found) = (Owners(0..<8), EventLog<Found>())
            let scrubber = try scrubber(slab, table, owners, found)
            defer { scrubber.shutdown() }
            // Pages are freed, overwritten and given to the next owner under the scrubber's eyes, as fast as it goes.
            for round in 1...200 as ClosedRange<UInt32> {
                let slot = SlotRef(index: round % 8, generation: Generation(round))
                owners.generations.withLock { $0[slot.index] = round }
                let digest = PageDigest.of(page: slab.start(of: Int(slot.index)), shape: testShape)
                table.enter([(slot, 0, digest)], of: handoff)
                if round % 16 == 0 {
                    let seen = scrubber.counters.pages
                    wait("a look") { scrubber.counters.pages > seen }
                }
                // First the generation, then the bytes: the order in which a pool and its lanes do it.
                owners.generations.withLock { $0[slot.index] = round + 1 }
                slab.fill(Int(slot.index), with: UInt8(truncatingIfNeeded: round))
            }
            #expect(found.all.isEmpty && scrubber.counters.mismatches == 0)
            #expect(scrubber.counters.pages > 0)
        }

        @Test func theRateIsKept() throws {
            let slab = TestSlab(slots: 16)
            let table = DigestTable(slotCount: 16, layerCount: testShape.layerCount)
            let (owners, found) = (Owners(0..<16), EventLog<Found>())
            table.enter(entries(slab, 0..<16), of: handoff)
            let rate = 8 << 20
            let start = Instant.now
            let scrubber = try scrubber(slab, table, owners, found, rate: rate)
            defer { scrubber.shutdown() }
            wait("four passes") { scrubber.counters.pages >= 64 }
            let elapsed = Instant.now - start
            // Never faster than the rate; how much slower depends on the machine. One page may be ahead of its pause.
            let read = Double(scrubber.counters.bytes) - Double(testShape.pageBytes)
            #expect(read <= Double(rate) * (elapsed / .seconds(1)))
        }

        @Test func newPagesComeFirst() throws {
            let slab = TestSlab(slots: 64)
            let table = DigestTable(slotCount: 64, layerCount: testShape.layerCount)
            table.enter(entries(slab, 0..<60), of: handoff)
            for _ in 0..<60 { #expect(table.next() != nil) }
            #expect(table.next()?.page == 0)
            table.enter(entries(slab, 62..<63), of: handoff)
            #expect(table.next()?.page == 62)
            #expect(table.next()?.page == 1)
        }
    }
}
