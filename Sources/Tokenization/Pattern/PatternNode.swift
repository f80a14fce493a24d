/// A parsed regular expression.
indirect enum PatternNode {
    case empty
    /// One scalar of the set.
    case set(ScalarSet)
    case sequence([PatternNode])
    /// The first alternative that leads to a match.
    case alternatives([PatternNode])
    case repeated(PatternNode, least: Int, most: Int, Appetite)
    /// Looks ahead without taking anything.
    case ahead(PatternNode, negated: Bool)
    /// Takes the first way to match and never tries another.
    case atomic(PatternNode)
    case anchor(Anchor)

    enum Appetite {
        case greedy, lazy, possessive
    }

    enum Anchor: Int32 {
        case textStart, textEnd, lineStart, lineEnd, wordBoundary, noWordBoundary
    }

    /// Whether the node can match without taking anything.
    var canBeEmpty: Bool {
        switch self {
        case .empty, .ahead, .anchor: true
        case .set: false
        case .sequence(let nodes): nodes.allSatisfy(\.canBeEmpty)
        case .alternatives(let nodes): nodes.contains(where: \.canBeEmpty)
        case .repeated(let node, let least, _, _): least == 0 || node.canBeEmpty
        case .atomic(let node): node.canBeEmpty
        }
    }

    /// The bytes that a match that takes anything can start with; those of UTF-8 lead bytes all at once.
    var firstBytes: [Bool] {
        var bytes = [Bool](repeating: false, count: 256)
        collectFirst(&bytes)
        return bytes
    }

    private func collectFirst(_ bytes: inout [Bool]) {
        switch self {
        case .empty, .ahead, .anchor:
            break
        case .set(let set):
            for byte in 0..<UInt8(128) where set.contains(ascii: byte) { bytes[Int(byte)] = true }
            if set.reachesBeyondASCII { for byte in 128..<256 { bytes[byte] = true } }
        case .sequence(let nodes):
            for node in nodes {
                node.collectFirst(&bytes)
                if !node.canBeEmpty { break }
            }
        case .alternatives(let nodes):
            for node in nodes { node.collectFirst(&bytes) }
        case .repeated(let node, _, _, _), .atomic(let node):
            node.collectFirst(&bytes)
        }
    }
}
