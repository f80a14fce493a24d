import OrderedJSON

/// The filters by name. Each takes the value before the bar and its arguments.
enum TemplateFilters {
    typealias Filter =
        @Sendable (TemplateRun, TemplateValue, TemplateValues) throws(TokenizationError) -> TemplateValue

    static let table: [String: Filter] = {
        var table = textFilters
        for part in [numberFilters, sequenceFilters, selectionFilters] { table.merge(part) { $1 } }
        for (alias, name) in ["d": "default", "count": "length", "e": "escape"] { table[alias] = table[name] }
        return table
    }()

    /// The text of a value where a filter works on text: `str(value)` for anything else.
    static func text(_ value: TemplateValue) -> TemplateText { value.printed }

    static func integer(
        _ value: TemplateValue?, _ fallback: Int, _ run: TemplateRun, _ name: String
    ) throws(TokenizationError) -> Int {
        guard let value else { return fallback }
        guard let integer = value.integer else { throw run.fail("\(name) must be an integer, not \(value.typeName)") }
        return Int(integer)
    }

    /// A width or count that makes a text longer.
    static func width(
        _ value: TemplateValue?, _ fallback: Int, _ run: TemplateRun, _ name: String
    ) throws(TokenizationError) -> Int {
        let width = max(0, try integer(value, fallback, run, name))
        try run.spend(bytes: width)
        return width
    }

    static func elements(_ value: TemplateValue, _ run: TemplateRun) throws(TokenizationError) -> [TemplateValue] {
        guard let items = value.elements else { throw run.fail("'\(value.typeName)' object is not iterable") }
        try run.spend(items.count)
        return items
    }

    // MARK: Text

    private static let textFilters: [String: Filter] = [
        "string": { _, value, _ in .string(text(value)) },
        "safe": { _, value, _ in .string(text(value)) },
        "lower": { _, value, _ in .string(text(value).lowercased) },
        "upper": { _, value, _ in .string(text(value).uppercased) },
        "capitalize": { _, value, _ in .string(text(value).capitalized) },
        "title": { _, value, _ in .string(titled(text(value))) },
        "trim": { (run, value, given) throws(TokenizationError) in
            let bound = try run.bind(given, ["chars"], "trim")
            return .string(text(value).stripped(left: true, right: true, bound[0]?.text))
        },
        "replace": { (run, value, given) throws(TokenizationError) in
            let bound = try run.bind(given, ["old", "new", "count"], required: 2, "replace")
            guard let old = bound[0]?.printed, let new = bound[1]?.printed else { return value }
            var most = -1
            if let count = bound[2]?.integer { most = Int(count) }
            return .string(try replaced(text(value), old, new, most, run))
        },
        "indent": { (run, value, given) throws(TokenizationError) in
            let bound = try run.bind(given, ["width", "first", "blank"], "indent")
            var prefix = bound[0]?.text ?? ""
            if bound[0]?.text == nil {
                prefix.bytes = [UInt8](repeating: 0x20, count: try width(bound[0], 4, run, "width"))
            }
            let lines = TemplateText(text(value).bytes + [0x0A]).lines
            try run.spend(bytes: lines.count * prefix.bytes.count)
            var result: [UInt8] = []
            for (index, line) in lines.enumerated() {
                if index > 0 { result.append(0x0A) }
                let wanted = index == 0 ? bound[1]?.isTrue ?? false : !line.isEmpty || bound[2]?.isTrue ?? false
                if wanted { result += prefix.bytes }
                result += line.bytes
            }
            return .string(TemplateText(result))
        },
        "center": { (run, value, given) throws(TokenizationError) in
            let bound = try run.bind(given, ["width"], "center")
            return .string(TemplateMethods.padded(text(value), try width(bound[0], 80, run, "width"), .center))
        },
        "format": { (run, value, given) throws(TokenizationError) in
            if !given.named.isEmpty {
                let pairs = given.named.map { (TemplateValue.text($0.0), $0.1) }
                return .string(try run.formatPercent(text(value), run.dictionary(pairs)))
            }
            return .string(try run.formatPercent(text(value), .tuple(run.list(given.positional))))
        },
        "truncate": { (run, value, given) throws(TokenizationError) in
            let bound = try run.bind(given, ["length", "killwords", "end", "leeway"], "truncate")
            let length = try integer(bound[0], 255, run, "length")
            let end = bound[2]?.printed ?? "..."
            let scalars = text(value).scalars
            guard scalars.count > length + (try integer(bound[3], 5, run, "leeway")) else {
                return .string(text(value))
            }
            let kept = TemplateText(scalars.prefix(max(0, length - end.length)))
            let whole = bound[1]?.isTrue ?? false
            let cut = whole ? kept : kept.splitFromRight(" ", most: 1).first ?? kept
            return .string(TemplateText(cut.bytes + end.bytes))
        },
        "wordcount": { _, value, _ in
            var count = 0
            var isInside = false
            for scalar in text(value).string.unicodeScalars {
                let isWord = scalar.properties.isAlphabetic || scalar == "_" || scalar.properties.numericType != nil
                if isWord && !isInside { count += 1 }
                isInside = isWord
            }
            return .int(Int64(count))
        },
        "escape": { _, value, _ in
            var result: [UInt8] = []
            for byte in text(value).bytes {
                switch byte {
                case 0x26: result += "&amp;".utf8
                case 0x3C: result += "&lt;".utf8
                case 0x3E: result += "&gt;".utf8
                case 0x22: result += "&#34;".utf8
                case 0x27: result += "&#39;".utf8
                default: result.append(byte)
                }
            }
            return .string(TemplateText(result))
        },
        "urlencode": { _, value, _ in
            var result = ""
            for byte in text(value).bytes {
                switch byte {
                case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, 0x2D, 0x2E, 0x2F, 0x5F, 0x7E:
                    result.unicodeScalars.append(Unicode.Scalar(byte))
                default:
                    let digits = String(byte, radix: 16, uppercase: true)
                    result += "%" + (byte < 16 ? "0" : "") + digits
                }
            }
            return .text(result)
        },
        "tojson": { (run, value, given) throws(TokenizationError) in try json(run, value, given) },
        "from_json": { (run, value, _) throws(TokenizationError) in
            let bytes = text(value).bytes
            try run.spend(bytes.count)
            let parsed: JSON
            do throws(JSONError) {
                parsed = try JSON.parse(bytes)
            } catch {
                throw run.fail("from_json: \(error)")
            }
            return try TemplateValue.from(parsed)
        },
    ]

