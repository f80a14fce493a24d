package import OrderedJSON

/// Bounds on running a template. A template comes with the model and its variables from clients: neither may make
/// the process hang or grow.
package struct TemplateLimits: Sendable {
    /// Bytes of the result, and of any string on the way.
    package var outputBytes: Int
    /// Work: nodes evaluated, plus one per element and per 16 bytes that an operation copies.
    package var steps: Int
    /// How deep evaluation may nest (expressions, statements and macro calls together), which bounds the stack.
    package var depth: Int

    package init(outputBytes: Int = 64 << 20, steps: Int = 50_000_000, depth: Int = 400) {
        self.outputBytes = outputBytes
        self.steps = steps
        self.depth = depth
    }

    package static let `default` = TemplateLimits()

    /// How deep lists and dictionaries may nest.
    static let valueDepth = 200
    /// Elements of one `range`, as in Jinja's sandbox.
    static let rangeCount = 100_000
    /// Elements of any list.
    static let listCount = 4_000_000
}

/// A model's chat template: a Jinja template, parsed once and rendered per request.
///
/// Covers what published templates use, with the results of Jinja 3.1's `ImmutableSandboxedEnvironment` with
/// `trim_blocks`, `lstrip_blocks` and loop controls, as the reference library sets it up: see the fixtures under
/// `Tests/Fixtures/jinja`. Not available: `include`, `import`, `extends`, `block`, recursive loops. `safe` does
/// nothing, as nothing is escaped; integers have 64 bits. As in Jinja, a filter that does not exist is an error only
/// where a conversation reaches it.
package struct ChatTemplate: Sendable {
    /// The template's own text.
    package let source: String
    private let statements: [TemplateStatement]
    private let limits: TemplateLimits
    private static let sourceBytes = 4 << 20

    /// - Throws: `.malformed` with the line for a syntax error, `.unsupported` for what is not available.
    package init(_ source: String, limits: TemplateLimits = .default) throws(TokenizationError) {
        guard source.utf8.count <= Self.sourceBytes else {
            throw TokenizationError(
                .limit, "the chat template has \(source.utf8.count) bytes, limit \(Self.sourceBytes)")
        }
        self.source = source
        statements = try TemplateParser.parse(source)
        self.limits = limits
    }

    /// - Parameters:
    ///   - variables: `messages`, `tools`, `add_generation_prompt`, `bos_token` and whatever else the template
    ///     reads. A JSON null is Python's `None`; leave a variable out to make it undefined.
    ///   - now: what `strftime_now` reads.
    /// - Throws: `.raised` with the template's own message if it refuses the conversation, `.template` if it fails,
    ///   `.limit` if it exceeds a bound.
    package func render(_ variables: [String: JSON], now: CivilTime) throws(TokenizationError) -> String {
        var names: [String: TemplateValue] = [:]
        for global in TemplateGlobal.allCases { names[global.rawValue] = .callable(.global(global)) }
        for (name, value) in variables { names[name] = try TemplateValue.from(value) }
        let run = TemplateRun(names, limits: limits, now: now)
        defer { run.dispose() }
        _ = try run.execute(statements)
        return String(decoding: run.output, as: UTF8.self)
    }
}
