import ArgumentParser
import Handoff
import Simulation

/// Runs simulated clusters of the shipping state machines, one per seed, and says what they met.
@main
struct Simulate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "simulate",
        abstract: "Runs simulated clusters of the shipping handoff state machines through faults (docs/simulation.md).")

    @Option(help: "How many seeds, or which: 2000 or 500..<700.")
    var seeds = "2000"

    @Option(help: "The first seed, when --seeds is a number.")
    var start: UInt64 = 0

    @Option(help: "Processes at once.")
    var jobs = 2

    @Option(help: "Run this seed alone.")
    var seed: UInt64?

    @Flag(help: "With --seed: print what happens.")
    var trace = false

    @Flag(help: "Do not make a failing seed smaller.")
    var whole = false

    @Flag(help: "Do not fail when a fault met too few phases: for runs below the default size.")
    var partial = false

    @Option(help: "Break this rule (builds for mutants only).")
    var mutant: String?

    @Flag(help: "Break each rule in turn; every one must be caught.")
    var mutants = false

    @Option(help: "Seeds within which each mutant must be caught.")
    var within = 1000

    @OptionGroup var scenario: ScenarioOptions

    @Flag(help: .hidden)
    var slice = false

    @Flag(help: .hidden)
    var untilFailure = false

    func validate() throws {
        guard jobs > 0, within > 0 else { throw ValidationError("--jobs and --within must be positive.") }
        guard range != nil else { throw ValidationError("--seeds is a number or a range like 500..<700.") }
        guard !trace || seed != nil else { throw ValidationError("--trace needs --seed.") }
        if let mutant, BrokenRule(rawValue: mutant) == nil {
            throw ValidationError("No such rule. Rules: \(BrokenRule.allCases.map(\.rawValue).joined(separator: ", "))")
        }
        #if !BATON_MUTANTS
        guard mutant == nil, !mutants else {
            throw ValidationError("This build cannot break rules; build with BATON_MUTANTS=1.")
        }
        #endif
    }

    var range: Range<UInt64>? {
        let ends = seeds.split(separator: ".", omittingEmptySubsequences: true)
        if ends.count == 2, let first = UInt64(ends[0]), let last = UInt64(ends[1].drop { $0 == "<" }) {
            return first <= last ? first..<last : nil
        }
        return UInt64(seeds).map { start..<start + $0 }
    }

    func run() throws {
        #if BATON_MUTANTS
        try BrokenRule.$current.withValue(mutant.flatMap { BrokenRule(rawValue: $0) }) { try runUnbroken() }
        #else
        try runUnbroken()
        #endif
    }

    private func runUnbroken() throws {
        let overrides = try scenario.overrides()
        if slice { return runSlice(overrides) }
        if mutants { return try runMutants(overrides) }
        if let seed { return try runOne(seed, overrides) }
        try runMany(overrides)
    }

    // MARK: One seed

    private func runOne(_ seed: UInt64, _ overrides: Scenario.Overrides) throws {
        let scenario = Scenario(seed: seed, overrides)
        let result = World(scenario, onTrace: trace ? { print($0) } : nil).run()
        var report = Report()
        report.add(result, seed: seed)
        print("seed \(seed): \(scenario.description)")
        print("trace hash \(String(result.hash, radix: 16)), \(result.steps) events")
        ReportText.printTotals(report)
        if let violation = result.violation {
            print("FAILED: \(violation)")
            throw ExitCode.failure
        }
    }

    /// Runs seeds one after the other, for the process that started this one.
    private func runSlice(_ overrides: Scenario.Overrides) {
        var report = Report()
        for seed in range ?? 0..<0 {
            Slices.tell(Report.beginning(of: seed))
            report.add(World(Scenario(seed: seed, overrides)).run(), seed: seed)
            if untilFailure, !report.failures.isEmpty { break }
        }
        for line in report.lines { Slices.tell(line) }
    }

    // MARK: Many seeds

    private func runMany(_ overrides: Scenario.Overrides) throws {
        let started = ContinuousClock.now
        let seeds = range ?? 0..<0
        var pending: [Slice] = []
        var first = seeds.lowerBound
        while first < seeds.upperBound {
            let end = min(seeds.upperBound, first + 50)
            pending.append(Slice(seeds: first..<end, arguments: scenario.arguments + mutantArguments))
            first = end
        }
        // The first seeds once more, in another process: they must give the same, event for event.
        if let again = pending.first { pending.append(again) }
        var report = Report()
        var hashes: [UInt64] = []
        _ = try Slices.run(pending, jobs: jobs) { slice, part in
            if slice.seeds.lowerBound == seeds.lowerBound { hashes.append(part.hash) }
            if slice.seeds.lowerBound != seeds.lowerBound || hashes.count == 1 { report.add(part) }
        }
        let seconds = (ContinuousClock.now - started) / .seconds(1)
        ReportText.printTotals(report)
        ReportText.printRate(report, seconds: seconds, jobs: jobs)
        ReportText.printCoverage(report.coverage)
        for failure in report.failures.prefix(20) { print("FAILED: seed \(failure.seed): \(failure.violation)") }
        if let failure = report.failures.first {
            print("replay: \(replay(failure, overrides))")
            throw ExitCode.failure
        }
        guard hashes.count == 2, hashes[0] == hashes[1] else {
            print("FAILED: two processes that ran seeds \(seeds.lowerBound)… differ: \(hashes)")
            throw ExitCode.failure
        }
        print("two processes that ran the first seeds agree: hash \(String(hashes[0], radix: 16))")
        guard !partial else { return }
        if !report.coverage.missing.isEmpty || !report.coverage.unforeseen.isEmpty { throw ExitCode.failure }
    }

    private var mutantArguments: [String] { mutant.map { ["--mutant", $0] } ?? [] }

    /// The command that shows a failure, made as small as it goes.
    private func replay(_ failure: Report.Failure, _ overrides: Scenario.Overrides) -> String {
        var smallest = overrides
        if !whole {
            let isTrap = failure.violation == Slices.trapped
            var minimiser = Minimiser(seed: failure.seed) { candidate in
                if isTrap { return Slices.traps(failure.seed, ScenarioOptions.arguments(candidate) + mutantArguments) }
                let violation = World(Scenario(seed: failure.seed, candidate)).run().violation
                // The same rule is broken: its number stands in front.
                return violation?.prefix(2) == failure.violation.prefix(2)
            }
            smallest = minimiser.shrink(overrides)
        }
        let arguments = ScenarioOptions.arguments(smallest) + mutantArguments
        return (["\(CommandLine.arguments[0]) --seed \(failure.seed) --trace"] + arguments).joined(separator: " ")
    }

    // MARK: Mutants

    private func runMutants(_ overrides: Scenario.Overrides) throws {
        let seeds = range?.lowerBound ?? 0
        let slices = BrokenRule.allCases.map { rule in
            Slice(
                seeds: seeds..<seeds + UInt64(within),
                arguments: ["--mutant", rule.rawValue, "--until-failure"] + scenario.arguments)
        }
        var found: [String: Report.Failure] = [:]
        _ = try Slices.run(slices, jobs: jobs, continuesAfterTraps: false) { slice, report in
            if let failure = report.failures.first { found[slice.arguments[1]] = failure }
        }
        var isMissed = false
        print("| broken rule | seeds needed | caught as |\n| --- | --- | --- |")
        for rule in BrokenRule.allCases {
            guard let failure = found[rule.rawValue] else {
                isMissed = true
                print("| \(rule.rawValue) | more than \(within) | NOT CAUGHT |")
                continue
            }
            // The rules unbroken, the run must pass: else it is not this rule that was caught.
            if let other = World(Scenario(seed: failure.seed, overrides)).run().violation {
                isMissed = true
                print("| \(rule.rawValue) | seed \(failure.seed) | FAILS UNBROKEN: \(other) |")
                continue
            }
            print("| \(rule.rawValue) | \(failure.seed - seeds + 1) | \(failure.violation) |")
        }
        if isMissed { throw ExitCode.failure }
        print("\(BrokenRule.allCases.count) broken rules, each caught within \(within) seeds")
    }
}