    static func replaced(
        _ text: TemplateText, _ old: TemplateText, _ new: TemplateText, _ most: Int, _ run: TemplateRun
    ) throws(TokenizationError) -> TemplateText {
        let count = text.count(of: old)
        try run.spend(bytes: text.bytes.count + min(count, 1 << 30) * new.bytes.count)
        return text.replacing(old, with: new, most: most)
    }

    /// Jinja's own title case: words begin after white space, hyphens and opening brackets.
    private static func titled(_ text: TemplateText) -> TemplateText {
        var result = ""
        var isStart = true
        for scalar in text.string.unicodeScalars {
            let isBreak = TemplateText.isSpace(scalar) || "-({[<".unicodeScalars.contains(scalar)
            if isBreak {
                result.unicodeScalars.append(scalar)
            } else {
                result += isStart ? scalar.properties.uppercaseMapping : scalar.properties.lowercaseMapping
            }
            isStart = isBreak
        }
        return TemplateText(result)
    }

    // MARK: Numbers

    private static let numberFilters: [String: Filter] = [
        "int": { (run, value, given) throws(TokenizationError) in
            let bound = try run.bind(given, ["default", "base"], "int")
            let base = try integer(bound[1], 10, run, "base")
            if let text = value.text {
                if let parsed = TemplateNumbers.integer(text.string, base: base) { return .int(parsed) }
                let number = TemplateNumbers.float(text.string)
                return number.flatMap { Int64(exactly: $0.rounded(.towardZero)) }.map { .int($0) }
                    ?? bound[0] ?? .int(0)
            }
            if let integer = value.integer { return .int(integer) }
            return value.number.flatMap { Int64(exactly: $0.rounded(.towardZero)) }.map { .int($0) } ?? bound[0]
                ?? .int(0)
        },
        "float": { (run, value, given) throws(TokenizationError) in
            let bound = try run.bind(given, ["default"], "float")
            let number = value.text.map { TemplateNumbers.float($0.string) } ?? value.number
            return number.map { .float($0) } ?? bound[0] ?? .float(0)
        },
        "abs": { (run, value, _) throws(TokenizationError) in
            if let integer = value.integer { return integer < 0 ? try run.unary(.subtract, value) : .int(integer) }
            guard let number = value.number else { throw run.fail("abs() of \(value.typeName)") }
            return .float(number.magnitude)
        },
        "round": { (run, value, given) throws(TokenizationError) in
            let bound = try run.bind(given, ["precision", "method"], "round")
            let precision = try integer(bound[0], 0, run, "precision")
            guard let number = value.number else { throw run.fail("round() of \(value.typeName)") }
            let scale = FloatMath.power(10, Double(precision))
            switch bound[1]?.text?.string ?? "common" {
            case "ceil": return .float((number * scale).rounded(.up) / scale)
            case "floor": return .float((number * scale).rounded(.down) / scale)
            case "common": break
            case let method: throw run.fail("round() has no method '\(method)'")
            }
            if let integer = value.integer, precision >= 0 { return .int(integer) }
            if precision < 0 {
                let rounded = (number * scale).rounded(.toNearestOrEven) / scale
                return value.integer == nil ? .float(rounded) : .int(Int64(exactly: rounded) ?? 0)
            }
            guard number.isFinite else { return .float(number) }
            return .float(Double(FloatMath.fixed(number, digits: precision)) ?? number)
        },
        "filesizeformat": { (run, value, given) throws(TokenizationError) in
            let bound = try run.bind(given, ["binary"], "filesizeformat")
            guard let bytes = value.number else { throw run.fail("filesizeformat of \(value.typeName)") }
            let isBinary = bound[0]?.isTrue ?? false
            let base: Double = isBinary ? 1024 : 1000
            if bytes == 1 { return .text("1 Byte") }
            if bytes < base { return .text("\(Int(bytes)) Bytes") }
            var unit = base
            for prefix in ["k", "M", "G", "T", "P", "E", "Z", "Y"] {
                unit *= base
                if bytes < unit || prefix == "Y" {
                    let name = isBinary ? prefix.uppercased() + "iB" : prefix + "B"
                    return .text(FloatMath.fixed(base * bytes / unit, digits: 1) + " " + name)
                }
            }
            return value
        },
    ]

