/// Builds the tree of a template: expressions here, statements in `TemplateParser+Statements.swift`. Grammar and
/// precedence are Jinja's (`jinja2/parser.py`).
struct TemplateParser {
    /// How deep expressions and statements may nest. Parsing recurses about ten calls a level.
    static let deepest = 100
    /// Operators of one tag. A chain such as `a + b + c` makes a tree as deep as it is long.
    static let mostOperators = 1000

    var tokens: [TemplateToken]
    var position = 0
    var depth = 0
    /// Names read in the macros being parsed, innermost last: a macro that mentions `varargs` takes any number.
    var namesRead: [Set<String>] = []
    var loopDepth = 0
    /// Operators seen in the current tag.
    var operators = 0

    static func parse(_ source: String) throws(TokenizationError) -> [TemplateStatement] {
        var parser = TemplateParser(tokens: try TemplateLexer.tokens(of: source))
        return try parser.statements(until: [])
    }

    // MARK: Tokens

    var current: TemplateToken.Kind { tokens[position].kind }
    var line: Int { tokens[position].line }
    var upcoming: TemplateToken.Kind { position + 1 < tokens.count ? tokens[position + 1].kind : .end }

    mutating func advance() {
        if position + 1 < tokens.count { position += 1 }
    }

    func error(_ message: String) -> TokenizationError { TokenizationError(.malformed, message, line: line) }

    func describe(_ kind: TemplateToken.Kind) -> String {
        switch kind {
        case .data: "text"
        case .variableBegin: "'{{'"
        case .variableEnd: "'}}'"
        case .blockBegin: "'{%'"
        case .blockEnd: "'%}'"
        case .name(let name): "'\(name)'"
        case .text(let text): "string \(text.quoted)"
        case .int(let value): "\(value)"
        case .float(let value): "\(value)"
        case .symbol(let symbol): "'\(symbol)'"
        case .end: "the end of the template"
        }
    }

    mutating func skip(_ symbol: String) -> Bool {
        guard current == .symbol(symbol) else { return false }
        advance()
        return true
    }

    mutating func skipName(_ name: String) -> Bool {
        guard current == .name(name) else { return false }
        advance()
        return true
    }

    mutating func expect(_ symbol: String) throws(TokenizationError) {
        guard skip(symbol) else { throw error("expected '\(symbol)', found \(describe(current))") }
    }

    mutating func expectName() throws(TokenizationError) -> String {
        guard case .name(let name) = current else { throw error("expected a name, found \(describe(current))") }
        advance()
        return name
    }

    mutating func deeper() throws(TokenizationError) {
        depth += 1
        guard depth <= Self.deepest else {
            throw TokenizationError(.limit, "the template nests more than \(Self.deepest) deep", line: line)
        }
    }

    /// Counts an operator whose left side is all that came before it.
    private mutating func chain() throws(TokenizationError) {
        operators += 1
        guard operators <= Self.mostOperators else {
            throw TokenizationError(.limit, "more than \(Self.mostOperators) operators in one tag", line: line)
        }
    }

    // MARK: Operators

    mutating func expression() throws(TokenizationError) -> TemplateExpression {
        try deeper()
        defer { depth -= 1 }
        var node = try disjunction()
        while true {
            let line = line
            guard skipName("if") else { return node }
            try chain()
            let condition = try disjunction()
            let otherwise = skipName("else") ? try expression() : nil
            node = .init(kind: .conditional(then: node, condition: condition, otherwise: otherwise), line: line)
        }
    }

    /// An expression without `if` … `else`.
    mutating func disjunctionOnly() throws(TokenizationError) -> TemplateExpression {
        try deeper()
        defer { depth -= 1 }
        return try disjunction()
    }

    private mutating func disjunction() throws(TokenizationError) -> TemplateExpression {
        var left = try conjunction()
        while true {
            let line = line
            guard skipName("or") else { return left }
            try chain()
            left = .init(kind: .or(left, try conjunction()), line: line)
        }
    }

    private mutating func conjunction() throws(TokenizationError) -> TemplateExpression {
        var left = try negation()
        while true {
            let line = line
            guard skipName("and") else { return left }
            try chain()
            left = .init(kind: .and(left, try negation()), line: line)
        }
    }

    private mutating func negation() throws(TokenizationError) -> TemplateExpression {
        let line = line
        guard skipName("not") else { return try comparison() }
        try deeper()
        defer { depth -= 1 }
        return .init(kind: .not(try negation()), line: line)
    }

