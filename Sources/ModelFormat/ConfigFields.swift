import OrderedJSON

/// Reads a config's fields and gathers everything that is wrong with them, so that a person sees it all at once.
///
/// A field that is missing or wrong yields a harmless stand-in; the caller throws at the end if there are problems.
/// JSON `null` counts as missing.
struct ConfigFields {
    private let lookUp: (String) -> JSON?
    private(set) var problems: [String] = []

    /// Fields by name; for `config.json` a dot steps into an object, in GGUF it is part of the key.
    init(_ lookUp: @escaping (String) -> JSON?) {
        self.lookUp = lookUp
    }

    init(json: JSON) {
        self.init { name in
            if let direct = json[name] { return direct }
            return name.split(separator: ".").reduce(Optional(json)) { $0?[String($1)] }
        }
    }

    func value(_ name: String) -> JSON? {
        guard let value = lookUp(name), !value.isNull else { return nil }
        return value
    }

    /// The first of several names that is there.
    func firstPresent(_ names: String...) -> String? {
        names.first { value($0) != nil }
    }

    mutating func report(_ problem: String) {
        problems.append(problem)
    }

    mutating func integer(_ name: String, _ limits: ClosedRange<Int>, default standIn: Int? = nil) -> Int {
        optionalInteger(name, limits) ?? standIn ?? missing(name, limits.lowerBound)
    }

    mutating func optionalInteger(_ name: String, _ limits: ClosedRange<Int>) -> Int? {
        guard let value = value(name) else { return nil }
        // Python writes some integers as 8192.0.
        guard let integer = value.int ?? value.double.flatMap({ Int(exactly: $0) }) else {
            return wrong(name, "must be an integer, not \(value.kindName)", limits.lowerBound)
        }
        guard limits.contains(integer) else {
            return wrong(name, "\(integer) is not in \(limits.lowerBound)...\(limits.upperBound)", limits.lowerBound)
        }
        return integer
    }

    mutating func number(_ name: String, _ limits: ClosedRange<Double>, default standIn: Double? = nil) -> Double {
        optionalNumber(name, limits) ?? standIn ?? missing(name, limits.lowerBound)
    }

    mutating func optionalNumber(_ name: String, _ limits: ClosedRange<Double>) -> Double? {
        guard let value = value(name) else { return nil }
        guard let number = value.double else {
            return wrong(name, "must be a number, not \(value.kindName)", limits.lowerBound)
        }
        guard limits.contains(number) else {
            return wrong(name, "\(number) is not in \(limits.lowerBound)...\(limits.upperBound)", limits.lowerBound)
        }
        return number
    }

    mutating func flag(_ name: String, default standIn: Bool) -> Bool {
        guard let value = value(name) else { return standIn }
        return value.bool ?? wrong(name, "must be true or false, not \(value.kindName)", standIn)
    }

    mutating func text(_ name: String, default standIn: String) -> String {
        guard let value = value(name) else { return standIn }
        return value.string ?? wrong(name, "must be a string, not \(value.kindName)", standIn)
    }

    /// Reports a text that is there and not the one that is supported.
    mutating func require(_ name: String, _ supported: String) {
        let found = text(name, default: supported)
        if found != supported { report("\(name) is \(shown(found)); supported: \(supported)") }
    }

    /// Reports a flag that is there and not the one that is supported.
    mutating func require(_ name: String, _ supported: Bool) {
        if flag(name, default: supported) != supported { report("\(name) \(!supported) is not supported") }
    }

    /// One of two words for each of `count` things: true for the first. Nil if the field is missing or wrong.
    mutating func choices(_ name: String, count: Int, _ yes: String, _ no: String) -> [Bool]? {
        guard let value = value(name) else { return nil }
        let words = value.array?.compactMap(\.string) ?? []
        guard words.count == count, words.count == value.array?.count, words.allSatisfy({ $0 == yes || $0 == no })
        else {
            return wrong(name, "must be \(count) times \"\(yes)\" or \"\(no)\", one for each layer", nil)
        }
        return words.map { $0 == yes }
    }

    mutating func numbers(_ name: String, count: Int, _ limits: ClosedRange<Double>) -> [Double] {
        guard let value = value(name) else { return missing(name, []) }
        let numbers = value.array?.compactMap(\.double) ?? []
        guard let array = value.array, numbers.count == array.count, numbers.count == count,
            numbers.allSatisfy(limits.contains)
        else {
            return wrong(name, "must be \(count) numbers in \(limits.lowerBound)...\(limits.upperBound)", [])
        }
        return numbers
    }

    /// A token id or a list of them; nil if the field is missing.
    mutating func tokens(_ name: String, vocabularySize: Int) -> [Int]? {
        guard let value = value(name) else { return nil }
        let items = value.array ?? [value]
        let tokens = items.compactMap(\.int)
        guard tokens.count == items.count, items.count <= 1024, tokens.allSatisfy((0..<vocabularySize).contains) else {
            return wrong(name, "must be token ids below the vocabulary's size, \(vocabularySize)", [])
        }
        return tokens
    }

    private mutating func missing<Value>(_ name: String, _ standIn: Value) -> Value {
        problems.append("\(name) is missing")
        return standIn
    }

    private mutating func wrong<Value>(_ name: String, _ problem: String, _ standIn: Value) -> Value {
        problems.append("\(name) \(problem)")
        return standIn
    }
}