    // MARK: JSON

    /// `json.dumps` with the arguments that chat templates may pass.
    private static func json(
        _ run: TemplateRun, _ value: TemplateValue, _ given: TemplateValues
    ) throws(TokenizationError) -> TemplateValue {
        let bound = try run.bind(given, ["ensure_ascii", "indent", "separators", "sort_keys"], "tojson")
        guard let json = value.json else {
            throw run.fail("a value of type \(value.typeName) is not JSON serializable")
        }
        var indent: Int?
        if let wanted = bound[1]?.integer { indent = Int(max(0, min(64, wanted))) }
        var style = JSONStyle.python(indent: indent)
        style.escapesNonASCII = bound[0]?.isTrue ?? false
        style.sortsKeys = bound[3]?.isTrue ?? false
        if let separators = bound[2]?.elements, separators.count == 2 {
            style.itemSeparator = separators[0].printed.string
            style.keySeparator = separators[1].printed.string
        }
        let bytes = json.bytes(style)
        try run.spend(bytes: bytes.count)
        return .string(TemplateText(bytes))
    }
}

/// Reading numbers the way Python's `int` and `float` do.
enum TemplateNumbers {
    static func integer(_ text: String, base: Int) -> Int64? {
        var digits = TemplateText(text).stripped(left: true, right: true).string
        guard (2...36).contains(base), !digits.contains("__"), !digits.hasSuffix("_") else { return nil }
        var sign = ""
        if let first = digits.first, first == "-" || first == "+" {
            digits.removeFirst()
            sign = first == "-" ? "-" : ""
        }
        guard digits.first != "-", digits.first != "+", digits.first != "_" else { return nil }
        for (prefix, radix) in ["0x": 16, "0o": 8, "0b": 2] where radix == base && digits.lowercased().hasPrefix(prefix)
        {
            digits.removeFirst(2)
        }
        digits.removeAll { $0 == "_" }
        return Int64(sign + digits, radix: base)
    }

    static func float(_ text: String) -> Double? {
        let trimmed = TemplateText(text).stripped(left: true, right: true).string
        // Swift reads hexadecimal and "nan(…)" too, Python does not.
        guard !trimmed.lowercased().contains("x"), !trimmed.contains("(") else { return nil }
        return Double(trimmed.filter { $0 != "_" })
    }
}
