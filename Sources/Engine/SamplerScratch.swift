/// Working memory of one thread that samples: a probability per token of the vocabulary, and candidates.
package final class SamplerScratch {
    struct Candidate {
        var probability: Float
        var token: TokenID

        /// More likely first; the lower id wins a tie. No two candidates are equal.
        static func precedes(_ a: Candidate, _ b: Candidate) -> Bool {
            a.probability > b.probability || (a.probability == b.probability && a.token < b.token)
        }
    }

    let vocabulary: Int
    let probabilities: UnsafeMutablePointer<Float>
    /// Candidates in order of their ids, and the same to be reordered.
    let candidates: UnsafeMutablePointer<Candidate>
    let work: UnsafeMutablePointer<Candidate>

    package init(vocabulary: Int) {
        self.vocabulary = vocabulary
        probabilities = .allocate(capacity: vocabulary)
        candidates = .allocate(capacity: vocabulary)
        work = .allocate(capacity: vocabulary)
    }

    deinit {
        probabilities.deallocate()
        candidates.deallocate()
        work.deallocate()
    }

    /// Calls `body` with every index, ascending, whose value is at least `threshold`. Sixteen at a time are
    /// passed over when none is, which is nearly always.
    @inline(__always)
    static func forEach(
        in values: UnsafePointer<Float>, count: Int, atLeast threshold: () -> Float, _ body: (Int) -> Void
    ) {
        var at = 0
        while at + 16 <= count {
            let block = UnsafeRawPointer(values + at).loadUnaligned(as: SIMD16<Float>.self)
            if any(block .>= threshold()) {
                for lane in at..<at + 16 where values[lane] >= threshold() { body(lane) }
            }
            at += 16
        }
        while at < count {
            if values[at] >= threshold() { body(at) }
            at += 1
        }
    }
}
