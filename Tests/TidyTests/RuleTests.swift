import Testing

/// Each rule fires on what it forbids and stays quiet on what it allows.
@Suite struct RuleTests {
    private func source(_ text: String, path: String = "Sources/Routing/Example.swift") -> SourceFile {
        SourceFile(path: path, text: text)
    }

    @Test func blankingKeepsCodeAndDropsTheRest() {
        let text = #"""
            let a = "try! \(b["try!"]!) try!"  // try!
            /* try! /* nested */ try! */ let c = #"raw " try!"#
            """#
        let code = BlankedSource(text, language: .swift).code
        #expect(code[0].trimmed.hasPrefix("let a = \""))
        #expect(code[0].ranges(of: "]!").count == 1)
        #expect(code.allSatisfy { !$0.contains("try!") })
        #expect(code[1].contains("let c ="))
    }

    @Test func blankingUnderstandsMultilineStringsAndC() {
        let swift = BlankedSource("let a = \"\"\"\n  try! \"quoted\" {\n  \"\"\"\nlet b = 1", language: .swift)
        #expect(swift.code[1].trimmed.isEmpty)
        #expect(swift.code[3] == "let b = 1")
        let c = BlankedSource("char q = '\"'; int f(void) { return 1; } // {", language: .c)
        #expect(c.code[0].contains("return 1; }"))
        #expect(!c.code[0].contains("//"))
    }

    @Test(arguments: [
        "try! open()", "value as! String", "import Foundation", "import Dispatch", "DispatchQueue.main.async {}",
        "usleep(10)", "print(1)", "QuiescenceProof(handoff)", "final class A: @unchecked Sendable {}",
        "nonisolated(unsafe) var a = 1", "@preconcurrency import B", "unsafeBitCast(a, to: Int.self)", "let a = b!",
        "let a = b[0]!.c", "f()!",
    ])
    func banFires(_ line: String) {
        #expect(BannedCalls.check(source("\n" + line + "\n")).count == 1)
    }

    @Test(arguments: [
        "import FoundationEssentials", "debugPrint(1)", "// A lock guards it.\nfinal class A: @unchecked Sendable {}",
        "let a = b!  // b was set above", "if a != b {}", "let a = !b", "buffer.baseAddress!", "let a = \"b!\"",
        "blueprint(1)",
    ])
    func banStaysQuiet(_ line: String) {
        #expect(BannedCalls.check(source("\n" + line + "\n")) == [])
    }

    @Test func bansHoldWhereTheyShould() {
        #expect(BannedCalls.check(source("print(1)", path: "Sources/router/Table.swift")) == [])
        #expect(BannedCalls.check(source("let p = QuiescenceProof(h)", path: "Sources/Handoff/A.swift")) == [])
        #expect(BannedCalls.check(source("import Glibc", path: "Sources/Handoff/A.swift")).count == 1)
        #expect(BannedCalls.check(source("let now = ContinuousClock.now", path: "Sources/Handoff/A.swift")).count == 1)
        #expect(BannedCalls.check(source("usleep(1)", path: "Tests/EngineTests/A.swift")).count == 1)
    }

    @Test func longFunctionsAreFound() {
        let body = String(repeating: "    work()\n", count: 69)
        let fits = "func fits(_ a: () -> Void = {}) throws(E) -> Int where T: P {\n\(body.dropLast(11))}\n"
        #expect(Length.functions(source(fits)) == [])
        let long = "struct S {\n    init?(a: Int) {\n\(body)    }\n}\n"
        #expect(Length.functions(source(long)).map(\.line) == [2])
        let cLong = "static int f(int a)\n{\n\(body)}\n"
        #expect(Length.functions(source(cLong, path: "Sources/CKernels/a.c")).count == 1)
    }

    @Test func requirementsOfProtocolsHaveNoBody() {
        let text = "protocol P {\n    func a() -> Int\n    init(b: Int)\n    var c: Int { get }\n    func d()\n}\n"
        #expect(SwiftFunctions(BlankedSource(text, language: .swift).code).found == [])
        let calls = "func a() {\n    self.init(b: 1)\n}\n"
        #expect(SwiftFunctions(BlankedSource(calls, language: .swift).code).found.map(\.lines) == [1...3])
    }

    @Test func longFilesAreFound() {
        #expect(Length.file(source(String(repeating: "\n", count: 500))) == [])
        #expect(Length.file(source(String(repeating: "\n", count: 501))).count == 1)
    }

    @Test func forbiddenImportsAreFound() {
        let manifest = Layers.rows(ofManifest: [
            "let modules = [", "    Module(name: \"Handoff\"),",
            "    Module(", "        name: \"Routing\", uses: [\"Handoff\"], packages: [.log]),",
            "    Module(name: \"Engine\", uses: [\"Handoff\"]),", "]",
        ])
        #expect(manifest.map(\.module) == ["Handoff", "Routing", "Engine"])
        #expect(manifest[1].packages == ["log"])
        let file = source("package import Handoff\nimport struct Engine.Step\nimport Logging\n")
        #expect(Layers.imports(file, manifest: manifest).map(\.line) == [2])
    }

    @Test func unusedArrowsAreFound() {
        let manifest = [
            Layers.Row(module: "Engine", mayUse: ["Handoff", "Kernels"], packages: []),
            Layers.Row(module: "EngineTests", mayUse: ["router"], packages: []),
        ]
        let files = [source("package import Handoff\n", path: "Sources/Engine/Step.swift")]
        #expect(
            Layers.unused(files, manifest: manifest).map(\.message) == [
                "Engine lists Kernels, which none of its files imports"
            ])
    }

    @Test func disagreementsWithTheArchitectureAreFound() {
        let law = Layers.rows(ofDocument: [
            "| `A` | holds | – | – |", "| `B` | holds | A | log |", "| `C` | x | A | – |",
        ])
        #expect(law.count == 3)
        let manifest = [
            Layers.Row(module: "A", mayUse: ["B"], packages: ["nio"]),
            Layers.Row(module: "B", mayUse: [], packages: []),
            Layers.Row(module: "D", mayUse: [], packages: []),
            Layers.Row(module: "ATests", mayUse: ["B"], packages: []),
        ]
        let messages = Layers.disagreements(document: law, manifest: manifest).map(\.message)
        #expect(messages.count == 6)
        #expect(messages.contains("B may use A by docs/architecture.md, but does not"))
        #expect(messages.contains("B may use the package log by docs/architecture.md, but does not"))
        #expect(messages.contains("A may not use B"))
        #expect(messages.contains("A may not use the package nio"))
    }

    @Test func textRulesFire() {
        #expect(Text.whitespace(source("a \n\tb\nc")).count == 3)
        #expect(Text.whitespace(source("a\n    b\n")) == [])
        #expect(Text.fileName(source("", path: "Sources/Engine/StringUtils.swift")).count == 1)
        #expect(Text.fileName(source("", path: "Sources/Engine/Sampler.swift")) == [])
        #expect(Text.leftovers(source("let a = 1  // TO" + "DO: more\n")).count == 1)
        #expect(Text.machinePaths(source("see /ho" + "me/someone/file\n", path: "docs/a.md")).count == 1)
        #expect(Text.documentation(source("package struct A {}\n")).count == 1)
        #expect(Text.documentation(source("/// What it is.\n@frozen\npackage struct A {}\n")) == [])
        #expect(Text.documentation(source("package import B\npackage let c = 1\nfunc d() {}\n")) == [])
    }

    @Test func brokenLinksAreFound() {
        let file = source("[a](there.md#part) [b](../up.md) [c](https://x.y) [d](gone.md)\n", path: "docs/a.md")
        let there: Set = ["docs/there.md", "up.md"]
        #expect(Text.links(file, exists: there.contains).map(\.message) == ["no such file: gone.md"])
        let outside = source("[a](../../up.md)\n", path: "docs/a.md")
        #expect(Text.links(outside, exists: { _ in true }).count == 1)
    }
}
