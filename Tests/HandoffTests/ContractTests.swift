import Testing

@Suite struct ContractTests {
    /// Random clusters, faults and interleavings; every invariant after every step, nothing left at the end.
    @Test(arguments: 0..<16 as Range<UInt64>)
    func theContractHolds(batch: UInt64) {
        var handoffs = 0
        for seed in batch * 25..<(batch + 1) * 25 {
            let world = ContractWorld(seed: seed)
            world.run(steps: 2500)
            handoffs += world.handoffsOpened
            #expect(world.violations.isEmpty, "seed \(seed): \(world.violations.first ?? "")")
        }
        #expect(handoffs > 250)
    }

    /// The same worlds with one rule broken: if these pass, the checks above check nothing.
    @Test(arguments: BrokenRule.allCases)
    func aBrokenRuleIsCaught(rule: BrokenRule) {
        let caught = (0..<400 as Range<UInt64>).first { seed in
            let world = ContractWorld(seed: seed, broken: rule)
            world.run(steps: 2500)
            return !world.violations.isEmpty
        }
        #expect(caught != nil, "\(rule) went unnoticed")
    }
}
