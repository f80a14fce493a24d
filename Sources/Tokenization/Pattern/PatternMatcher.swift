/// One run of a pattern over a text. Holds the backtracking stack and the step budget.
struct PatternMatcher {
    private struct Frame {
        var place: Int32
        /// What to do on the way back: take up another branch, or let a loop give back or take more.
        var kind: Kind
        var position: Int
        /// Greedy loop: how far it may give back. Lazy loop: how many more it may take.
        var bound: Int

        enum Kind { case branch, greedy, lazy }
    }

    /// Steps a run may take for every byte of text, and to begin with. Published patterns take fewer than ten.
    private static let stepsPerByte = 256

    private var stack: [Frame] = []
    private var stepsLeft: Int

    /// - Parameter byteCount: length of the whole text that the run will be used for.
    init(byteCount: Int) {
        stepsLeft = byteCount * Self.stepsPerByte + 10_000
    }

    /// Calls `body` with the sections of `text[range]` in order: each match, and each stretch between matches.
    mutating func split(
        _ pattern: Pattern, _ text: UnsafeBufferPointer<UInt8>, _ range: Range<Int>,
        _ body: (_ section: Range<Int>, _ isMatch: Bool) -> Void
    ) {
        pattern.code.withUnsafeBufferPointer { code in
            pattern.sets.withUnsafeBufferPointer { sets in
                pattern.candidates.withUnsafeBufferPointer { candidates in
                    var run = Run(text: text, range: range, code: code, sets: sets)
                    var gap = range.lowerBound
                    var position = range.lowerBound
                    while position < range.upperBound {
                        var mask = candidates[Int(text[position])]
                        var end = -1
                        while mask != 0 && end <= position {
                            let alternative = mask.trailingZeroBitCount
                            mask &= mask - 1
                            end = run.match(
                                pattern.alternatives[alternative], position, &stack, &stepsLeft)
                        }
                        if end > position {
                            if gap < position { body(gap..<position, false) }
                            body(position..<end, true)
                            position = end
                            gap = end
                        } else if stepsLeft <= 0 {
                            break
                        } else {
                            position = min(position + utf8Length(text[position]), range.upperBound)
                        }
                    }
                    if gap < range.upperBound { body(gap..<range.upperBound, false) }
                }
            }
        }
    }

    private struct Run {
        let text: UnsafeBufferPointer<UInt8>
        let range: Range<Int>
        let code: UnsafeBufferPointer<Pattern.Instruction>
        let sets: UnsafeBufferPointer<ScalarSet>

        /// The end of the match that starts at `start` with instruction `place`, or -1.
        mutating func match(
            _ start: Int32, _ position: Int, _ stack: inout [Frame], _ stepsLeft: inout Int
        ) -> Int {
            let base = stack.count
            var place = Int(start)
            var position = position
            defer { stack.removeLast(stack.count - base) }
            while true {
                stepsLeft &-= 1
                if stepsLeft <= 0 { return -1 }
                let instruction = code[place]
                var succeeded = true
                switch instruction.operation {
                case .match:
                    return position
                case .set:
                    position = next(Int(instruction.set), position)
                    succeeded = position >= 0
                    place += 1
                case .jump:
                    place = Int(instruction.first)
                case .split:
                    stack.append(Frame(place: instruction.second, kind: .branch, position: position, bound: 0))
                    place = Int(instruction.first)
                case .loop:
                    succeeded = loop(instruction, place, &position, &stack, &stepsLeft)
                    place += 1
                case .ahead:
                    let found = match(Int32(place) + 1, position, &stack, &stepsLeft) >= 0
                    succeeded = found == (instruction.flag == 0)
                    place = Int(instruction.first)
                case .atomic:
                    position = match(Int32(place) + 1, position, &stack, &stepsLeft)
                    succeeded = position >= 0
                    place = Int(instruction.first)
                case .anchor:
                    succeeded = holds(instruction.first, position)
                    place += 1
                }
                if !succeeded {
                    guard resume(&place, &position, base, &stack) else { return -1 }
                }
            }
        }

