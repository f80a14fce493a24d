/// Splits one pre-tokenized piece into tokens, by ranked merges (byte-pair encoding) or by the scores of a
/// SentencePiece vocabulary.
struct SubwordModel: Sendable {
    enum Algorithm: Sendable {
        /// Byte-pair encoding: the earliest merge first (Sennrich et al. 2016).
        case ranked(MergeTable)
        /// The neighbours whose union has the highest score first, as llama.cpp's "llama" vocabularies.
        case scored([Float])
    }

    enum Alphabet: Sendable {
        /// Every byte is a symbol.
        case bytes
        /// Every Unicode scalar is a symbol; one that has no token falls back to its bytes or to `unknownID`.
        case scalars
    }

    var table: TokenTable
    var algorithm: Algorithm
    var alphabet: Alphabet
    /// The token of each single byte, or -1: its own token where bytes are symbols, else `<0xNN>`.
    var byteIDs: [Int32]
    var usesByteFallback = false
    var unknownID: Int32 = -1
    /// Neighbouring unknown symbols become one unknown token.
    var fusesUnknown = false
    /// A piece that is a token as a whole stays one, whatever the merges say (Llama 3).
    var ignoresMerges = false

    /// Storage reused from piece to piece.
    struct Scratch {
        var ids: [Int32] = []
        var sizes: [Int32] = []
        var previous: [Int32] = []
        var next: [Int32] = []
        var starts: [Int32] = []
        var ranks: [UInt64] = []
        var queue = MergeQueue()
    }

    /// Words of up to this many symbols are merged by scanning for the best pair: quicker than a heap.
    private static let scannedSymbols = 40

    /// Appends the tokens of `piece`, which is valid UTF-8 or one section of it.
    func encode(_ piece: UnsafeBufferPointer<UInt8>, scratch: inout Scratch, into output: inout [Int32]) {
        guard !piece.isEmpty else { return }
        if ignoresMerges || piece.count == 1 && alphabet == .bytes {
            let whole = table.find(piece)
            if whole >= 0 {
                output.append(whole)
                return
            }
        }
        collectSymbols(piece, &scratch)
        switch algorithm {
        case .ranked(let merges):
            if scratch.ids.count <= Self.scannedSymbols {
                mergeByScanning(merges, &scratch)
                output.append(contentsOf: scratch.ids)
            } else {
                link(&scratch)
                mergeByQueue(RankedRule(merges: merges), piece, &scratch)
                appendLinked(piece, scratch, into: &output)
            }
        case .scored(let scores):
            link(&scratch)
            mergeByQueue(ScoredRule(table: table, scores: scores), piece, &scratch)
            appendLinked(piece, scratch, into: &output)
        }
    }

    /// Fills `ids`, `starts` and `sizes` with the symbols that the piece starts from. Symbols without a token
    /// stay -1 for scored merging, which may still find a token for a larger piece; otherwise they are replaced
    /// here, or left out where there is nothing to replace them by.
    private func collectSymbols(_ piece: UnsafeBufferPointer<UInt8>, _ scratch: inout Scratch) {
        scratch.ids.removeAll(keepingCapacity: true)
        scratch.starts.removeAll(keepingCapacity: true)
        scratch.sizes.removeAll(keepingCapacity: true)
        func add(_ id: Int32, _ start: Int, _ size: Int) {
            scratch.ids.append(id)
            scratch.starts.append(Int32(start))
            scratch.sizes.append(Int32(size))
        }
        if alphabet == .bytes {
            for index in 0..<piece.count {
                let id = byteIDs[Int(piece[index])]
                if id >= 0 { add(id, index, 1) } else if unknownID >= 0 { add(unknownID, index, 1) }
            }
            return
        }
        var keepsUnknown = false
        if case .scored = algorithm { keepsUnknown = true }
        var position = 0
        var unknownBefore = false
        while position < piece.count {
            let size = min(utf8Length(piece[position]), piece.count - position)
            let id = table.find(UnsafeBufferPointer(rebasing: piece[position..<position + size]))
            if id >= 0 || keepsUnknown {
                add(id, position, size)
                unknownBefore = false
            } else if usesByteFallback, hasAllBytes(piece[position..<position + size]) {
                for index in position..<position + size { add(byteIDs[Int(piece[index])], index, 1) }
                unknownBefore = false
            } else if unknownID >= 0 {
                if unknownBefore && fusesUnknown {
                    scratch.sizes[scratch.sizes.count - 1] += Int32(size)
                } else {
                    add(unknownID, position, size)
                }
                unknownBefore = true
            }
            position += size
        }
    }

    private func hasAllBytes(_ bytes: Slice<UnsafeBufferPointer<UInt8>>) -> Bool {
        bytes.allSatisfy { byteIDs[Int($0)] >= 0 }
    }

