import Handoff
import Simulation
import Testing

@Suite struct SimulationTests {
    private static let batches = 0..<10 as Range<UInt64>
    private static let batchSeeds: UInt64 = 30

    /// Whole clusters through faults: no rule is broken, nothing is left, and little is asked to meet every fault.
    @Test(arguments: batches)
    func theContractHolds(batch: UInt64) {
        var report = Report()
        for seed in batch * Self.batchSeeds..<(batch + 1) * Self.batchSeeds {
            report.add(World(Scenario(seed: seed)).run(), seed: seed)
        }
        #expect(report.failures.isEmpty, "\(report.failures)")
        #expect(report.handoffs > 500)
        #expect(report.coverage.unforeseen.isEmpty)
    }

    @Test func everyFaultAndEveryPhaseIsMet() {
        var coverage = Coverage()
        for seed in 0..<200 as Range<UInt64> { coverage.add(World(Scenario(seed: seed)).run().coverage) }
        for fault in Fault.allCases {
            #expect(Coverage.places.contains { coverage.count(fault, $0) > 0 }, "\(fault) met nothing")
        }
        for place in Coverage.places {
            #expect(Fault.allCases.contains { coverage.count($0, place) > 0 }, "nothing met \(place)")
        }
    }

    @Test func aRunIsItsSeed() {
        for seed in [3, 14, 15] as [UInt64] {
            var traces: [[String]] = [[], []]
            let first = World(Scenario(seed: seed), onTrace: { traces[0].append($0) }).run()
            let second = World(Scenario(seed: seed), onTrace: { traces[1].append($0) }).run()
            #expect(first == second)
            #expect(traces[0] == traces[1])
            #expect(traces[0].count > 100)
            let other = World(Scenario(seed: seed + 1)).run()
            #expect(other.hash != first.hash)
        }
    }

    @Test func aSilentRunIsTheTracedOne() {
        let silent = World(Scenario(seed: 9)).run()
        let traced = World(Scenario(seed: 9), onTrace: { _ in }).run()
        #expect(silent == traced)
    }

    @Test func overridesLeaveOutWhatTheyName() {
        var overrides = Scenario.Overrides()
        overrides.without = Set(Fault.allCases)
        overrides.requests = 5
        let result = World(Scenario(seed: 21, overrides)).run()
        #expect(result.violation == nil)
        #expect(result.coverage.counts.keys.allSatisfy { $0.fault == .refusedGrant || $0.fault == .digestMismatch })
        #expect(result.totals["requests"] == 5)
        #expect(result.totals["requests completed"] == 5)
    }

    @Test func aReportReadsWhatItWrites() {
        var written = Report()
        for seed in 0..<5 as Range<UInt64> { written.add(World(Scenario(seed: seed)).run(), seed: seed) }
        written.add(Report.Failure(seed: 7, violation: "1: of a rule"))
        var read = Report()
        for line in written.lines { read.read(line[...]) }
        #expect(read.lines == written.lines)
        #expect(read.failures == written.failures && read.coverage == written.coverage)
    }

    /// It keeps what the failure needs and nothing else, whatever the order in which things are tried.
    @Test func theMinimiserKeepsWhatMatters() throws {
        let seed = try #require((0..<100 as Range<UInt64>).first { Scenario(seed: $0).faults.contains(.prefillCrash) })
        var minimiser = Minimiser(seed: seed) { overrides in
            !overrides.without.contains(.prefillCrash) && overrides.requests ?? 100 >= 4
                && overrides.until ?? .seconds(600) >= .seconds(2)
        }
        let smallest = minimiser.shrink(Scenario.Overrides())
        #expect(Scenario(seed: seed, smallest).faults == [.prefillCrash])
        #expect(smallest.requests == 4)
        let until = try #require(smallest.until)
        #expect(until >= .seconds(2) && until < .milliseconds(2100))
    }

    #if BATON_MUTANTS
    @Test func aBrokenRuleIsCaughtAndItsRunMadeSmall() throws {
        try BrokenRule.$current.withValue(.digestsIgnored) {
            func violation(_ seed: UInt64, _ overrides: Scenario.Overrides) -> String? {
                World(Scenario(seed: seed, overrides)).run().violation
            }
            // A run that needs this fault alone.
            var alone = Scenario.Overrides()
            alone.without = Set(Fault.allCases).subtracting([.digestMismatch])
            let seed = try #require(
                (0..<100 as Range<UInt64>).first {
                    violation($0, Scenario.Overrides()) != nil && violation($0, alone)?.hasPrefix("2") == true
                })
            var minimiser = Minimiser(seed: seed) { violation(seed, $0)?.hasPrefix("2") == true }
            let smallest = minimiser.shrink(Scenario.Overrides())
            #expect(Scenario(seed: seed, smallest).faults == [.digestMismatch])
            #expect(violation(seed, smallest)?.hasPrefix("2") == true)
            #expect(try #require(smallest.requests) < 60)
        }
    }

    @Test(arguments: BrokenRule.allCases)
    func everyBrokenRuleIsCaught(rule: BrokenRule) {
        let caught = (0..<1000 as Range<UInt64>).first { seed in
            BrokenRule.$current.withValue(rule) { World(Scenario(seed: seed)).run().violation != nil }
        }
        #expect(caught != nil, "\(rule.rawValue) went unnoticed")
    }
    #endif
}
