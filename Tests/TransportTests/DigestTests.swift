import Glibc
import Handoff
import Testing
import Threads

@testable import Transport

extension Lanes {
    /// What each mode sees of a byte that changes on its way, before the seal and after it.
    @Suite struct DigestTests {
        /// Sends pages 0 and 1 of the source whole; `beforeCompletion` runs when all has landed.
        private func transfer(
            _ lanes: LaneHarness, _ key: LaneKey, epoch: UInt32 = 1, _ beforeCompletion: () -> Void = {}
        ) throws -> DigestVerdict {
            let grant = terms(key.lane, epoch: epoch, slots: 4..<6, generation: epoch, request: UInt64(epoch))
            #expect(lanes.listener.bind(grant))
            #expect(lanes.pool.post(key, batch(grant, layers: 0..<testShape.layerCount)))
            let landed = lanes.sent.first {
                if case .acknowledged(key, grant.handoff, _, 1) = $0 { true } else { nil }
            }
            #expect(landed == true)
            beforeCompletion()
            #expect(lanes.pool.postCompletion(key, grant))
            let record = try #require(
                lanes.received.first { if case .completion(_, grant.epoch, let record) = $0 { record } else { nil } })
            return lanes.listener.verifyDigests(
                lane: key.lane, epoch: grant.epoch, expected: record.pages.map(\.digest))
        }

        /// Layer 2 of block-table entry 1, in the target's slot 5.
        private func flipAByte(_ slab: TestSlab, slot: Int) {
            slab.page(slot)[testShape.bytes(of: 2..<3).lowerBound + 77] ^= 1
        }

        @Test(arguments: [DigestMode.sealed, .scrub]) func untouchedPagesMatch(mode: DigestMode) throws {
            let lanes = try LaneHarness(digests: mode)
            defer { lanes.shutdown() }
            let key = try lanes.connect()
            let pages = (0..<2).map { PageDigest.of(page: lanes.source.start(of: $0), shape: testShape) }
            #expect(try transfer(lanes, key) == .matching(pages))
            #expect(lanes.listener.tally.total.digestMismatches == 0)
        }

        @Test func aByteChangedOnTheWayIsFoundAtTheSeal() throws {
            for mode in [DigestMode.sealed, .scrub] {
                let lanes = try LaneHarness(digests: mode)
                defer { lanes.shutdown() }
                let peer = try RawPeer(port: lanes.listener.port)
                let grant = terms(peer.lane, slots: 0..<1)
                #expect(lanes.listener.bind(grant))
                let range = WireRange(page: 0, slot: grant.slots[0], offset: 0, length: UInt32(testShape.pageBytes))
                peer.sendHeader(
                    FrameHeader(.data, count: 1, handoff: grant.handoff, epoch: grant.epoch, sequence: 1),
                    ranges: [range])
                lanes.source.fill(0, with: 7)
                let said = PageDigest.of(page: lanes.source.start(of: 0), shape: testShape)
                var bytes = [UInt8](repeating: 7, count: testShape.pageBytes)
                bytes[testShape.layerStarts[3] + 5] = 8
                peer.send(bytes)
                peer.sendHeader(
                    FrameHeader(.completion, count: 1, handoff: grant.handoff, epoch: grant.epoch, sequence: 2),
                    pages: [.init(slot: grant.slots[0], digest: said)])
                let record = lanes.received.first {
                    if case .completion(_, _, let record) = $0 { record } else { nil }
                }
                #expect(record?.pages.map(\.digest) == [said.value])
                let verdict = lanes.listener.verifyDigests(
                    lane: peer.lane, epoch: grant.epoch, expected: [said.value])
                guard case .mismatch(let mismatches) = verdict else {
                    Issue.record("\(mode): \(verdict)")
                    continue
                }
                #expect(mismatches.map { [$0.page, $0.layer] } == [[0, 3]])
                #expect(lanes.listener.tally.total.digestMismatches == 1)
            }
        }

        @Test func aByteChangedInMemoryBeforeTheSealIsFoundWithScrub() throws {
            let lanes = try LaneHarness(digests: .scrub)
            defer { lanes.shutdown() }
            let key = try lanes.connect()
            let verdict = try transfer(lanes, key) { flipAByte(lanes.target, slot: 5) }
            guard case .mismatch(let mismatches) = verdict else {
                Issue.record("\(verdict)")
                return
            }
            #expect(mismatches.map { [$0.page, $0.layer] } == [[1, 2]])
        }

