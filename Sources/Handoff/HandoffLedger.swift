/// The router's ledger: one row per attempt, from its Reserve until neither node holds anything of it. Orders
/// every reclaim, repeats what is not answered, and delivers every token position at most once.
///
/// Driven under one lock. O(1) per event, except the loss or arrival of a node.
package struct HandoffLedger: ~Copyable {
    /// One row as an operator sees it.
    package struct Row: Sendable, Equatable {
        package let id: HandoffID
        package let phase: String
        /// The writer of each part.
        package let prefills: [Incarnation]
        package let decode: Incarnation
        package let pages: Int
        package let outcomeDelivered: Bool
    }

    private let router: Incarnation
    private var table: [HandoffID: Box<LedgerRow>] = [:]
    /// Unsettled rows per request.
    private var requests: [UInt64: Int] = [:]
    package private(set) var counters = HandoffCounters()

    /// A ledger for the handoffs that this router incarnation numbers.
    package init(router: Incarnation) {
        self.router = router
    }

    // MARK: Queries

    package var unsettledCount: Int { table.count }

    /// Whether neither node of any attempt of the request holds anything: only then is it over.
    package func isSettled(request: UInt64) -> Bool { requests[request] == nil }

    /// The phases a row can be seen in, in the order of a handoff.
    package static var phases: [String] {
        LedgerRow.Phase.allCases.filter { $0 != .settled }.map(\.rawValue)
    }

    package func row(of handoff: HandoffID) -> Row? {
        guard let box = table[handoff] else { return nil }
        return Row(
            id: handoff, phase: box.value.phase.rawValue, prefills: box.value.prefills, decode: box.value.decode,
            pages: box.value.pages, outcomeDelivered: box.value.outcomeDelivered)
    }

    package var rows: [Row] { table.keys.sorted().compactMap { row(of: $0) } }

    // MARK: The router

    /// Opens an attempt that these prefill nodes write, a part each, and a decode node goes on with. The attempts before it must have had their outcome (they need not be
    /// settled). `delivered`: completion tokens that they delivered, which is the first position to come.
    package mutating func open(
        _ handoff: HandoffID, prefills: [Incarnation], decode: Incarnation, delivered: Int
    ) -> [LedgerAction] {
        precondition(handoff.router == router, "a handoff of another router")
        precondition(table[handoff] == nil, "attempt \(handoff) opened twice")
        let before = HandoffID(router: router, request: handoff.request, attempt: handoff.attempt &- 1)
        precondition(table[before]?.value.outcomeDelivered != false, "\(before) is still open")
        precondition(delivered >= 0, "\(delivered) tokens delivered")
        table[handoff] = Box(LedgerRow(handoff, prefills: prefills, decode: decode, delivered: delivered))
        requests[handoff.request, default: 0] += 1
        return apply(handoff) { row, _ in row.opened() }
    }

    /// The request wants no more of it.
    package mutating func cancel(_ handoff: HandoffID) -> [LedgerAction] {
        apply(handoff) { row, _ in row.end(.cancelled) }
    }

    /// The router itself found the attempt broken.
    package mutating func fail(_ handoff: HandoffID, _ why: HandoffFailure) -> [LedgerAction] {
        apply(handoff) { row, counters in
            if !row.outcomeDelivered { counters.failures[why.cause, default: 0] += 1 }
            return row.end(.failed(why))
        }
    }

    /// A deadline set by an action passed.
    package mutating func deadlinePassed(_ deadline: Deadline, _ handoff: HandoffID) -> [LedgerAction] {
        guard table[handoff] != nil else { return [] }
        return apply(handoff) { $0.deadlinePassed(deadline, &$1) }
    }

    /// Decides about the tokens at completion positions `firstIndex ..< firstIndex + count`. Call it before
    /// anything is given to the client; a position is never delivered twice, nor after an attempt's outcome.
    package mutating func acceptTokens(_ handoff: HandoffID, firstIndex: Int, count: Int) -> TokenVerdict {
        let verdict = table[handoff]?.value.accept(firstIndex: firstIndex, count: count) ?? .drop
        switch verdict {
        case .deliver(let range): counters.tokensDropped += range.lowerBound
        case .drop: counters.tokensDropped += max(0, count)
        case .gap: counters.peerFaults += 1
        }
        return verdict
    }

    // MARK: The decode node

    package mutating func granted(_ terms: GrantTerms, from node: Incarnation) -> [LedgerAction] {
        // A grant nobody waits for: whatever became of the attempt, its slots must come back.
        guard table[terms.handoff] != nil else { return unknown(.sendFence(terms.handoff, .all, to: node)) }
        return fromDecode(terms.handoff, node) { $0.granted(terms, &$1) }
    }

    package mutating func refused(
        _ handoff: HandoffID, _ reason: RefusalReason, from node: Incarnation
    ) -> [LedgerAction] {
        fromDecode(handoff, node) { $0.refused(reason, &$1) }
    }

    package mutating func sealed(_ handoff: HandoffID, from node: Incarnation) -> [LedgerAction] {
        guard table[handoff] != nil else { return unknown(.sendCancel(handoff, to: node)) }
        return fromDecode(handoff, node) { $0.sealedByDecode(&$1) }
    }

    /// The sequence ended. `tokens`: how many this attempt generated; nil when it was cut short. What is not whole, or
    /// was lost on the way, makes the outcome a failure, and the next attempt resumes from what was delivered.
    package mutating func finished(
        _ handoff: HandoffID, tokens: Int?, from node: Incarnation
    ) -> [LedgerAction] {
        fromDecode(handoff, node) { $0.finished(tokens: tokens, &$1) }
    }

    /// With any proof: the slots are free again.
    package mutating func reclaimed(
        _ handoff: HandoffID, _ proof: QuiescenceProof.Kind, from node: Incarnation
    ) -> [LedgerAction] {
        fromDecode(handoff, node) { row, counters in
            if row.phase != .releasing { counters.proofs[proof, default: 0] += 1 }
            return row.reclaimed(&counters)
        }
    }

    // MARK: The prefill node

    /// The order to compute the prompt has arrived.
    package mutating func accepted(_ handoff: HandoffID, from node: Incarnation) -> [LedgerAction] {
        guard table[handoff] != nil else { return unknown(.sendCancel(handoff, to: node)) }
        return fromPrefill(handoff, node) { $0.accepted(by: node, &$1) }
    }

    package mutating func written(_ handoff: HandoffID, from node: Incarnation) -> [LedgerAction] {
        guard table[handoff] != nil else { return unknown(.sendRelease(handoff, to: node)) }
        return fromPrefill(handoff, node) { $0.written(by: node, &$1) }
    }

    package mutating func drained(
        _ handoff: HandoffID, posted: Int, completed: Int, from node: Incarnation
    ) -> [LedgerAction] {
        fromPrefill(handoff, node) { $0.drained(by: node, posted: posted, completed: completed, &$1) }
    }

    // MARK: Either node

    package mutating func failed(
        _ handoff: HandoffID, _ why: HandoffFailure, from node: Incarnation
    ) -> [LedgerAction] {
        guard let box = table[handoff], box.value.decode == node || box.value.prefills.contains(node) else {
            counters.stale += 1
            return []
        }
        return apply(handoff) { $0.failed(why, byDecode: $0.decode == node, &$1) }
    }

    /// A node's lease ended or another incarnation took its place: it holds nothing that can come back.
    package mutating func nodeLost(_ node: Incarnation) -> [LedgerAction] {
        table.keys.sorted().flatMap { handoff -> [LedgerAction] in
            guard let box = table[handoff] else { return [] }
            if box.value.decode == node { return apply(handoff) { $0.decodeLost(&$1) } }
            if box.value.prefills.contains(node) { return apply(handoff) { $0.prefillLost(node, &$1) } }
            return []
        }
    }

    /// A node said which handoffs it has open; those this router does not know are ended, and so are those whose leg
    /// on this node it had written off with the node. Handoffs of other routers are left alone.
    package mutating func nodeAttached(
        _ node: Incarnation, open handoffs: [HandoffID], isDecode: Bool
    ) -> [LedgerAction] {
        if isBroken(.notReconciled) { return [] }
        return handoffs.filter { $0.router == router && !isExpected($0, on: node, isDecode) }.flatMap { handoff in
            unknown(isDecode ? .sendFence(handoff, .all, to: node) : .sendCancel(handoff, to: node))
        }
    }

    // MARK: Private

    /// Whether a row still counts on this node's leg of the handoff.
    private func isExpected(_ handoff: HandoffID, on node: Incarnation, _ isDecode: Bool) -> Bool {
        guard let box = table[handoff] else { return false }
        if isDecode { return box.value.decode == node && box.value.phase != .releasing }
        return box.value.awaits(node)
    }

    private mutating func unknown(_ action: LedgerAction) -> [LedgerAction] {
        counters.stale += 1
        return [action]
    }

    private mutating func fromDecode(
        _ handoff: HandoffID, _ node: Incarnation, _ event: (inout LedgerRow, inout HandoffCounters) -> [LedgerAction]
    ) -> [LedgerAction] {
        if let box = table[handoff], box.value.decode != node, !isBroken(.otherIncarnationBelieved) {
            counters.peerFaults += 1
            return []
        }
        return apply(handoff, event)
    }

    private mutating func fromPrefill(
        _ handoff: HandoffID, _ node: Incarnation, _ event: (inout LedgerRow, inout HandoffCounters) -> [LedgerAction]
    ) -> [LedgerAction] {
        if let box = table[handoff], !box.value.prefills.contains(node), !isBroken(.otherIncarnationBelieved) {
            counters.peerFaults += 1
            return []
        }
        return apply(handoff, event)
    }

    /// Runs one event of one row and drops the row when that settled it.
    private mutating func apply(
        _ handoff: HandoffID, _ event: (inout LedgerRow, inout HandoffCounters) -> [LedgerAction]
    ) -> [LedgerAction] {
        guard let box = table[handoff] else {
            counters.stale += 1
            return []
        }
        let before = box.value.phase
        let actions = event(&box.value, &counters)
        before.checkSuccessor(box.value.phase, of: handoff)
        if box.value.phase == .settled {
            precondition(box.value.outcomeDelivered, "\(handoff) settled without an outcome")
            table[handoff] = nil
            let left = (requests[handoff.request] ?? 1) - 1
            requests[handoff.request] = left == 0 ? nil : left
        }
        return actions
    }
}
