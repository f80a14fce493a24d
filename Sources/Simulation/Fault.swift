/// A kind of fault. A seed draws which of them its run has, and how often.
package enum Fault: String, CaseIterable, Sendable, Comparable {
    case clientLeaves = "client-leaves"
    case refusedGrant = "refused-grant"
    case prefillCrash = "prefill-crash"
    case decodeCrash = "decode-crash"
    case routerCrash = "router-crash"
    case prefillPause = "prefill-pause"
    case decodePause = "decode-pause"
    case routerPause = "router-pause"
    /// Both ends of a control stream lose it, each in its own time.
    case streamBroken = "stream-broken"
    /// The router alone gives the node up; the node notices nothing and is admitted again.
    case leaseEnded = "lease-ended"
    case controlCutToNode = "control-cut-to-node"
    case controlCutToRouter = "control-cut-to-router"
    case dataCutForward = "data-cut-forward"
    case dataCutBackward = "data-cut-backward"
    case slowLane = "slow-lane"
    /// A lane's connection breaks, at either end, in the middle of whatever it carries.
    case laneReset = "lane-reset"
    case digestMismatch = "digest-mismatch"
    /// A completion record that names another generation of a slot.
    case wrongRecord = "wrong-record"
    /// A record of an earlier use comes again on a lane that another handoff has now.
    case strayWrite = "stray-write"
    case computeFailed = "compute-failed"
    case sequenceFailed = "sequence-failed"
    case messageLost = "message-lost"
    case messageRepeated = "message-repeated"
    /// It comes much later than those sent after it.
    case messageOvertaken = "message-overtaken"
    /// It reaches the process that started behind the same name.
    case messageMisdelivered = "message-misdelivered"
    /// A deadline passes long before or after its time.
    case wildDeadline = "wild-deadline"

    package static func < (a: Fault, b: Fault) -> Bool { a.rawValue < b.rawValue }

    /// Those that strike a process, a path or a lane at a moment of the schedule's choosing.
    static let scheduled: [Fault] = [
        .clientLeaves, .prefillCrash, .decodeCrash, .routerCrash, .prefillPause, .decodePause, .routerPause,
        .streamBroken,
        .leaseEnded, .controlCutToNode, .controlCutToRouter, .dataCutForward, .dataCutBackward, .slowLane, .laneReset,
    ]
}
