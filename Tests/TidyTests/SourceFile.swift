import FoundationEssentials

/// One text file of the repository, as the rules see it.
struct SourceFile {
    /// Relative to the repository's root, for example `Sources/Handoff/SlotPool.swift`.
    let path: String
    /// The lines as they are.
    let lines: [String]
    /// Code and comments apart; for files that are neither Swift nor C all of it counts as code.
    let blanked: BlankedSource?

    init(path: String, text: String) {
        self.path = path
        lines = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        switch path.split(separator: ".").last {
        case "swift": blanked = BlankedSource(text, language: .swift)
        case "c", "h", "inc": blanked = BlankedSource(text, language: .c)
        default: blanked = nil
        }
    }

    var isSwift: Bool { path.hasSuffix(".swift") }
    var isC: Bool { blanked != nil && !isSwift }
    var isGenerated: Bool { path.contains("/Generated/") }
    var name: String { String(path.split(separator: "/").last ?? "") }
    /// The module under `Sources` that the file belongs to.
    var module: String? { path.hasPrefix("Sources/") ? String(path.split(separator: "/")[1]) : nil }

    /// Whether a comment stands on line `index` (from 0), or on the comment lines directly above it.
    func hasComment(at index: Int) -> Bool {
        guard let blanked else { return false }
        if blanked.comments[index].contains("/") { return true }
        var above = index - 1
        // Attributes may stand between a comment and what it explains.
        while above >= 0, lines[above].trimmed.hasPrefix("@") { above -= 1 }
        return above >= 0 && blanked.comments[above].contains { $0 != " " } && blanked.code[above].trimmed.isEmpty
    }
}

/// What a rule has found.
struct Finding: Equatable, CustomStringConvertible {
    let path: String
    /// From 1.
    let line: Int
    let message: String

    var description: String { "\(path):\(line): \(message)" }
}

extension String {
    var trimmed: String {
        String(drop { $0 == " " }.reversed().drop { $0 == " " }.reversed())
    }

    /// Whether `word` occurs with no identifier character directly before it (and, if `whole`, none directly after).
    func hasWord(_ word: String, whole: Bool = false) -> Bool {
        func isIdentifier(_ character: Character) -> Bool {
            character.isLetter || character.isNumber || character == "_"
        }
        return ranges(of: word).contains { range in
            let isStart = range.lowerBound == startIndex || !isIdentifier(self[index(before: range.lowerBound)])
            let isEnd = !whole || range.upperBound == endIndex || !isIdentifier(self[range.upperBound])
            return isStart && isEnd
        }
    }
}

/// The repository this test was compiled from.
enum SourceTree {
    static let root: String = {
        var parts = #filePath.split(separator: "/", omittingEmptySubsequences: false)
        parts.removeLast(3)  // Tests/TidyTests/SourceFile.swift
        return parts.joined(separator: "/")
    }()

    /// Every text file that we wrote, by extension.
    static let files: [SourceFile] = {
        let known: Set = ["swift", "c", "h", "inc", "md", "sh", "py", "proto", "service", "yaml", "yml", "modulemap"]
        var found: [SourceFile] = []
        for top in ["Sources", "Tests", "Benchmarks", "docs", "deploy", "scripts", ".ci"] {
            let paths = (try? FileManager.default.subpathsOfDirectory(atPath: "\(root)/\(top)")) ?? []
            for path in paths.sorted() where known.contains(String(path.split(separator: ".").last ?? "")) {
                if path.contains("__pycache__") || path.contains(".docc") { continue }
                if let file = read("\(top)/\(path)") { found.append(file) }
            }
        }
        let here = (try? FileManager.default.contentsOfDirectory(atPath: root)) ?? []
        for name in here.sorted() where name == "Makefile" || name.hasSuffix(".md") || name.hasSuffix(".swift") {
            if let file = read(name) { found.append(file) }
        }
        return found
    }()

    static func read(_ path: String) -> SourceFile? {
        guard let data = FileManager.default.contents(atPath: "\(root)/\(path)") else { return nil }
        return SourceFile(path: path, text: String(decoding: data, as: UTF8.self))
    }

    static func exists(_ path: String) -> Bool {
        FileManager.default.fileExists(atPath: "\(root)/\(path)")
    }
}
