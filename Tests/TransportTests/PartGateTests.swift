import Handoff
import Testing

@testable import Transport

/// What a lane lets in of a part of a grant: its pages × its layers, under its number, and nothing else.
@Suite struct PartGateTests {
    private static let shape = PageShape(layers: 4, layerBytes: 64)
    private static let id = HandoffID(router: Incarnation(1), request: 1, attempt: 1)

    /// The second of two parts: layers 2 and 3 of pages 1 and 2, behind one page that is lent.
    private static func part() throws -> PartTerms {
        let slots = (0..<3 as Range<UInt32>).map { SlotRef(index: $0 + 5, generation: Generation(9)) }
        let parts = [0..<2, 2..<4].map { layers in
            GrantPart(
                writer: Incarnation(UInt64(layers.lowerBound) + 1), lane: LaneID(7), epoch: LaneEpoch(1), pages: 1..<3,
                layers: layers)
        }
        let grant = GrantTerms(handoff: id, decode: Incarnation(2), slots: slots, lent: 1, parts: parts)
        return try #require(grant.part(1))
    }

    private static func header(_ kind: FrameHeader.Kind, _ count: Int, part: Int = 1, sequence: UInt32 = 1)
        -> FrameHeader
    {
        FrameHeader(kind, count: count, handoff: id, part: part, epoch: LaneEpoch(1), sequence: sequence)
    }

    private static func range(page: UInt32, layers: Range<Int>, index: UInt32? = nil) -> WireRange {
        let bytes = shape.bytes(of: layers)
        return WireRange(
            page: page, slot: SlotRef(index: index ?? page + 5, generation: Generation(9)),
            offset: UInt32(bytes.lowerBound), length: UInt32(bytes.count))
    }

    private static func refusal(
        of range: WireRange, part: Int = 1, _ gate: LaneGate
    ) -> LaneCloseReason.Kind? {
        do {
            gate.leave(try gate.enter(header(.data, 1, part: part), [range], shape: shape))
            return nil
        } catch {
            return error.kind
        }
    }

    @Test func aRecordLiesInsideItsPart() throws {
        let gate = LaneGate()
        #expect(gate.bind(try Self.part()))
        // The lent page, layers of the other part, from those into its own, and a page that is none.
        #expect(Self.refusal(of: Self.range(page: 0, layers: 2..<4), gate) == .protocolError)
        #expect(Self.refusal(of: Self.range(page: 1, layers: 0..<1), gate) == .protocolError)
        #expect(Self.refusal(of: Self.range(page: 1, layers: 1..<3), gate) == .protocolError)
        #expect(Self.refusal(of: Self.range(page: 3, layers: 2..<3), gate) == .protocolError)
        #expect(Self.refusal(of: Self.range(page: 1, layers: 3..<4), gate) == .protocolError)
        // Another slot of the grant under a page of the part; and the other part's number.
        #expect(Self.refusal(of: Self.range(page: 1, layers: 2..<3, index: 5), gate) == .staleWrite)
        #expect(Self.refusal(of: Self.range(page: 1, layers: 2..<3), part: 0, gate) == .staleWrite)
        #expect(Self.refusal(of: Self.range(page: 1, layers: 2..<4), gate) == nil)
    }

    @Test func aCompletionRecordFillsItsPartAndNoOther() throws {
        let part = try Self.part()
        let gate = LaneGate()
        #expect(gate.bind(part))
        let bytes = [UInt8](repeating: 3, count: Self.shape.pageBytes)
        for (sequence, page) in [UInt32(1), 2].enumerated() {
            let range = Self.range(page: page, layers: 2..<4)
            var grant = try gate.enter(
                Self.header(.data, 1, sequence: UInt32(sequence) + 1), [range], shape: Self.shape)
            bytes.withUnsafeBytes { grant.add(range, at: $0.baseAddress!, shape: Self.shape, digest: true) }
            grant.recordLanded()
            gate.leave(grant)
        }
        #expect(throws: LaneViolation.self) {
            try gate.expectCompletion(Self.header(.completion, 2, part: 0, sequence: 3))
        }
        #expect(try gate.expectCompletion(Self.header(.completion, 2, sequence: 3)) == part)
        let other = CompletionRecord(
            handoff: Self.id, part: 0, epoch: LaneEpoch(1), pages: part.slots.map { SealedPage(slot: $0, digest: 0) })
        #expect(throws: LaneViolation.self) {
            try gate.complete(other, expected: [], reading: nil, shape: Self.shape)
        }
        let own = CompletionRecord(
            handoff: Self.id, part: 1, epoch: LaneEpoch(1), pages: part.slots.map { SealedPage(slot: $0, digest: 0) })
        let expected = bytes.withUnsafeBytes { bytes in
            part.slots.map { _ in PageDigest.of(page: bytes.baseAddress!, layers: 2..<4, shape: Self.shape) }
        }
        try gate.complete(own, expected: expected, reading: nil, shape: Self.shape)
        let digests = try #require(gate.digests(LaneEpoch(1)))
        #expect(digests.landed == expected && digests.firstPage == 1)
        #expect(digests.landed.allSatisfy { $0.firstLayer == 2 && $0.layers.count == 2 })
        let wrong = expected.map { PageDigest(layers: [$0.layers[0], 0], firstLayer: 2) }
        guard case .mismatch(let found) = DigestVerdict(expected: wrong, found: digests.landed, firstPage: 1) else {
            Issue.record("digests that differ match")
            return
        }
        #expect(found.map(\.page) == [1, 2] && found.allSatisfy { $0.layer == 3 })
    }
}
