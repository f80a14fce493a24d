/// What many runs did, in one process or several: a slice of seeds writes it as lines, and the one who started the
/// slice reads them back.
package struct Report: Sendable {
    package struct Failure: Sendable, Equatable {
        package let seed: UInt64
        package let violation: String

        package init(seed: UInt64, violation: String) {
            self.seed = seed
            self.violation = violation
        }
    }

    package private(set) var runs = 0
    package private(set) var handoffs = 0
    package private(set) var steps = 0
    package private(set) var simulated = Duration.zero
    package private(set) var totals: [String: Int] = [:]
    package private(set) var coverage = Coverage()
    package private(set) var failures: [Failure] = []
    /// Over the runs in their order: two processes that ran the same seeds have the same.
    package private(set) var hash: UInt64 = 0
    /// The seed whose end has not been read yet.
    package private(set) var running: UInt64?

    package init() {}

    package mutating func add(_ result: RunResult, seed: UInt64) {
        runs += 1
        handoffs += result.handoffs
        steps += result.steps
        simulated += result.simulated
        totals.merge(result.totals, uniquingKeysWith: +)
        coverage.add(result.coverage)
        hash = (hash &* 0x100_0000_01B3) ^ result.hash
        if let violation = result.violation { failures.append(Failure(seed: seed, violation: violation)) }
    }

    package mutating func add(_ failure: Failure) { failures.append(failure) }

    package mutating func add(_ other: Report) {
        runs += other.runs
        handoffs += other.handoffs
        steps += other.steps
        simulated += other.simulated
        totals.merge(other.totals, uniquingKeysWith: +)
        coverage.add(other.coverage)
        failures += other.failures
    }

    // MARK: Lines

    package static func beginning(of seed: UInt64) -> String { "begin\t\(seed)" }

    package var lines: [String] {
        ["runs\t\(runs)\t\(handoffs)\t\(steps)\t\(simulated.microseconds)\t\(hash)"]
            + totals.keys.sorted().map { "total\t\($0)\t\(totals[$0] ?? 0)" }
            + coverage.counts.map {
                "mark\t\($0.key.fault.rawValue)\t\($0.key.place.machine)\t\($0.key.place.phase)\t\($0.value)"
            }
            .sorted()
            + failures.map { "failure\t\($0.seed)\t\($0.violation)" }
    }

    package mutating func read(_ line: Substring) {
        let parts = line.split(separator: "\t", maxSplits: 5).map(String.init)
        switch (parts.first, parts.count) {
        case ("begin", 2): running = UInt64(parts[1])
        case ("runs", 6):
            runs += Int(parts[1]) ?? 0
            handoffs += Int(parts[2]) ?? 0
            steps += Int(parts[3]) ?? 0
            simulated += .microseconds(Int(parts[4]) ?? 0)
            hash = UInt64(parts[5]) ?? 0
            running = nil
        case ("total", 3): totals[parts[1], default: 0] += Int(parts[2]) ?? 0
        case ("mark", 5):
            guard let fault = Fault(rawValue: parts[1]) else { return }
            coverage.add(fault, parts[2], parts[3], Int(parts[4]) ?? 0)
        case ("failure", 3...):
            failures.append(
                Failure(seed: UInt64(parts[1]) ?? 0, violation: parts[2...].joined(separator: "\t")))
        default: break
        }
    }
}