    /// Merges `ids` in place: find the best pair, merge it, look at its two new neighbours, again.
    private func mergeByScanning(_ merges: MergeTable, _ scratch: inout Scratch) {
        let count = scratch.ids.count
        guard count > 1 else { return }
        scratch.ranks.removeAll(keepingCapacity: true)
        for index in 0..<count - 1 { scratch.ranks.append(merges.find(scratch.ids[index], scratch.ids[index + 1])) }
        let remaining = scratch.ids.withUnsafeMutableBufferPointer { ids in
            scratch.ranks.withUnsafeMutableBufferPointer { ranks in
                var pairs = count - 1
                while pairs > 0 {
                    var best = MergeTable.none
                    var place = -1
                    for index in 0..<pairs where ranks[index] < best {
                        best = ranks[index]
                        place = index
                    }
                    if place < 0 { break }
                    ids[place] = Int32(truncatingIfNeeded: best)
                    for index in place + 1..<pairs { ids[index] = ids[index + 1] }
                    if place + 1 < pairs {
                        for index in place..<pairs - 1 { ranks[index] = ranks[index + 1] }
                    }
                    pairs -= 1
                    if place < pairs { ranks[place] = merges.find(ids[place], ids[place + 1]) }
                    if place > 0 { ranks[place - 1] = merges.find(ids[place - 1], ids[place]) }
                }
                return pairs + 1
            }
        }
        scratch.ids.removeLast(count - remaining)
    }
}

// MARK: - Long pieces

/// Which two neighbours may merge. Two implementations, so that the loop is compiled for each.
private protocol MergeRule {
    /// Priority (lower first) << 32 | id of the merged token, or `MergeTable.none`.
    func candidate(_ left: Int32, _ right: Int32, text: UnsafeBufferPointer<UInt8>) -> UInt64
}

private struct RankedRule: MergeRule {
    let merges: MergeTable

    func candidate(_ left: Int32, _ right: Int32, text: UnsafeBufferPointer<UInt8>) -> UInt64 {
        merges.find(left, right)
    }
}

private struct ScoredRule: MergeRule {
    let table: TokenTable
    let scores: [Float]

    func candidate(_ left: Int32, _ right: Int32, text: UnsafeBufferPointer<UInt8>) -> UInt64 {
        let id = table.find(text)
        guard id >= 0, Int(id) < scores.count else { return MergeTable.none }
        // Floats order as their bits do once negative ones are mirrored; highest score first.
        let bits = scores[Int(id)].bitPattern
        let ascending = bits & 0x8000_0000 != 0 ? ~bits : bits | 0x8000_0000
        return UInt64(~ascending) << 32 | UInt64(id)
    }
}

extension SubwordModel {
    private func link(_ scratch: inout Scratch) {
        let count = scratch.ids.count
        scratch.previous.removeAll(keepingCapacity: true)
        scratch.next.removeAll(keepingCapacity: true)
        for index in 0..<count {
            scratch.previous.append(Int32(index) - 1)
            scratch.next.append(index + 1 < count ? Int32(index) + 1 : -1)
        }
    }

    /// Merges a linked list of symbols best first: O(n log n) whatever the text.
    private func mergeByQueue(
        _ rule: some MergeRule, _ piece: UnsafeBufferPointer<UInt8>, _ scratch: inout Scratch
    ) {
        var queue = scratch.queue
        scratch.queue = MergeQueue()
        queue.removeAll()
        func propose(_ left: Int32, _ scratch: borrowing Scratch, _ queue: inout MergeQueue) {
            guard left >= 0 else { return }
            let right = scratch.next[Int(left)]
            guard right >= 0 else { return }
            let size = scratch.sizes[Int(left)] + scratch.sizes[Int(right)]
            let start = Int(scratch.starts[Int(left)])
            let text = UnsafeBufferPointer(rebasing: piece[start..<start + Int(size)])
            let found = rule.candidate(scratch.ids[Int(left)], scratch.ids[Int(right)], text: text)
            guard found != MergeTable.none else { return }
            let priority = found & 0xFFFF_FFFF_0000_0000 | UInt64(left)
            queue.push(.init(priority: priority, size: size, result: Int32(truncatingIfNeeded: found)))
        }
        for index in 0..<scratch.ids.count { propose(Int32(index), scratch, &queue) }
        while let proposal = queue.pop() {
            let left = Int(proposal.priority & 0xFFFF_FFFF)
            let right = scratch.next[left]
            // A symbol that was swallowed has size 0; one that grew has another size than when proposed.
            guard right >= 0, scratch.sizes[left] > 0,
                scratch.sizes[left] + scratch.sizes[Int(right)] == proposal.size
            else { continue }
            scratch.ids[left] = proposal.result
            scratch.sizes[left] = proposal.size
            scratch.sizes[Int(right)] = 0
            let after = scratch.next[Int(right)]
            scratch.next[left] = after
            if after >= 0 { scratch.previous[Int(after)] = Int32(left) }
            propose(scratch.previous[left], scratch, &queue)
            propose(Int32(left), scratch, &queue)
        }
        scratch.queue = queue
    }

    /// Appends what is left of the list; symbols that never found a token go out as bytes or as unknown.
    private func appendLinked(
        _ piece: UnsafeBufferPointer<UInt8>, _ scratch: Scratch, into output: inout [Int32]
    ) {
        var index: Int32 = scratch.ids.isEmpty ? -1 : 0
        while index >= 0 {
            let symbol = Int(index)
            index = scratch.next[symbol]
            if scratch.ids[symbol] >= 0 {
                output.append(scratch.ids[symbol])
                continue
            }
            let start = Int(scratch.starts[symbol])
            let bytes = piece[start..<start + Int(scratch.sizes[symbol])]
            if hasAllBytes(bytes) {
                output.append(contentsOf: bytes.map { byteIDs[Int($0)] })
            } else if unknownID >= 0 {
                output.append(unknownID)
            }
        }
    }
}

/// Bytes of the UTF-8 sequence that starts with `lead`, taking the text to be valid.
@inline(__always)
func utf8Length(_ lead: UInt8) -> Int {
    lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4
}