        @Test func withSealedAByteChangedInMemoryAfterItLandedIsNotLookedFor() throws {
            let lanes = try LaneHarness(digests: .sealed)
            defer { lanes.shutdown() }
            let key = try lanes.connect()
            #expect(try transfer(lanes, key) { flipAByte(lanes.target, slot: 5) }.allowsSeal)
        }

        @Test func withOffNothingIsComparedAndTheRecordSaysSo() throws {
            let lanes = try LaneHarness(digests: .off)
            defer { lanes.shutdown() }
            let key = try lanes.connect()
            #expect(try transfer(lanes, key) { flipAByte(lanes.target, slot: 5) } == .unchecked)
            #expect(lanes.listener.tally.total.uncheckedCompletions == 1)
            let digests = lanes.received.first {
                if case .completion(_, _, let record) = $0 { record.pages.map(\.digest) } else { nil }
            }
            #expect(digests == [0, 0])
        }

        @Test(arguments: [(DigestMode.off, DigestMode.sealed), (.scrub, .off)])
        func modesThatDifferMakeNoLane(receiver: DigestMode, sender: DigestMode) throws {
            let lanes = try LaneHarness(digests: receiver, senderDigests: sender)
            defer { lanes.shutdown() }
            lanes.pool.setPeers([LanePeer(decode: decodeNode, address: lanes.address, name: "decode")])
            let start = Instant.now
            while lanes.pool.snapshot().first?.lastError == nil, Instant.now - start < .seconds(20) {
                // Counters tell nobody when they change.
                usleep(1000)
            }
            let error = lanes.pool.snapshot().first?.lastError ?? ""
            #expect(error.contains("--digests must be off on both nodes or on neither"), "\(error)")
            #expect(lanes.listener.tally.total.refused[.digestsDiffer] ?? 0 > 0)
            #expect(lanes.received.all.isEmpty && lanes.pool.snapshot().first?.connected == 0)
        }

        @Test func sealedAndScrubGoTogether() throws {
            let lanes = try LaneHarness(digests: .scrub, senderDigests: .sealed)
            defer { lanes.shutdown() }
            #expect(try transfer(lanes, try lanes.connect()).allowsSeal)
        }

        @Test(arguments: [true, false]) func aRecordThatIsNotAsAgreedClosesTheLane(agreed: Bool) throws {
            let lanes = try LaneHarness(digests: agreed ? .sealed : .off)
            defer { lanes.shutdown() }
            let peer = try RawPeer(port: lanes.listener.port, digests: agreed)
            let grant = terms(peer.lane, slots: 0..<1)
            #expect(lanes.listener.bind(grant))
            let range = WireRange(page: 0, slot: grant.slots[0], offset: 0, length: UInt32(testShape.pageBytes))
            peer.sendHeader(
                FrameHeader(.data, count: 1, handoff: grant.handoff, epoch: grant.epoch, sequence: 1), ranges: [range])
            peer.send([UInt8](repeating: 7, count: testShape.pageBytes))
            let layers = agreed ? [] : [UInt64](repeating: 1, count: testShape.layerCount)
            peer.sendHeader(
                FrameHeader(.completion, count: 1, handoff: grant.handoff, epoch: grant.epoch, sequence: 2),
                pages: [.init(slot: grant.slots[0], digest: PageDigest(layers: layers))], digests: !agreed)
            #expect(lanes.waitForClose(peer.lane)?.reason.kind == .protocolError)
            #expect(lanes.listener.tally.total.protocolErrors == 1 && lanes.listener.tally.total.completions == 0)
        }

        @Test func aPageThatIsSentAgainMustBeWhatItWas() throws {
            let table = DigestTable(slotCount: 32, layerCount: testShape.layerCount)
            let lanes = try LaneHarness(table: table)
            defer { lanes.shutdown() }
            let key = try lanes.connect()
            #expect(try transfer(lanes, key, epoch: 1).allowsSeal)
            #expect(table.count == 2)
            #expect(try transfer(lanes, key, epoch: 2).allowsSeal)
            flipAByte(lanes.source, slot: 1)
            let verdict = try transfer(lanes, key, epoch: 3)
            guard case .mismatch(let mismatches) = verdict else {
                Issue.record("\(verdict)")
                return
            }
            #expect(mismatches.map { [$0.page, $0.layer] } == [[1, 2]])
            let changed = lanes.sent.first {
                if case .sourceChanged(let handoff, let slot, let found) = $0 { (handoff, slot, found) } else { nil }
            }
            #expect(changed?.0.request == 3)
            #expect(changed?.1 == SlotRef(index: 1, generation: Generation(1)))
            #expect(changed?.2.map { [$0.page, $0.layer] } == [[1, 2]])
        }
    }
}
