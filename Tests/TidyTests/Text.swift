/// Rules on the text of any file: white space, names, links, paths.
enum Text {
    static func whitespace(_ file: SourceFile) -> [Finding] {
        guard !file.isGenerated else { return [] }
        var findings: [Finding] = []
        for (index, line) in file.lines.enumerated() {
            if line.hasSuffix(" ") || line.hasSuffix("\t") || line.hasSuffix("\r") {
                findings.append(Finding(path: file.path, line: index + 1, message: "trailing white space"))
            }
            if line.contains("\t"), file.isSwift || file.isC {
                findings.append(Finding(path: file.path, line: index + 1, message: "a tab; indent with 4 spaces"))
            }
        }
        if file.lines.last != "" {
            findings.append(Finding(path: file.path, line: file.lines.count, message: "no newline at the end"))
        }
        return findings
    }

    /// A file is named after the one thing it holds.
    static func fileName(_ file: SourceFile) -> [Finding] {
        guard file.isSwift || file.isC else { return [] }
        let stem = String(file.name.prefix { $0 != "." })
        let vague = ["Utils", "Util", "Utilities", "Helpers", "Helper", "Common", "Misc", "Stuff"]
        guard vague.contains(where: { stem.hasSuffix($0) }) else { return [] }
        return [Finding(path: file.path, line: 1, message: "the name says nothing about what is in it")]
    }

    /// Marks of unfinished work belong in the issue tracker.
    static func leftovers(_ file: SourceFile) -> [Finding] {
        guard let comments = file.blanked?.comments, !file.isGenerated else { return [] }
        return comments.enumerated().compactMap { index, line in
            guard ["TODO", "FIXME", "XXX"].contains(where: { line.hasWord($0, whole: true) }) else { return nil }
            return Finding(path: file.path, line: index + 1, message: "unfinished work: do it or file an issue")
        }
    }

    /// Paths that exist on one person's machine only.
    static func machinePaths(_ file: SourceFile) -> [Finding] {
        let homes = ["home", "Users", "root", "work"].map { "/\($0)/" }
        return file.lines.enumerated().compactMap { index, line in
            guard let home = homes.first(where: { line.hasWord($0) }), !line.contains("//") else { return nil }
            return Finding(path: file.path, line: index + 1, message: "\(home) is a path of one machine")
        }
    }

    /// Links of a Markdown file that point at a file: they must be there, and inside the repository.
    static func links(_ file: SourceFile, exists: (String) -> Bool) -> [Finding] {
        guard file.path.hasSuffix(".md") else { return [] }
        let folder = file.path.split(separator: "/").dropLast().map(String.init)
        var findings: [Finding] = []
        for (index, line) in file.lines.enumerated() {
            for piece in line.split(separator: "](").dropFirst() {
                let target = piece.prefix { $0 != ")" && $0 != "#" && $0 != " " }
                if target.isEmpty || target.contains("://") || target.hasPrefix("mailto:") { continue }
                guard let path = resolve(String(target), from: folder), exists(path) else {
                    findings.append(Finding(path: file.path, line: index + 1, message: "no such file: \(target)"))
                    continue
                }
            }
        }
        return findings
    }

    private static func resolve(_ target: String, from folder: [String]) -> String? {
        var parts = folder
        for part in target.split(separator: "/") {
            switch part {
            case ".": continue
            case "..":
                guard parts.popLast() != nil else { return nil }
            default: parts.append(String(part))
            }
        }
        return parts.joined(separator: "/")
    }

    /// Every type that other modules can see says what it is; what is nested in one may say it by its name.
    static func documentation(_ file: SourceFile) -> [Finding] {
        guard let code = file.blanked?.code, file.isSwift, file.module != nil, !file.isGenerated else { return [] }
        let kinds: Set = ["struct", "class", "enum", "protocol", "actor"]
        var findings: [Finding] = []
        for (index, line) in code.enumerated() {
            let words = line.split(separator: " ").map { String($0.prefix { $0 != "(" && $0 != "<" }) }
            guard let access = words.firstIndex(where: { $0 == "package" || $0 == "public" }),
                let kind = words[access...].first(where: { kinds.contains($0) }),
                words[..<access].allSatisfy({ $0.hasPrefix("@") || ["final", "static"].contains($0) }),
                !line.hasPrefix(" "), !["let", "var", "func", "import"].contains(where: words.contains)
            else { continue }
            var above = index - 1
            while above >= 0, isAttribute(code[above]) { above -= 1 }
            let comment = above >= 0 ? file.blanked?.comments[above].trimmed ?? "" : ""
            if !comment.hasPrefix("///") {
                findings.append(Finding(path: file.path, line: index + 1, message: "a \(kind) without a doc comment"))
            }
        }
        return findings
    }

    private static func isAttribute(_ line: String) -> Bool {
        line.trimmed.hasPrefix("@") || line.trimmed.hasPrefix("#if")
    }
}
