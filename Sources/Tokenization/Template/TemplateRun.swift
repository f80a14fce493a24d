/// Names visible at one place of a template: those set there, then those of the place around it.
final class TemplateScope {
    var names: [String: TemplateValue]
    let parent: TemplateScope?

    init(_ names: [String: TemplateValue] = [:], parent: TemplateScope?) {
        self.names = names
        self.parent = parent
    }

    func value(_ name: String) -> TemplateValue? {
        var scope: TemplateScope? = self
        while let current = scope {
            if let value = current.names[name] { return value }
            scope = current.parent
        }
        return nil
    }
}

/// A macro together with the names it was defined among.
final class TemplateMacro {
    let node: TemplateMacroNode
    let scope: TemplateScope

    init(_ node: TemplateMacroNode, _ scope: TemplateScope) {
        self.node = node
        self.scope = scope
    }
}

/// One rendering of a template: executes statements. Expressions are in `TemplateRun+Expressions.swift`.
final class TemplateRun {
    enum Flow { case next, leaveLoop, nextRound }

    let limits: TemplateLimits
    let now: CivilTime
    var output: [UInt8] = []
    var scope: TemplateScope
    /// Line of what is being executed, for messages.
    var line = 1
    private var stepsLeft: Int
    private var depth = 0
    /// Scopes, namespaces and loops that may refer to themselves in a circle; taken apart at the end.
    private var macroScopes: [TemplateScope] = []
    private var namespaces: [TemplateNamespace] = []
    var checkedLoops: [TemplateLoop] = []

    init(_ names: [String: TemplateValue], limits: TemplateLimits, now: CivilTime) {
        self.limits = limits
        self.now = now
        scope = TemplateScope(names, parent: nil)
        stepsLeft = limits.steps
    }

    /// Breaks reference cycles (a macro's scope holds the macro). The run is of no use afterwards.
    func dispose() {
        for scope in macroScopes { scope.names = [:] }
        for namespace in namespaces { namespace.attributes = [:] }
        for loop in checkedLoops { loop.lastChecked = nil }
        scope.names = [:]
    }

    // MARK: Limits

    func fail(_ message: String) -> TokenizationError { TokenizationError(.template, message, line: line) }

    func spend(_ steps: Int = 1) throws(TokenizationError) {
        stepsLeft -= steps
        if stepsLeft < 0 {
            throw TokenizationError(.limit, "the template takes more than \(limits.steps) steps", line: line)
        }
    }

    /// Accounts for a string about to be made.
    func spend(bytes: Int) throws(TokenizationError) {
        guard bytes <= limits.outputBytes else {
            throw TokenizationError(.limit, "a text exceeds \(limits.outputBytes) bytes", line: line)
        }
        try spend(bytes / 16)
    }

    func enter() throws(TokenizationError) {
        depth += 1
        if depth > limits.depth {
            throw TokenizationError(.limit, "the template nests more than \(limits.depth) deep", line: line)
        }
        try spend()
    }

    func leave() { depth -= 1 }

    func list(_ items: [TemplateValue], labels: [String] = []) throws(TokenizationError) -> TemplateList {
        try spend(items.count)
        let list = TemplateList(items, labels: labels)
        guard items.count <= TemplateLimits.listCount, list.depth <= TemplateLimits.valueDepth else {
            throw TokenizationError(
                .limit, "a list exceeds \(TemplateLimits.listCount) elements or \(TemplateLimits.valueDepth) levels",
                line: line)
        }
        return list
    }

    func namespace(_ attributes: [String: TemplateValue]) -> TemplateNamespace {
        let namespace = TemplateNamespace(attributes)
        namespaces.append(namespace)
        return namespace
    }

    func write(_ bytes: [UInt8]) throws(TokenizationError) {
        try spend(bytes: output.count + bytes.count <= limits.outputBytes ? bytes.count : Int.max)
        output += bytes
    }

    // MARK: Statements

    func execute(_ statements: [TemplateStatement]) throws(TokenizationError) -> Flow {
        for statement in statements {
            let flow = try execute(statement)
            if flow != .next { return flow }
        }
        return .next
    }

    private func execute(_ statement: TemplateStatement) throws(TokenizationError) -> Flow {
        try enter()
        defer { leave() }
        line = statement.line
        switch statement.kind {
        case .text(let bytes):
            try write(bytes)
        case .output(let expression):
            try write(evaluate(expression).printed.bytes)
        case .choose(let branches, let otherwise):
            for (condition, body) in branches where try evaluate(condition).isTrue { return try execute(body) }
            return try execute(otherwise)
        case .loop(let node):
            return try loop(node)
        case .set(let target, let expression):
            try assign(evaluate(expression), to: target)
        case .capture(let target, let filters, let body):
            let text = try capture(body)
            try assign(apply(filters, to: .string(text)), to: target)
        case .macro(let node):
            macroScopes.append(scope)
            scope.names[node.name] = .callable(.macro(TemplateMacro(node, scope)))
        case .call(let call, let caller):
            try callBlock(call, caller)
        case .filtered(let filters, let body):
            let text = try capture(body)
            try write(apply(filters, to: .string(text)).printed.bytes)
        case .with(let assignments, let body):
            let inner = TemplateScope(parent: scope)
            for (target, expression) in assignments {
                let value = try evaluate(expression)
                try within(inner) { () throws(TokenizationError) in try assign(value, to: target) }
            }
            return try within(inner) { () throws(TokenizationError) in try execute(body) }
        case .scope(let body):
            return try within(TemplateScope(parent: scope)) { () throws(TokenizationError) in try execute(body) }
        case .breakLoop: return .leaveLoop
        case .continueLoop: return .nextRound
        }
        return .next
    }

