import Synchronization

/// A part of a node that is made after the part that uses it, and let go at the end, since each refers to the
/// other.
final class LateBound<Value: Sendable>: Sendable {
    private let value = Mutex<Value?>(nil)

    /// nil before `bind` and after `release`.
    var current: Value? { value.withLock { $0 } }

    func bind(_ new: Value) { value.withLock { $0 = new } }

    /// Returns what was bound.
    func release() -> Value? {
        value.withLock { value in
            defer { value = nil }
            return value
        }
    }
}
