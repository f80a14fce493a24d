import OrderedJSON

/// A value while a template runs, with Python's semantics. Values are immutable, as in the sandbox that published
/// templates are written for; only namespaces change.
enum TemplateValue {
    /// Stands for a name or attribute that does not exist; the text says which.
    case undefined(String)
    case none
    case bool(Bool)
    case int(Int64)
    case float(Double)
    case string(TemplateText)
    case list(TemplateList)
    case tuple(TemplateList)
    /// What `map`, `select` and their kin return: can be walked, but has no length and is always true.
    case lazy(TemplateList)
    /// What `dict.keys()`, `.values()` and `.items()` return.
    case view(TemplateList)
    case dict(TemplateDict)
    case namespace(TemplateNamespace)
    case loop(TemplateLoop)
    case callable(TemplateCallable)

    static func text(_ text: some StringProtocol) -> TemplateValue { .string(TemplateText(text)) }
}

/// The elements of a list, tuple or view.
final class TemplateList {
    let items: [TemplateValue]
    /// Names of the places, for the pairs that `groupby` makes; of a view, the name of its type.
    let labels: [String]
    /// How deep values nest below this one.
    let depth: Int

    init(_ items: [TemplateValue], labels: [String] = []) {
        self.items = items
        self.labels = labels
        depth = 1 + (items.lazy.map(\.depth).max() ?? 0)
    }
}

/// A dictionary in insertion order.
final class TemplateDict {
    let keys: [TemplateValue]
    let values: [TemplateValue]
    let depth: Int
    private let places: [TemplateKey: Int]

    /// Of equal keys the last value counts, in the place of the first.
    init(_ pairs: [(TemplateKey, TemplateValue, TemplateValue)]) {
        var places: [TemplateKey: Int] = [:]
        var keys: [TemplateValue] = []
        var values: [TemplateValue] = []
        for (hashed, key, value) in pairs {
            if let place = places[hashed] {
                values[place] = value
            } else {
                places[hashed] = keys.count
                keys.append(key)
                values.append(value)
            }
        }
        self.places = places
        self.keys = keys
        self.values = values
        depth = 1 + (values.lazy.map(\.depth).max() ?? 0)
    }

    func value(_ key: TemplateKey) -> TemplateValue? { places[key].map { values[$0] } }
    func value(_ key: TemplateText) -> TemplateValue? { value(.text(key)) }

    var items: [TemplateValue] { zip(keys, values).map { .tuple(TemplateList([$0, $1])) } }
}

/// What a dictionary is looked up by: `1`, `1.0` and `True` are the same key.
enum TemplateKey: Hashable {
    case none
    case int(Int64)
    case float(Double)
    case text(TemplateText)
    case tuple([TemplateKey])
}

final class TemplateNamespace {
    var attributes: [String: TemplateValue]
    init(_ attributes: [String: TemplateValue]) { self.attributes = attributes }
}

/// The variable `loop` within a `for`.
final class TemplateLoop {
    let items: [TemplateValue]
    var index = 0
    /// What `loop.changed` was last asked about.
    var lastChecked: [TemplateValue]?
    let depth: Int

    init(_ items: TemplateList) {
        self.items = items.items
        depth = items.depth
    }
}

enum TemplateCallable {
    case global(TemplateGlobal)
    case macro(TemplateMacro)
    indirect case method(TemplateValue, String)
}

enum TemplateGlobal: String, CaseIterable {
    case range, dict, namespace
    case raiseException = "raise_exception"
    case strftimeNow = "strftime_now"
}

extension TemplateValue {
    /// - Throws: if values nest deeper than they may.
    static func from(_ json: JSON, depth: Int = 0) throws(TokenizationError) -> TemplateValue {
        guard depth < TemplateLimits.valueDepth else {
            throw TokenizationError(.limit, "variables nest more than \(TemplateLimits.valueDepth) deep")
        }
        switch json {
        case .null: return .none
        case .bool(let value): return .bool(value)
        case .int(let value): return .int(value)
        case .double(let value): return .float(value)
        case .string(let value): return .text(value)
        case .array(let elements):
            var items: [TemplateValue] = []
            items.reserveCapacity(elements.count)
            for element in elements { items.append(try from(element, depth: depth + 1)) }
            return .list(TemplateList(items))
        case .object(let object):
            var pairs: [(TemplateKey, TemplateValue, TemplateValue)] = []
            pairs.reserveCapacity(object.count)
            for (key, value) in object {
                let text = TemplateText(key)
                pairs.append((.text(text), .string(text), try from(value, depth: depth + 1)))
            }
            return .dict(TemplateDict(pairs))
        }
    }

    var depth: Int {
        switch self {
        case .list(let list), .tuple(let list), .lazy(let list), .view(let list): list.depth
        case .dict(let dict): dict.depth
        case .loop(let loop): loop.depth
        case .callable(.method(let receiver, _)): receiver.depth + 1
        default: 0
        }
    }

    /// Python's name of the type, for messages.
    var typeName: String {
        switch self {
        case .undefined: "Undefined"
        case .none: "NoneType"
        case .bool: "bool"
        case .int: "int"
        case .float: "float"
        case .string: "str"
        case .list: "list"
        case .tuple: "tuple"
        case .lazy: "generator"
        case .view: "dict view"
        case .dict: "dict"
        case .namespace: "Namespace"
        case .loop: "LoopContext"
        case .callable: "function"
        }
    }

    var isUndefined: Bool { if case .undefined = self { true } else { false } }

