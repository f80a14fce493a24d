import Handoff

/// Which fault met a handoff in which phase of which machine, and how often.
package struct Coverage: Sendable, Equatable {
    /// A phase, by the machine's own name for it.
    package struct Place: Hashable, Sendable, Comparable, CustomStringConvertible {
        package let machine: String
        package let phase: String
        package var description: String { "\(machine).\(phase)" }
        package static func < (a: Place, b: Place) -> Bool { (a.machine, a.phase) < (b.machine, b.phase) }
    }

    package struct Pair: Hashable, Sendable {
        package let fault: Fault
        package let place: Place
    }

    package private(set) var counts: [Pair: Int] = [:]

    package init() {}

    /// All phases in which a handoff can be met.
    package static let places: [Place] =
        places("router", LedgerPhase.self) + places("prefill", SendingPhase.self)
        + places("decode", ReceivingPhase.self)

    private static func places<Phase: HandoffPhase>(_ machine: String, _ phases: Phase.Type) -> [Place] {
        Phase.allCases.map(\.rawValue).filter { $0 != "settled" }.map { Place(machine: machine, phase: $0) }
    }

    package mutating func add(_ fault: Fault, _ machine: String, _ phase: String, _ count: Int = 1) {
        counts[Pair(fault: fault, place: Place(machine: machine, phase: phase)), default: 0] += count
    }

    package mutating func add(_ other: Coverage) { counts.merge(other.counts, uniquingKeysWith: +) }

    package func count(_ fault: Fault, _ place: Place) -> Int { counts[Pair(fault: fault, place: place)] ?? 0 }

    /// Pairs that a run of the default size must meet and did not.
    package var missing: [Pair] {
        Fault.allCases.flatMap { fault in
            Coverage.places.filter { Coverage.isDue(fault, $0) && count(fault, $0) == 0 }
                .map { Pair(fault: fault, place: $0) }
        }
    }

    /// Pairs that were met although `whyNot` says that they cannot be.
    package var unforeseen: [Pair] {
        counts.keys.filter { Coverage.whyNot($0.fault, $0.place) != nil }
            .sorted { ($0.fault, $0.place) < ($1.fault, $1.place) }
    }

    package static func isDue(_ fault: Fault, _ place: Place) -> Bool {
        whyNot(fault, place) == nil && whyRarely(fault, place) == nil
    }

    /// Why a fault meets a phase so rarely that no run has to show it.
    package static func whyRarely(_ fault: Fault, _ place: Place) -> String? {
        switch (fault, "\(place)") {
        case (.wrongRecord, "decode.fencing"), (.wrongRecord, "decode.unbinding"),
            (.digestMismatch, "decode.fencing"), (.digestMismatch, "decode.unbinding"):
            return "the record was let in microseconds before its handoff was ended"
        case (.messageMisdelivered, "router.written"):
            return "the next thing said is an inquiry, and a dead node's lease ends before that is due"
        case (.messageMisdelivered, _) where place.machine != "router":
            return "it meets the leg on the other node, which must be in that phase in the same milliseconds"
        default: return nil
        }
    }

    /// Why a fault cannot meet a phase; nil when it can, and then a run has to show it.
    package static func whyNot(_ fault: Fault, _ place: Place) -> String? {
        switch fault {
        case .refusedGrant:
            return only(
                ["router.reserving", "router.reclaiming"], place,
                "a refusal answers a Reserve and is final: nothing is granted or ordered behind it")
        case .strayWrite:
            return only(
                ["decode.granted", "decode.draining"], place,
                "the lane turns it away where it has a user; before and after, the lane is nobody's")
        case .wrongRecord:
            return only(
                ["decode.granted", "decode.draining", "decode.fencing", "decode.unbinding"], place,
                "the decode node judges it, while slots may be written")
        case .digestMismatch:
            return only(
                ["decode.granted", "decode.draining", "decode.fencing", "decode.unbinding"], place,
                "digests are compared when a completion record comes, while slots may be written")
        case .computeFailed:
            return only(
                ["prefill.computing", "prefill.writing", "prefill.completing"], place,
                "the engine computes in these phases alone, in the last of them what others write")
        case .sequenceFailed:
            return only(["decode.sealed", "decode.ending"], place, "a sequence runs in these phases alone")
        case .messageMisdelivered:
            return "\(place)" == "router.reserving"
                ? "a node takes reservations only on streams it opened, and nothing else is said in this phase" : nil
        default: return nil
        }
    }

    private static func only(_ possible: Set<String>, _ place: Place, _ reason: String) -> String? {
        possible.contains("\(place)") ? nil : reason
    }
}

/// Taking the marks.
extension World {
    /// A fault that strikes one handoff, in all its places.
    func mark(_ fault: Fault, _ handoff: HandoffID, only role: Seat.Role? = nil, on node: Incarnation? = nil) {
        guard let pair = pairs[handoff] else { return }
        if role ?? .router == .router { markRows(fault, router: routers[pair.router]) { $0 == handoff } }
        let decode = seat(of: pair.decode).index
        for prefill in pair.prefills
        where role ?? .prefill == .prefill && isAlive(prefill) && node ?? prefill == prefill {
            markRows(fault, prefill: prefills[seat(of: prefill).index]) { $0 == handoff }
        }
        if role ?? .decode == .decode, isAlive(pair.decode) {
            markRows(fault, decode: decodes[decode]) { $0 == handoff }
        }
    }

    /// A fault that strikes a process, or its link to one router: every handoff it has a part in, in all its places.
    func mark(_ fault: Fault, process: Incarnation, router: Incarnation? = nil) {
        func takesPart(_ handoff: HandoffID) -> Bool {
            guard let pair = pairs[handoff], router == nil || handoff.router == router else { return false }
            return handoff.router == process || pair.prefills.contains(process) || pair.decode == process
        }
        for process in routers { markRows(fault, router: process, takesPart) }
        for process in prefills { markRows(fault, prefill: process, takesPart) }
        for process in decodes { markRows(fault, decode: process, takesPart) }
    }

    /// A fault that strikes a lane: the handoffs on it.
    func mark(_ fault: Fault, lane: Lane) {
        let decode = decodes[seat(of: lane.decode).index].handoffs.rows.filter { $0.lanes.contains(lane.id) }.map(\.id)
        let prefill = prefills[seat(of: lane.prefill).index].handoffs.rows.filter { $0.lane == lane.key }.map(\.id)
        for id in decode + prefill.filter({ !decode.contains($0) }) { mark(fault, id) }
    }

    private func markRows(_ fault: Fault, router: RouterProcess, _ matches: (HandoffID) -> Bool) {
        guard router.host.isUp else { return }
        for row in router.ledger.rows where matches(row.id) {
            count { $0.coverage.add(fault, "router", row.phase) }
        }
    }

    private func markRows(_ fault: Fault, prefill: PrefillProcess, _ matches: (HandoffID) -> Bool) {
        guard prefill.host.isUp else { return }
        for row in prefill.handoffs.rows where matches(row.id) {
            count { $0.coverage.add(fault, "prefill", row.phase) }
        }
    }

    private func markRows(_ fault: Fault, decode: DecodeProcess, _ matches: (HandoffID) -> Bool) {
        guard decode.host.isUp else { return }
        for row in decode.handoffs.rows where matches(row.id) {
            count { $0.coverage.add(fault, "decode", row.phase) }
        }
    }
}
