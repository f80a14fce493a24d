package import Kernels

/// What was drawn for one position.
package struct SampledToken: Sendable, Equatable {
    package var token: TokenID
    /// Empty unless asked for: the drawn token, then the most likely ones.
    package var logprobs: [TokenLogprob] = []
}

/// Draws the tokens of one request. Its only state is the tokens so far; the draw for completion token i is a
/// function of (logits, tokens so far, parameters, i), so a request that moves to another node goes on identically.
package struct Sampler: Sendable {
    package let parameters: SamplingParameters
    /// Completion tokens so far, those of earlier attempts included.
    package private(set) var completionCount: Int
    /// Tokens until `maxTokens`.
    package var tokensLeft: Int { parameters.maxTokens - completionCount }
    /// Distinct tokens of prompt and completion, kept for the repetition penalty only.
    private var seen: Set<TokenID> = []
    private var seenTokens: [TokenID] = []
    /// Occurrences in the completion, kept for presence and frequency penalties only.
    private var occurrences: [TokenID: Int] = [:]

    private var countsRepetition: Bool { parameters.repetitionPenalty != 1 }
    private var countsOccurrences: Bool { parameters.presencePenalty != 0 || parameters.frequencyPenalty != 0 }

    /// `tokens` ends with the `delivered` completion tokens that there are already.
    package init(_ parameters: SamplingParameters, tokens: [TokenID], delivered: Int) {
        precondition(delivered >= 0 && delivered <= tokens.count)
        self.parameters = parameters
        completionCount = 0
        if countsRepetition {
            for token in tokens where seen.insert(token).inserted { seenTokens.append(token) }
        }
        for token in tokens.suffix(delivered) { accept(token) }
    }

    /// Takes note of the next completion token.
    package mutating func accept(_ token: TokenID) {
        completionCount += 1
        if countsRepetition, seen.insert(token).inserted { seenTokens.append(token) }
        if countsOccurrences { occurrences[token, default: 0] += 1 }
    }

    /// Draws the next token. Changes `logits` in place. O(vocabulary), without sorting it.
    package func sample(
        _ logits: UnsafeMutablePointer<Float>, scratch: SamplerScratch, table: KernelTable
    ) -> SampledToken {
        let count = scratch.vocabulary
        var result = SampledToken(token: 0)
        var normaliser: Float = 0
        var top: [TokenLogprob] = []
        if let wanted = parameters.topLogprobs {
            normaliser = table.logSumExp(logits, count: count)
            top = Self.mostLikely(wanted, logits, count: count)
            for index in top.indices { top[index].logprob -= normaliser }
        }
        // Only the drawn token's raw value is needed later, but which one that is, is not known yet.
        let raw = parameters.topLogprobs == nil ? [:] : rawValues(logits)
        adjust(logits)
        let token =
            parameters.temperature == 0
            ? TokenID(table.argmax(logits, count: count)) : draw(logits, scratch: scratch, table: table)
        result.token = token
        if parameters.topLogprobs != nil {
            let value = raw[token] ?? logits[Int(token)]
            result.logprobs = [TokenLogprob(token: token, logprob: value - normaliser)] + top
        }
        return result
    }

    /// The untouched logits of those tokens that `adjust` will change.
    private func rawValues(_ logits: UnsafeMutablePointer<Float>) -> [TokenID: Float] {
        var raw: [TokenID: Float] = [:]
        for token in parameters.logitBias.keys { raw[token] = logits[Int(token)] }
        for token in seenTokens { raw[token] = logits[Int(token)] }
        for token in occurrences.keys { raw[token] = logits[Int(token)] }
        for token in parameters.stopTokens { raw[token] = logits[Int(token)] }
        return raw
    }

    /// Bias, bans and penalties.
    private func adjust(_ logits: UnsafeMutablePointer<Float>) {
        for (token, bias) in parameters.logitBias { logits[Int(token)] += bias }
        if completionCount < parameters.minTokens {
            for token in parameters.stopTokens { logits[Int(token)] = -.infinity }
        }
        if countsRepetition {
            let penalty = parameters.repetitionPenalty
            for token in seenTokens {
                let value = logits[Int(token)]
                logits[Int(token)] = value > 0 ? value / penalty : value * penalty
            }
        }
        if countsOccurrences {
            let (frequency, presence) = (parameters.frequencyPenalty, parameters.presencePenalty)
            for (token, times) in occurrences { logits[Int(token)] -= frequency * Float(times) + presence }
        }
    }

    /// One draw from the softmax at the temperature, cut by min-p, top-k and top-p: the kept tokens are passed in
    /// order of their ids until the drawn share of their mass is reached.
    private func draw(
        _ logits: UnsafeMutablePointer<Float>, scratch: SamplerScratch, table: KernelTable
    ) -> TokenID {
        let count = scratch.vocabulary
        let probabilities = scratch.probabilities
        table.softmax(logits, count: count, temperature: parameters.temperature, into: probabilities)
        let uniform = CounterRandom.uniform(key: parameters.seed, counter: UInt64(completionCount))
        let cuts = (parameters.topK > 0 && parameters.topK < count) || parameters.topP < 1
        if !cuts, parameters.minP == 0 { return Self.walk(probabilities, count: count, uniform: uniform) }

        let most = table.maximum(probabilities, count: count)
        // The logits are no numbers.
        guard most > 0, most.isFinite else { return TokenID(table.argmax(logits, count: count)) }
        let kept = cuts ? cut(scratch, most: most) : gather(scratch, atLeast: max(parameters.minP * most, tiny))
        return Self.walk(scratch.candidates, count: kept, uniform: uniform)
    }

    /// Below this a probability is no candidate: what a banned token has.
    private var tiny: Float { .leastNonzeroMagnitude }

    /// Collects the tokens at least this likely, in order of their ids. Returns how many.
    private func gather(_ scratch: SamplerScratch, atLeast threshold: Float) -> Int {
        var found = 0
        let (probabilities, candidates) = (scratch.probabilities, scratch.candidates)
        SamplerScratch.forEach(in: probabilities, count: scratch.vocabulary, atLeast: { threshold }) { index in
            candidates[found] = .init(probability: probabilities[index], token: TokenID(index))
            found += 1
        }
        return found
    }

    /// Leaves the tokens that min-p, top-k and top-p keep in `scratch.candidates`. Looks at the likely tokens first
    /// and at more of them until they suffice, so that a peaked distribution costs one pass.
    private func cut(_ scratch: SamplerScratch, most: Float) -> Int {
        let floor = max(parameters.minP * most, tiny)
        let limit = parameters.topK > 0 ? parameters.topK : Int.max
        // top-p is a share of what min-p and top-k leave; alone, all of the mass is known to be 1.
        let needsAll = limit == Int.max && parameters.minP > 0
        let target = limit == Int.max ? Double(parameters.topP) : Double.infinity
        var threshold = needsAll ? floor : max(most / 64, floor)
        var found = 0
        var mass = 0.0
        while true {
            found = gather(scratch, atLeast: threshold)
            mass = 0
            for index in 0..<found { mass += Double(scratch.candidates[index].probability) }
            if threshold <= floor || found >= limit || mass >= target { break }
            threshold = max(threshold / 64, floor)
        }
        if found > limit {
            found = Self.keep(scratch, found, limit: limit, mass: .infinity)
            mass = 0
            for index in 0..<found { mass += Double(scratch.candidates[index].probability) }
        }
        guard parameters.topP < 1 else { return found }
        let whole = limit == Int.max && !needsAll ? 1 : mass
        return Self.keep(scratch, found, limit: Int.max, mass: Double(parameters.topP) * whole)
    }

    /// Keeps the most likely candidates: as few as reach `mass`, at most `limit`, at least one. Their order stays.
    /// A quickselect, so linear in their number on average.
    private static func keep(_ scratch: SamplerScratch, _ count: Int, limit: Int, mass: Double) -> Int {
        let work = scratch.work
        work.update(from: scratch.candidates, count: count)
        // Everything before `low` is kept, with mass `before`; the last kept one lies in low..<high.
        var (low, high, before) = (0, count, 0.0)
        var border: SamplerScratch.Candidate?
        while low < high, border == nil {
            let middle = partition(work, low, high)
            var inside = before
            for index in low..<middle { inside += Double(work[index].probability) }
            let pivot = Double(work[middle].probability)
            if middle > low, middle >= limit || inside >= mass {
                high = middle
            } else if middle + 1 >= limit || inside + pivot >= mass {
                border = work[middle]
            } else {
                before = inside + pivot
                low = middle + 1
            }
        }
        guard let border else { return count }
        var kept = 0
        for index in 0..<count where !SamplerScratch.Candidate.precedes(border, scratch.candidates[index]) {
            scratch.candidates[kept] = scratch.candidates[index]
            kept += 1
        }
        return kept
    }

    /// Moves what precedes a pivot (the median of three) to the front of low..<high; returns the pivot's index.
    private static func partition(
        _ work: UnsafeMutablePointer<SamplerScratch.Candidate>, _ low: Int, _ high: Int
    ) -> Int {
        typealias Candidate = SamplerScratch.Candidate
        func exchange(_ a: Int, _ b: Int) { (work[a], work[b]) = (work[b], work[a]) }
        let (center, last) = (low + (high - low) / 2, high - 1)
        if Candidate.precedes(work[center], work[low]) { exchange(center, low) }
        if Candidate.precedes(work[last], work[center]) { exchange(last, center) }
        if Candidate.precedes(work[center], work[low]) { exchange(center, low) }
        exchange(center, last)
        let pivot = work[last]
        var middle = low
        for index in low..<last where Candidate.precedes(work[index], pivot) {
            exchange(index, middle)
            middle += 1
        }
        exchange(middle, last)
        return middle
    }

    // MARK: Drawing

    /// Passes the candidates until `uniform` of their mass is reached.
    private static func walk(
        _ candidates: UnsafePointer<SamplerScratch.Candidate>, count: Int, uniform: Double
    ) -> TokenID {
        var total = 0.0
        for index in 0..<count { total += Double(candidates[index].probability) }
        let target = uniform * total
        var passed = 0.0
        for index in 0..<count {
            passed += Double(candidates[index].probability)
            if passed > target { return candidates[index].token }
        }
        return candidates[count - 1].token
    }

    /// The same over the whole vocabulary, which is summed in blocks so that most of it is passed quickly.
    private static func walk(_ probabilities: UnsafePointer<Float>, count: Int, uniform: Double) -> TokenID {
        var total = 0.0
        for start in stride(from: 0, to: count, by: blockSize) {
            total += sum(probabilities + start, min(blockSize, count - start))
        }
        let target = uniform * total
        var passed = 0.0
        var last = 0
        for start in stride(from: 0, to: count, by: blockSize) {
            let size = min(blockSize, count - start)
            let block = sum(probabilities + start, size)
            if passed + block > target {
                var inside = passed
                for index in start..<start + size where probabilities[index] > 0 {
                    inside += Double(probabilities[index])
                    last = index
                    if inside > target { return TokenID(index) }
                }
            } else if block > 0 {
                last = start + size - 1
            }
            passed += block
        }
        while last > 0, probabilities[last] <= 0 { last -= 1 }
        return TokenID(last)
    }

    private static let blockSize = 1024

    /// In eight lanes, which are added at the end: a fixed order.
    private static func sum(_ values: UnsafePointer<Float>, _ count: Int) -> Double {
        var lanes = SIMD8<Double>.zero
        var at = 0
        while at + 8 <= count {
            lanes += SIMD8<Double>(UnsafeRawPointer(values + at).loadUnaligned(as: SIMD8<Float>.self))
            at += 8
        }
        var total = lanes.sum()
        while at < count {
            total += Double(values[at])
            at += 1
        }
        return total
    }

    // MARK: Log probabilities

    /// The `wanted` greatest values, descending, the lower id first in a tie; `logprob` holds the raw value.
    private static func mostLikely(
        _ wanted: Int, _ logits: UnsafePointer<Float>, count: Int
    ) -> [TokenLogprob] {
        guard wanted > 0 else { return [] }
        var top: [TokenLogprob] = []
        top.reserveCapacity(wanted + 1)
        var least = -Float.infinity
        SamplerScratch.forEach(in: logits, count: count, atLeast: { least }) { index in
            let value = logits[index]
            // Ids ascend, so an equal value comes after those already there.
            if top.count == wanted, value <= least { return }
            let place = top.lastIndex { $0.logprob >= value }.map { $0 + 1 } ?? 0
            top.insert(TokenLogprob(token: TokenID(index), logprob: value), at: place)
            if top.count > wanted { top.removeLast() }
            if top.count == wanted { least = top[wanted - 1].logprob }
        }
        return top
    }
}
