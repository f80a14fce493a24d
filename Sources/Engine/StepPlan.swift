/// Names a sequence inside one scheduler. Not reused while the sequence lives.
package struct SequenceHandle: Hashable, Sendable {
    package let index: Int
}

/// Consecutive positions of one sequence to compute in a step.
package struct StepChunk: Sendable, Equatable {
    package var sequence: SequenceHandle
    package var positions: Range<Int>
    /// A token is sampled after the last position that is not drafted.
    package var wantsLogits: Bool
    /// Positions at the end that hold drafted tokens; a token is sampled after each of them too.
    package var drafts: Int

    package init(sequence: SequenceHandle, positions: Range<Int>, wantsLogits: Bool, drafts: Int = 0) {
        self.sequence = sequence
        self.positions = positions
        self.wantsLogits = wantsLogits
        self.drafts = drafts
    }

    /// Rows whose logits are wanted: the last ones.
    package var logitRows: Int { wantsLogits ? 1 + drafts : 0 }
}

/// What a step does, and what was decided on the way. Reused from step to step.
package struct StepPlan: Sendable {
    package var chunks: [StepChunk] = []
    /// Sequences that got their pages in this step, in order.
    package var admitted: [SequenceHandle] = []
    /// Admitted sequences with nothing left to compute: the prefix cache had all of it.
    package var alreadyComputed: [SequenceHandle] = []
    package var preempted: [SequenceHandle] = []
    package var evictedPages = 0

    package init() {}

    package var rowCount: Int { chunks.reduce(0) { $0 + $1.positions.count } }

    mutating func clear() {
        chunks.removeAll(keepingCapacity: true)
        admitted.removeAll(keepingCapacity: true)
        alreadyComputed.removeAll(keepingCapacity: true)
        preempted.removeAll(keepingCapacity: true)
        evictedPages = 0
    }
}
