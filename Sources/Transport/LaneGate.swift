import Handoff
import Synchronization
import Threads

/// Why a lane must close: what its peer sent does not fit what it may send.
struct LaneViolation: Error, Equatable {
    let kind: LaneCloseReason.Kind
    let detail: String

    static func stale(_ detail: String) -> LaneViolation { LaneViolation(kind: .staleWrite, detail: detail) }
    static func malformed(_ detail: String) -> LaneViolation { LaneViolation(kind: .protocolError, detail: detail) }

    var reason: LaneCloseReason { LaneCloseReason(kind, detail) }
}

/// The decode node's half of "who may write which slot now", for one lane, which carries one part of a grant: the only way for a receive thread to
/// get at an address in the slab is to be let in here for each record.
///
///     idle ──bind──▶ bound ◀──leave── landing
///      ▲               │  └──enter──────▲
///      └──unbind───────┤
///                      └──complete──▶ completed ──unbind, bind──▶ …        any ──close──▶ closed
///
/// The receive thread takes the grant out while a record lands and puts it back behind it, so nobody else can end
/// the grant in between: `unbind` answers that it is not quiet, and a fence waits for the thread to leave.
final class LaneGate: Sendable {
    private enum State {
        case idle
        case bound(BoundGrant)
        case landing
        case completed(expected: [PageDigest], landed: [PageDigest], firstPage: Int)
        case closed
    }

    private struct Guarded: Sendable {
        var state = State.idle
        /// Of the current grant, or of the last one. Never goes back.
        var epoch = LaneEpoch(0)
        /// The node has been told of the completion record, and has looked at the digests.
        var isTold = true
    }

    private let guarded = Monitor(Guarded())
    private let fenced = Atomic(false)
    /// Whether every record passes here. Where an adapter lands bytes by itself, only the digests tell whether all are
    /// there.
    private let seesWrites: Bool

    init(seesWrites: Bool = true) { self.seesWrites = seesWrites }

    /// Whether the thread must leave; looked at before every read into the slab.
    var isFenced: Bool { fenced.load(ordering: .acquiring) }

    func fence() { fenced.store(true, ordering: .releasing) }

    /// Closes the gate to further grants, unless one is open, or the node has yet to hear that one was filled.
    func retire() -> Bool {
        guarded.withLock { guarded in
            switch guarded.state {
            case .completed where !guarded.isTold:
                return false
            case .idle, .completed:
                fence()
                return true
            case .bound, .landing, .closed:
                return false
            }
        }
    }

    // MARK: The node

    /// Lets the lane write what the terms grant. False when the lane is closed, or the terms are over already.
    func bind(_ terms: PartTerms) -> Bool {
        let grant = BoundGrant(terms)
        return guarded.withLock { guarded in
            guard terms.epoch.value > guarded.epoch.value, !isFenced else { return false }
            switch guarded.state {
            case .idle, .completed:
                guarded.epoch = terms.epoch
                guarded.state = .bound(grant)
                return true
            case .bound, .landing, .closed:
                return false
            }
        }
    }

    /// Ends the right to write, and says whether it has ended: false while a record of this epoch is landing.
    func unbind(_ epoch: LaneEpoch) -> Bool {
        guarded.withLock { guarded in
            if epoch.value < guarded.epoch.value { return true }
            switch guarded.state {
            case .landing: return false
            case .closed: return true
            case .idle, .bound, .completed:
                guarded.epoch = epoch
                guarded.state = .idle
                return true
            }
        }
    }

    /// Whether this epoch is granted and not completed.
    func isOpen(_ epoch: LaneEpoch) -> Bool {
        guarded.withLock { guarded in
            guard guarded.epoch == epoch else { return false }
            switch guarded.state {
            case .bound, .landing: return true
            case .idle, .completed, .closed: return false
            }
        }
    }

    /// The digests of the pages of this epoch, as the completion record has them and as they landed; nil unless
    /// it has completed.
    func digests(_ epoch: LaneEpoch) -> (expected: [PageDigest], landed: [PageDigest], firstPage: Int)? {
        guarded.withLock { guarded in
            guard case .completed(let expected, let landed, let first) = guarded.state, guarded.epoch == epoch else {
                return nil
            }
            return (expected, landed, first)
        }
    }

    // MARK: The receive thread

    /// Checks a record against the grant and takes the grant out until `leave`.
    func enter(_ header: FrameHeader, _ ranges: [WireRange], shape: PageShape) throws(LaneViolation) -> BoundGrant {
        let entered = guarded.withLock { guarded -> Result<BoundGrant, LaneViolation> in
            guard case .bound(let grant) = guarded.state else { return .failure(.stale("nothing is granted")) }
            do throws(LaneViolation) {
                try grant.check(header, countsRecords: true)
                try grant.check(ranges, shape: shape)
            } catch {
                return .failure(error)
            }
            guarded.state = .landing
            return .success(grant)
        }
        return try entered.get()
    }

    /// The record has landed.
    func leave(_ grant: BoundGrant) {
        guarded.withLock { guarded in
            guard case .landing = guarded.state else { preconditionFailure("leaving a gate that was not entered") }
            guarded.state = .bound(grant)
        }
    }

