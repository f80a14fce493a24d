/// Source text split into what is code and what is comment, position for position.
///
/// The rules look at code without being fooled by what stands in comments and string literals: those are blanked with
/// spaces, so that lines and columns stay what they were. What stands in a string's interpolation is code and is kept.
/// Understands as much of Swift and C as that takes: nested block comments, raw and multi-line strings.
struct BlankedSource {
    enum Language { case swift, c }

    /// The lines with comments and string contents blanked.
    private(set) var code: [String] = []
    /// The lines with everything but the comments blanked.
    private(set) var comments: [String] = []

    init(_ text: String, language: Language) {
        var lexer = BlankingLexer(input: Array(text.utf8), language: language)
        lexer.run()
        code = Self.lines(lexer.code)
        comments = Self.lines(lexer.comments)
    }

    private static func lines(_ bytes: [UInt8]) -> [String] {
        bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).map {
            String(decoding: $0, as: UTF8.self)
        }
    }
}

/// The scanner behind ``BlankedSource``: a stack of contexts, one byte at a time.
private struct BlankingLexer {
    enum Context {
        /// Code, at this depth of parentheses since an interpolation's opening one.
        case code(parentheses: Int)
        case lineComment
        case blockComment(depth: Int)
        case string(hashes: Int, isMultiline: Bool)
        case character
    }

    let input: [UInt8]
    let language: BlankedSource.Language
    var code: [UInt8]
    var comments: [UInt8]
    var contexts: [Context] = [.code(parentheses: 0)]
    var position = 0

    init(input: [UInt8], language: BlankedSource.Language) {
        self.input = input
        self.language = language
        let blank = input.map { $0 == UInt8(ascii: "\n") ? $0 : UInt8(ascii: " ") }
        code = blank
        comments = blank
    }

    mutating func run() {
        while position < input.count {
            switch contexts[contexts.count - 1] {
            case .code(let parentheses): stepInCode(parentheses)
            case .lineComment: stepInLineComment()
            case .blockComment(let depth): stepInBlockComment(depth)
            case .string(let hashes, let isMultiline): stepInString(hashes, isMultiline)
            case .character: stepInCharacter()
            }
        }
    }

    private func starts(_ text: String, at offset: Int = 0) -> Bool {
        input[min(position + offset, input.count)...].starts(with: text.utf8)
    }

    private mutating func keepCode(_ count: Int = 1) {
        for _ in 0..<count where position < input.count {
            code[position] = input[position]
            position += 1
        }
    }

    private mutating func keepComment(_ count: Int) {
        for _ in 0..<count where position < input.count {
            comments[position] = input[position]
            position += 1
        }
    }

    private mutating func replaceTop(_ context: Context) {
        contexts[contexts.count - 1] = context
    }

    private mutating func stepInCode(_ parentheses: Int) {
        if starts("//") { return contexts.append(.lineComment) }
        if starts("/*") {
            contexts.append(.blockComment(depth: 0))
            return
        }
        if language == .c, starts("'") {
            contexts.append(.character)
            return keepCode()
        }
        let hashes = language == .swift ? input[position...].prefix { $0 == UInt8(ascii: "#") }.count : 0
        if starts("\"", at: hashes) {
            let isMultiline = language == .swift && starts("\"\"\"", at: hashes)
            contexts.append(.string(hashes: hashes, isMultiline: isMultiline))
            return keepCode(hashes + (isMultiline ? 3 : 1))
        }
        if starts("(") { replaceTop(.code(parentheses: parentheses + 1)) }
        if starts(")") {
            if parentheses == 0, contexts.count > 1 {
                contexts.removeLast()
            } else {
                replaceTop(.code(parentheses: max(0, parentheses - 1)))
            }
        }
        keepCode(max(1, hashes))
    }

    private mutating func stepInLineComment() {
        if starts("\n") {
            contexts.removeLast()
            position += 1
        } else {
            keepComment(1)
        }
    }

    private mutating func stepInBlockComment(_ depth: Int) {
        if starts("/*"), language == .swift || depth == 0 {
            replaceTop(.blockComment(depth: depth + 1))
            keepComment(2)
        } else if starts("*/") {
            if depth == 1 { contexts.removeLast() } else { replaceTop(.blockComment(depth: depth - 1)) }
            keepComment(2)
        } else {
            keepComment(1)
        }
    }

    private mutating func stepInString(_ hashes: Int, _ isMultiline: Bool) {
        let escape = "\\" + String(repeating: "#", count: hashes)
        let end = (isMultiline ? "\"\"\"" : "\"") + String(repeating: "#", count: hashes)
        if starts(escape) {
            position += 1 + hashes
            if language == .swift, starts("(") {
                contexts.append(.code(parentheses: 0))
                keepCode()
            } else {
                position += 1
            }
        } else if starts(end) {
            contexts.removeLast()
            keepCode(end.utf8.count)
        } else if starts("\n"), !isMultiline {
            contexts.removeLast()
        } else {
            position += 1
        }
    }

    private mutating func stepInCharacter() {
        if starts("\\") {
            position += 2
        } else if starts("'") || starts("\n") {
            contexts.removeLast()
            keepCode()
        } else {
            position += 1
        }
    }
}
