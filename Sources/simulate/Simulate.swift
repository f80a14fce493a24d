import Simulation
@main struct S { static func main() {
    let a = Int(CommandLine.arguments[1])!, b = Int(CommandLine.arguments[2])!
    var handoffs = 0, bad = 0, steps = 0
    for seed in a..<b {
        let t = CommandLine.arguments.count > 3
        let world = World(Scenario(seed: UInt64(seed)), onTrace: t ? { print($0) } : nil)
        let r = world.run()
        handoffs += r.handoffs; steps += r.steps
        if let v = r.violation { bad += 1; print(seed, r.steps, v) }
        if t { print(r.totals.sorted { $0.key < $1.key }) }
    }
    print(handoffs, steps, bad)
} }
