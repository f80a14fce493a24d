/// What a sender does next; performed in order, outside the machine.
package enum SendingAction: Sendable, Equatable {
    case startCompute(HandoffID)
    /// The order was taken: it need not be sent again.
    case sendAccepted(HandoffID)
    /// Stop computing within one layer. The source pages stay until `unpin`.
    case cancelCompute(HandoffID)
    /// Write these ranges; answered by `acknowledged` or `laneClosed`.
    case post(LaneKey, WriteBatch)
    /// Send the completion record behind all writes; answered by `completionAcknowledged` or `laneClosed`.
    case postCompletion(LaneKey, PartTerms)
    case sendWritten(HandoffID, bytes: Int)
    case sendDrained(HandoffID, posted: Int, completed: Int)
    case sendFailed(HandoffID, HandoffFailure)
    /// No write can read the source pages any more, and nobody wants more of them computed. Exactly once for every
    /// `startCompute`.
    case unpin(HandoffID)
    /// Answered by `laneClosed`.
    case closeLane(LaneKey)
    case setDeadline(Deadline, HandoffID)
    case clearDeadline(Deadline, HandoffID)
    /// Forget whatever was kept for the handoff.
    case settled(HandoffID)
}

/// One handoff on the sender: its part of it, for the engine computes the whole prompt.
///
///     computing ──started──▶ writing ──all posted──▶ completing ──acknowledged──▶ written ──release──▶ settled
///         └───────────cancel, failure──▶ draining ──all acknowledged, lane closed──▶ settled
///
/// Source pages are unpinned on the way into written or settled and nowhere else. They do not wait for the other parts
/// of the handoff: two nodes that held pages until the other has written would wait for each other for ever. Events from the engine that do not fit
/// trap, unless a cancel made them late; events of a peer that do not fit are its fault and close the lane.
struct SendingHandoff: ~Copyable {
    enum State: ~Copyable {
        /// The engine has been asked; nothing is posted. Becomes writing or settled.
        case computing(WriteProgress)
        /// Pages are posted as they become ready. Becomes completing, draining or settled.
        case writing(WriteProgress)
        /// Everything and the completion record is posted. Becomes written, draining or settled.
        case completing(WriteProgress)
        /// The receiver has it all; nothing is pinned. Becomes settled.
        case written(WriteProgress)
        /// Nothing more is posted; posted writes may still read the source pages. `recordPosted`: the
        /// completion record is among them. Becomes settled.
        case draining(WriteProgress, recordPosted: Bool)
        /// Nothing is pinned or posted. Becomes nothing.
        case settled(posted: Int, completed: Int)
    }

    typealias Phase = SendingPhase

    let terms: PartTerms
    private var state: State

    /// `layers`: of a page.
    init(terms: PartTerms, layers: Int) {
        self.init(terms, .computing(WriteProgress(terms: terms, layers: layers)))
    }

    private init(_ terms: PartTerms, _ state: consuming State) {
        self.terms = terms
        self.state = state
    }

    var phase: Phase {
        switch state {
        case .computing: .computing
        case .writing: .writing
        case .completing: .completing
        case .written: .written
        case .draining: .draining
        case .settled: .settled
        }
    }

    var settlement: (posted: Int, completed: Int)? {
        switch state {
        case .settled(let posted, let completed): (posted, completed)
        default: nil
        }
    }

    // MARK: The engine

    mutating func started(sources: [SlotRef], counters: inout HandoffCounters) {
        let terms = self.terms
        switch consume self.state {
        case .computing(var progress):
            precondition(sources.count == terms.tablePages, "block table of \(terms.handoff) has another length")
            progress.sources = sources
            self = Self(terms, .writing(progress))
        case .draining(let progress, let recordPosted):
            counters.stale += 1
            self = Self(terms, .draining(progress, recordPosted: recordPosted))
        case .settled(let posted, let completed):
            counters.stale += 1
            self = Self(terms, .settled(posted: posted, completed: completed))
        default:
            preconditionFailure("\(terms.handoff) started twice")
        }
    }

    mutating func pagesReady(
        layers: Range<Int>, pages: Range<Int>, shape: PageShape, counters: inout HandoffCounters
    ) -> [SendingAction] {
        let terms = self.terms
        // The engine goes on with what others write after the last of this part is posted.
        guard layers.overlaps(terms.layers), pages.overlaps(terms.pages) else { return [] }
        var actions: [SendingAction] = []
        switch consume self.state {
        case .writing(var progress):
            progress.ready(layers: layers, pages: pages, shape: shape)
            self = Self.post(progress, &actions, &counters)
        case .draining(let progress, let recordPosted):
            counters.stale += 1
            self = Self(terms, .draining(progress, recordPosted: recordPosted))
        case .settled(let posted, let completed):
            counters.stale += 1
            self = Self(terms, .settled(posted: posted, completed: completed))
        default:
            preconditionFailure("pages of \(terms.handoff) ready before it started or after its last")
        }
        return actions
    }

