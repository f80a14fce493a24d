/// One token of a template.
struct TemplateToken: Sendable {
    enum Kind: Equatable, Sendable {
        case data([UInt8])
        case variableBegin, variableEnd, blockBegin, blockEnd
        case name(String)
        case text(TemplateText)
        case int(Int64)
        case float(Double)
        case symbol(String)
        case end
    }

    var kind: Kind
    var line: Int
}

/// Cuts a template into tokens by Jinja's rules, with `trim_blocks` and `lstrip_blocks` on, as chat templates are
/// written for: the first newline after a block is dropped, and so is white space between the start of a line and
/// a block.
struct TemplateLexer {
    private let source: [UInt8]
    private var position = 0
    private var line = 1
    private var tokens: [TemplateToken] = []
    /// Whether what was consumed last ends a line.
    private var isLineStart = true

    static func tokens(of source: String) throws(TokenizationError) -> [TemplateToken] {
        var lexer = TemplateLexer(source)
        try lexer.run()
        return lexer.tokens
    }

    private init(_ text: String) {
        // Newlines of every kind become "\n", and one at the very end is dropped.
        var bytes: [UInt8] = []
        bytes.reserveCapacity(text.utf8.count)
        var afterReturn = false
        for byte in text.utf8 {
            if byte == 0x0D {
                bytes.append(0x0A)
            } else if !(byte == 0x0A && afterReturn) {
                bytes.append(byte)
            }
            afterReturn = byte == 0x0D
        }
        if bytes.last == 0x0A { bytes.removeLast() }
        source = bytes
    }

    private func error(_ message: String) -> TokenizationError {
        TokenizationError(.malformed, message, line: line)
    }

    private mutating func add(_ kind: TemplateToken.Kind) {
        tokens.append(TemplateToken(kind: kind, line: line))
    }

    private func byte(_ offset: Int = 0) -> UInt8? {
        position + offset < source.count ? source[position + offset] : nil
    }

    private func starts(_ text: StaticString, at place: Int) -> Bool {
        guard place + text.utf8CodeUnitCount <= source.count else { return false }
        for index in 0..<text.utf8CodeUnitCount where source[place + index] != text.utf8Start[index] { return false }
        return true
    }

    private mutating func advance(to end: Int) {
        for index in position..<end where source[index] == 0x0A { line += 1 }
        if end > position { isLineStart = source[end - 1] == 0x0A }
        position = end
    }

    private static func isSpace(_ byte: UInt8) -> Bool {
        (9...13).contains(byte) || (0x1C...0x20).contains(byte)
    }

    private mutating func skipSpace() {
        var end = position
        while end < source.count, Self.isSpace(source[end]) { end += 1 }
        advance(to: end)
    }

    private mutating func run() throws(TokenizationError) {
        while position < source.count {
            guard let begin = nextTag() else {
                add(.data(Array(source[position...])))
                advance(to: source.count)
                break
            }
            let kind = source[begin + 1]
            emitData(upTo: begin, isVariable: kind == 0x7B)
            advance(to: begin + 2)
            if let sign = byte(), sign == 0x2D || sign == 0x2B { advance(to: position + 1) }
            switch kind {
            case 0x23: try comment()
            case 0x7B:
                add(.variableBegin)
                try expression(isVariable: true)
            default:
                if let end = rawBegin() {
                    advance(to: end)
                    try raw()
                } else {
                    add(.blockBegin)
                    try expression(isVariable: false)
                }
            }
        }
        add(.end)
    }

    /// Start of the next `{{`, `{%` or `{#`.
    private func nextTag() -> Int? {
        var place = position
        while place + 1 < source.count {
            if source[place] == 0x7B {
                let next = source[place + 1]
                if next == 0x7B || next == 0x25 || next == 0x23 { return place }
            }
            place += 1
        }
        return nil
    }

    /// Emits the text before a tag, less the white space that the tag's sign or `lstrip_blocks` takes.
    private mutating func emitData(upTo tag: Int, isVariable: Bool) {
        var end = tag
        let sign = tag + 2 < source.count ? source[tag + 2] : 0
        if sign == 0x2D {
            while end > position, Self.isSpace(source[end - 1]) { end -= 1 }
        } else if sign != 0x2B && !isVariable {
            var start = tag
            while start > position, source[start - 1] != 0x0A, Self.isSpace(source[start - 1]) { start -= 1 }
            let startsLine = start > position ? source[start - 1] == 0x0A : isLineStart
            if startsLine { end = start }
        }
        if end > position { add(.data(Array(source[position..<end]))) }
        advance(to: tag)
    }

