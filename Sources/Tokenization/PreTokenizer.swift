/// One step of splitting text into the pieces that are tokenized each for itself.
enum PreTokenizer: Sendable {
    /// What becomes of the matches of a splitting pattern.
    enum Behavior: String, Sendable {
        case removed = "Removed"
        case isolated = "Isolated"
        case mergedWithPrevious = "MergedWithPrevious"
        case mergedWithNext = "MergedWithNext"
        case contiguous = "Contiguous"
    }

    /// - inverted: the stretches between matches play the part of the matches.
    case split(Pattern, Behavior, inverted: Bool)
    /// Each piece that does not start with a space gets a space in front.
    case prefixSpace
    /// SentencePiece's way: spaces become `replacement`, which is also put in front.
    case metaspace(replacement: [UInt8], prepend: Prepend, split: Pattern?)

    enum Prepend: String, Sendable {
        case always, first, never
    }

    /// GPT-2's pattern, which `ByteLevel` applies by default.
    static let gpt2Pattern = #"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"#
}

/// Text on its way through the pre-tokenizers: bytes, and the pieces they are cut into so far.
struct Pieces {
    var bytes: [UInt8]
    var ranges: [Range<Int>]

    init(_ bytes: [UInt8]) {
        self.bytes = bytes
        ranges = bytes.isEmpty ? [] : [0..<bytes.count]
    }

    /// - Parameter isFirst: whether this section starts the whole text.
    mutating func apply(_ step: PreTokenizer, isFirst: Bool) {
        switch step {
        case .split(let pattern, let behavior, let inverted):
            split(pattern, behavior, inverted)
        case .prefixSpace:
            rebuild { piece, _ in
                piece.first == 0x20 ? Array(piece) : [0x20] + piece
            }
        case .metaspace(let replacement, let prepend, let pattern):
            rebuild { piece, index in
                var result: [UInt8] = []
                for byte in piece { if byte == 0x20 { result += replacement } else { result.append(byte) } }
                let wanted = prepend == .always || prepend == .first && isFirst && index == 0
                return wanted && !result.starts(with: replacement) ? replacement + result : result
            }
            if let pattern { split(pattern, .mergedWithNext, false) }
        }
    }

    /// Replaces the bytes of every piece.
    private mutating func rebuild(_ change: (UnsafeBufferPointer<UInt8>, Int) -> [UInt8]) {
        var result: [UInt8] = []
        var places: [Range<Int>] = []
        bytes.withUnsafeBufferPointer { buffer in
            for (index, range) in ranges.enumerated() {
                let start = result.count
                result += change(UnsafeBufferPointer(rebasing: buffer[range]), index)
                if result.count > start { places.append(start..<result.count) }
            }
        }
        bytes = result
        ranges = places
    }

    private mutating func split(_ pattern: Pattern, _ behavior: PreTokenizer.Behavior, _ inverted: Bool) {
        var result: [Range<Int>] = []
        result.reserveCapacity(max(ranges.count, bytes.count / 5))
        bytes.withUnsafeBufferPointer { buffer in
            var matcher = PatternMatcher(byteCount: buffer.count)
            for range in ranges {
                var before: Bool?
                var pending: Range<Int>?
                matcher.split(pattern, buffer, range) { section, isMatch in
                    let isDelimiter = isMatch != inverted
                    defer { before = isDelimiter }
                    switch behavior {
                    case .isolated:
                        result.append(section)
                    case .removed:
                        if !isDelimiter { result.append(section) }
                    case .contiguous:
                        if before == isDelimiter, let last = result.popLast() {
                            result.append(last.lowerBound..<section.upperBound)
                        } else {
                            result.append(section)
                        }
                    case .mergedWithPrevious:
                        if isDelimiter, before == false, let last = result.popLast() {
                            result.append(last.lowerBound..<section.upperBound)
                        } else {
                            result.append(section)
                        }
                    case .mergedWithNext:
                        if let waiting = pending, !isDelimiter {
                            result.append(waiting.lowerBound..<section.upperBound)
                            pending = nil
                        } else {
                            if let waiting = pending { result.append(waiting) }
                            pending = isDelimiter ? section : nil
                            if !isDelimiter { result.append(section) }
                        }
                    }
                }
                if let waiting = pending { result.append(waiting) }
            }
        }
        ranges = result
    }
}
