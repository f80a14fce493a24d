/// Growing waits between attempts, spread by jitter so that many nodes do not come back at the same moment.
/// Pure: the randomness is given.
package struct Backoff: Sendable {
    package var initial: Duration
    package var limit: Duration
    private var current: Duration

    package init(initial: Duration = .milliseconds(100), limit: Duration = .seconds(3)) {
        self.initial = initial
        self.limit = limit
        current = initial
    }

    /// The next wait: between half and all of a time that doubles from `initial` to `limit`.
    /// - Parameter random: in 0..<1.
    package mutating func next(random: Double) -> Duration {
        defer { current = min(current * 2, limit) }
        return current * (0.5 + random / 2)
    }

    package mutating func reset() { current = initial }
}
