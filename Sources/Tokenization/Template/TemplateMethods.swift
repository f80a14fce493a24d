/// Methods of strings, dictionaries, lists and tuples, as far as the immutable sandbox lets templates call them.
enum TemplateMethods {
    enum Alignment { case left, right, center }

    private static let ofText: Set<String> = [
        "strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "startswith", "endswith", "replace", "upper",
        "lower", "title", "capitalize", "swapcase", "casefold", "find", "rfind", "index", "rindex", "count", "join",
        "format", "isdigit", "isdecimal", "isnumeric", "isalpha", "isalnum", "isspace", "isupper", "islower", "zfill",
        "ljust", "rjust", "center", "partition", "rpartition", "removeprefix", "removesuffix",
    ]
    private static let ofDict: Set<String> = [
        "items", "keys", "values", "get", "copy", "update", "pop", "popitem", "clear", "setdefault",
    ]
    private static let ofList: Set<String> = [
        "index", "count", "copy", "append", "extend", "insert", "pop", "remove", "clear", "reverse", "sort",
    ]
    private static let ofLoop: Set<String> = ["cycle", "changed"]

    static func has(_ name: String, _ value: TemplateValue) -> Bool {
        switch value {
        case .string: ofText.contains(name)
        case .dict: ofDict.contains(name)
        case .list: ofList.contains(name)
        case .tuple: name == "index" || name == "count"
        case .loop: ofLoop.contains(name)
        default: false
        }
    }

    static func padded(
        _ text: TemplateText, _ width: Int, _ alignment: Alignment, _ fill: [UInt8] = [0x20]
    ) -> TemplateText {
        let missing = width - text.length
        guard missing > 0 else { return text }
        // As CPython's str.center: the odd one goes left when the width is odd.
        let left =
            switch alignment {
            case .left: 0
            case .right: missing
            case .center: missing / 2 + (missing & width & 1)
            }
        func fills(_ count: Int) -> [UInt8] { Array((0..<count).map { _ in fill }.joined()) }
        return TemplateText(fills(left) + text.bytes + fills(missing - left))
    }
}

extension TemplateRun {
    func callMethod(
        _ receiver: TemplateValue, _ name: String, _ given: TemplateValues
    ) throws(TokenizationError) -> TemplateValue {
        try spend()
        switch receiver {
        case .string(let text):
            try spend(bytes: text.bytes.count)
            return try textMethod(text, name, given)
        case .dict(let dict):
            return try dictMethod(dict, name, given)
        case .list(let list), .tuple(let list):
            return try listMethod(receiver, list, name, given)
        case .loop(let loop):
            if name == "cycle" {
                guard !given.positional.isEmpty else { throw fail("no items for cycling given") }
                return given.positional[loop.index % given.positional.count]
            }
            let isSame =
                loop.lastChecked.map { last in
                    last.count == given.positional.count && zip(last, given.positional).allSatisfy { $0.equals($1) }
                } ?? false
            if loop.lastChecked == nil { checkedLoops.append(loop) }
            loop.lastChecked = given.positional
            return .bool(!isSame)
        default:
            throw fail("'\(receiver.typeName)' object has no method '\(name)'")
        }
    }

    private func immutable(_ type: String, _ name: String) -> TokenizationError {
        fail("'\(type).\(name)' would change a value, which templates may not; use a namespace or build a new one")
    }

    private func dictMethod(
        _ dict: TemplateDict, _ name: String, _ given: TemplateValues
    ) throws(TokenizationError) -> TemplateValue {
        switch name {
        case "items": return .view(try list(dict.items, labels: ["dict_items"]))
        case "keys": return .view(try list(dict.keys, labels: ["dict_keys"]))
        case "values": return .view(try list(dict.values, labels: ["dict_values"]))
        case "copy": return .dict(dict)
        case "get":
            let bound = try bind(given, ["key", "default"], required: 1, "get")
            guard let key = bound[0]?.key else { throw fail("unhashable type: '\(bound[0]?.typeName ?? "")'") }
            return dict.value(key) ?? bound[1] ?? .none
        default:
            throw immutable("dict", name)
        }
    }

