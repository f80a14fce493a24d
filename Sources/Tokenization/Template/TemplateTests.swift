/// The tests (`x is …`) by name.
enum TemplateTests {
    typealias Test = @Sendable (TemplateRun, TemplateValue, [TemplateValue]) throws(TokenizationError) -> Bool

    static let table: [String: Test] = {
        var table = kinds
        table.merge(comparisons) { $1 }
        let aliases = [
            "equalto": "eq", "greaterthan": "gt", "lessthan": "lt",
        ]
        for (alias, name) in aliases { table[alias] = table[name] }
        for (symbol, name) in ["==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"] {
            table[symbol] = table[name]
        }
        return table
    }()

    private static let kinds: [String: Test] = [
        "defined": { _, value, _ in !value.isUndefined },
        "undefined": { _, value, _ in value.isUndefined },
        "none": { _, value, _ in if case .none = value { true } else { false } },
        "boolean": { _, value, _ in if case .bool = value { true } else { false } },
        "true": { _, value, _ in if case .bool(true) = value { true } else { false } },
        "false": { _, value, _ in if case .bool(false) = value { true } else { false } },
        "integer": { _, value, _ in if case .int = value { true } else { false } },
        "float": { _, value, _ in if case .float = value { true } else { false } },
        "number": { _, value, _ in value.number != nil },
        "string": { _, value, _ in value.text != nil },
        "mapping": { _, value, _ in if case .dict = value { true } else { false } },
        "iterable": { _, value, _ in value.elements != nil },
        "sequence": { _, value, _ in
            switch value {
            case .string, .list, .tuple, .dict, .undefined: true
            default: false
            }
        },
        "callable": { _, value, _ in if case .callable = value { true } else { false } },
        "escaped": { _, _, _ in false },
        "lower": { _, value, _ in isCased(value.printed, lower: true) },
        "upper": { _, value, _ in isCased(value.printed, lower: false) },
        "filter": { _, value, _ in TemplateFilters.table[value.printed.string] != nil },
        "test": { _, value, _ in TemplateTests.table[value.printed.string] != nil },
    ]

    private static let comparisons: [String: Test] = [
        "eq": { (run, value, given) throws(TokenizationError) in value.equals(try only(given, run)) },
        "ne": { (run, value, given) throws(TokenizationError) in !value.equals(try only(given, run)) },
        "lt": { (run, value, given) throws(TokenizationError) in try run.compare(.less, value, only(given, run)) },
        "le": { (run, value, given) throws(TokenizationError) in
            try run.compare(.lessOrEqual, value, only(given, run))
        },
        "gt": { (run, value, given) throws(TokenizationError) in try run.compare(.greater, value, only(given, run)) },
        "ge": { (run, value, given) throws(TokenizationError) in
            try run.compare(.greaterOrEqual, value, only(given, run))
        },
        "in": { (run, value, given) throws(TokenizationError) in try run.contains(only(given, run), value) },
        "sameas": { (run, value, given) throws(TokenizationError) in isSame(value, try only(given, run)) },
        "odd": { (run, value, _) throws(TokenizationError) in try remainder(value, .int(2), run).equals(.int(1)) },
        "even": { (run, value, _) throws(TokenizationError) in try remainder(value, .int(2), run).equals(.int(0)) },
        "divisibleby": { (run, value, given) throws(TokenizationError) in
            try remainder(value, only(given, run), run).equals(.int(0))
        },
    ]

    private static func only(_ given: [TemplateValue], _ run: TemplateRun) throws(TokenizationError) -> TemplateValue {
        guard given.count == 1 else { throw run.fail("the test needs one argument") }
        return given[0]
    }

    private static func remainder(
        _ value: TemplateValue, _ divisor: TemplateValue, _ run: TemplateRun
    ) throws(TokenizationError) -> TemplateValue {
        guard value.number != nil || value.isUndefined else {
            throw run.fail("'\(value.typeName)' object is no number")
        }
        return try run.binary(.modulo, value, divisor)
    }

    /// Python's `is`: the same object. Equal values of a simple kind count as the same.
    private static func isSame(_ left: TemplateValue, _ right: TemplateValue) -> Bool {
        switch (left, right) {
        case (.list(let a), .list(let b)), (.tuple(let a), .tuple(let b)): a === b
        case (.dict(let a), .dict(let b)): a === b
        case (.bool, .bool), (.int, .int), (.float, .float): left.equals(right)
        case (.bool, _), (.int, _), (.float, _): false
        default: left.equals(right)
        }
    }

    static func isCased(_ text: TemplateText, lower: Bool) -> Bool {
        var found = false
        for scalar in text.string.unicodeScalars {
            if lower ? scalar.properties.isUppercase : scalar.properties.isLowercase { return false }
            if scalar.properties.generalCategory == .titlecaseLetter { return false }
            if scalar.properties.isCased { found = true }
        }
        return found
    }
}

extension TemplateRun {
    func applyTest(
        _ name: String, _ value: TemplateValue, _ given: TemplateValues
    ) throws(TokenizationError) -> Bool {
        guard let test = TemplateTests.table[name] else { throw fail("there is no test '\(name)'") }
        try spend()
        return try test(self, value, given.positional + given.named.map(\.1))
    }
}
