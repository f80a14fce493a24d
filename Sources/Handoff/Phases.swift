/// The states of the three machines by name, and what each can become within one event. Checked at every event, and
/// the source of the diagrams in docs/handoff.md.
package protocol HandoffPhase: RawRepresentable<String>, CaseIterable, Hashable, Sendable {
    /// Where one event can lead from here, staying aside.
    var successors: [Self] { get }
}

extension HandoffPhase {
    /// Traps when an event led where none may: that is a bug of the machine, and its slots are not to be trusted.
    func checkSuccessor(_ next: Self, of handoff: HandoffID) {
        precondition(
            self == next || successors.contains(next), "\(handoff) went from \(rawValue) to \(next.rawValue)")
    }
}

/// A handoff on the receiver. See `ReceivingHandoff.State` for what each holds.
package enum ReceivingPhase: String, HandoffPhase {
    case granted, sealed, ending, draining, unbinding, fencing, settled

    package var successors: [ReceivingPhase] {
        switch self {
        case .granted: [.sealed, .draining, .unbinding, .fencing, .settled]
        case .sealed: [.ending, .settled]
        case .ending: [.settled]
        case .draining: [.unbinding, .fencing, .settled]
        case .unbinding: [.fencing, .settled]
        case .fencing: [.settled]
        case .settled: []
        }
    }
}

/// A handoff on the sender. See `SendingHandoff.State` for what each holds.
package enum SendingPhase: String, HandoffPhase {
    case computing, writing, completing, written, draining, settled

    package var successors: [SendingPhase] {
        switch self {
        case .computing: [.writing, .settled]
        case .writing: [.completing, .draining, .settled]
        case .completing: [.written, .draining, .settled]
        case .written: [.settled]
        case .draining: [.settled]
        case .settled: []
        }
    }
}

/// An attempt in the router's ledger.
package enum LedgerPhase: String, HandoffPhase {
    /// Reserve sent.
    case reserving
    /// Granted, and Prefill sent.
    case prefilling
    /// Every write has landed.
    case written
    /// Sealed; tokens flow.
    case decoding
    /// Aborted before the seal; both nodes were told.
    case draining
    /// No write is under way; the receiver was told.
    case reclaiming
    /// The receiver was told to fence.
    case fencing
    /// Aborted after the seal.
    case cancelling
    /// The receiver holds nothing; the sender has yet to say so.
    case releasing
    /// Neither node holds anything.
    case settled

    package var successors: [LedgerPhase] {
        switch self {
        case .reserving: [.prefilling, .reclaiming, .settled]
        case .prefilling: [.written, .decoding, .draining, .reclaiming, .fencing, .releasing, .settled]
        case .written: [.decoding, .draining, .reclaiming, .fencing, .releasing, .settled]
        case .decoding: [.cancelling, .releasing, .settled]
        case .draining: [.reclaiming, .fencing, .cancelling, .releasing, .settled]
        case .reclaiming: [.cancelling, .releasing, .settled]
        case .fencing: [.cancelling, .releasing, .settled]
        case .cancelling: [.releasing, .settled]
        case .releasing: [.settled]
        case .settled: []
        }
    }
}