    private func listMethod(
        _ receiver: TemplateValue, _ items: TemplateList, _ name: String, _ given: TemplateValues
    ) throws(TokenizationError) -> TemplateValue {
        switch name {
        case "copy": return receiver
        case "index", "count":
            let bound = try bind(given, ["value"], required: 1, name)
            guard let wanted = bound[0] else { return .none }
            try spend(items.items.count)
            if name == "count" { return .int(Int64(items.items.count { $0.equals(wanted) })) }
            guard let place = items.items.firstIndex(where: { $0.equals(wanted) }) else {
                throw fail("\(wanted.represented) is not in list")
            }
            return .int(Int64(place))
        default:
            throw immutable("list", name)
        }
    }

    // MARK: Strings

    private func textArgument(_ value: TemplateValue?, _ name: String) throws(TokenizationError) -> TemplateText {
        guard let value else { throw fail("str.\(name)() misses an argument") }
        guard let text = value.text else { throw fail("str.\(name)() needs a string, not \(value.typeName)") }
        return text
    }

    private func optionalText(_ value: TemplateValue?, _ name: String) throws(TokenizationError) -> TemplateText? {
        switch value {
        case nil, .some(.none): nil
        default: try textArgument(value, name)
        }
    }

    private func textMethod(
        _ text: TemplateText, _ name: String, _ given: TemplateValues
    ) throws(TokenizationError) -> TemplateValue {
        switch name {
        case "strip", "lstrip", "rstrip":
            let bound = try bind(given, ["chars"], name)
            let characters = try optionalText(bound[0], name)
            return .string(text.stripped(left: name != "rstrip", right: name != "lstrip", characters))
        case "upper": return .string(text.uppercased)
        case "lower", "casefold": return .string(text.lowercased)
        case "title": return .string(text.titled)
        case "capitalize": return .string(text.capitalized)
        case "swapcase":
            let swapped = text.string.unicodeScalars.map { scalar in
                scalar.properties.isUppercase ? scalar.properties.lowercaseMapping : scalar.properties.uppercaseMapping
            }
            return .text(swapped.joined())
        case "split", "rsplit", "splitlines", "partition", "rpartition", "join":
            return try splitMethod(text, name, given)
        case "startswith", "endswith", "find", "rfind", "index", "rindex", "count":
            return try searchMethod(text, name, given)
        case "replace":
            let bound = try bind(given, ["old", "new", "count"], required: 2, name)
            let most = try TemplateFilters.integer(bound[2], -1, self, "count")
            let (old, new) = (try textArgument(bound[0], name), try textArgument(bound[1], name))
            return .string(try TemplateFilters.replaced(text, old, new, most, self))
        case "format":
            return .string(try formatBraces(text, given))
        case "removeprefix":
            let prefix = try textArgument(given.positional.first, name)
            return .string(text.hasPrefix(prefix) ? TemplateText(text.bytes.dropFirst(prefix.bytes.count)) : text)
        case "removesuffix":
            let suffix = try textArgument(given.positional.first, name)
            return .string(text.hasSuffix(suffix) ? TemplateText(text.bytes.dropLast(suffix.bytes.count)) : text)
        case "zfill", "ljust", "rjust", "center":
            return try padMethod(text, name, given)
        default:
            return .bool(Self.holds(text, name))
        }
    }

    private func padMethod(
        _ text: TemplateText, _ name: String, _ given: TemplateValues
    ) throws(TokenizationError) -> TemplateValue {
        let bound = try bind(given, ["width", "fillchar"], required: 1, name)
        let width = try TemplateFilters.width(bound[0], 0, self, "width")
        if name == "zfill" {
            let isSigned = text.bytes.first == 0x2D || text.bytes.first == 0x2B
            let digits = TemplateText(text.bytes.dropFirst(isSigned ? 1 : 0))
            let padded = TemplateMethods.padded(digits, width - (isSigned ? 1 : 0), .right, [0x30])
            return .string(TemplateText(text.bytes.prefix(isSigned ? 1 : 0) + padded.bytes))
        }
        let fill = try optionalText(bound[1], name) ?? " "
        guard fill.length == 1 else { throw fail("the fill character must be exactly one character long") }
        let alignment: TemplateMethods.Alignment = name == "ljust" ? .left : name == "rjust" ? .right : .center
        return .string(TemplateMethods.padded(text, width, alignment, fill.bytes))
    }

