/// Reads the regular expressions of published pre-tokenizers, in the dialect they are written in (Oniguruma and
/// Rust's regex agree on this much of it). Anything else is an error that quotes the pattern.
struct PatternParser {
    private static let deepest = 64
    private static let mostRepeats = 256

    private let pattern: String
    private let scalars: [Unicode.Scalar]
    private var position = 0
    private var ignoresCase = false
    private var depth = 0

    static func parse(_ pattern: String) throws(TokenizationError) -> PatternNode {
        guard pattern.utf8.count <= 65536 else {
            throw TokenizationError(.limit, "a pre-tokenizer pattern has \(pattern.utf8.count) bytes, limit 65536")
        }
        var parser = PatternParser(pattern)
        let node = try parser.alternatives()
        guard parser.position == parser.scalars.count else { throw parser.error("unbalanced ')'") }
        return node
    }

    private init(_ pattern: String) {
        self.pattern = pattern
        scalars = Array(pattern.unicodeScalars)
    }

    private func error(_ what: String) -> TokenizationError {
        TokenizationError(.unsupported, "pre-tokenizer pattern, character \(position): \(what), in: \(pattern)")
    }

    private var current: Unicode.Scalar? { position < scalars.count ? scalars[position] : nil }

    private mutating func skip(_ text: String) -> Bool {
        let wanted = Array(text.unicodeScalars)
        guard scalars.count - position >= wanted.count,
            scalars[position..<position + wanted.count].elementsEqual(wanted)
        else { return false }
        position += wanted.count
        return true
    }

    private mutating func alternatives() throws(TokenizationError) -> PatternNode {
        depth += 1
        defer { depth -= 1 }
        guard depth <= Self.deepest else { throw error("groups nest more than \(Self.deepest) deep") }
        let outerCase = ignoresCase
        defer { ignoresCase = outerCase }
        var nodes = [try sequence()]
        while skip("|") { nodes.append(try sequence()) }
        return nodes.count == 1 ? nodes[0] : .alternatives(nodes)
    }

    private mutating func sequence() throws(TokenizationError) -> PatternNode {
        var nodes: [PatternNode] = []
        while let scalar = current, scalar != "|", scalar != ")" {
            if let node = try quantified() { nodes.append(node) }
        }
        return nodes.isEmpty ? .empty : nodes.count == 1 ? nodes[0] : .sequence(nodes)
    }

    private mutating func quantified() throws(TokenizationError) -> PatternNode? {
        guard var node = try atom() else { return nil }
        var count = 0
        while let (least, most) = try bounds() {
            count += 1
            guard count <= 4 else { throw error("more than four quantifiers in a row") }
            let appetite: PatternNode.Appetite = skip("?") ? .lazy : skip("+") ? .possessive : .greedy
            guard most == 1 || !node.canBeEmpty else { throw error("repeats something that can match nothing") }
            node = .repeated(node, least: least, most: most, appetite)
        }
        return node
    }

    private mutating func bounds() throws(TokenizationError) -> (Int, Int)? {
        if skip("?") { return (0, 1) }
        if skip("*") { return (0, .max) }
        if skip("+") { return (1, .max) }
        guard current == "{" else { return nil }
        let start = position
        position += 1
        let least = number()
        var most = least
        if skip(",") { most = number() ?? .max }
        guard skip("}"), least != nil || most != .max, let most else {
            // Oniguruma takes an open brace that begins no quantifier literally; nobody relies on it.
            position = start
            throw error("a '{' that is no quantifier must be escaped")
        }
        guard least ?? 0 <= most, least ?? 0 <= Self.mostRepeats, most == .max || most <= Self.mostRepeats else {
            throw error("repetition counts must be ascending and at most \(Self.mostRepeats)")
        }
        return (least ?? 0, most)
    }

    private mutating func number() -> Int? {
        var value: Int?
        while let scalar = current, ("0"..."9").contains(scalar), value ?? 0 < 100_000 {
            value = (value ?? 0) * 10 + Int(scalar.value - 48)
            position += 1
        }
        return value
    }

    /// One element; nil for an inline flag, which changes what follows.
    private mutating func atom() throws(TokenizationError) -> PatternNode? {
        guard let scalar = current else { return nil }
        position += 1
        switch scalar {
        case "(": return try group()
        case "[": return .set(try bracket())
        case ".": return .set(.any(exceptNewline: true))
        case "^": return .anchor(.lineStart)
        case "$": return .anchor(.lineEnd)
        case "\\":
            switch current {
            case "A":
                position += 1
                return .anchor(.textStart)
            case "z":
                position += 1
                return .anchor(.textEnd)
            case "b":
                position += 1
                return .anchor(.wordBoundary)
            case "B":
                position += 1
                return .anchor(.noWordBoundary)
            default: return .set(folded(try escape()))
            }
        case "*", "+", "?": throw error("nothing to repeat")
        default: return .set(folded(.single(scalar)))
        }
    }

    private func folded(_ set: ScalarSet) -> ScalarSet {
        guard ignoresCase else { return set }
        var set = set
        set.closeOverCase()
        return set
    }

