/// What a router does next; performed in order, outside the ledger. `to` is the incarnation of a node.
package enum LedgerAction: Sendable, Equatable {
    case sendReserve(HandoffID, to: Incarnation)
    /// The writer of this part is to compute and write it.
    case sendPrefill(GrantTerms, part: Int, to: Incarnation)
    case sendRelease(HandoffID, to: Incarnation)
    case sendCancel(HandoffID, to: Incarnation)
    /// With proof drained, for these parts.
    case sendReclaim(HandoffID, PartSet, to: Incarnation)
    case sendFence(HandoffID, PartSet, to: Incarnation)
    /// Answered by the node's last word on the handoff, if there is one.
    case sendQuery(HandoffID, to: Incarnation)
    /// Exactly once per handoff: how the attempt ended for its request. The row may still be open.
    case deliver(HandoffID, HandoffOutcome)
    /// Neither node holds anything of this handoff; the row is gone.
    case settled(HandoffID)
    case setDeadline(Deadline, HandoffID)
    case clearDeadline(Deadline, HandoffID)
}

/// How an attempt ended, as its request sees it.
package enum HandoffOutcome: Sendable, Equatable {
    case finished
    case refused(RefusalReason)
    case failed(HandoffFailure)
    /// The router cancelled it.
    case cancelled
}

/// What to do with tokens that a decode node sent.
package enum TokenVerdict: Sendable, Equatable {
    /// Deliver these elements of the run; the rest was delivered before.
    case deliver(Range<Int>)
    /// All delivered before, or of an attempt that is over.
    case drop
    /// Positions are missing: the attempt can't go on. Call `fail(_:_:)`.
    case gap
}

/// One attempt in the router's ledger.
///
///     reserving ─▶ prefilling ─▶ written ─▶ decoding ─▶ releasing ─▶ settled
///         │            └────abort────┤          └abort─▶ cancelling ──▲
///         │                          ▼                                │
///         └──abort──▶ reclaiming ◀─ draining ─▶ fencing ──────────────┘
///
/// The legs end separately: each prefill node's with its Drained, the decode node's with its Reclaimed or Finished, all
/// with the loss of the node. Messages that do not fit are a peer's fault where a correct node
/// can't send them, else they are late or repeated; both are counted and dropped.
///
/// No state owns memory, so a phase and the facts are enough; a row still can't be copied, so there is one truth.
struct LedgerRow: ~Copyable {
    typealias Phase = LedgerPhase

    /// What one prefill node does of it: the part of its number.
    private struct Leg {
        let node: Incarnation
        /// It has the order to compute.
        var accepted = false
        /// All its writes have landed.
        var written = false
        /// It was never asked, has drained, or is gone.
        var settled = true
        /// Settled, and none of its writes is under way.
        var quiet = true
    }

    let id: HandoffID
    let decode: Incarnation
    private var legs: [Leg]
    private(set) var phase = Phase.reserving
    /// The decode node's promise, once there is one.
    private(set) var terms: GrantTerms?
    /// The first completion position of this attempt.
    private let start: Int
    /// The next completion position to deliver, counted over all attempts of the request.
    private(set) var delivered: Int
    /// The decode node said Sealed: the source pages end with Release rather than Cancel.
    private(set) var sealed = false
    private(set) var outcomeDelivered = false

    var pages: Int { terms?.slots.count ?? 0 }
    var prefills: [Incarnation] { legs.map(\.node) }
    private var arePrefillsSettled: Bool { legs.allSatisfy(\.settled) }

    /// Whether a node has a part to write and has not ended it.
    func awaits(_ node: Incarnation) -> Bool { legs.contains { $0.node == node && !$0.settled } }

    private func leg(_ node: Incarnation) -> Int? { legs.firstIndex { $0.node == node } }

    init(_ id: HandoffID, prefills: [Incarnation], decode: Incarnation, delivered: Int) {
        precondition(!prefills.isEmpty && Set(prefills).count == prefills.count, "\(id) has no writer, or one twice")
        self.id = id
        legs = prefills.map { Leg(node: $0) }
        self.decode = decode
        self.delivered = delivered
        start = delivered
    }

    func opened() -> [LedgerAction] {
        [.sendReserve(id, to: decode), .setDeadline(.reserveAnswer, id), .setDeadline(.retransmit, id)]
    }

    // MARK: The decode node