    var isTrue: Bool {
        switch self {
        case .undefined, .none: false
        case .bool(let value): value
        case .int(let value): value != 0
        case .float(let value): value != 0
        case .string(let text): !text.isEmpty
        case .list(let list), .tuple(let list), .view(let list): !list.items.isEmpty
        case .dict(let dict): !dict.keys.isEmpty
        case .lazy, .namespace, .loop, .callable: true
        }
    }

    /// Integers, booleans among them.
    var integer: Int64? {
        switch self {
        case .int(let value): value
        case .bool(let value): value ? 1 : 0
        default: nil
        }
    }

    var number: Double? {
        if case .float(let value) = self { value } else { integer.map(Double.init) }
    }

    var text: TemplateText? { if case .string(let text) = self { text } else { nil } }

    /// The elements of anything that can be walked; nil for what cannot.
    var elements: [TemplateValue]? {
        switch self {
        case .list(let list), .tuple(let list), .lazy(let list), .view(let list): list.items
        case .dict(let dict): dict.keys
        case .string(let text): text.scalars.map { .string(TemplateText([$0])) }
        case .undefined: []
        default: nil
        }
    }

    /// The key to look this value up by; nil if it is mutable and so cannot be one.
    var key: TemplateKey? {
        switch self {
        case .none: return TemplateKey.none
        case .bool(let value): return .int(value ? 1 : 0)
        case .int(let value): return .int(value)
        case .float(let value): return Int64(exactly: value).map { .int($0) } ?? .float(value)
        case .string(let text): return .text(text)
        case .tuple(let list):
            let keys = list.items.compactMap(\.key)
            return keys.count == list.items.count ? .tuple(keys) : nil
        default: return nil
        }
    }

    // MARK: Comparison

    func equals(_ other: TemplateValue) -> Bool {
        switch (self, other) {
        case (.undefined, .undefined), (.none, .none): return true
        case (.string(let a), .string(let b)): return a == b
        case (.list(let a), .list(let b)), (.tuple(let a), .tuple(let b)):
            return a === b || a.items.count == b.items.count && zip(a.items, b.items).allSatisfy { $0.equals($1) }
        case (.view(let a), .view(let b)), (.lazy(let a), .lazy(let b)): return a === b
        case (.dict(let a), .dict(let b)):
            guard a !== b else { return true }
            return a.keys.count == b.keys.count
                && zip(a.keys, a.values).allSatisfy { key, value in
                    key.key.flatMap(b.value)?.equals(value) ?? false
                }
        case (.namespace(let a), .namespace(let b)): return a === b
        case (.loop(let a), .loop(let b)): return a === b
        default:
            if let a = integer, let b = other.integer { return a == b }
            if let a = number, let b = other.number { return a == b }
            return false
        }
    }

    /// -1, 0 or 1 (2 if one is not a number); nil for values without an order.
    func order(_ other: TemplateValue) -> Int? {
        switch (self, other) {
        case (.string(let a), .string(let b)):
            return a == b ? 0 : a.bytes.lexicographicallyPrecedes(b.bytes) ? -1 : 1
        case (.list(let a), .list(let b)), (.tuple(let a), .tuple(let b)):
            for (x, y) in zip(a.items, b.items) where !x.equals(y) { return x.order(y) }
            return (a.items.count - b.items.count).signum()
        default:
            if let a = integer, let b = other.integer { return a == b ? 0 : a < b ? -1 : 1 }
            guard let a = number, let b = other.number else { return nil }
            return a == b ? 0 : a < b ? -1 : a > b ? 1 : 2
        }
    }

    // MARK: Text

    /// As `str(value)`.
    var printed: TemplateText {
        switch self {
        case .string(let text): text
        case .undefined: ""
        default: TemplateText(represented)
        }
    }

    /// As `repr(value)`.
    var represented: String {
        switch self {
        case .undefined: "Undefined"
        case .none: "None"
        case .bool(let value): value ? "True" : "False"
        case .int(let value): String(value)
        case .float(let value): value.pythonDescription
        case .string(let text): text.quoted
        case .list(let list): "[" + list.items.map(\.represented).joined(separator: ", ") + "]"
        case .tuple(let list):
            list.items.count == 1
                ? "(\(list.items[0].represented),)"
                : "(" + list.items.map(\.represented).joined(separator: ", ") + ")"
        case .view(let list):
            (list.labels.first ?? "") + "([" + list.items.map(\.represented).joined(separator: ", ") + "])"
        case .lazy: "<generator>"
        case .dict(let dict):
            "{" + zip(dict.keys, dict.values).map { "\($0.represented): \($1.represented)" }.joined(separator: ", ")
                + "}"
        case .namespace: "<Namespace>"
        case .loop(let loop): "<LoopContext \(loop.index + 1)/\(loop.items.count)>"
        case .callable: "<function>"
        }
    }

    /// The value as JSON; nil if it or a part of it has no such form.
    var json: JSON? {
        switch self {
        case .none: return .null
        case .bool(let value): return .bool(value)
        case .int(let value): return .int(value)
        case .float(let value): return .double(value)
        case .string(let text): return .string(text.string)
        case .list(let list), .tuple(let list):
            let parts = list.items.compactMap(\.json)
            return parts.count == list.items.count ? .array(parts) : nil
        case .dict(let dict):
            var object = JSONObject()
            for (key, value) in zip(dict.keys, dict.values) {
                guard let part = value.json else { return nil }
                switch key {
                case .string(let text): object[text.string] = part
                case .bool(let flag): object[flag ? "true" : "false"] = part
                case .none: object["null"] = part
                case .int, .float: object[key.represented] = part
                default: return nil
                }
            }
            return .object(object)
        default: return nil
        }
    }
}