    // MARK: The lane

    /// The receiver has landed `records` records of this handoff altogether.
    mutating func acknowledged(records: Int, counters: inout HandoffCounters) -> [SendingAction] {
        let terms = self.terms
        var actions: [SendingAction] = []
        switch consume self.state {
        case .writing(var progress):
            if progress.acknowledge(records) {
                self = Self.post(progress, &actions, &counters)
            } else {
                actions = Self.refuse(progress.key, &counters)
                self = Self(terms, .writing(progress))
            }
        case .completing(var progress):
            if !progress.acknowledge(records) { actions = Self.refuse(progress.key, &counters) }
            self = Self(terms, .completing(progress))
        case .draining(var progress, let recordPosted):
            let sound = progress.acknowledge(records)
            if sound, !recordPosted, progress.isQuiet {
                self = Self.settle(progress, &actions, &counters)
            } else {
                if !sound { actions = Self.refuse(progress.key, &counters) }
                self = Self(terms, .draining(progress, recordPosted: recordPosted))
            }
        case .computing(let progress):
            actions = Self.refuse(progress.key, &counters)
            self = Self(terms, .computing(progress))
        case .written(let progress):
            counters.stale += 1
            self = Self(terms, .written(progress))
        case .settled(let posted, let completed):
            counters.stale += 1
            self = Self(terms, .settled(posted: posted, completed: completed))
        }
        return actions
    }

    /// The receiver has the completion record and all before it.
    mutating func completionAcknowledged(counters: inout HandoffCounters) -> [SendingAction] {
        let terms = self.terms
        var actions: [SendingAction] = []
        switch consume self.state {
        case .completing(var progress):
            progress.completed = progress.posted
            Self.unpin(&progress, &actions, &counters)
            actions.append(.sendWritten(terms.handoff, bytes: progress.bytes))
            if progress.released {
                self = Self.settle(progress, &actions, &counters)
            } else {
                self = Self(terms, .written(progress))
            }
        case .draining(var progress, let recordPosted):
            if recordPosted {
                progress.completed = progress.posted
                self = Self.settle(progress, &actions, &counters)
            } else {
                actions = Self.refuse(progress.key, &counters)
                self = Self(terms, .draining(progress, recordPosted: recordPosted))
            }
        case .computing(let progress):
            actions = Self.refuse(progress.key, &counters)
            self = Self(terms, .computing(progress))
        case .writing(let progress):
            actions = Self.refuse(progress.key, &counters)
            self = Self(terms, .writing(progress))
        case .written(let progress):
            counters.stale += 1
            self = Self(terms, .written(progress))
        case .settled(let posted, let completed):
            counters.stale += 1
            self = Self(terms, .settled(posted: posted, completed: completed))
        }
        return actions
    }

    /// The lane is closed and its sender has left the slab.
    mutating func laneClosed(counters: inout HandoffCounters) -> [SendingAction] {
        let terms = self.terms
        var actions: [SendingAction] = []
        switch consume self.state {
        case .computing(let progress):
            actions = Self.laneLost(terms.handoff, &counters)
            self = Self.settle(progress, &actions, &counters)
        case .writing(let progress):
            actions = Self.laneLost(terms.handoff, &counters)
            self = Self.settle(progress, &actions, &counters)
        case .completing(let progress):
            actions = Self.laneLost(terms.handoff, &counters)
            self = Self.settle(progress, &actions, &counters)
        case .draining(let progress, _):
            self = Self.settle(progress, &actions, &counters)
        case .written(let progress):
            self = Self(terms, .written(progress))
        case .settled(let posted, let completed):
            self = Self(terms, .settled(posted: posted, completed: completed))
        }
        return actions
    }

    /// Whether the last acknowledgements have been waited for long enough, once nobody wants more than them.
    var awaitsOnlyAcknowledgements: Bool {
        switch state {
        case .draining: true
        case .completing(let progress): progress.released
        default: false
        }
    }

    // MARK: The router