    mutating func granted(_ terms: GrantTerms, _ counters: inout HandoffCounters) -> [LedgerAction] {
        guard phase == .reserving else {
            if terms == self.terms { counters.duplicates += 1 } else { counters.stale += 1 }
            return []
        }
        guard terms.parts.map(\.writer) == prefills else {
            // Not what was asked for. Nobody was told to write, so all of it can be taken back.
            counters.peerFaults += 1
            return end(.failed(failure(.protocolError, &counters)))
        }
        phase = .prefilling
        for index in legs.indices {
            legs[index].settled = false
            legs[index].quiet = false
        }
        self.terms = terms
        return [.clearDeadline(.reserveAnswer, id)] + orders(terms)
            + [.setDeadline(.retransmit, id), .setDeadline(.inquiry, id)]
    }

    mutating func refused(_ reason: RefusalReason, _ counters: inout HandoffCounters) -> [LedgerAction] {
        switch phase {
        case .reserving:
            counters.refusals[reason, default: 0] += 1
            return deliver(.refused(reason)) + [.clearDeadline(.reserveAnswer, id)] + decodeSettled()
        case .reclaiming:
            // The reservation had timed out; its refusal settles it just as well.
            return decodeSettled()
        default:
            counters.stale += 1
            return []
        }
    }

    mutating func sealedByDecode(_ counters: inout HandoffCounters) -> [LedgerAction] {
        guard !sealed else {
            counters.duplicates += 1
            return []
        }
        switch phase {
        case .prefilling, .written:
            sealed = true
            phase = .decoding
            return [.clearDeadline(.sealAnswer, id)] + endSource() + [.setDeadline(.retransmit, id)]
        case .draining, .reclaiming, .fencing:
            // The seal won the race against the abort: now it is a sequence to cancel.
            sealed = true
            phase = .cancelling
            return [.clearDeadline(.drainBudget, id), .sendCancel(id, to: decode)] + endSource()
        case .reserving:
            counters.peerFaults += 1
        case .decoding, .cancelling, .releasing, .settled:
            counters.stale += 1
        }
        return []
    }

    /// `tokens`: how many the attempt generated; nil when it was cut short.
    mutating func finished(tokens: Int?, _ counters: inout HandoffCounters) -> [LedgerAction] {
        switch phase {
        case .prefilling, .written, .decoding:
            sealed = true
            let outcome: HandoffOutcome
            if let tokens {
                outcome =
                    start + tokens <= delivered || isBroken(.lostTokensUnnoticed)
                    ? .finished : .failed(failure(.tokenGap, &counters))
            } else {
                outcome = .failed(failure(.computeFailed, &counters))
            }
            return deliver(outcome) + [.clearDeadline(.sealAnswer, id)] + decodeSettled()
        case .draining, .reclaiming, .fencing, .cancelling:
            sealed = true
            return decodeSettled()
        case .reserving:
            counters.peerFaults += 1
        case .releasing, .settled:
            counters.duplicates += 1
        }
        return []
    }

    mutating func reclaimed(_ counters: inout HandoffCounters) -> [LedgerAction] {
        switch phase {
        case .draining, .reclaiming, .fencing, .cancelling:
            return decodeSettled()
        case .reserving, .prefilling, .written, .decoding:
            // It gave up by itself, and its reason was lost or comes later.
            return deliver(.failed(failure(.laneLost, &counters))) + decodeSettled()
        case .releasing, .settled:
            counters.duplicates += 1
            return []
        }
    }

    // MARK: The prefill node

    mutating func accepted(by node: Incarnation, _ counters: inout HandoffCounters) -> [LedgerAction] {
        switch phase {
        case .prefilling where leg(node).map { !legs[$0].accepted } ?? false:
            for index in legs.indices where legs[index].node == node { legs[index].accepted = true }
            return legs.allSatisfy(\.accepted) ? [.clearDeadline(.retransmit, id)] : []
        case .prefilling:
            counters.duplicates += 1
        case .reserving:
            counters.peerFaults += 1
        case .written, .decoding, .draining, .reclaiming, .fencing, .cancelling, .releasing, .settled:
            counters.stale += 1
        }
        return []
    }

    mutating func written(by node: Incarnation, _ counters: inout HandoffCounters) -> [LedgerAction] {
        switch phase {
        case .prefilling:
            for index in legs.indices where legs[index].node == node {
                if legs[index].written { counters.duplicates += 1 }
                legs[index].accepted = true
                legs[index].written = true
            }
            guard legs.allSatisfy(\.written) else { return [] }
            phase = .written
            return [.clearDeadline(.retransmit, id), .setDeadline(.sealAnswer, id)]
        case .reserving:
            counters.peerFaults += 1
        case .written:
            counters.duplicates += 1
        case .decoding, .releasing, .draining, .reclaiming, .fencing, .cancelling, .settled:
            break
        }
        return []
    }

