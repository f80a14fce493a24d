/// Evaluated arguments of a call.
struct TemplateValues {
    var positional: [TemplateValue] = []
    var named: [(String, TemplateValue)] = []
}

extension TemplateRun {
    func evaluate(_ expression: TemplateExpression) throws(TokenizationError) -> TemplateValue {
        try enter()
        defer { leave() }
        switch expression.kind {
        case .constant(let constant):
            return Self.value(constant)
        case .name(let name):
            return scope.value(name) ?? .undefined("'\(name)' is undefined")
        case .and(let left, let right):
            let value = try evaluate(left)
            return value.isTrue ? try evaluate(right) : value
        case .or(let left, let right):
            let value = try evaluate(left)
            return value.isTrue ? value : try evaluate(right)
        case .not(let operand):
            return .bool(!(try evaluate(operand).isTrue))
        case .conditional(let then, let condition, let otherwise):
            if try evaluate(condition).isTrue { return try evaluate(then) }
            if let otherwise { return try evaluate(otherwise) }
            return .undefined("the inline if-expression evaluated to false and no else section was defined")
        default:
            return try evaluateCompound(expression)
        }
    }

    private static func value(_ constant: TemplateConstant) -> TemplateValue {
        switch constant {
        case .none: .none
        case .bool(let value): .bool(value)
        case .int(let value): .int(value)
        case .float(let value): .float(value)
        case .text(let text): .string(text)
        }
    }

    private func evaluateCompound(_ expression: TemplateExpression) throws(TokenizationError) -> TemplateValue {
        switch expression.kind {
        case .list(let items): return .list(try list(evaluate(items)))
        case .tuple(let items): return .tuple(try list(evaluate(items)))
        case .dict(let pairs):
            var values: [(TemplateValue, TemplateValue)] = []
            for (key, value) in pairs { values.append((try evaluate(key), try evaluate(value))) }
            line = expression.line
            return try dictionary(values)
        case .attribute(let object, let name):
            let value = try evaluate(object)
            line = expression.line
            return try attribute(value, name)
        case .item(let object, let key):
            let value = try evaluate(object)
            let index = try evaluate(key)
            line = expression.line
            return try item(value, index)
        case .slice(let object, let start, let stop, let step):
            let value = try evaluate(object)
            var bounds: [TemplateValue] = []
            for bound in [start, stop, step] { bounds.append(try bound.map(orNone: evaluate)) }
            line = expression.line
            return try slice(value, bounds)
        case .call(let callee, let given):
            let target = try evaluate(callee)
            let values = try arguments(given)
            line = expression.line
            return try call(target, values)
        case .filter(let operand, let name, let given):
            let value = try evaluate(operand)
            let values = try arguments(given)
            line = expression.line
            return try applyFilter(name, value, values)
        case .test(let operand, let name, let given):
            let value = try evaluate(operand)
            let values = try arguments(given)
            line = expression.line
            return .bool(try applyTest(name, value, values))
        case .unary(let operation, let operand):
            let value = try evaluate(operand)
            line = expression.line
            return try unary(operation, value)
        case .binary(let operation, let left, let right):
            let a = try evaluate(left)
            let b = try evaluate(right)
            line = expression.line
            return try binary(operation, a, b)
        case .concatenation(let parts):
            var text: [UInt8] = []
            for part in parts {
                let bytes = try evaluate(part).printed.bytes
                try spend(bytes: text.count + bytes.count <= limits.outputBytes ? bytes.count : Int.max)
                text += bytes
            }
            return .string(TemplateText(text))
        case .comparison(let first, let rest):
            var left = try evaluate(first)
            for (operation, expression) in rest {
                let right = try evaluate(expression)
                line = expression.line
                if try !compare(operation, left, right) { return .bool(false) }
                left = right
            }
            return .bool(true)
        default:
            return .none
        }
    }

    private func evaluate(_ expressions: [TemplateExpression]) throws(TokenizationError) -> [TemplateValue] {
        var values: [TemplateValue] = []
        values.reserveCapacity(expressions.count)
        for expression in expressions { values.append(try evaluate(expression)) }
        return values
    }

