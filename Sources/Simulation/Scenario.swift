/// What a run is made of: drawn by the seed, unless it is given.
package struct Scenario: Sendable {
    /// What is not left to the seed. A failing seed is made smaller by these, and its replay command names them.
    package struct Overrides: Sendable, Equatable {
        package var without: Set<Fault> = []
        package var requests: Int?
        package var routers: Int?
        package var prefills: Int?
        package var decodes: Int?
        /// No fault begins after this.
        package var until: Duration?

        package init() {}
    }

    package let seed: UInt64
    var routers = 1
    var prefills = 1
    var decodes = 1
    var slots = 8
    var sourceSlots = 12
    var lanesPerPair = 1
    /// In thousandths of all lanes.
    var blindLanes = 0
    var layers = 3
    var requests = 0
    var pagesMax = 1
    /// In thousandths of the attempts that could have two prefill nodes.
    var shared = 0
    /// In thousandths of the reservations for which pages are there that could be lent.
    var lends = 0
    /// Prompts of one begin in the same way.
    var documents = 1
    var tokensMax = 1
    /// Between two arrivals.
    var arrivalMax = Duration.milliseconds(10)
    var latencyMax = Duration.milliseconds(1)
    /// A layer of a chunk.
    var computeMax = Duration.milliseconds(1)
    /// A range of a record.
    var landMax = Duration.microseconds(200)
    var stepMax = Duration.milliseconds(5)
    /// Digests are compared and lanes asked outside the machine's lock: other events come in between.
    var sealsSlowly = false
    /// In thousandths, by fault; absent when the run has none of it.
    var rates: [Fault: Int] = [:]
    /// Thousandths of all events behind which a scheduled fault strikes.
    var strikes = 0
    /// When faults and arrivals end at the latest.
    var until = Duration.seconds(600)

    /// Drawn by the seed; `overrides` replace what they name.
    package init(seed: UInt64, _ overrides: Overrides = Overrides()) {
        self.seed = seed
        var random = Seeded(seed ^ 0x5CEA_A110)
        routers = random.chance(oneIn: 3) ? 2 : 1
        prefills = random.between(1, 3)
        decodes = random.between(1, 2)
        pagesMax = random.between(1, 6)
        slots = max(pagesMax, random.between(4, 24))
        sourceSlots = max(pagesMax, random.between(6, 32))
        lanesPerPair = random.between(1, 4)
        layers = random.between(1, 4)
        requests = random.between(24, 110)
        tokensMax = random.chance(oneIn: 4) ? 80 : random.between(1, 12)
        arrivalMax = random.time(.microseconds(500), .milliseconds(200))
        latencyMax = random.time(.microseconds(100), .milliseconds(40))
        computeMax = random.time(.microseconds(100), .milliseconds(30))
        landMax = random.time(.microseconds(20), .milliseconds(20))
        stepMax = random.time(.microseconds(200), .milliseconds(40))
        sealsSlowly = random.chance(oneIn: 2)
        blindLanes = random.pick([0, 0, 300, 1000])
        shared = random.pick([0, 200, 500, 1000])
        lends = random.pick([0, 500, 1000])
        documents = random.between(1, 4)
        // Half of the runs have few kinds of faults and show what these do; half have many at once.
        let share = random.pick([150, 300, 500, 700])
        for fault in Fault.allCases {
            let isOn = random.chance(perMille: share)
            let rate = random.between(5, 60)
            if isOn { rates[fault] = rate }
        }
        strikes = random.pick([1, 2, 4, 8])
        apply(overrides)
    }

    private mutating func apply(_ overrides: Overrides) {
        for fault in overrides.without { rates[fault] = nil }
        if let requests = overrides.requests { self.requests = min(requests, self.requests) }
        if let routers = overrides.routers { self.routers = min(routers, self.routers) }
        if let prefills = overrides.prefills { self.prefills = min(prefills, self.prefills) }
        if let decodes = overrides.decodes { self.decodes = min(decodes, self.decodes) }
        if let until = overrides.until { self.until = until }
    }

    /// One line for people.
    package var description: String {
        "\(routers) routers, \(prefills) prefill and \(decodes) decode nodes, \(slots) slots, \(lanesPerPair) lanes per pair "
            + "(\(blindLanes) ‰ blind), \(shared) ‰ of two writers, \(lends) ‰ of \(documents) documents lent, "
            + "\(layers) layers, \(requests) requests of up to \(pagesMax) pages and \(tokensMax) tokens; faults: "
            + (faults.isEmpty ? "none" : faults.map(\.rawValue).joined(separator: ", "))
    }

    /// The kinds of faults the run has, in a fixed order.
    package var faults: [Fault] { rates.keys.sorted() }
}