    /// Stops posting, and settles once nothing posted is under way. `reason` is what to do first.
    mutating func stop(_ reason: [SendingAction], counters: inout HandoffCounters) -> [SendingAction] {
        let terms = self.terms
        var actions = reason
        switch consume self.state {
        case .computing(let progress):
            self = Self.settle(progress, &actions, &counters)
        case .writing(let progress):
            if isBroken(.unpinnedEarly) { actions.append(.unpin(terms.handoff)) }
            if progress.isQuiet || isBroken(.drainedBeforeCompletions) {
                self = Self.settle(progress, &actions, &counters)
            } else {
                actions.append(.setDeadline(.laneDrain, terms.handoff))
                self = Self(terms, .draining(progress, recordPosted: false))
            }
        case .completing(let progress):
            // After a release it runs already, and is not put off.
            if !progress.released { actions.append(.setDeadline(.laneDrain, terms.handoff)) }
            self = Self(terms, .draining(progress, recordPosted: true))
        case .written(let progress):
            self = Self.settle(progress, &actions, &counters)
        case .draining(let progress, let recordPosted):
            counters.duplicates += 1
            self = Self(terms, .draining(progress, recordPosted: recordPosted))
            return []
        case .settled(let posted, let completed):
            counters.duplicates += 1
            self = Self(terms, .settled(posted: posted, completed: completed))
            return []
        }
        return actions
    }

    /// The receiver has sealed: the source pages are not needed any more.
    mutating func release(counters: inout HandoffCounters) -> [SendingAction] {
        switch phase {
        case .computing, .writing:
            // Nobody can have sealed what is not written. Whatever the router believes, it is done with us.
            counters.peerFaults += 1
            return stop([.cancelCompute(terms.handoff)], counters: &counters)
        case .written, .draining, .settled:
            return stop([], counters: &counters)
        case .completing:
            break
        }
        let terms = self.terms
        switch consume self.state {
        case .completing(var progress):
            // Sealed reached the router before the acknowledgement reached us. A path that was cut without a word
            // brings none: then the lane is closed.
            let isRepeated = progress.released
            if isRepeated { counters.duplicates += 1 }
            progress.released = true
            self = Self(terms, .completing(progress))
            return isRepeated ? [] : [.setDeadline(.laneDrain, terms.handoff)]
        default:
            preconditionFailure("phase and state differ")
        }
    }

    /// What the router would know if no message were ever lost.
    func query() -> [SendingAction] {
        switch state {
        case .written(let progress): [.sendWritten(terms.handoff, bytes: progress.bytes)]
        // Of these it will hear.
        default: []
        }
    }

    // MARK: Private

    /// Posts what may be posted, and the completion record behind the last of it.
    private static func post(
        _ progress: consuming WriteProgress, _ actions: inout [SendingAction], _ counters: inout HandoffCounters
    ) -> Self {
        let terms = progress.terms
        let records = progress.posted
        let bytes = progress.bytes
        actions += progress.post()
        counters.recordsPosted += progress.posted - records
        counters.bytesPosted += progress.bytes - bytes
        guard progress.isFullyPosted else { return Self(terms, .writing(progress)) }
        actions.append(.postCompletion(progress.key, terms))
        return Self(terms, .completing(progress))
    }

    /// The lane's peer acknowledged what it can't have: it is not to be trusted with this lane.
    private static func refuse(_ key: LaneKey, _ counters: inout HandoffCounters) -> [SendingAction] {
        counters.peerFaults += 1
        return [.closeLane(key)]
    }

    private static func laneLost(_ handoff: HandoffID, _ counters: inout HandoffCounters) -> [SendingAction] {
        [.sendFailed(handoff, failure(.laneLost, &counters)), .cancelCompute(handoff)]
    }

    /// The one place where source pages are unpinned. An engine that goes on with what others write is stopped.
    private static func unpin(
        _ progress: inout WriteProgress, _ actions: inout [SendingAction], _ counters: inout HandoffCounters
    ) {
        if progress.isUnpinned { return }
        if progress.isFullyPosted, progress.endsEarly { actions.append(.cancelCompute(progress.id)) }
        progress.isUnpinned = true
        counters.unpins += 1
        actions.append(.unpin(progress.id))
    }

    private static func settle(
        _ progress: consuming WriteProgress, _ actions: inout [SendingAction], _ counters: inout HandoffCounters
    ) -> Self {
        actions.append(.clearDeadline(.laneDrain, progress.id))
        unpin(&progress, &actions, &counters)
        let completed = isBroken(.drainedBeforeCompletions) ? progress.posted : progress.completed
        let posted = progress.posted
        actions += [
            .sendDrained(progress.id, posted: posted, completed: completed), .settled(progress.id),
        ]
        return Self(progress.terms, .settled(posted: posted, completed: completed))
    }
}