    private func splitMethod(
        _ text: TemplateText, _ name: String, _ given: TemplateValues
    ) throws(TokenizationError) -> TemplateValue {
        func strings(_ parts: [TemplateText]) throws(TokenizationError) -> TemplateList {
            try list(parts.map { .string($0) })
        }
        switch name {
        case "split", "rsplit":
            let bound = try bind(given, ["sep", "maxsplit"], name)
            let most = try TemplateFilters.integer(bound[1], -1, self, "maxsplit")
            guard let separator = try optionalText(bound[0], name) else {
                let fromRight = name == "rsplit" && most >= 0
                return .list(try strings(fromRight ? text.wordsFromRight(most: most) : text.words(most: most)))
            }
            guard !separator.isEmpty else { throw fail("empty separator") }
            let parts =
                name == "split" ? text.split(separator, most: most) : text.splitFromRight(separator, most: most)
            return .list(try strings(parts))
        case "splitlines":
            return .list(try strings(text.lines))
        case "join":
            guard let items = given.positional.first?.elements else { throw fail("can only join an iterable") }
            var parts: [TemplateText] = []
            for item in items {
                guard let part = item.text else { throw fail("join() expected str, found \(item.typeName)") }
                parts.append(part)
            }
            return .string(try TemplateFilters.joined(parts, text, self))
        default:
            let separator = try textArgument(given.positional.first, name)
            guard !separator.isEmpty else { throw fail("empty separator") }
            let isRight = name == "rpartition"
            guard let place = isRight ? text.lastRange(of: separator) : text.firstRange(of: separator) else {
                return .tuple(try strings(isRight ? ["", "", text] : [text, "", ""]))
            }
            let after = TemplateText(text.bytes[(place + separator.bytes.count)...])
            return .tuple(try strings([TemplateText(text.bytes[..<place]), separator, after]))
        }
    }

    private func searchMethod(
        _ text: TemplateText, _ name: String, _ given: TemplateValues
    ) throws(TokenizationError) -> TemplateValue {
        let bound = try bind(given, ["sub", "start", "end"], required: 1, name)
        var text = text
        var shift = 0
        if bound[1] != nil || bound[2] != nil {
            let scalars = text.scalars
            func place(_ value: TemplateValue?, _ fallback: Int) throws(TokenizationError) -> Int {
                if case .some(.none) = value { return fallback }
                let index = try TemplateFilters.integer(value, fallback, self, "position")
                return max(0, min(scalars.count, index < 0 ? index + scalars.count : index))
            }
            shift = try place(bound[1], 0)
            text = TemplateText(scalars[shift..<max(shift, try place(bound[2], scalars.count))])
        }
        if name == "startswith" || name == "endswith" {
            var affixes: [TemplateText] = []
            if case .tuple(let options)? = bound[0] {
                for option in options.items { affixes.append(try textArgument(option, name)) }
            } else {
                affixes = [try textArgument(bound[0], name)]
            }
            return .bool(affixes.contains { name == "startswith" ? text.hasPrefix($0) : text.hasSuffix($0) })
        }
        let part = try textArgument(bound[0], name)
        if name == "count" { return .int(Int64(text.count(of: part))) }
        let found = name.hasPrefix("r") ? text.lastRange(of: part) : text.firstRange(of: part)
        guard let found else {
            if name.hasSuffix("index") { throw fail("substring not found") }
            return .int(-1)
        }
        return .int(Int64(TemplateText(text.bytes[..<found]).length + shift))
    }

    /// The `is…` methods.
    private static func holds(_ text: TemplateText, _ name: String) -> Bool {
        if name == "isupper" || name == "islower" { return TemplateTests.isCased(text, lower: name == "islower") }
        guard !text.isEmpty else { return false }
        return text.string.unicodeScalars.allSatisfy { scalar in
            let properties = scalar.properties
            let isLetter = [.uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter]
                .contains(properties.generalCategory)
            switch name {
            case "isspace": return TemplateText.isSpace(scalar)
            case "isalpha": return isLetter
            case "isdecimal": return properties.generalCategory == .decimalNumber
            case "isdigit": return properties.numericType == .decimal || properties.numericType == .digit
            case "isnumeric": return properties.numericType != nil
            default: return isLetter || properties.numericType != nil
            }
        }
    }
}