    private mutating func comparison() throws(TokenizationError) -> TemplateExpression {
        let line = line
        let first = try sum()
        var rest: [(TemplateOperator, TemplateExpression)] = []
        while true {
            if case .symbol(let symbol) = current, let operation = TemplateOperator(rawValue: symbol),
                ["==", "!=", "<", "<=", ">", ">="].contains(symbol)
            {
                advance()
                rest.append((operation, try sum()))
            } else if skipName("in") {
                rest.append((.isIn, try sum()))
            } else if current == .name("not"), upcoming == .name("in") {
                advance()
                advance()
                rest.append((.notIn, try sum()))
            } else {
                break
            }
        }
        return rest.isEmpty ? first : .init(kind: .comparison(first, rest), line: line)
    }

    private mutating func sum() throws(TokenizationError) -> TemplateExpression {
        var left = try concatenation()
        while case .symbol(let symbol) = current, symbol == "+" || symbol == "-",
            let operation = TemplateOperator(rawValue: symbol)
        {
            let line = line
            advance()
            try chain()
            left = .init(kind: .binary(operation, left, try concatenation()), line: line)
        }
        return left
    }

    private mutating func concatenation() throws(TokenizationError) -> TemplateExpression {
        let line = line
        var parts = [try product()]
        while skip("~") { parts.append(try product()) }
        return parts.count == 1 ? parts[0] : .init(kind: .concatenation(parts), line: line)
    }

    private mutating func product() throws(TokenizationError) -> TemplateExpression {
        var left = try power()
        while case .symbol(let symbol) = current, ["*", "/", "//", "%"].contains(symbol),
            let operation = TemplateOperator(rawValue: symbol)
        {
            let line = line
            advance()
            try chain()
            left = .init(kind: .binary(operation, left, try power()), line: line)
        }
        return left
    }

    private mutating func power() throws(TokenizationError) -> TemplateExpression {
        var left = try unary(withFilters: true)
        while current == .symbol("**") {
            let line = line
            advance()
            try chain()
            left = .init(kind: .binary(.power, left, try unary(withFilters: true)), line: line)
        }
        return left
    }

    private mutating func unary(withFilters: Bool) throws(TokenizationError) -> TemplateExpression {
        let line = line
        var node: TemplateExpression
        if current == .symbol("-") || current == .symbol("+") {
            try deeper()
            defer { depth -= 1 }
            let operation: TemplateOperator = current == .symbol("-") ? .subtract : .add
            advance()
            node = .init(kind: .unary(operation, try unary(withFilters: false)), line: line)
        } else {
            node = try primary()
        }
        node = try postfix(node)
        return withFilters ? try filters(node) : node
    }

    // MARK: Operands

    mutating func primary() throws(TokenizationError) -> TemplateExpression {
        let line = line
        switch current {
        case .name(let name):
            advance()
            switch name {
            case "true", "True": return .init(kind: .constant(.bool(true)), line: line)
            case "false", "False": return .init(kind: .constant(.bool(false)), line: line)
            case "none", "None": return .init(kind: .constant(.none), line: line)
            default:
                for index in namesRead.indices { namesRead[index].insert(name) }
                return .init(kind: .name(name), line: line)
            }
        case .text(var text):
            advance()
            while case .text(let more) = current {
                text.bytes += more.bytes
                advance()
            }
            return .init(kind: .constant(.text(text)), line: line)
        case .int(let value):
            advance()
            return .init(kind: .constant(.int(value)), line: line)
        case .float(let value):
            advance()
            return .init(kind: .constant(.float(value)), line: line)
        case .symbol("("):
            advance()
            let node = try tuple(isParenthesized: true)
            try expect(")")
            return node
        case .symbol("["):
            advance()
            var items: [TemplateExpression] = []
            while !skip("]") {
                if !items.isEmpty {
                    try expect(",")
                    if skip("]") { break }
                }
                items.append(try expression())
            }
            return .init(kind: .list(items), line: line)
        case .symbol("{"):
            return try dict()
        default:
            throw error("unexpected \(describe(current))")
        }
    }

    private mutating func dict() throws(TokenizationError) -> TemplateExpression {
        let line = line
        try expect("{")
        var pairs: [(TemplateExpression, TemplateExpression)] = []
        while !skip("}") {
            if !pairs.isEmpty {
                try expect(",")
                if skip("}") { break }
            }
            let key = try expression()
            try expect(":")
            pairs.append((key, try expression()))
        }
        return .init(kind: .dict(pairs), line: line)
    }