    /// The part whose slots the completion record must name; throws when none is due.
    func expectCompletion(_ header: FrameHeader) throws(LaneViolation) -> PartTerms {
        let expected = guarded.withLock { guarded -> Result<PartTerms, LaneViolation> in
            guard case .bound(let grant) = guarded.state else { return .failure(.stale("nothing is granted")) }
            do throws(LaneViolation) {
                try grant.check(header, countsRecords: seesWrites)
            } catch {
                return .failure(error)
            }
            return .success(grant.terms)
        }
        let part = try expected.get()
        guard Int(header.count) == part.slots.count else {
            throw .malformed("a completion record of \(header.count) pages for a part of \(part.slots.count)")
        }
        return part
    }

    /// Ends the right to write with the prefill node's word that everything is written. `reading`: the pages'
    /// digests as they are in memory; nil to take those made as the bytes landed.
    func complete(
        _ record: CompletionRecord, expected: [PageDigest], reading: [PageDigest]?, shape: PageShape
    ) throws(LaneViolation) {
        let completed = guarded.withLock { guarded -> Result<Void, LaneViolation> in
            guard case .bound(let grant) = guarded.state, guarded.epoch == record.epoch else {
                return .failure(.stale("the grant ended before its completion record"))
            }
            guard record.part == grant.terms.number, record.pages.map(\.slot) == grant.terms.slots else {
                return .failure(.stale("the completion record names another part, other slots or generations"))
            }
            guard !seesWrites || grant.isFilled else {
                return .failure(.malformed("a completion record before the last byte"))
            }
            guarded.isTold = false
            guarded.state = .completed(
                expected: expected, landed: reading ?? grant.digests, firstPage: grant.terms.pages.lowerBound)
            return .success(())
        }
        try completed.get()
    }

    /// The node has the completion record: what is written is safe with it, whatever becomes of the lane.
    func told() { guarded.withLock { $0.isTold = true } }

    /// The thread has left for good.
    func close() {
        guarded.withLock { $0.state = .closed }
    }
}

/// A part of a grant on its lane, with what has landed of it. Layers of a page land in order and once, so one position
/// per page tells what is there, and a second write to the same bytes is refused even within the part.
struct BoundGrant: Sendable {
    let terms: PartTerms
    /// The first layer that has not landed, per page of the part.
    private var landed: [Int]
    private(set) var digests: [PageDigest]
    private(set) var records: UInt32 = 0

    init(_ terms: PartTerms) {
        self.terms = terms
        landed = Array(repeating: terms.layers.lowerBound, count: terms.slots.count)
        digests = Array(repeating: PageDigest(firstLayer: terms.layers.lowerBound), count: terms.slots.count)
    }

    var isFilled: Bool { landed.allSatisfy { $0 == terms.layers.upperBound } }

    func check(_ header: FrameHeader, countsRecords: Bool) throws(LaneViolation) {
        guard header.handoff == terms.handoff else { throw .stale("a write of another handoff") }
        guard header.part == terms.number else { throw .stale("a write of part \(header.part)") }
        guard header.epoch == terms.epoch else { throw .stale("a write of epoch \(header.epoch.value)") }
        guard !countsRecords || header.sequence == records &+ 1 else {
            throw .malformed("record \(header.sequence) after record \(records)")
        }
    }

    /// Every range must be the next whole layers of a page of the part, of its layers, at its granted generation.
    func check(_ ranges: [WireRange], shape: PageShape) throws(LaneViolation) {
        for (index, range) in ranges.enumerated() {
            guard let slot = terms.slot(of: Int(range.page)) else {
                throw .malformed("page \(range.page) of a part of pages \(terms.pages)")
            }
            guard slot == range.slot else {
                throw .stale("slot \(range.slot.index) at generation \(range.slot.generation.value) is not granted")
            }
            // A page may come twice in a record, its second range behind the first.
            let before = ranges[..<index].last { $0.page == range.page }
            let next = before.map { Int($0.offset) + Int($0.length) } ?? shape.layerStarts[landed[place(of: range)]]
            let end = Int(range.offset) + Int(range.length)
            guard Int(range.offset) == next, range.length > 0,
                end <= shape.layerStarts[terms.layers.upperBound], shape.layer(startingAt: end) != nil
            else {
                throw .malformed(
                    "bytes \(range.offset) to \(end) of page \(range.page), whose next is \(next), of layers \(terms.layers)"
                )
            }
        }
    }

    /// A range has landed at `bytes`.
    mutating func add(_ range: WireRange, at bytes: UnsafeRawPointer, shape: PageShape, digest: Bool) {
        let page = place(of: range)
        let first = landed[page]
        guard let last = shape.layer(startingAt: Int(range.offset) + Int(range.length)) else {
            preconditionFailure("a range that is not whole layers was let in")
        }
        landed[page] = last
        if digest { digests[page].add(layers: first..<last, at: bytes, shape: shape) }
    }

    /// Of a page of the part.
    private func place(of range: WireRange) -> Int { Int(range.page) - terms.pages.lowerBound }

    mutating func recordLanded() { records &+= 1 }
}
