import Testing

/// The rules, applied to this repository. RuleTests shows of each rule that it fires.
@Suite struct TidyTests {
    private func expectNone(_ findings: [Finding], sourceLocation: SourceLocation = #_sourceLocation) {
        let list = findings.map(\.description).joined(separator: "\n")
        #expect(findings.isEmpty, "\(findings.count) findings:\n\(list)", sourceLocation: sourceLocation)
    }

    private func manifest() throws -> [Layers.Row] {
        Layers.rows(ofManifest: try #require(SourceTree.read("Package.swift")).lines)
    }

    @Test func sourcesAreFound() {
        #expect(SourceTree.files.contains { $0.path == "Sources/Handoff/SlotPool.swift" })
        #expect(SourceTree.files.contains { $0.path == "README.md" })
    }

    @Test func packageDeclaresNoMoreThanTheArchitectureAllows() throws {
        let document = try #require(SourceTree.read("docs/architecture.md"))
        let law = Layers.rows(ofDocument: document.lines)
        #expect(law.count > 10)
        expectNone(Layers.disagreements(document: law, manifest: try manifest()))
    }

    @Test func importsPointDownward() throws {
        let manifest = try manifest()
        expectNone(SourceTree.files.flatMap { Layers.imports($0, manifest: manifest) })
    }

    @Test func noArrowIsUnused() throws {
        expectNone(Layers.unused(SourceTree.files, manifest: try manifest()))
    }

    @Test func functionsAreShort() { expectNone(SourceTree.files.flatMap(Length.functions)) }
    @Test func filesAreShort() { expectNone(SourceTree.files.flatMap(Length.file)) }
    @Test func noBannedCalls() { expectNone(SourceTree.files.flatMap(BannedCalls.check)) }
    @Test func whitespaceIsTidy() { expectNone(SourceTree.files.flatMap(Text.whitespace)) }
    @Test func filesHaveTellingNames() { expectNone(SourceTree.files.flatMap(Text.fileName)) }
    @Test func nothingIsLeftUndone() { expectNone(SourceTree.files.flatMap(Text.leftovers)) }
    @Test func noPathsOfOneMachine() { expectNone(SourceTree.files.flatMap(Text.machinePaths)) }
    @Test func whatOthersSeeIsDocumented() { expectNone(SourceTree.files.flatMap(Text.documentation)) }

    @Test func linksResolve() {
        expectNone(SourceTree.files.flatMap { Text.links($0, exists: SourceTree.exists) })
    }
}
