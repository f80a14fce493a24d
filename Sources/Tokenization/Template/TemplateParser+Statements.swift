extension TemplateParser {
    /// Statements up to a block that starts with one of `ends`, which is left as the current token.
    mutating func statements(until ends: Set<String>) throws(TokenizationError) -> [TemplateStatement] {
        try deeper()
        defer { depth -= 1 }
        var body: [TemplateStatement] = []
        while true {
            let line = line
            operators = 0
            switch current {
            case .data(let bytes):
                body.append(.init(kind: .text(bytes), line: line))
                advance()
            case .variableBegin:
                advance()
                body.append(.init(kind: .output(try tuple()), line: line))
                guard current == .variableEnd else { throw error("expected '}}', found \(describe(current))") }
                advance()
            case .blockBegin:
                advance()
                guard case .name(let name) = current else { throw error("expected a tag name after '{%'") }
                if ends.contains(name) { return body }
                advance()
                if let statement = try statement(name, line) { body.append(statement) }
                try endBlock()
            default:
                guard ends.isEmpty else {
                    let wanted = ends.sorted().joined(separator: "' or '")
                    throw error("unexpected \(describe(current)), expected '\(wanted)'")
                }
                return body
            }
        }
    }

    private mutating func endBlock() throws(TokenizationError) {
        guard current == .blockEnd else { throw error("expected '%}', found \(describe(current))") }
        advance()
    }

    /// The body of a block that has begun, up to and over its end tag's name.
    private mutating func body(until end: String) throws(TokenizationError) -> [TemplateStatement] {
        try endBlock()
        let result = try statements(until: [end])
        advance()
        return result
    }

    private mutating func statement(_ name: String, _ line: Int) throws(TokenizationError) -> TemplateStatement? {
        let kind: TemplateStatement.Kind
        switch name {
        case "if": kind = try choice()
        case "for": kind = try loop()
        case "set": kind = try set()
        case "macro":
            let name = try expectName()
            kind = .macro(try macro(name, end: "endmacro"))
        case "call": kind = try callBlock()
        case "filter":
            kind = .filtered(try filterChain(), try body(until: "endfilter"))
        case "with":
            var assignments: [(TemplateTarget, TemplateExpression)] = []
            while current != .blockEnd {
                if !assignments.isEmpty { try expect(",") }
                let target = try target(allowsAttribute: false)
                try expect("=")
                assignments.append((target, try expression()))
            }
            kind = .with(assignments, try body(until: "endwith"))
        case "generation":
            // Marks the assistant's part for training; here it is just its content.
            kind = .scope(try body(until: "endgeneration"))
        case "break", "continue":
            guard loopDepth > 0 else { throw error("'\(name)' outside of a loop") }
            kind = name == "break" ? .breakLoop : .continueLoop
        case "include", "import", "from", "extends", "block", "do", "autoescape", "trans":
            throw TokenizationError(.unsupported, "'{% \(name) %}' is not available in chat templates", line: line)
        default:
            throw error("unknown tag '\(name)'")
        }
        return .init(kind: kind, line: line)
    }

    private mutating func choice() throws(TokenizationError) -> TemplateStatement.Kind {
        var branches: [(TemplateExpression, [TemplateStatement])] = []
        var otherwise: [TemplateStatement] = []
        var condition = try tuple()
        while true {
            try endBlock()
            branches.append((condition, try statements(until: ["elif", "else", "endif"])))
            if skipName("elif") {
                condition = try tuple()
                continue
            }
            if skipName("else") { otherwise = try body(until: "endif") } else { advance() }
            return .choose(branches, otherwise: otherwise)
        }
    }

    private mutating func loop() throws(TokenizationError) -> TemplateStatement.Kind {
        let target = try target(allowsAttribute: false)
        guard skipName("in") else { throw error("expected 'in', found \(describe(current))") }
        // Without conditional expressions: the `if` after the items is the loop's filter.
        let items = try loopItems()
        let condition = skipName("if") ? try expression() : nil
        guard current != .name("recursive") else {
            throw TokenizationError(.unsupported, "recursive loops are not supported", line: line)
        }
        try endBlock()
        loopDepth += 1
        let body = try statements(until: ["endfor", "else"])
        loopDepth -= 1
        var otherwise: [TemplateStatement] = []
        if skipName("else") { otherwise = try self.body(until: "endfor") } else { advance() }
        return .loop(
            TemplateLoopNode(target: target, items: items, condition: condition, body: body, otherwise: otherwise))
    }

    private mutating func loopItems() throws(TokenizationError) -> TemplateExpression {
        let line = line
        var items: [TemplateExpression] = []
        var isTuple = false
        while true {
            if current == .blockEnd || current == .name("if") || current == .name("recursive") { break }
            items.append(try disjunctionOnly())
            guard skip(",") else { break }
            isTuple = true
        }
        guard let first = items.first else { throw error("expected something to loop over") }
        return isTuple ? .init(kind: .tuple(items), line: line) : first
    }

    private mutating func set() throws(TokenizationError) -> TemplateStatement.Kind {
        let target = try target(allowsAttribute: true)
        if skip("=") { return .set(target, try tuple()) }
        let filters = skip("|") ? try filterChain() : []
        return .capture(target, filters, try body(until: "endset"))
    }

    private mutating func filterChain() throws(TokenizationError) -> [TemplateFilterCall] {
        var calls = [try filterCall()]
        while skip("|") { calls.append(try filterCall()) }
        return calls
    }

    private mutating func macro(_ name: String, end: String) throws(TokenizationError) -> TemplateMacroNode {
        let parameters = try parameters()
        namesRead.append([])
        let outerLoops = loopDepth
        loopDepth = 0
        defer { loopDepth = outerLoops }
        let content = try body(until: end)
        let names = namesRead.removeLast()
        return TemplateMacroNode(
            name: name, parameters: parameters, body: content, takesExtraPositional: names.contains("varargs"),
            takesExtraNamed: names.contains("kwargs"))
    }

    private mutating func parameters() throws(TokenizationError) -> [(name: String, fallback: TemplateExpression?)] {
        var parameters: [(name: String, fallback: TemplateExpression?)] = []
        try expect("(")
        while !skip(")") {
            if !parameters.isEmpty {
                try expect(",")
                if skip(")") { break }
            }
            let name = try expectName()
            let fallback = skip("=") ? try expression() : nil
            guard fallback != nil || parameters.last?.fallback == nil else {
                throw error("a parameter without default follows one with a default")
            }
            parameters.append((name, fallback))
        }
        return parameters
    }

    private mutating func callBlock() throws(TokenizationError) -> TemplateStatement.Kind {
        let parameters = current == .symbol("(") ? try parameters() : []
        let call = try expression()
        guard case .call = call.kind else { throw error("expected a call") }
        let outerLoops = loopDepth
        loopDepth = 0
        defer { loopDepth = outerLoops }
        let content = try body(until: "endcall")
        return .call(call, TemplateMacroNode(name: "caller", parameters: parameters, body: content))
    }

    private mutating func target(allowsAttribute: Bool) throws(TokenizationError) -> TemplateTarget {
        try deeper()
        defer { depth -= 1 }
        var parts: [TemplateTarget] = []
        var isTuple = false
        while true {
            if skip("(") {
                parts.append(try target(allowsAttribute: allowsAttribute))
                try expect(")")
            } else {
                let name = try expectName()
                guard !["true", "false", "none", "True", "False", "None"].contains(name) else {
                    throw error("can't assign to '\(name)'")
                }
                if allowsAttribute, skip(".") {
                    for index in namesRead.indices { namesRead[index].insert(name) }
                    parts.append(.attribute(name, try expectName()))
                } else {
                    parts.append(.name(name))
                }
            }
            guard skip(",") else { break }
            isTuple = true
            if current == .name("in") || current == .symbol("=") || current == .symbol(")") { break }
        }
        return isTuple ? .tuple(parts) : parts[0]
    }
}
