/// How the last `capacity` settled handoffs ended, so that a repeated message gets the answer it got before and
/// a late first one starts nothing. What falls out of it is still safe: a handoff that starts again by a very
/// late message uses new slots under a new epoch, and its router, which does not know it, fences it.
struct SettledMemory<Answer: Sendable>: Sendable {
    private var answers: [HandoffID: Answer] = [:]
    private var order: [HandoffID] = []
    private var next = 0
    private let capacity: Int

    init(capacity: Int) {
        precondition(capacity > 0, "no room to remember settled handoffs")
        self.capacity = capacity
    }

    subscript(_ handoff: HandoffID) -> Answer? { answers[handoff] }

    /// Amortised O(1); forgets the oldest when full.
    mutating func remember(_ handoff: HandoffID, _ answer: Answer) {
        if answers.updateValue(answer, forKey: handoff) != nil { return }
        if order.count < capacity {
            order.append(handoff)
            return
        }
        answers[order[next]] = nil
        order[next] = handoff
        next = (next + 1) % capacity
    }
}

/// A place for a value that can't be copied inside a collection that copies.
final class Box<Value: ~Copyable> {
    var value: Value
    init(_ value: consuming Value) { self.value = value }
}
