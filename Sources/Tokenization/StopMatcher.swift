/// Searches a text that arrives in portions for stop strings.
///
/// The stop whose last byte comes first ends the text; of several that end there, the one that started first.
/// That rule needs no look into the future, so the outcome does not depend on the portions. Text that may be the
/// beginning of a stop is held back until that is decided. (Knuth, Morris and Pratt's automaton per stop: constant
/// work per byte and stop.)
package struct StopMatcher: Sendable {
    private struct Automaton {
        let stop: [UInt8]
        /// Longest proper prefix of the stop that is a suffix of its first `i` bytes.
        let fallback: [Int]
        let index: Int
        var matched = 0

        init(_ stop: [UInt8], index: Int) {
            self.stop = stop
            self.index = index
            var fallback = [0, 0]
            var length = 0
            for position in stop.indices.dropFirst() {
                while length > 0 && stop[length] != stop[position] { length = fallback[length] }
                if stop[length] == stop[position] { length += 1 }
                fallback.append(length)
            }
            self.fallback = fallback
        }

        /// Whether the stop is complete with this byte.
        mutating func step(_ byte: UInt8) -> Bool {
            while matched > 0 && stop[matched] != byte { matched = fallback[matched] }
            if stop[matched] == byte { matched += 1 }
            return matched == stop.count
        }
    }

    private var automata: [Automaton]
    private let includesStop: Bool
    /// Text not emitted yet: the longest beginning of a stop.
    private var held: [UInt8] = []
    /// Index of the stop that ended the text.
    package private(set) var matched: Int?

    /// - Parameters:
    ///   - stops: empty strings are ignored.
    ///   - includeStop: emit the stop string itself too.
    package init(_ stops: [String], includeStop: Bool = false) {
        automata = stops.enumerated().filter { !$0.element.isEmpty }.map {
            Automaton(Array($0.element.utf8), index: $0.offset)
        }
        includesStop = includeStop
    }

    /// Takes the next portion; returns the text that is certain now and, when a stop was found, which. After that
    /// nothing more is emitted.
    package mutating func append(_ text: String) -> (text: String, matched: Int?) {
        guard matched == nil else { return ("", matched) }
        guard !automata.isEmpty else { return (text, nil) }
        for byte in text.utf8 {
            held.append(byte)
            var longest: Int?
            for place in automata.indices where automata[place].step(byte) {
                if longest.map({ automata[$0].stop.count < automata[place].stop.count }) ?? true { longest = place }
            }
            if let longest {
                matched = automata[longest].index
                if !includesStop { held.removeLast(automata[longest].stop.count) }
                defer { held = [] }
                return (String(decoding: held, as: UTF8.self), matched)
            }
        }
        let pending = automata.map(\.matched).max() ?? 0
        let certain = held.count - pending
        defer { held.removeFirst(certain) }
        return (String(decoding: held[..<certain], as: UTF8.self), nil)
    }

    /// The text ends here: what was held back is text after all.
    package mutating func finish() -> String {
        defer { held = [] }
        return matched == nil ? String(decoding: held, as: UTF8.self) : ""
    }
}