    private mutating func comment() throws(TokenizationError) {
        var place = position
        while place + 1 < source.count, !starts("#}", at: place) { place += 1 }
        guard starts("#}", at: place) else { throw error("a comment is not closed with '#}'") }
        let sign = place > position ? source[place - 1] : 0
        advance(to: place + 2)
        finishTag(sign)
    }

    /// After the end of a block or comment: its sign decides what white space goes.
    private mutating func finishTag(_ sign: UInt8) {
        if sign == 0x2D {
            skipSpace()
        } else if sign != 0x2B, byte() == 0x0A {
            advance(to: position + 1)
        }
    }

    /// If `raw %}` follows, the position after it.
    private func rawBegin() -> Int? {
        var place = position
        while place < source.count, Self.isSpace(source[place]) { place += 1 }
        guard starts("raw", at: place) else { return nil }
        place += 3
        while place < source.count, Self.isSpace(source[place]) { place += 1 }
        if starts("%}", at: place) { return place + 2 }
        guard starts("-%}", at: place) else { return nil }
        place += 3
        while place < source.count, Self.isSpace(source[place]) { place += 1 }
        return place
    }

    private mutating func raw() throws(TokenizationError) {
        var place = position
        while place + 1 < source.count {
            defer { place += 1 }
            guard starts("{%", at: place) else { continue }
            var end = place + 2
            if end < source.count, source[end] == 0x2D || source[end] == 0x2B { end += 1 }
            while end < source.count, Self.isSpace(source[end]) { end += 1 }
            guard starts("endraw", at: end) else { continue }
            end += 6
            while end < source.count, Self.isSpace(source[end]) { end += 1 }
            let sign = end < source.count ? source[end] : 0
            if sign == 0x2D || sign == 0x2B { end += 1 }
            guard starts("%}", at: end) else { continue }
            emitData(upTo: place, isVariable: false)
            advance(to: end + 2)
            finishTag(sign)
            return
        }
        throw error("'raw' is not closed with 'endraw'")
    }

    // MARK: Inside a tag