    /// Expressions separated by commas; without a comma the expression itself.
    mutating func tuple(isParenthesized: Bool = false) throws(TokenizationError) -> TemplateExpression {
        let line = line
        var items: [TemplateExpression] = []
        var isTuple = false
        while true {
            if !items.isEmpty {
                guard skip(",") else { break }
                isTuple = true
            }
            if current == .symbol(")") || current == .variableEnd || current == .blockEnd { break }
            items.append(try expression())
        }
        if !isTuple, let only = items.first { return only }
        guard isTuple || isParenthesized else { throw error("expected an expression, found \(describe(current))") }
        return .init(kind: .tuple(items), line: line)
    }

    private mutating func postfix(_ start: TemplateExpression) throws(TokenizationError) -> TemplateExpression {
        var node = start
        while true {
            switch current {
            case .symbol("."), .symbol("["): node = try subscripted(node)
            case .symbol("("): node = .init(kind: .call(node, try arguments()), line: line)
            default: return node
            }
            try chain()
        }
    }

    private mutating func filters(_ start: TemplateExpression) throws(TokenizationError) -> TemplateExpression {
        var node = start
        while true {
            let line = line
            if skip("|") {
                let call = try filterCall()
                node = .init(kind: .filter(node, call.name, call.arguments), line: line)
            } else if current == .name("is") {
                node = try test(node)
            } else if current == .symbol("(") {
                node = .init(kind: .call(node, try arguments()), line: line)
            } else {
                return node
            }
            try chain()
        }
    }

    mutating func filterCall() throws(TokenizationError) -> TemplateFilterCall {
        let line = line
        let name = try expectName()
        let given = current == .symbol("(") ? try arguments() : TemplateArguments()
        return TemplateFilterCall(name: name, arguments: given, line: line)
    }

    private mutating func test(_ node: TemplateExpression) throws(TokenizationError) -> TemplateExpression {
        let line = line
        advance()
        let isNegated = skipName("not")
        let name = try expectName()
        var given = TemplateArguments()
        switch current {
        case .symbol("("):
            given = try arguments()
        case .name("else"), .name("or"), .name("and"):
            break
        case .name("is"):
            throw error("tests cannot be chained with 'is'")
        case .name, .text, .int, .float, .symbol("["), .symbol("{"):
            // `x is divisibleby 3`: one argument without parentheses. `if` would start a conditional in Jinja's
            // grammar only after the test, so it is taken as a name there too.
            given.positional = [try postfix(try primary())]
        default:
            break
        }
        let result = TemplateExpression(kind: .test(node, name, given), line: line)
        return isNegated ? .init(kind: .not(result), line: line) : result
    }

    private mutating func subscripted(_ node: TemplateExpression) throws(TokenizationError) -> TemplateExpression {
        let line = line
        if skip(".") {
            switch current {
            case .name(let name):
                advance()
                return .init(kind: .attribute(node, name), line: line)
            case .int(let index):
                advance()
                return .init(kind: .item(node, .init(kind: .constant(.int(index)), line: line)), line: line)
            default:
                throw error("expected a name or number after '.', found \(describe(current))")
            }
        }
        try expect("[")
        var bounds: [TemplateExpression?] = []
        var part: TemplateExpression?
        var isSlice = false
        while !skip("]") {
            if skip(":") {
                isSlice = true
                bounds.append(part)
                part = nil
            } else {
                guard part == nil else { throw error("expected ']', found \(describe(current))") }
                part = try expression()
            }
        }
        if isSlice {
            bounds.append(part)
            guard bounds.count <= 3 else { throw error("a slice has at most three parts") }
            let step = bounds.count == 3 ? bounds[2] : nil
            return .init(kind: .slice(node, bounds[0], bounds[1], step), line: line)
        }
        guard let part else { throw error("expected an expression in '[]'") }
        return .init(kind: .item(node, part), line: line)
    }

    mutating func arguments() throws(TokenizationError) -> TemplateArguments {
        try expect("(")
        var result = TemplateArguments()
        var isFirst = true
        while !skip(")") {
            if !isFirst {
                try expect(",")
                if skip(")") { break }
            }
            isFirst = false
            if skip("*") {
                guard result.spread == nil, result.namedSpread == nil else { throw error("only one '*' is allowed") }
                result.spread = try expression()
            } else if skip("**") {
                guard result.namedSpread == nil else { throw error("only one '**' is allowed") }
                result.namedSpread = try expression()
            } else if case .name(let name) = current, upcoming == .symbol("=") {
                advance()
                advance()
                result.named.append((name, try expression()))
            } else {
                guard result.named.isEmpty, result.spread == nil else {
                    throw error("a positional argument follows a named one")
                }
                result.positional.append(try expression())
            }
        }
        return result
    }
}