    func arguments(_ given: TemplateArguments) throws(TokenizationError) -> TemplateValues {
        var values = TemplateValues(positional: try evaluate(given.positional))
        for (name, expression) in given.named { values.named.append((name, try evaluate(expression))) }
        if let spread = given.spread {
            let value = try evaluate(spread)
            guard let elements = value.elements else { throw fail("'\(value.typeName)' after * is not iterable") }
            values.positional += elements
        }
        if let spread = given.namedSpread {
            guard case .dict(let dict) = try evaluate(spread) else { throw fail("the value after ** is no mapping") }
            for (key, value) in zip(dict.keys, dict.values) {
                guard let name = key.text else { throw fail("keywords must be strings") }
                values.named.append((name.string, value))
            }
        }
        return values
    }

    // MARK: Parts of values

    /// `value.name`: an attribute first, then an item, as Jinja looks.
    func attribute(_ value: TemplateValue, _ name: String) throws(TokenizationError) -> TemplateValue {
        if TemplateMethods.has(name, value) { return .callable(.method(value, name)) }
        switch value {
        case .undefined(let message):
            throw fail(message)
        case .dict(let dict):
            return dict.value(TemplateText(name)) ?? .undefined("'dict object' has no attribute '\(name)'")
        case .namespace(let namespace):
            return namespace.attributes[name] ?? .undefined("'Namespace object' has no attribute '\(name)'")
        case .loop(let loop):
            return loop.attribute(name)
        case .tuple(let list):
            if let place = list.labels.firstIndex(of: name) { return list.items[place] }
        case .callable(.macro(let macro)) where name == "name":
            return .text(macro.node.name)
        default: break
        }
        let type = if case .none = value { "None" } else { "'\(value.typeName) object'" }
        return .undefined("\(type) has no attribute '\(name)'")
    }

    /// `value[key]`: an item first, then an attribute.
    func item(_ value: TemplateValue, _ key: TemplateValue) throws(TokenizationError) -> TemplateValue {
        switch value {
        case .undefined(let message):
            throw fail(message)
        case .dict(let dict):
            if let found = key.key.flatMap(dict.value) { return found }
        case .list(let list), .tuple(let list):
            if let index = key.integer {
                let place = index < 0 ? Int(index) + list.items.count : Int(index)
                if list.items.indices.contains(place) { return list.items[place] }
            }
        case .string(let text):
            if let index = key.integer {
                let scalars = text.scalars
                try spend(bytes: text.bytes.count)
                let place = index < 0 ? Int(index) + scalars.count : Int(index)
                if scalars.indices.contains(place) { return .string(TemplateText([scalars[place]])) }
            }
        default: break
        }
        if let name = key.text {
            if case .dict = value, !TemplateMethods.has(name.string, value) {
                return .undefined("'dict object' has no attribute '\(name.string)'")
            }
            return try attribute(value, name.string)
        }
        return .undefined("'\(value.typeName) object' has no element \(key.represented)")
    }

    private func slice(_ value: TemplateValue, _ bounds: [TemplateValue]) throws(TokenizationError) -> TemplateValue {
        func places(_ count: Int) throws(TokenizationError) -> [Int] {
            var parts: [Int?] = []
            for bound in bounds {
                if case .none = bound {
                    parts.append(nil)
                } else if let integer = bound.integer {
                    // Beyond any length all bounds are the same, and clamped ones cannot overflow.
                    parts.append(Int(max(-1 << 40, min(1 << 40, integer))))
                } else {
                    throw fail("slice indices must be integers or None")
                }
            }
            let step = parts[2] ?? 1
            guard step != 0 else { throw fail("slice step cannot be zero") }
            let (low, high) = step > 0 ? (0, count) : (-1, count - 1)
            func clamp(_ place: Int?, _ fallback: Int) -> Int {
                guard let place else { return fallback }
                return max(low, min(high, place < 0 ? place + count : place))
            }
            let start = clamp(parts[0], step > 0 ? low : high)
            let stop = clamp(parts[1], step > 0 ? high : low)
            return Array(stride(from: start, to: stop, by: step))
        }
        switch value {
        case .string(let text):
            let scalars = text.scalars
            try spend(scalars.count)
            return .string(TemplateText(try places(scalars.count).map { scalars[$0] }))
        case .list(let items):
            return .list(try list(places(items.items.count).map { items.items[$0] }))
        case .tuple(let items):
            return .tuple(try list(places(items.items.count).map { items.items[$0] }))
        case .undefined(let message):
            throw fail(message)
        default:
            return .undefined("'\(value.typeName) object' cannot be sliced")
        }
    }

    // MARK: Calls

