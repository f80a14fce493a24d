import Threads

/// Whether to try RDMA on the way to a decode node, and why it is not in use.
struct RDMAPath: Sendable {
    /// Why it did not work the last time; nil since something has been acknowledged over it.
    private(set) var error: String?
    /// When to try it again.
    private var retry: (at: Instant, pause: Duration)?
    private var attempts = 0
    /// Lanes in a row that the peer closed before anything was acknowledged.
    private var unproven = 0
    private let settings: LanePool.Configuration

    init(_ settings: LanePool.Configuration) { self.settings = settings }

    /// Whether it may be tried now.
    var isOpen: Bool { retry?.at.hasPassed != false }
    /// When it may, if not now.
    var opening: Instant? { isOpen ? nil : retry?.at }

    /// The number of this attempt, for the next to begin with another pair of adapters.
    mutating func attempt() -> Int {
        defer { attempts += 1 }
        return attempts
    }

    /// TCP for a while, which is longer each time until something is acknowledged.
    mutating func fail(_ reason: String) {
        let pause = retry.map { min($0.pause * 2, settings.rdmaRetryMax) } ?? settings.rdmaRetryMin
        error = reason
        retry = (.after(pause), pause)
        unproven = 0
    }

    /// Something has arrived: it works.
    mutating func prove() {
        error = nil
        retry = nil
        unproven = 0
    }

    /// A lane has ended. - Parameter isProven: whether anything was acknowledged over it, or its
    /// handoff was called off, so that nothing had to be.
    mutating func laneEnded(_ reason: LaneCloseReason, isProven: Bool) {
        if reason.kind == .peerClosed, !isProven { unproven += 1 }
        // Once for all lanes that end of one cause.
        guard reason.meansNoPath || unproven >= settings.rdmaUnprovenMax, isOpen else { return }
        fail("lanes over RDMA ended: \(reason)")
    }
}
