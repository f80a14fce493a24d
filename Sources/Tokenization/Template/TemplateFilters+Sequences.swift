extension TemplateFilters {
    static let sequenceFilters: [String: Filter] = [
        "length": { (run, value, _) throws(TokenizationError) in
            switch value {
            case .string(let text): return .int(Int64(text.length))
            case .list(let list), .tuple(let list), .view(let list): return .int(Int64(list.items.count))
            case .dict(let dict): return .int(Int64(dict.keys.count))
            case .undefined: return .int(0)
            case .loop(let loop): return .int(Int64(loop.items.count))
            default: throw run.fail("object of type '\(value.typeName)' has no len()")
            }
        },
        "list": { (run, value, _) throws(TokenizationError) in .list(try run.list(elements(value, run))) },
        "first": { (run, value, _) throws(TokenizationError) in
            try elements(value, run).first ?? .undefined("no first item, sequence was empty")
        },
        "last": { (run, value, _) throws(TokenizationError) in
            if case .lazy = value { throw run.fail("'generator' object is not reversible") }
            return try elements(value, run).last ?? .undefined("no last item, sequence was empty")
        },
        "reverse": { (run, value, _) throws(TokenizationError) in
            if case .string(let text) = value { return .string(TemplateText(text.scalars.reversed())) }
            return .lazy(try run.list(elements(value, run).reversed()))
        },
        "default": { (run, value, given) throws(TokenizationError) in
            let bound = try run.bind(given, ["default_value", "boolean"], "default")
            let isMissing = value.isUndefined || bound[1]?.isTrue ?? false && !value.isTrue
            return isMissing ? bound[0] ?? .text("") : value
        },
        "items": { (run, value, _) throws(TokenizationError) in
            if case .undefined = value { return .lazy(try run.list([])) }
            guard case .dict(let dict) = value else { throw run.fail("can only get item pairs from a mapping") }
            return .lazy(try run.list(dict.items))
        },
        "dictsort": { (run, value, given) throws(TokenizationError) in
            let bound = try run.bind(given, ["case_sensitive", "by", "reverse"], "dictsort")
            guard case .dict(let dict) = value else { throw run.fail("dictsort needs a mapping") }
            let place = bound[1]?.text == "value" ? 1 : 0
            let keepsCase = bound[0]?.isTrue ?? false
            return .list(
                try run.list(
                    sorted(dict.items, run, reverse: bound[2]?.isTrue ?? false) { item in
                        folded(item.elements?[place] ?? item, keepsCase)
                    }))
        },
        "sort": { (run, value, given) throws(TokenizationError) in
            let bound = try run.bind(given, ["reverse", "case_sensitive", "attribute"], "sort")
            let keepsCase = bound[1]?.isTrue ?? false
            let items = try elements(value, run)
            return .list(
                try run.list(
                    sorted(items, run, reverse: bound[0]?.isTrue ?? false) { (item) throws(TokenizationError) in
                        guard let path = bound[2] else { return folded(item, keepsCase) }
                        let names = path.printed.split(",")
                        guard names.count > 1 else { return folded(try reach(item, path, run), keepsCase) }
                        var parts: [TemplateValue] = []
                        for name in names { parts.append(folded(try reach(item, .string(name), run), keepsCase)) }
                        return .list(TemplateList(parts))
                    }))
        },
        "unique": { (run, value, given) throws(TokenizationError) in
            let bound = try run.bind(given, ["case_sensitive", "attribute"], "unique")
            var seen: Set<TemplateKey> = []
            var result: [TemplateValue] = []
            for item in try elements(value, run) {
                var part = item
                if let path = bound[1] { part = try reach(item, path, run) }
                guard let key = folded(part, bound[0]?.isTrue ?? false).key else {
                    throw run.fail("unhashable type: '\(part.typeName)'")
                }
                if seen.insert(key).inserted { result.append(item) }
            }
            return .lazy(try run.list(result))
        },
        "min": { (run, value, given) throws(TokenizationError) in try extreme(run, value, given, -1) },
        "max": { (run, value, given) throws(TokenizationError) in try extreme(run, value, given, 1) },
        "sum": { (run, value, given) throws(TokenizationError) in
            let bound = try run.bind(given, ["attribute", "start"], "sum")
            var total = bound[1] ?? .int(0)
            for item in try elements(value, run) {
                var part = item
                if let path = bound[0], path.isTrue { part = try reach(item, path, run) }
                total = try run.binary(.add, total, part)
            }
            return total
        },
        "join": { (run, value, given) throws(TokenizationError) in
            let bound = try run.bind(given, ["d", "attribute"], "join")
            var parts: [TemplateText] = []
            for item in try elements(value, run) {
                var part = item
                if let path = bound[1] { part = try reach(item, path, run) }
                parts.append(part.printed)
            }
            return .string(try joined(parts, bound[0]?.printed ?? "", run))
        },
        "batch": { (run, value, given) throws(TokenizationError) in
            let bound = try run.bind(given, ["linecount", "fill_with"], required: 1, "batch")
            let size = max(1, try integer(bound[0], 1, run, "linecount"))
            var rows: [TemplateValue] = []
            let items = try elements(value, run)
            for start in stride(from: 0, to: items.count, by: size) {
                var row = Array(items[start..<min(items.count, start + size)])
                if let fill = bound[1], row.count < size, !fill.equals(.none) {
                    try run.spend(size)
                    row += Array(repeating: fill, count: size - row.count)
                }
                rows.append(.list(try run.list(row)))
            }
            return .lazy(try run.list(rows))
        },
        "slice": { (run, value, given) throws(TokenizationError) in
            let bound = try run.bind(given, ["slices", "fill_with"], required: 1, "slice")
            let count = max(1, try integer(bound[0], 1, run, "slices"))
            try run.spend(count)
            let items = try elements(value, run)
            let (each, extra) = (items.count / count, items.count % count)
            var rows: [TemplateValue] = []
            var start = 0
            for row in 0..<count {
                let end = start + each + (row < extra ? 1 : 0)
                var part = Array(items[start..<end])
                if let fill = bound[1], row >= extra, extra > 0, !fill.equals(.none) { part.append(fill) }
                rows.append(.list(try run.list(part)))
                start = end
            }
            return .lazy(try run.list(rows))
        },
        "groupby": { (run, value, given) throws(TokenizationError) in try grouped(run, value, given) },
        "attr": { (run, value, given) throws(TokenizationError) in
            let bound = try run.bind(given, ["name"], required: 1, "attr")
            let name = bound[0]?.printed.string ?? ""
            // Attributes only, never items.
            if case .dict = value, !TemplateMethods.has(name, value) {
                return .undefined("'dict object' has no attribute '\(name)'")
            }
            return try run.attribute(value, name)
        },
    ]

    static func joined(
        _ parts: [TemplateText], _ separator: TemplateText, _ run: TemplateRun
    ) throws(TokenizationError) -> TemplateText {
        try run.spend(bytes: parts.reduce(0) { $0 + $1.bytes.count + separator.bytes.count })
        return TemplateText(Array(parts.map(\.bytes).joined(separator: separator.bytes)))
    }

    /// What sorting and comparing look at: strings in lower case unless case matters.
    static func folded(_ value: TemplateValue, _ keepsCase: Bool) -> TemplateValue {
        if !keepsCase, case .string(let text) = value { return .string(text.lowercased) }
        return value
    }

    /// The part of a value that an `attribute=` argument names: "a.b.0".
    static func reach(
        _ value: TemplateValue, _ path: TemplateValue, _ run: TemplateRun, fallback: TemplateValue? = nil
    ) throws(TokenizationError) -> TemplateValue {
        if path.integer != nil { return try run.item(value, path) }
        var result = value
        for part in path.printed.split(".") {
            let key: TemplateValue = Int64(part.string).map { .int($0) } ?? .string(part)
            result = try run.item(result, key)
            if result.isUndefined, let fallback { result = fallback }
        }
        return result
    }

    /// A stable merge sort by `key`.
    private static func sorted(
        _ items: [TemplateValue], _ run: TemplateRun, reverse: Bool,
        by key: (TemplateValue) throws(TokenizationError) -> TemplateValue
    ) throws(TokenizationError) -> [TemplateValue] {
        var rows: [(key: TemplateValue, item: TemplateValue)] = []
        for item in items { rows.append((try key(item), item)) }
        var width = 1
        while width < rows.count {
            try run.spend(rows.count)
            var merged: [(key: TemplateValue, item: TemplateValue)] = []
            merged.reserveCapacity(rows.count)
            for start in stride(from: 0, to: rows.count, by: 2 * width) {
                var (left, right) = (start, min(start + width, rows.count))
                let (middle, end) = (right, min(start + 2 * width, rows.count))
                while left < middle || right < end {
                    var takesRight = left == middle
                    if left < middle && right < end {
                        let order = try compared(rows[right].key, rows[left].key, run)
                        takesRight = reverse ? order > 0 : order < 0
                    }
                    merged.append(rows[takesRight ? right : left])
                    if takesRight { right += 1 } else { left += 1 }
                }
            }
            rows = merged
            width *= 2
        }
        return rows.map(\.item)
    }

    private static func compared(
        _ left: TemplateValue, _ right: TemplateValue, _ run: TemplateRun
    ) throws(TokenizationError) -> Int {
        guard let order = left.order(right) else {
            throw run.fail("'<' not supported between '\(left.typeName)' and '\(right.typeName)'")
        }
        return order
    }

    private static func extreme(
        _ run: TemplateRun, _ value: TemplateValue, _ given: TemplateValues, _ wanted: Int
    ) throws(TokenizationError) -> TemplateValue {
        let bound = try run.bind(given, ["case_sensitive", "attribute"], "min or max")
        var best: (key: TemplateValue, item: TemplateValue)?
        for item in try elements(value, run) {
            var part = item
            if let path = bound[1] { part = try reach(item, path, run) }
            let key = folded(part, bound[0]?.isTrue ?? false)
            if let current = best, try compared(key, current.key, run) != wanted { continue }
            best = (key, item)
        }
        return best?.item ?? .undefined("no aggregated item, sequence was empty")
    }

    private static func grouped(
        _ run: TemplateRun, _ value: TemplateValue, _ given: TemplateValues
    ) throws(TokenizationError) -> TemplateValue {
        let bound = try run.bind(given, ["attribute", "default", "case_sensitive"], required: 1, "groupby")
        guard let path = bound[0] else { return value }
        let keepsCase = bound[2]?.isTrue ?? false
        func key(_ item: TemplateValue) throws(TokenizationError) -> TemplateValue {
            try reach(item, path, run, fallback: bound[1])
        }
        let items = try sorted(elements(value, run), run, reverse: false) { (item) throws(TokenizationError) in
            folded(try key(item), keepsCase)
        }
        var groups: [(TemplateValue, [TemplateValue])] = []
        for item in items {
            let name = try key(item)
            if let last = groups.last, folded(last.0, keepsCase).equals(folded(name, keepsCase)) {
                groups[groups.count - 1].1.append(item)
            } else {
                groups.append((name, [item]))
            }
        }
        var rows: [TemplateValue] = []
        for (name, members) in groups {
            rows.append(.tuple(try run.list([name, .list(run.list(members))], labels: ["grouper", "list"])))
        }
        return .list(try run.list(rows))
    }

    // MARK: Selection

    static let selectionFilters: [String: Filter] = [
        "map": { (run, value, given) throws(TokenizationError) in
            // As in Jinja, anything false counts as empty, None too.
            guard value.isTrue else { return .lazy(try run.list([])) }
            var result: [TemplateValue] = []
            if given.positional.isEmpty {
                let bound = try run.bind(given, ["attribute", "default"], required: 1, "map")
                guard let path = bound[0] else { return value }
                for item in try elements(value, run) {
                    result.append(try reach(item, path, run, fallback: bound[1]))
                }
            } else {
                let name = given.positional[0].printed.string
                var rest = given
                rest.positional.removeFirst()
                for item in try elements(value, run) { result.append(try run.applyFilter(name, item, rest)) }
            }
            return .lazy(try run.list(result))
        },
        "select": { (run, value, given) throws(TokenizationError) in
            try selected(run, value, given, keeps: true, byAttribute: false)
        },
        "reject": { (run, value, given) throws(TokenizationError) in
            try selected(run, value, given, keeps: false, byAttribute: false)
        },
        "selectattr": { (run, value, given) throws(TokenizationError) in
            try selected(run, value, given, keeps: true, byAttribute: true)
        },
        "rejectattr": { (run, value, given) throws(TokenizationError) in
            try selected(run, value, given, keeps: false, byAttribute: true)
        },
    ]

    private static func selected(
        _ run: TemplateRun, _ value: TemplateValue, _ given: TemplateValues, keeps: Bool, byAttribute: Bool
    ) throws(TokenizationError) -> TemplateValue {
        guard value.isTrue else { return .lazy(try run.list([])) }
        var rest = given
        var path: TemplateValue?
        if byAttribute {
            guard !rest.positional.isEmpty else { throw run.fail("selectattr and rejectattr need an attribute name") }
            path = rest.positional.removeFirst()
        }
        let test = rest.positional.isEmpty ? nil : rest.positional.removeFirst().printed.string
        var result: [TemplateValue] = []
        for item in try elements(value, run) {
            var part = item
            if let path { part = try reach(item, path, run) }
            let holds: Bool
            if let test { holds = try run.applyTest(test, part, rest) } else { holds = part.isTrue }
            if holds == keeps { result.append(item) }
        }
        return .lazy(try run.list(result))
    }
}

extension TemplateRun {
    func applyFilter(
        _ name: String, _ value: TemplateValue, _ given: TemplateValues
    ) throws(TokenizationError) -> TemplateValue {
        guard let filter = TemplateFilters.table[name] else { throw fail("there is no filter '\(name)'") }
        try spend()
        if case .string(let text) = value { try spend(bytes: text.bytes.count) }
        return try filter(self, value, given)
    }
}