    func call(_ target: TemplateValue, _ given: TemplateValues) throws(TokenizationError) -> TemplateValue {
        switch target {
        case .undefined(let message): throw fail(message)
        case .callable(.macro(let macro)): return try callMacro(macro, given)
        case .callable(.method(let receiver, let name)): return try callMethod(receiver, name, given)
        case .callable(.global(let global)): return try callGlobal(global, given)
        default: throw fail("'\(target.typeName)' object is not callable")
        }
    }

    private func callGlobal(
        _ global: TemplateGlobal, _ given: TemplateValues
    ) throws(TokenizationError) -> TemplateValue {
        switch global {
        case .range:
            return try range(given.positional)
        case .dict:
            var pairs: [(TemplateValue, TemplateValue)] = []
            if case .dict(let dict)? = given.positional.first { pairs = Array(zip(dict.keys, dict.values)) }
            pairs += given.named.map { (.text($0.0), $0.1) }
            return try dictionary(pairs)
        case .namespace:
            var attributes: [String: TemplateValue] = [:]
            if case .dict(let dict)? = given.positional.first {
                for (key, value) in zip(dict.keys, dict.values) { attributes[key.printed.string] = value }
            }
            for (name, value) in given.named { attributes[name] = value }
            try spend(attributes.count)
            return .namespace(namespace(attributes))
        case .raiseException:
            let message = given.positional.first?.printed.string ?? ""
            throw TokenizationError(.raised, message, line: line)
        case .strftimeNow:
            let bound = try bind(given, ["format"], required: 1, "strftime_now")
            guard let format = bound[0]?.text else { throw fail("strftime_now() needs a format") }
            try spend(bytes: format.bytes.count * 16)
            return .text(now.formatted(format.string))
        }
    }

    private func range(_ given: [TemplateValue]) throws(TokenizationError) -> TemplateValue {
        var parts: [Int64] = []
        for value in given {
            guard let integer = value.integer else {
                throw fail("'\(value.typeName)' object cannot be interpreted as an integer")
            }
            parts.append(integer)
        }
        guard (1...3).contains(parts.count) else { throw fail("range() takes 1 to 3 arguments") }
        let start = parts.count == 1 ? 0 : parts[0]
        let stop = parts.count == 1 ? parts[0] : parts[1]
        let step = parts.count == 3 ? parts[2] : 1
        guard step != 0 else { throw fail("range() step must not be zero") }
        let distance = Double(stop) - Double(start)
        guard distance / Double(step) <= Double(TemplateLimits.rangeCount) else {
            throw TokenizationError(
                .limit, "range() is too big: the limit is \(TemplateLimits.rangeCount) elements", line: line)
        }
        return .list(try list(stride(from: start, to: stop, by: Int(step)).map { .int($0) }))
    }

    /// Matches arguments with parameter names, nil for those not given.
    func bind(
        _ given: TemplateValues, _ names: [String], required: Int = 0, _ function: String
    ) throws(TokenizationError) -> [TemplateValue?] {
        guard given.positional.count <= names.count else {
            throw fail("\(function)() takes at most \(names.count) arguments")
        }
        var bound: [TemplateValue?] = given.positional
        bound += Array(repeating: nil, count: names.count - bound.count)
        for (name, value) in given.named {
            guard let place = names.firstIndex(of: name), bound[place] == nil else {
                throw fail("\(function)() got an unexpected keyword argument '\(name)'")
            }
            bound[place] = value
        }
        for place in 0..<required where bound[place] == nil {
            throw fail("\(function)() misses its argument '\(names[place])'")
        }
        return bound
    }
}

extension TemplateExpression? {
    fileprivate func map(
        orNone evaluate: (TemplateExpression) throws(TokenizationError) -> TemplateValue
    ) throws(TokenizationError) -> TemplateValue {
        if let self { try evaluate(self) } else { .none }
    }
}

extension TemplateLoop {
    func attribute(_ name: String) -> TemplateValue {
        let count = items.count
        switch name {
        case "index": return .int(Int64(index + 1))
        case "index0": return .int(Int64(index))
        case "revindex": return .int(Int64(count - index))
        case "revindex0": return .int(Int64(count - index - 1))
        case "first": return .bool(index == 0)
        case "last": return .bool(index == count - 1)
        case "length": return .int(Int64(count))
        // These count recursive loops only, which there are none of.
        case "depth": return .int(1)
        case "depth0": return .int(0)
        case "previtem": return index > 0 ? items[index - 1] : .undefined("there is no previous item")
        case "nextitem": return index + 1 < count ? items[index + 1] : .undefined("there is no next item")
        default: return .undefined("'LoopContext object' has no attribute '\(name)'")
        }
    }
}
