import Handoff

/// The running deadlines of a node, by name and handoff. Pure: times are given, since any fixed start.
struct DeadlineTable {
    struct Key: Hashable {
        var deadline: Deadline
        var handoff: HandoffID
    }

    private var times: [Key: Duration] = [:]

    var count: Int { times.count }

    /// Starts a deadline, or starts it again.
    mutating func set(_ deadline: Deadline, _ handoff: HandoffID, at time: Duration) {
        times[Key(deadline: deadline, handoff: handoff)] = time
    }

    mutating func clear(_ deadline: Deadline, _ handoff: HandoffID) {
        times[Key(deadline: deadline, handoff: handoff)] = nil
    }

    /// Those that have passed, earliest first; they are gone afterwards. O(running).
    mutating func takePassed(now: Duration) -> [Key] {
        guard !times.isEmpty else { return [] }
        let passed = times.filter { $0.value <= now }.sorted { $0.value < $1.value }
        for (key, _) in passed { times[key] = nil }
        return passed.map(\.key)
    }
}