    mutating func drained(
        by node: Incarnation, posted: Int, completed: Int, _ counters: inout HandoffCounters
    ) -> [LedgerAction] {
        guard let leg = leg(node), !legs[leg].settled else {
            counters.duplicates += 1
            return []
        }
        legs[leg].settled = true
        legs[leg].quiet = posted == completed || isBroken(.drainBelievedUnquiet)
        return legSettled(.laneLost, &counters)
    }

    // MARK: Either node

    mutating func failed(
        _ why: HandoffFailure, byDecode: Bool, _ counters: inout HandoffCounters
    ) -> [LedgerAction] {
        switch (phase, byDecode) {
        case (.prefilling, _), (.written, _), (.reserving, true), (.decoding, true):
            counters.failures[why.cause, default: 0] += 1
            return deliver(.failed(why)) + abort()
        case (.reserving, _), (.decoding, _):
            // Before it was asked, or after its part was over, the prefill node has nothing to fail.
            counters.stale += 1
            return []
        case (.draining, _), (.reclaiming, _), (.fencing, _), (.cancelling, _), (.releasing, _), (.settled, _):
            counters.stale += 1
            return []
        }
    }

    mutating func prefillLost(_ node: Incarnation, _ counters: inout HandoffCounters) -> [LedgerAction] {
        if phase == .reserving { return deliver(.failed(failure(.nodeLost, &counters))) + abort() }
        guard let leg = leg(node), !legs[leg].settled else { return [] }
        legs[leg].settled = true
        return legSettled(.nodeLost, &counters)
    }

    /// A prefill node holds nothing any more; `cause`: why the attempt fails if that is too early.
    private mutating func legSettled(
        _ cause: HandoffFailure.Cause, _ counters: inout HandoffCounters
    ) -> [LedgerAction] {
        switch phase {
        case .prefilling:
            return deliver(.failed(failure(cause, &counters))) + abort()
        case .draining where arePrefillsSettled:
            return endDecode()
        case .releasing where arePrefillsSettled:
            phase = .settled
            return settle()
        case .written, .decoding, .draining, .reclaiming, .fencing, .cancelling, .releasing:
            return []
        case .reserving, .settled:
            preconditionFailure("\(id) has an open prefill leg in \(phase)")
        }
    }

    mutating func decodeLost(_ counters: inout HandoffCounters) -> [LedgerAction] {
        if phase == .releasing || phase == .settled { return [] }
        let failed = outcomeDelivered ? [] : deliver(.failed(failure(.nodeLost, &counters)))
        return failed + [.clearDeadline(.reserveAnswer, id), .clearDeadline(.sealAnswer, id)] + decodeSettled()
    }

    // MARK: The router

    /// Ends the attempt with this outcome, unless it has one already.
    mutating func end(_ outcome: HandoffOutcome) -> [LedgerAction] {
        deliver(outcome) + abort()
    }

    mutating func deadlinePassed(_ deadline: Deadline, _ counters: inout HandoffCounters) -> [LedgerAction] {
        switch (deadline, phase) {
        case (.reserveAnswer, .reserving):
            return end(.failed(failure(.reserveTimeout, &counters)))
        case (.sealAnswer, .written) where delivered > start:
            // Its tokens flow, so it has sealed: only its word was lost.
            return sealedByDecode(&counters)
        case (.sealAnswer, .written):
            let outcome = deliver(.failed(failure(.sealTimeout, &counters)))
            for index in legs.indices { legs[index].quiet = false }
            return outcome + endDecode() + endSource()
        case (.drainBudget, .draining):
            return endDecode()
        case (.retransmit, _):
            let again = unanswered()
            guard !again.isEmpty else { return [] }
            counters.retransmissions += again.count
            return again + [.setDeadline(.retransmit, id)]
        case (.inquiry, _):
            let questions = questions()
            guard !questions.isEmpty else { return [] }
            return questions + [.setDeadline(.inquiry, id)]
        default:
            return []
        }
    }

