/// Whether a node's engine moves: looked at by somebody else than the engine, at short intervals. Pure.
///
/// A node that answers and an engine that works are two things: a thread that hangs in a step, a kernel or a driver
/// leaves streams and heartbeats alive. Only time in which the node itself ran is counted, so that a process that
/// was stopped, or a machine that is busy, does not look like an engine that hangs.
package struct EngineWatch: Sendable {
    /// At most this much of the time between two looks is counted.
    package static let lookMax = Duration.milliseconds(250)

    /// How long the engine has had work and has not moved.
    package private(set) var stalled = Duration.zero
    private var ticks: UInt64?
    private var lastLook = Duration.zero

    package init() {}

    /// - Parameters:
    ///   - ticks: a count that the engine raises with every layer of a step and every command it takes.
    ///   - hasWork: it is within a step, or commands wait for it.
    ///   - now: since any fixed start.
    package mutating func look(ticks: UInt64, hasWork: Bool, now: Duration) {
        defer {
            self.ticks = ticks
            lastLook = now
        }
        guard hasWork, ticks == self.ticks else {
            stalled = .zero
            return
        }
        stalled += min(max(.zero, now - lastLook), Self.lookMax)
    }
}
