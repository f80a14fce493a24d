/// Operators, with Python's rules for mixed numbers, floor division, sequences and comparison.
extension TemplateRun {
    func unary(_ operation: TemplateOperator, _ value: TemplateValue) throws(TokenizationError) -> TemplateValue {
        if case .undefined(let message) = value { throw fail(message) }
        if let integer = value.integer {
            guard operation == .subtract else { return .int(integer) }
            let (result, overflow) = Int64(0).subtractingReportingOverflow(integer)
            if overflow { throw overflowed() }
            return .int(result)
        }
        guard let number = value.number else {
            throw fail("bad operand type for unary \(operation.rawValue): '\(value.typeName)'")
        }
        return .float(operation == .subtract ? -number : number)
    }

    private func overflowed() -> TokenizationError { fail("an integer exceeds 64 bits") }

    func binary(
        _ operation: TemplateOperator, _ left: TemplateValue, _ right: TemplateValue
    ) throws(TokenizationError) -> TemplateValue {
        if case .undefined(let message) = left { throw fail(message) }
        if case .string(let text) = left, operation == .modulo { return .string(try formatPercent(text, right)) }
        if case .undefined(let message) = right { throw fail(message) }
        if let a = left.integer, let b = right.integer { return try integers(operation, a, b) }
        if let a = left.number, let b = right.number { return try numbers(operation, a, b) }
        switch (operation, left, right) {
        case (.add, .string(let a), .string(let b)):
            try spend(bytes: a.bytes.count + b.bytes.count)
            return .string(TemplateText(a.bytes + b.bytes))
        case (.add, .list(let a), .list(let b)): return .list(try list(a.items + b.items))
        case (.add, .tuple(let a), .tuple(let b)): return .tuple(try list(a.items + b.items))
        case (.multiply, .string, _), (.multiply, .list, _), (.multiply, .tuple, _):
            if let count = right.integer { return try repeated(left, count) }
        case (.multiply, _, .string), (.multiply, _, .list), (.multiply, _, .tuple):
            if let count = left.integer { return try repeated(right, count) }
        default: break
        }
        throw fail(
            "unsupported operand types for \(operation.rawValue): '\(left.typeName)' and '\(right.typeName)'")
    }

    private func repeated(_ value: TemplateValue, _ count: Int64) throws(TokenizationError) -> TemplateValue {
        let count = Int(max(0, min(count, 1 << 32)))
        func repeatedItems(_ items: [TemplateValue]) throws(TokenizationError) -> TemplateList {
            guard items.count * count <= TemplateLimits.listCount else {
                throw TokenizationError(.limit, "a list exceeds \(TemplateLimits.listCount) elements", line: line)
            }
            return try list((0..<count).flatMap { _ in items })
        }
        switch value {
        case .string(let text):
            try spend(bytes: min(text.bytes.count, 1 << 30) * count)
            var bytes: [UInt8] = []
            bytes.reserveCapacity(text.bytes.count * count)
            for _ in 0..<(text.isEmpty ? 0 : count) { bytes += text.bytes }
            return .string(TemplateText(bytes))
        case .list(let items): return .list(try repeatedItems(items.items))
        case .tuple(let items): return .tuple(try repeatedItems(items.items))
        default: return value
        }
    }

    private func integers(_ operation: TemplateOperator, _ a: Int64, _ b: Int64) throws(TokenizationError)
        -> TemplateValue
    {
        let result: (partialValue: Int64, overflow: Bool)
        switch operation {
        case .add: result = a.addingReportingOverflow(b)
        case .subtract: result = a.subtractingReportingOverflow(b)
        case .multiply: result = a.multipliedReportingOverflow(by: b)
        case .divide:
            guard b != 0 else { throw fail("division by zero") }
            return .float(Double(a) / Double(b))
        case .floorDivide:
            guard b != 0 else { throw fail("division by zero") }
            result = a.dividedReportingOverflow(by: b)
            if !result.overflow, a % b != 0, (a < 0) != (b < 0) { return .int(result.partialValue - 1) }
        case .modulo:
            guard b != 0 else { throw fail("integer modulo by zero") }
            guard b != -1 else { return .int(0) }
            let rest = a % b
            return .int(rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest)
        case .power:
            return try power(a, b)
        default:
            throw fail("unsupported operator \(operation.rawValue)")
        }
        if result.overflow { throw overflowed() }
        return .int(result.partialValue)
    }

    private func power(_ base: Int64, _ exponent: Int64) throws(TokenizationError) -> TemplateValue {
        guard exponent >= 0 else {
            guard base != 0 else { throw fail("0 cannot be raised to a negative power") }
            return .float(FloatMath.power(Double(base), Double(exponent)))
        }
        if base == 0 || base == 1 { return .int(exponent == 0 ? 1 : base) }
        if base == -1 { return .int(exponent % 2 == 0 ? 1 : -1) }
        guard exponent < 64 else { throw overflowed() }
        var value: Int64 = 1
        for _ in 0..<exponent {
            let (product, overflow) = value.multipliedReportingOverflow(by: base)
            if overflow { throw overflowed() }
            value = product
        }
        return .int(value)
    }

    private func numbers(_ operation: TemplateOperator, _ a: Double, _ b: Double) throws(TokenizationError)
        -> TemplateValue
    {
        switch operation {
        case .add: return .float(a + b)
        case .subtract: return .float(a - b)
        case .multiply: return .float(a * b)
        case .power: return .float(FloatMath.power(a, b))
        default: break
        }
        guard b != 0 else { throw fail("float division by zero") }
        switch operation {
        case .divide: return .float(a / b)
        case .floorDivide: return .float((a / b).rounded(.down))
        default:
            let rest = a.truncatingRemainder(dividingBy: b)
            return .float(rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest)
        }
    }

    func compare(
        _ operation: TemplateOperator, _ left: TemplateValue, _ right: TemplateValue
    ) throws(TokenizationError) -> Bool {
        switch operation {
        case .equal: return left.equals(right)
        case .notEqual: return !left.equals(right)
        case .isIn: return try contains(right, left)
        case .notIn: return try !contains(right, left)
        default: break
        }
        for case .undefined(let message) in [left, right] { throw fail(message) }
        guard let order = left.order(right) else {
            throw fail(
                "'\(operation.rawValue)' not supported between '\(left.typeName)' and '\(right.typeName)'")
        }
        switch operation {
        case .less: return order == -1
        case .lessOrEqual: return order == -1 || order == 0
        case .greater: return order == 1
        default: return order == 1 || order == 0
        }
    }

    /// Python's `element in container`.
    func contains(_ container: TemplateValue, _ element: TemplateValue) throws(TokenizationError) -> Bool {
        switch container {
        case .string(let text):
            guard let part = element.text else {
                throw fail("'in <string>' requires string as left operand, not \(element.typeName)")
            }
            try spend(bytes: text.bytes.count)
            return text.contains(part)
        case .dict(let dict):
            guard let key = element.key else { throw fail("unhashable type: '\(element.typeName)'") }
            return dict.value(key) != nil
        default:
            guard let items = container.elements else {
                throw fail("argument of type '\(container.typeName)' is not iterable")
            }
            try spend(items.count)
            return items.contains { $0.equals(element) }
        }
    }
}
