import Simulation

/// The report, as tables.
enum ReportText {
    static func printTotals(_ report: Report) {
        for name in report.totals.keys.sorted() {
            print("  \(column(name, 36))\(number(report.totals[name] ?? 0, 12))")
        }
    }

    static func printRate(_ report: Report, seconds: Double, jobs: Int) {
        let rate = Int(Double(report.handoffs) / max(seconds, 0.001))
        let hours = report.simulated / .seconds(3600)
        print(
            "\(report.handoffs) handoffs over \(report.runs) seeds, \(report.steps) events, \(tenths(hours)) simulated hours: "
                + "\(tenths(seconds)) s with \(jobs) processes, \(rate) handoffs/s")
    }

    /// One row per fault, one column per phase; a dot where the pair cannot occur.
    static func printCoverage(_ coverage: Coverage) {
        print("fault × phase: how often a fault met a handoff in each phase (· cannot occur, – need not)")
        for machine in ["router", "prefill", "decode"] {
            let places = Coverage.places.filter { $0.machine == machine }
            print("  " + column(machine, 22) + places.map { number($0.phase, 12) }.joined())
            for fault in Fault.allCases {
                let cells = places.map { place in
                    let count = coverage.count(fault, place)
                    if Coverage.whyNot(fault, place) != nil { return number(count == 0 ? "·" : "\(count)!", 12) }
                    let isDue = Coverage.isDue(fault, place)
                    return number(count == 0 ? isDue ? "MISSING" : "–" : "\(count)", 12)
                }
                print("  " + column(fault.rawValue, 22) + cells.joined())
            }
        }
        for pair in coverage.missing { print("MISSING: \(pair.fault.rawValue) never met \(pair.place)") }
        for pair in coverage.unforeseen {
            let reason = Coverage.whyNot(pair.fault, pair.place) ?? ""
            print("UNFORESEEN: \(pair.fault.rawValue) met \(pair.place), but: \(reason)")
        }
    }

    private static func column(_ text: String, _ width: Int) -> String {
        text + String(repeating: " ", count: max(0, width - text.count))
    }

    private static func number(_ value: Int, _ width: Int) -> String { number("\(value)", width) }

    private static func number(_ text: String, _ width: Int) -> String {
        String(repeating: " ", count: max(1, width - text.count)) + text
    }

    private static func tenths(_ value: Double) -> String {
        let tenths = Int((value * 10).rounded())
        return "\(tenths / 10).\(tenths % 10)"
    }
}
