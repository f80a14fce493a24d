import Threads

/// What lanes have done.
package struct LaneCounters: Sendable, Equatable {
    package var opened = 0
    package var closed: [LaneCloseReason.Kind: Int] = [:]
    package var refused: [LaneRefusal: Int] = [:]
    /// Records turned away because their handoff, epoch or generation is over. Over RDMA only the writer's adapter is
    /// told, so it is the prefill node that counts them.
    package var staleWritesRejected = 0
    package var protocolErrors = 0
    package var records = 0
    package var bytes = 0
    package var completions = 0
    package var digestMismatches = 0
    /// Completions without digests, because both ends have them off.
    package var uncheckedCompletions = 0
    package var fences = 0
    package var fenceTotal = Duration.zero
    package var fenceMax = Duration.zero
    /// Connection attempts that failed.
    package var dialFailures = 0

    package init() {}

    /// A lane ends for this.
    mutating func count(_ violation: LaneViolation) {
        switch violation.kind {
        case .staleWrite: staleWritesRejected += 1
        case .protocolError: protocolErrors += 1
        case .peerClosed, .fenced, .superseded, .shutdown, .timeout, .system: break
        }
    }

    static func += (a: inout LaneCounters, b: LaneCounters) {
        a.opened += b.opened
        a.closed.merge(b.closed, uniquingKeysWith: +)
        a.refused.merge(b.refused, uniquingKeysWith: +)
        a.staleWritesRejected += b.staleWritesRejected
        a.protocolErrors += b.protocolErrors
        a.records += b.records
        a.bytes += b.bytes
        a.completions += b.completions
        a.digestMismatches += b.digestMismatches
        a.uncheckedCompletions += b.uncheckedCompletions
        a.fences += b.fences
        a.fenceTotal += b.fenceTotal
        a.fenceMax = max(a.fenceMax, b.fenceMax)
        a.dialFailures += b.dialFailures
    }
}

/// The counters of a process's lanes, apart by what carries them.
package struct LaneTally: Sendable {
    /// By `tcp`, `rdma` where no device had been found yet, or the name of an RDMA device.
    package fileprivate(set) var carriers: [String: LaneCounters] = [:]

    package init() {}

    package var total: LaneCounters { carriers.values.reduce(into: LaneCounters()) { $0 += $1 } }
}

/// Where lanes count what they do.
final class LaneTallies: Sendable {
    private let counters = Monitor<[String: Monitor<LaneCounters>]>([:])

    /// Kept by who counts: it is looked up under a lock.
    subscript(carrier: String) -> Monitor<LaneCounters> {
        counters.withLock { counters in
            if let known = counters[carrier] { return known }
            let made = Monitor(LaneCounters())
            counters[carrier] = made
            return made
        }
    }

    var tally: LaneTally {
        var tally = LaneTally()
        tally.carriers = counters.withLock { $0 }.mapValues { $0.withLock { $0 } }
        return tally
    }
}