    func within<Result>(
        _ inner: TemplateScope, _ body: () throws(TokenizationError) -> Result
    ) throws(TokenizationError) -> Result {
        let outer = scope
        scope = inner
        defer { scope = outer }
        return try body()
    }

    /// What the statements write, instead of writing it.
    func capture(_ body: [TemplateStatement], in inner: TemplateScope? = nil) throws(TokenizationError) -> TemplateText
    {
        let outer = output
        output = []
        defer { output = outer }
        _ = try within(inner ?? TemplateScope(parent: scope)) { () throws(TokenizationError) in try execute(body) }
        return TemplateText(output)
    }

    private func apply(
        _ filters: [TemplateFilterCall], to value: TemplateValue
    ) throws(TokenizationError) -> TemplateValue {
        var value = value
        for filter in filters {
            line = filter.line
            value = try applyFilter(filter.name, value, arguments(filter.arguments))
        }
        return value
    }

    func assign(_ value: TemplateValue, to target: TemplateTarget) throws(TokenizationError) {
        switch target {
        case .name(let name):
            scope.names[name] = value
        case .attribute(let name, let attribute):
            guard case .namespace(let namespace)? = scope.value(name) else {
                throw fail("cannot assign attribute '\(attribute)': '\(name)' is no namespace")
            }
            namespace.attributes[attribute] = value
        case .tuple(let targets):
            guard let parts = value.elements, !value.isUndefined else {
                throw fail("cannot unpack \(value.typeName)")
            }
            guard parts.count == targets.count else {
                throw fail("expected \(targets.count) values to unpack, got \(parts.count)")
            }
            for (target, part) in zip(targets, parts) { try assign(part, to: target) }
        }
    }

    private func loop(_ node: TemplateLoopNode) throws(TokenizationError) -> Flow {
        let value = try evaluate(node.items)
        guard var items = value.elements else { throw fail("'\(value.typeName)' object is not iterable") }
        try spend(items.count)
        let outer = scope
        defer { scope = outer }
        if let condition = node.condition {
            var kept: [TemplateValue] = []
            for item in items {
                scope = TemplateScope(parent: outer)
                try assign(item, to: node.target)
                if try evaluate(condition).isTrue { kept.append(item) }
            }
            items = kept
            scope = outer
        }
        guard !items.isEmpty else {
            return try within(TemplateScope(parent: outer)) { () throws(TokenizationError) in
                try execute(node.otherwise)
            }
        }
        let loop = TemplateLoop(try list(items))
        for (index, item) in items.enumerated() {
            try spend()
            loop.index = index
            scope = TemplateScope(["loop": .loop(loop)], parent: outer)
            try assign(item, to: node.target)
            if try execute(node.body) == .leaveLoop { break }
        }
        return .next
    }

    // MARK: Macros

    private func callBlock(_ call: TemplateExpression, _ node: TemplateMacroNode) throws(TokenizationError) {
        guard case .call(let callee, let given) = call.kind else { return }
        macroScopes.append(scope)
        let target = try evaluate(callee)
        var bound = try arguments(given)
        bound.named.append(("caller", .callable(.macro(TemplateMacro(node, scope)))))
        try write(self.call(target, bound).printed.bytes)
    }

    func callMacro(_ macro: TemplateMacro, _ given: TemplateValues) throws(TokenizationError) -> TemplateValue {
        try enter()
        defer { leave() }
        let node = macro.node
        let inner = TemplateScope(parent: macro.scope)
        var named = given.named
        for (index, parameter) in node.parameters.enumerated() {
            if index < given.positional.count {
                guard !named.contains(where: { $0.0 == parameter.name }) else {
                    throw fail("macro '\(node.name)' got multiple values for argument '\(parameter.name)'")
                }
                inner.names[parameter.name] = given.positional[index]
            } else if let place = named.firstIndex(where: { $0.0 == parameter.name }) {
                inner.names[parameter.name] = named.remove(at: place).1
            } else if let fallback = parameter.fallback {
                inner.names[parameter.name] = try within(inner) { () throws(TokenizationError) in
                    try evaluate(fallback)
                }
            } else {
                inner.names[parameter.name] = .undefined("parameter '\(parameter.name)' was not provided")
            }
        }
        if let place = named.firstIndex(where: { $0.0 == "caller" }) {
            inner.names["caller"] = named.remove(at: place).1
        }
        let extra = Array(given.positional.dropFirst(node.parameters.count))
        if node.takesExtraPositional {
            inner.names["varargs"] = .tuple(try list(extra))
        } else if !extra.isEmpty {
            throw fail("macro '\(node.name)' takes not more than \(node.parameters.count) argument(s)")
        }
        if node.takesExtraNamed {
            inner.names["kwargs"] = try dictionary(named.map { (.text($0.0), $0.1) })
        } else if let unknown = named.first {
            throw fail("macro '\(node.name)' takes no keyword argument '\(unknown.0)'")
        }
        let callLine = line
        defer { line = callLine }
        return .string(try capture(node.body, in: inner))
    }

    func dictionary(_ pairs: [(TemplateValue, TemplateValue)]) throws(TokenizationError) -> TemplateValue {
        try spend(pairs.count)
        var hashed: [(TemplateKey, TemplateValue, TemplateValue)] = []
        for (key, value) in pairs {
            guard let found = key.key else { throw fail("unhashable type: '\(key.typeName)'") }
            hashed.append((found, key, value))
        }
        let dict = TemplateDict(hashed)
        guard dict.depth <= TemplateLimits.valueDepth else {
            throw TokenizationError(.limit, "values nest more than \(TemplateLimits.valueDepth) deep", line: line)
        }
        return .dict(dict)
    }
}