    private mutating func expression(isVariable: Bool) throws(TokenizationError) {
        var open: [UInt8] = []
        while true {
            skipSpace()
            guard let first = byte() else {
                throw error("unexpected end of template: '\(isVariable ? "}}" : "%}")' is missing")
            }
            if open.isEmpty, endOfTag(isVariable) { return }
            switch first {
            case 0x30...0x39: try number()
            case 0x22, 0x27: try string(first)
            case 0x41...0x5A, 0x61...0x7A, 0x5F, 0x80...:
                var end = position
                while end < source.count, Self.isNamePart(source[end]) { end += 1 }
                let name = String(decoding: source[position..<end], as: UTF8.self)
                add(.name(name))
                advance(to: end)
            default:
                try symbol(first, &open)
            }
        }
    }

    private static func isNamePart(_ byte: UInt8) -> Bool {
        switch byte {
        case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, 0x5F, 0x80...: true
        default: false
        }
    }

    private mutating func endOfTag(_ isVariable: Bool) -> Bool {
        var place = position
        let sign = source[place]
        if sign == 0x2D || sign == 0x2B && !isVariable { place += 1 }
        guard isVariable ? starts("}}", at: place) : starts("%}", at: place) else { return false }
        add(isVariable ? .variableEnd : .blockEnd)
        advance(to: place + 2)
        if isVariable {
            if sign == 0x2D { skipSpace() }
        } else {
            finishTag(sign)
        }
        return true
    }

    private mutating func symbol(_ first: UInt8, _ open: inout [UInt8]) throws(TokenizationError) {
        for pair in ["//", "**", "==", "!=", ">=", "<="] where source[position...].starts(with: pair.utf8) {
            add(.symbol(pair))
            advance(to: position + 2)
            return
        }
        let name = String(decoding: [first], as: UTF8.self)
        guard "+-/*%~[](){}><=.:|,".utf8.contains(first) else { throw error("unexpected character '\(name)'") }
        switch first {
        case 0x28: open.append(0x29)
        case 0x5B: open.append(0x5D)
        case 0x7B: open.append(0x7D)
        case 0x29, 0x5D, 0x7D:
            guard open.popLast() == first else { throw error("unexpected '\(name)'") }
        default: break
        }
        add(.symbol(name))
        advance(to: position + 1)
    }

    private mutating func number() throws(TokenizationError) {
        func digits(from start: Int) -> Int {
            var end = start
            while end < source.count, (0x30...0x39).contains(source[end]) || source[end] == 0x5F { end += 1 }
            return end
        }
        func text(_ range: Range<Int>) -> String {
            String(decoding: source[range].filter { $0 != 0x5F }, as: UTF8.self)
        }
        if byte() == 0x30, let letter = byte(1), let radix = [0x62: 2, 0x6F: 8, 0x78: 16][letter | 0x20] {
            var end = position + 2
            while end < source.count, Self.isNamePart(source[end]) { end += 1 }
            guard let value = Int64(text(position + 2..<end), radix: radix) else { throw error("malformed number") }
            add(.int(value))
            advance(to: end)
            return
        }
        var end = digits(from: position)
        var isFloat = false
        let followsDot = position > 0 && source[position - 1] == 0x2E
        if !followsDot {
            if end + 1 < source.count, source[end] == 0x2E, (0x30...0x39).contains(source[end + 1]) {
                end = digits(from: end + 1)
                isFloat = true
            }
            if end < source.count, source[end] | 0x20 == 0x65 {
                var start = end + 1
                if start < source.count, source[start] == 0x2B || source[start] == 0x2D { start += 1 }
                if start < source.count, (0x30...0x39).contains(source[start]) {
                    end = digits(from: start)
                    isFloat = true
                }
            }
        }
        let written = text(position..<end)
        if isFloat, let value = Double(written) {
            add(.float(value))
        } else if let value = Int64(written) {
            add(.int(value))
        } else {
            throw error("number \(written.prefix(40)) does not fit 64 bits")
        }
        advance(to: end)
    }

    private mutating func string(_ quote: UInt8) throws(TokenizationError) {
        var end = position + 1
        while end < source.count, source[end] != quote { end += source[end] == 0x5C ? 2 : 1 }
        guard end < source.count else { throw error("a string is not closed") }
        let content = source[position + 1..<end]
        add(.text(content.contains(0x5C) ? try unescaped(Array(content)) : TemplateText(content)))
        advance(to: end + 1)
    }

    /// Python's escapes; a backslash before anything else stays.
    private func unescaped(_ text: [UInt8]) throws(TokenizationError) -> TemplateText {
        var result: [UInt8] = []
        var index = 0
        while index < text.count {
            guard text[index] == 0x5C, index + 1 < text.count else {
                result.append(text[index])
                index += 1
                continue
            }
            let letter = text[index + 1]
            index += 2
            let simple: [UInt8: UInt8] = [
                0x6E: 10, 0x74: 9, 0x72: 13, 0x5C: 0x5C, 0x27: 0x27, 0x22: 0x22, 0x61: 7, 0x62: 8, 0x66: 12, 0x76: 11,
            ]
            if let byte = simple[letter] {
                result.append(byte)
            } else if letter == 0x0A {
                continue
            } else if letter == 0x4E {
                throw TokenizationError(.unsupported, "'\\N{…}' in a string is not supported", line: line)
            } else if let digits = [0x78: 2, 0x75: 4, 0x55: 8][letter] {
                guard index + digits <= text.count,
                    let value = UInt32(String(decoding: text[index..<index + digits], as: UTF8.self), radix: 16),
                    let scalar = Unicode.Scalar(value)
                else { throw error("malformed escape in a string") }
                result += TemplateText([scalar]).bytes
                index += digits
            } else if (0x30...0x37).contains(letter) {
                var value = UInt32(letter - 0x30)
                var count = 1
                while count < 3, index < text.count, (0x30...0x37).contains(text[index]) {
                    value = value * 8 + UInt32(text[index] - 0x30)
                    index += 1
                    count += 1
                }
                result += TemplateText([Unicode.Scalar(value) ?? "?"]).bytes
            } else {
                result += [0x5C, letter]
            }
        }
        return TemplateText(result)
    }
}