        /// Repeats one set. Leaves a frame behind if it may later give something back or take more.
        @inline(__always)
        private func loop(
            _ instruction: Pattern.Instruction, _ place: Int, _ position: inout Int, _ stack: inout [Frame],
            _ stepsLeft: inout Int
        ) -> Bool {
            let set = Int(instruction.set)
            let start = position
            var count = 0
            var floor = position
            let wanted = Int(instruction.flag == 1 ? instruction.first : instruction.second)
            while count < wanted {
                let after = next(set, position)
                if after < 0 { break }
                position = after
                count += 1
                if count == Int(instruction.first) { floor = position }
            }
            stepsLeft &-= position - start
            if count < Int(instruction.first) { return false }
            if instruction.flag == 0 && position > floor {
                stack.append(Frame(place: Int32(place) + 1, kind: .greedy, position: position, bound: floor))
            } else if instruction.flag == 1 && instruction.second > instruction.first {
                let more = Int(instruction.second - instruction.first)
                stack.append(Frame(place: Int32(place), kind: .lazy, position: position, bound: more))
            }
            return true
        }

        /// Goes back to the latest choice that is left. False if there is none.
        private func resume(_ place: inout Int, _ position: inout Int, _ base: Int, _ stack: inout [Frame]) -> Bool {
            while stack.count > base {
                let top = stack.count - 1
                let frame = stack[top]
                switch frame.kind {
                case .branch:
                    stack.removeLast()
                    place = Int(frame.place)
                    position = frame.position
                    return true
                case .greedy:
                    var back = frame.position - 1
                    while back > frame.bound && text[back] & 0xC0 == 0x80 { back -= 1 }
                    if back <= frame.bound { stack.removeLast() } else { stack[top].position = back }
                    place = Int(frame.place)
                    position = back
                    return true
                case .lazy:
                    let after = next(Int(code[Int(frame.place)].set), frame.position)
                    if after < 0 || frame.bound == 0 {
                        stack.removeLast()
                        continue
                    }
                    stack[top].position = after
                    stack[top].bound -= 1
                    place = Int(frame.place) + 1
                    position = after
                    return true
                }
            }
            return false
        }

        /// The position after one scalar of the set, or -1.
        @inline(__always)
        private func next(_ set: Int, _ position: Int) -> Int {
            guard position < range.upperBound else { return -1 }
            let byte = text[position]
            if byte < 0x80 { return sets[set].contains(ascii: byte) ? position + 1 : -1 }
            let length = utf8Length(byte)
            guard position + length <= range.upperBound else { return -1 }
            return sets[set].contains(beyondASCII: scalar(at: position, length)) ? position + length : -1
        }

        @inline(__always)
        private func scalar(at position: Int, _ length: Int) -> UInt32 {
            var value = UInt32(text[position]) & (0xFF >> UInt32(length + 1))
            for index in 1..<length { value = value << 6 | UInt32(text[position + index] & 0x3F) }
            return value
        }

        private func holds(_ raw: Int32, _ position: Int) -> Bool {
            switch PatternNode.Anchor(rawValue: raw) {
            case .textStart: return position == range.lowerBound
            case .textEnd: return position == range.upperBound
            case .lineStart: return position == range.lowerBound || text[position - 1] == 10
            case .lineEnd: return position == range.upperBound || text[position] == 10
            case .wordBoundary: return isWord(before: position) != isWord(at: position)
            case .noWordBoundary: return isWord(before: position) == isWord(at: position)
            case nil: return false
            }
        }

        private func isWord(before position: Int) -> Bool {
            guard position > range.lowerBound else { return false }
            var start = position - 1
            while start > range.lowerBound && text[start] & 0xC0 == 0x80 { start -= 1 }
            return isWord(at: start)
        }

        private func isWord(at position: Int) -> Bool {
            guard position < range.upperBound else { return false }
            return startsWithWordScalar(UnsafeBufferPointer(rebasing: text[position..<range.upperBound]))
        }
    }
}

/// Whether the text starts with what `\w` matches: something alphabetic, a mark, a decimal digit or connecting
/// punctuation.
func startsWithWordScalar(_ text: UnsafeBufferPointer<UInt8>) -> Bool {
    guard let scalar = firstScalar(of: text) else { return false }
    let word: UInt32 = 0b1001_1111_1111
    if word & 1 << UInt32(category(of: scalar)) != 0 { return true }
    return Unicode.Scalar(scalar)?.properties.isAlphabetic ?? false
}

/// The first scalar of valid UTF-8 text.
func firstScalar(of text: UnsafeBufferPointer<UInt8>) -> UInt32? {
    guard let lead = text.first else { return nil }
    let length = utf8Length(lead)
    guard length > 1 else { return UInt32(lead) }
    guard text.count >= length else { return nil }
    var value = UInt32(lead) & (0xFF >> UInt32(length + 1))
    for index in 1..<length { value = value << 6 | UInt32(text[index] & 0x3F) }
    return value
}
