/// A token that is recognised in the text itself, before anything is split.
struct AddedToken: Sendable {
    var id: Int32
    var content: [UInt8]
    /// Control tokens: recognised only where the caller allows it, and left out of plain text.
    var isSpecial = false
    /// Takes the white space before it, or after it, along.
    var stripsLeft = false
    var stripsRight = false
    /// Not recognised inside a word.
    var isSingleWord = false
    /// Searched for in the normalized text instead of the original.
    var isNormalized = false
}

/// Finds added tokens in text, leftmost and then longest, with a trie over their bytes.
struct AddedTokenFinder: Sendable {
    /// A stretch of text: an added token, or what lies between two.
    enum Section {
        case text(Range<Int>)
        case token(Int32)
    }

    private let tokens: [AddedToken]
    /// Child of node `n` for byte `b`, under the key n << 8 | b.
    private var children: [Int: Int32] = [:]
    /// The token that ends at each node, or -1.
    private var ends: [Int32] = [-1]
    private var isFirst = [Bool](repeating: false, count: 256)

    init(_ tokens: [AddedToken]) {
        self.tokens = tokens
        for (index, token) in tokens.enumerated() where !token.content.isEmpty {
            isFirst[Int(token.content[0])] = true
            var node = 0
            for byte in token.content {
                let key = node << 8 | Int(byte)
                if let child = children[key] {
                    node = Int(child)
                } else {
                    children[key] = Int32(ends.count)
                    node = ends.count
                    ends.append(-1)
                }
            }
            ends[node] = Int32(index)
        }
    }

    var isEmpty: Bool { ends.count == 1 }

    /// The sections of `text` in order, empty stretches left out.
    func sections(of text: UnsafeBufferPointer<UInt8>, parseSpecial: Bool) -> [Section] {
        guard !isEmpty, !text.isEmpty else { return text.isEmpty ? [] : [.text(0..<text.count)] }
        var result: [Section] = []
        var done = 0
        var position = 0
        isFirst.withUnsafeBufferPointer { isFirst in
            while position < text.count {
                guard isFirst[Int(text[position])], let token = longest(text, position, parseSpecial) else {
                    position += 1
                    continue
                }
                var start = position
                var end = position + token.content.count
                position = end
                if token.isSingleWord, isInsideWord(text, start, end) { continue }
                if token.stripsLeft { start = max(done, whitespaceStart(text, start)) }
                if token.stripsRight { end = whitespaceEnd(text, end) }
                if done < start { result.append(.text(done..<start)) }
                result.append(.token(token.id))
                done = end
                position = end
            }
        }
        if done < text.count { result.append(.text(done..<text.count)) }
        return result
    }

    private func longest(_ text: UnsafeBufferPointer<UInt8>, _ start: Int, _ parseSpecial: Bool) -> AddedToken? {
        var node = 0
        var best: Int32 = -1
        var position = start
        while position < text.count, let child = children[node << 8 | Int(text[position])] {
            node = Int(child)
            position += 1
            let end = ends[node]
            if end >= 0, parseSpecial || !tokens[Int(end)].isSpecial { best = end }
        }
        return best >= 0 ? tokens[Int(best)] : nil
    }

    private func isInsideWord(_ text: UnsafeBufferPointer<UInt8>, _ start: Int, _ end: Int) -> Bool {
        if startsWithWordScalar(UnsafeBufferPointer(rebasing: text[end...])) { return true }
        guard let before = scalarStart(text, before: start) else { return false }
        return startsWithWordScalar(UnsafeBufferPointer(rebasing: text[before..<start]))
    }

    private func scalarStart(_ text: UnsafeBufferPointer<UInt8>, before end: Int) -> Int? {
        guard end > 0 else { return nil }
        var start = end - 1
        while start > 0 && text[start] & 0xC0 == 0x80 { start -= 1 }
        return start
    }

    private func whitespaceStart(_ text: UnsafeBufferPointer<UInt8>, _ end: Int) -> Int {
        var result = end
        while let start = scalarStart(text, before: result), isWhitespace(text, start) { result = start }
        return result
    }

    private func whitespaceEnd(_ text: UnsafeBufferPointer<UInt8>, _ start: Int) -> Int {
        var result = start
        while result < text.count, isWhitespace(text, result) { result += utf8Length(text[result]) }
        return result
    }

    private func isWhitespace(_ text: UnsafeBufferPointer<UInt8>, _ start: Int) -> Bool {
        guard let value = firstScalar(of: UnsafeBufferPointer(rebasing: text[start...])) else { return false }
        return Unicode.Scalar(value)?.properties.isWhitespace ?? false
    }
}