    /// Decides about tokens at `firstIndex ..< firstIndex + count` of the completion.
    mutating func accept(firstIndex: Int, count: Int) -> TokenVerdict {
        switch phase {
        case .cancelling where isBroken(.tokenOfOlderAttempt):
            return .deliver(0..<count)
        case .prefilling, .written, .decoding:
            guard !outcomeDelivered, firstIndex >= 0, count >= 0 else { return .drop }
            if firstIndex > delivered { return .gap }
            let known = isBroken(.positionTwice) ? 0 : delivered - firstIndex
            guard known < count else { return .drop }
            delivered = firstIndex + count
            return .deliver(known..<count)
        case .reserving, .draining, .reclaiming, .fencing, .cancelling, .releasing, .settled:
            return .drop
        }
    }

    // MARK: Private

    private mutating func deliver(_ outcome: HandoffOutcome) -> [LedgerAction] {
        if outcomeDelivered, !isBroken(.outcomeTwice) { return [] }
        outcomeDelivered = true
        return [.deliver(id, outcome)]
    }

    private mutating func abort() -> [LedgerAction] {
        switch phase {
        case .reserving:
            // The prefill node was never asked, so nothing was ever posted: that is what drained means.
            phase = .reclaiming
            return [
                .clearDeadline(.reserveAnswer, id), .sendReclaim(id, .all, to: decode), .setDeadline(.retransmit, id),
            ]
        case .prefilling, .written:
            if arePrefillsSettled { return endDecode() }
            phase = .draining
            return [.clearDeadline(.sealAnswer, id)] + endSource() + [
                .sendCancel(id, to: decode), .setDeadline(.drainBudget, id), .setDeadline(.retransmit, id),
            ]
        case .decoding:
            phase = .cancelling
            return [.sendCancel(id, to: decode), .setDeadline(.retransmit, id)]
        case .draining, .reclaiming, .fencing, .cancelling, .releasing, .settled:
            return []
        }
    }

    /// The prefill nodes' part of an abort is over, of each with its word that nothing is under way or without.
    private mutating func endDecode() -> [LedgerAction] {
        phase = legs.allSatisfy(\.quiet) ? .reclaiming : .fencing
        return [.clearDeadline(.sealAnswer, id), .clearDeadline(.drainBudget, id)] + ends()
            + [.setDeadline(.retransmit, id)]
    }

    /// Each part by the best that is known of its writer.
    private func ends() -> [LedgerAction] {
        var quiet: PartSet = []
        var others: PartSet = []
        for (part, leg) in legs.enumerated() {
            if leg.quiet { quiet.insert(PartSet(part)) } else { others.insert(PartSet(part)) }
        }
        return (quiet.isEmpty ? [] : [.sendReclaim(id, quiet, to: decode)])
            + (others.isEmpty ? [] : [.sendFence(id, others, to: decode)])
    }

    private func orders(_ terms: GrantTerms) -> [LedgerAction] {
        legs.indices.filter { !legs[$0].accepted }.map { .sendPrefill(terms, part: $0, to: legs[$0].node) }
    }

    private mutating func decodeSettled() -> [LedgerAction] {
        if arePrefillsSettled || isBroken(.rowDroppedEarly) {
            phase = .settled
            return [.clearDeadline(.drainBudget, id)] + settle()
        }
        phase = .releasing
        return [.clearDeadline(.drainBudget, id)] + endSource() + [.setDeadline(.retransmit, id)]
    }

    private func settle() -> [LedgerAction] {
        [.clearDeadline(.retransmit, id), .clearDeadline(.inquiry, id), .settled(id)]
    }

    /// Asks the prefill nodes for their Drained, whatever they are doing.
    private func endSource() -> [LedgerAction] {
        legs.filter { !$0.settled }.map {
            sealed ? .sendRelease(id, to: $0.node) : .sendCancel(id, to: $0.node)
        }
    }

    /// What is asked of nodes that should speak by themselves, and may have.
    private func questions() -> [LedgerAction] {
        switch phase {
        case .prefilling:
            legs.filter { $0.accepted && !$0.written }.map { .sendQuery(id, to: $0.node) } + [
                .sendQuery(id, to: decode)
            ]
        case .written, .decoding: [.sendQuery(id, to: decode)]
        case .reserving, .draining, .reclaiming, .fencing, .cancelling, .releasing, .settled: []
        }
    }

    /// What was said and not answered.
    private func unanswered() -> [LedgerAction] {
        if isBroken(.neverAskedAgain) { return [] }
        return switch phase {
        case .reserving: [.sendReserve(id, to: decode)]
        case .prefilling: terms.map { orders($0) } ?? []
        case .written, .settled: []
        case .decoding, .releasing: endSource()
        case .draining, .cancelling: [.sendCancel(id, to: decode)] + endSource()
        case .reclaiming, .fencing: ends() + endSource()
        }
    }
}