    private mutating func group() throws(TokenizationError) -> PatternNode? {
        let node: PatternNode
        if skip("?=") {
            node = .ahead(try alternatives(), negated: false)
        } else if skip("?!") {
            node = .ahead(try alternatives(), negated: true)
        } else if skip("?>") {
            node = .atomic(try alternatives())
        } else if skip("?:") {
            node = try alternatives()
        } else if skip("?i:") {
            let outer = ignoresCase
            ignoresCase = true
            defer { ignoresCase = outer }
            node = try alternatives()
        } else if skip("?i)") {
            ignoresCase = true
            return nil
        } else if current == "?" {
            throw error("this kind of group is not supported")
        } else {
            node = try alternatives()
        }
        guard skip(")") else { throw error("missing ')'") }
        return node
    }

    /// What follows a backslash, in or out of brackets.
    private mutating func escape() throws(TokenizationError) -> ScalarSet {
        guard let scalar = current else { throw error("ends in a backslash") }
        position += 1
        var set = ScalarSet()
        switch scalar {
        case "s", "S":
            set.insertWhitespace(negated: scalar == "S")
        case "d", "D", "w", "W":
            var mask = categoryMask(named: "Nd") ?? 0
            if scalar == "w" || scalar == "W" {
                for name in ["L", "M", "Pc"] { mask |= categoryMask(named: name) ?? 0 }
            }
            set.insert(categories: scalar == "D" || scalar == "W" ? ScalarSet.allCategories & ~mask : mask)
        case "p", "P":
            set.insert(categories: try property(negated: scalar == "P"))
        case "n": set.insert(10...10)
        case "r": set.insert(13...13)
        case "t": set.insert(9...9)
        case "f": set.insert(12...12)
        case "v": set.insert(11...11)
        case "x", "u":
            let value = try hexadecimal(digits: scalar == "x" ? 2 : 4)
            set.insert(value...value)
        case "a"..."z", "A"..."Z", "0"..."9":
            position -= 1
            throw error("escape '\\\(scalar)' is not supported")
        default:
            set.insert(scalar.value...scalar.value)
        }
        return set
    }

    private mutating func property(negated: Bool) throws(TokenizationError) -> UInt32 {
        var name = ""
        if skip("{") {
            while let scalar = current, scalar != "}" {
                name.unicodeScalars.append(scalar)
                position += 1
            }
            guard skip("}") else { throw error("unterminated '\\p{'") }
        } else if let scalar = current {
            name.unicodeScalars.append(scalar)
            position += 1
        }
        let inverted = name.hasPrefix("^")
        if inverted { name.removeFirst() }
        guard let mask = categoryMask(named: name) else { throw error("property '\(name)' is not supported") }
        return negated != inverted ? ScalarSet.allCategories & ~mask : mask
    }

    private mutating func hexadecimal(digits: Int) throws(TokenizationError) -> UInt32 {
        var text = ""
        if skip("{") {
            while let scalar = current, scalar != "}", text.utf8.count < 8 {
                text.unicodeScalars.append(scalar)
                position += 1
            }
            guard skip("}") else { throw error("unterminated code point") }
        } else {
            while text.utf8.count < digits, let scalar = current {
                text.unicodeScalars.append(scalar)
                position += 1
            }
        }
        guard let value = UInt32(text, radix: 16), Unicode.Scalar(value) != nil else {
            throw error("'\(text)' is no code point")
        }
        return value
    }

    private mutating func bracket() throws(TokenizationError) -> ScalarSet {
        let inverted = skip("^")
        var set = ScalarSet()
        var isFirst = true
        while true {
            guard let scalar = current else { throw error("missing ']'") }
            if scalar == "]" && !isFirst {
                position += 1
                break
            }
            isFirst = false
            if scalar == "[" { throw error("brackets within brackets are not supported") }
            if skip("&&") { throw error("intersections are not supported") }
            let (item, single) = try bracketItem()
            if let single, current == "-", position + 1 < scalars.count, scalars[position + 1] != "]" {
                position += 1
                let (_, last) = try bracketItem()
                guard let last, single <= last else { throw error("a range must ascend between two characters") }
                set.insert(single...last)
            } else {
                set.low |= item.low
                set.high |= item.high
                set.categories |= item.categories
                set.ranges += item.ranges
            }
        }
        if ignoresCase { set.closeOverCase() }
        if inverted { set.invert() }
        return set
    }

    /// A member of a bracket, and its scalar if it is a single one (then a range may follow).
    private mutating func bracketItem() throws(TokenizationError) -> (ScalarSet, UInt32?) {
        guard let scalar = current else { throw error("missing ']'") }
        position += 1
        guard scalar == "\\" else { return (.single(scalar), scalar.value) }
        let set = try escape()
        if set.categories == 0 {
            if set.ranges.isEmpty, set.low.nonzeroBitCount + set.high.nonzeroBitCount == 1 {
                let value = set.low != 0 ? set.low.trailingZeroBitCount : 64 + set.high.trailingZeroBitCount
                return (set, UInt32(value))
            }
            if set.low == 0, set.high == 0, set.ranges.count == 1, set.ranges[0].count == 1 {
                return (set, set.ranges[0].lowerBound)
            }
        }
        return (set, nil)
    }
}
