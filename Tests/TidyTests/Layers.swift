/// The direction of imports: docs/architecture.md says which module may use which, Package.swift must not say more, and
/// the sources must not import more than Package.swift says.
enum Layers {
    /// A row of the module table in docs/architecture.md.
    struct Row: Equatable {
        let module: String
        let mayUse: Set<String>
        let packages: Set<String>
    }

    /// The rows "| `Module` | what it holds | may use | packages |".
    static func rows(ofDocument lines: [String]) -> [Row] {
        lines.compactMap { line in
            let cells = line.split(separator: "|", omittingEmptySubsequences: false).map { String($0).trimmed }
            guard cells.count == 6, cells[1].hasPrefix("`"), cells[1].hasSuffix("`") else { return nil }
            let module = String(cells[1].dropFirst().dropLast())
            return Row(module: module, mayUse: names(cells[3]), packages: names(cells[4]))
        }
    }

    /// The entries `Module(name: "…", uses: […], packages: […])` of Package.swift's table.
    static func rows(ofManifest lines: [String]) -> [Row] {
        let text = lines.joined(separator: " ")
        return text.split(separator: "Module(").dropFirst().compactMap { piece in
            guard let name = piece.split(separator: "\"").dropFirst().first,
                piece.hasPrefix("name:") || piece.trimmedStart.hasPrefix("name:")
            else { return nil }
            return Row(module: String(name), mayUse: list("uses:", piece), packages: list("packages:", piece))
        }
    }

    private static func list(_ label: String, _ text: Substring) -> Set<String> {
        guard let start = text.ranges(of: label).first,
            let open = text[start.upperBound...].firstIndex(of: "["), let close = text[open...].firstIndex(of: "]")
        else { return [] }
        return names(String(text[text.index(after: open)..<close]))
    }

    /// Names in a comma-separated list, without the quotes, dots and dashes around them.
    private static func names(_ text: String) -> Set<String> {
        Set(
            text.split(separator: ",").map { piece in
                String(piece.filter { $0.isLetter || $0.isNumber || $0 == "-" || $0 == "_" })
            }.filter { $0.contains { $0.isLetter } })
    }

    /// Where Package.swift and the document disagree. Tests may use what they like.
    static func disagreements(document: [Row], manifest: [Row]) -> [Finding] {
        var findings: [Finding] = []
        let law = Dictionary(document.map { ($0.module, $0) }, uniquingKeysWith: { first, _ in first })
        for row in manifest where !row.module.hasSuffix("Tests") {
            guard let allowed = law[row.module] else {
                findings.append(finding(row, "is missing in the table of docs/architecture.md"))
                continue
            }
            for used in row.mayUse.subtracting(allowed.mayUse).sorted() {
                findings.append(finding(row, "may not use \(used)"))
            }
            for package in row.packages.subtracting(allowed.packages).sorted() {
                findings.append(finding(row, "may not use the package \(package)"))
            }
        }
        for row in manifest where !row.module.hasSuffix("Tests") {
            guard let allowed = law[row.module] else { continue }
            for unused in allowed.mayUse.subtracting(row.mayUse).sorted() {
                findings.append(finding(row, "may use \(unused) by docs/architecture.md, but does not"))
            }
            for unused in allowed.packages.subtracting(row.packages).sorted() {
                findings.append(finding(row, "may use the package \(unused) by docs/architecture.md, but does not"))
            }
        }
        let declared = Set(manifest.map(\.module))
        for row in document where !declared.contains(row.module) {
            findings.append(finding(row, "is in docs/architecture.md but not in Package.swift"))
        }
        return findings
    }

    private static func finding(_ row: Row, _ message: String) -> Finding {
        Finding(path: "Package.swift", line: 1, message: "\(row.module) \(message)")
    }

    /// Imports of our own modules that the manifest's row does not list.
    static func imports(_ file: SourceFile, manifest: [Row]) -> [Finding] {
        guard let module = file.module, let code = file.blanked?.code, file.isSwift else { return [] }
        let ours = Set(manifest.map(\.module))
        let allowed = manifest.first { $0.module == module }?.mayUse ?? []
        var findings: [Finding] = []
        for (index, line) in code.enumerated() {
            guard let imported = importedModule(line), ours.contains(imported), !allowed.contains(imported) else {
                continue
            }
            findings.append(Finding(path: file.path, line: index + 1, message: "\(module) may not import \(imported)"))
        }
        return findings
    }

    /// Arrows that the manifest has and no source file follows. Tests may need what they only start.
    static func unused(_ files: [SourceFile], manifest: [Row]) -> [Finding] {
        var imported: [String: Set<String>] = [:]
        for file in files where file.isSwift {
            guard let module = file.module, let code = file.blanked?.code else { continue }
            for line in code { if let name = importedModule(line) { imported[module, default: []].insert(name) } }
        }
        return manifest.filter { !$0.module.hasSuffix("Tests") && imported[$0.module] != nil }.flatMap { row in
            row.mayUse.subtracting(imported[row.module] ?? []).sorted().map {
                finding(row, "lists \($0), which none of its files imports")
            }
        }
    }

    /// The module that an import line names: `package import struct Handoff.SlotRef` names `Handoff`.
    static func importedModule(_ line: String) -> String? {
        let words = line.split(separator: " ").map(String.init)
        guard let keyword = words.firstIndex(of: "import"), keyword + 1 < words.count else { return nil }
        let kinds: Set = ["struct", "class", "enum", "protocol", "func", "var", "let", "typealias"]
        let hasKind = kinds.contains(words[keyword + 1]) && keyword + 2 < words.count
        let name = words[keyword + (hasKind ? 2 : 1)]
        return name.split(separator: ".").first.map(String.init)
    }
}

extension Substring {
    var trimmedStart: Substring { drop { $0 == " " } }
}
