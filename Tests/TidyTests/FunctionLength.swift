/// Functions fit on a screen, files in a head.
enum Length {
    static let functionLinesMax = 70
    static let fileLinesMax = 500

    /// Files that may be longer, each with its reason.
    static let longFiles: [String: String] = [:]

    static func file(_ file: SourceFile) -> [Finding] {
        guard file.isSwift || file.isC, !file.isGenerated, longFiles[file.path] == nil else { return [] }
        let count = file.lines.count - 1
        guard count > fileLinesMax else { return [] }
        return [Finding(path: file.path, line: 1, message: "\(count) lines; at most \(fileLinesMax)")]
    }

    static func functions(_ file: SourceFile) -> [Finding] {
        guard let code = file.blanked?.code, !file.isGenerated else { return [] }
        let bodies = file.isSwift ? SwiftFunctions(code).found : CFunctions.find(code)
        return bodies.filter { $0.lines.count > functionLinesMax }.map {
            Finding(
                path: file.path, line: $0.lines.lowerBound,
                message: "\($0.name) has \($0.lines.count) lines; at most \(functionLinesMax)")
        }
    }
}

/// A function and the lines (from 1) from its name to its closing brace.
struct FunctionBody: Equatable {
    let name: String
    let lines: ClosedRange<Int>
}

/// Finds the functions, initialisers and deinitialisers in blanked Swift code.
struct SwiftFunctions {
    private struct Token {
        let text: String
        let line: Int
    }

    /// Words that begin another declaration: a function declared before them has no body (a protocol's requirement).
    private static let declarations: Set = [
        "func", "var", "let", "init", "deinit", "subscript", "case", "struct", "class", "enum", "extension",
        "protocol", "typealias", "associatedtype", "import", "package", "public", "private", "internal", "static",
        "mutating", "nonisolated",
    ]

    private let tokens: [Token]
    private(set) var found: [FunctionBody] = []

    init(_ code: [String]) {
        tokens = Self.tokenize(code)
        for index in tokens.indices where beginsFunction(at: index) {
            guard let open = bodyStart(after: index), let close = matchingBrace(of: open) else { continue }
            let isNamed = tokens[index].text == "func" && index + 1 < tokens.count
            let name = isNamed ? tokens[index + 1].text : tokens[index].text
            found.append(FunctionBody(name: name, lines: tokens[index].line...tokens[close].line))
        }
    }

    private static func tokenize(_ code: [String]) -> [Token] {
        var tokens: [Token] = []
        for (index, line) in code.enumerated() {
            var word = ""
            for character in line {
                if character.isLetter || character.isNumber || character == "_" {
                    word.append(character)
                    continue
                }
                if !word.isEmpty { tokens.append(Token(text: word, line: index + 1)) }
                word = ""
                if character != " " { tokens.append(Token(text: String(character), line: index + 1)) }
            }
            if !word.isEmpty { tokens.append(Token(text: word, line: index + 1)) }
        }
        return tokens
    }

    private func beginsFunction(at index: Int) -> Bool {
        switch tokens[index].text {
        case "func", "deinit": return true
        case "init":
            let isCall = index > 0 && tokens[index - 1].text == "."
            return !isCall && index + 1 < tokens.count && ["(", "<", "?", "!"].contains(tokens[index + 1].text)
        default: return false
        }
    }

    private func bodyStart(after keyword: Int) -> Int? {
        var depth = 0
        for index in tokens.indices[(keyword + 1)...] {
            switch tokens[index].text {
            case "(", "[": depth += 1
            case ")", "]": depth -= 1
            case "{" where depth == 0: return index
            case "}" where depth == 0: return nil
            case let text where depth == 0 && index > keyword + 1 && Self.declarations.contains(text): return nil
            default: break
            }
        }
        return nil
    }

    private func matchingBrace(of open: Int) -> Int? {
        var depth = 0
        for index in tokens.indices[open...] {
            if tokens[index].text == "{" { depth += 1 }
            if tokens[index].text == "}" { depth -= 1 }
            if depth == 0 { return index }
        }
        return nil
    }
}

/// Finds functions in blanked C code: a brace that opens at the outermost level behind a closing parenthesis.
enum CFunctions {
    static func find(_ code: [String]) -> [FunctionBody] {
        var found: [FunctionBody] = []
        var depth = 0
        var start: Int?
        var previous: Character = ";"
        for (index, line) in code.enumerated() where !line.hasPrefix("#") {
            for character in line where character != " " && character != "\\" {
                if character == "{" {
                    if depth == 0, previous == ")" { start = index + 1 }
                    depth += 1
                } else if character == "}" {
                    depth -= 1
                    if depth == 0, let first = start {
                        found.append(FunctionBody(name: "function", lines: first...(index + 1)))
                        start = nil
                    }
                }
                previous = character
            }
        }
        return found
    }
}
