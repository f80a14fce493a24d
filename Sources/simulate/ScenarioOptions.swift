import ArgumentParser
import Simulation

/// What of a scenario is not left to the seed.
struct ScenarioOptions: ParsableArguments {
    @Option(help: "Kinds of faults to leave out, separated by commas.")
    var without: String?

    @Option(help: "Requests at most.")
    var requests: Int?

    @Option(help: "Routers at most.")
    var routers: Int?

    @Option(help: "Prefill nodes at most.")
    var prefills: Int?

    @Option(help: "Decode nodes at most.")
    var decodes: Int?

    @Option(help: "Simulated time after which no fault begins, in milliseconds.")
    var untilMs: Int?

    func overrides() throws -> Scenario.Overrides {
        var overrides = Scenario.Overrides()
        for name in (without ?? "").split(separator: ",") {
            guard let fault = Fault(rawValue: String(name)) else {
                let all = Fault.allCases.map(\.rawValue).joined(separator: ", ")
                throw ValidationError("No fault is called \(name). Faults: \(all)")
            }
            overrides.without.insert(fault)
        }
        for count in [requests, routers, prefills, decodes] {
            if let count, count < 1 { throw ValidationError("Counts must be positive.") }
        }
        overrides.requests = requests
        overrides.routers = routers
        overrides.prefills = prefills
        overrides.decodes = decodes
        overrides.until = untilMs.map { .milliseconds($0) }
        return overrides
    }

    var arguments: [String] { (try? overrides()).map(ScenarioOptions.arguments) ?? [] }

    /// As they are given on the command line.
    static func arguments(_ overrides: Scenario.Overrides) -> [String] {
        var arguments: [String] = []
        if !overrides.without.isEmpty {
            arguments += ["--without", overrides.without.map(\.rawValue).sorted().joined(separator: ",")]
        }
        let counts = [
            ("--requests", overrides.requests), ("--routers", overrides.routers), ("--prefills", overrides.prefills),
            ("--decodes", overrides.decodes), ("--until-ms", overrides.until.map { Int($0 / .milliseconds(1)) }),
        ]
        for case (let name, let count?) in counts { arguments += [name, "\(count)"] }
        return arguments
    }
}
