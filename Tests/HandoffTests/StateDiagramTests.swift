import FoundationEssentials
import Handoff
import Testing

/// The diagrams in docs/handoff.md are those of the code. `BATON_WRITE_DIAGRAMS=1 swift test --filter StateDiagrams`
/// writes them anew.
@Suite struct StateDiagramTests {
    private static let document =
        #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3).joined(separator: "/")
        + "/docs/handoff.md"

    /// Mermaid's notation: every phase with every other that one event can lead to.
    private func diagram<Phase: HandoffPhase>(_ phases: Phase.Type) -> String {
        var lines = ["```mermaid", "stateDiagram-v2", "    direction LR"]
        if let first = Phase.allCases.first { lines.append("    [*] --> \(first.rawValue)") }
        for phase in Phase.allCases {
            for next in phase.successors { lines.append("    \(phase.rawValue) --> \(next.rawValue)") }
            if phase.successors.isEmpty { lines.append("    \(phase.rawValue) --> [*]") }
        }
        return (lines + ["```"]).joined(separator: "\n")
    }

    @Test func theDocumentShowsTheMachinesAsTheyAre() throws {
        let machines = [
            ("receiving", diagram(ReceivingPhase.self)), ("sending", diagram(SendingPhase.self)),
            ("ledger", diagram(LedgerPhase.self)),
        ]
        var text = String(decoding: try Data(contentsOf: URL(filePath: Self.document)), as: UTF8.self)
        for (name, diagram) in machines {
            let opening = "<!-- states: \(name) -->\n"
            let start = try #require(text.firstRange(of: opening), "no place for the \(name) diagram")
            let end = try #require(text[start.upperBound...].firstRange(of: "\n<!-- end -->"), "no end of \(name)")
            if ProcessInfo.processInfo.environment["BATON_WRITE_DIAGRAMS"] == "1" {
                text.replaceSubrange(start.upperBound..<end.lowerBound, with: diagram)
            } else {
                #expect(text[start.upperBound..<end.lowerBound] == diagram)
            }
        }
        if ProcessInfo.processInfo.environment["BATON_WRITE_DIAGRAMS"] == "1" {
            try Data(text.utf8).write(to: URL(filePath: Self.document))
        }
    }

    /// Every phase can be reached, and from every phase the end can.
    @Test func noPhaseIsCutOff() {
        func check<Phase: HandoffPhase>(_ phases: Phase.Type, first: Phase, last: Phase) {
            var seen: Set<Phase> = [first]
            for _ in Phase.allCases { for phase in seen { seen.formUnion(phase.successors) } }
            #expect(seen.count == Phase.allCases.count)
            for phase in Phase.allCases where phase != last { #expect(phase.successors.contains(last)) }
        }
        check(ReceivingPhase.self, first: .granted, last: .settled)
        check(SendingPhase.self, first: .computing, last: .settled)
        check(LedgerPhase.self, first: .reserving, last: .settled)
    }
}
