import Kernels
import ModelFormat

/// Which experts each row goes to, and the rows in the order of their experts. A row's choice depends on nothing but
/// its scores.
final class ExpertRouting {
    private let config: MixtureConfig
    /// [rows][expertsPerToken]: experts, the best first; their weights; and where the row stands in `order`.
    private let ids: UnsafeMutablePointer<Int32>
    let weights: UnsafeMutablePointer<Float>
    let places: UnsafeMutablePointer<Int32>
    /// Assignments (row · expertsPerToken + rank) by expert, rows ascending.
    let order: UnsafeMutablePointer<Int32>
    /// Assignments of each expert.
    private(set) var counts: [Int]
    private var starts: [Int]

    init(_ config: MixtureConfig, rows: Int) {
        self.config = config
        let count = max(1, rows * config.expertsPerToken)
        ids = .allocate(capacity: count)
        weights = .allocate(capacity: count)
        places = .allocate(capacity: count)
        order = .allocate(capacity: count)
        counts = Array(repeating: 0, count: config.expertCount)
        starts = counts
    }

    deinit {
        ids.deallocate()
        weights.deallocate()
        places.deallocate()
        order.deallocate()
    }

    func decision(_ rows: Int) -> Decision {
        let count = rows * config.expertsPerToken
        return .experts(
            ids: UnsafeBufferPointer(start: ids, count: count),
            weights: UnsafeBufferPointer(start: weights, count: count), perRow: config.expertsPerToken)
    }

    /// Chooses a row's experts: the greatest of `choice`, the lower index winning ties, among the groups with the
    /// greatest sums of their two best; weighted by `scores`. Changes `choice`. May be called for many rows at once.
    func choose(_ row: Int, scores: UnsafePointer<Float>, choice: UnsafeMutablePointer<Float>) {
        // A score that is no number is the last choice.
        for expert in 0..<config.expertCount where !(choice[expert] > Self.banned) { choice[expert] = Self.banned }
        if config.groupCount > 1 { dropGroups(choice) }
        let (first, perToken) = (row * config.expertsPerToken, config.expertsPerToken)
        var sum: Float = 0
        for rank in first..<first + perToken {
            let expert = Self.takeGreatest(choice, config.expertCount)
            ids[rank] = Int32(expert)
            weights[rank] = scores[expert]
            sum += scores[expert]
        }
        let factor = (config.normalises ? 1 / (sum + 1e-20) : 1) * config.scalingFactor
        for rank in first..<first + perToken { weights[rank] *= factor }
    }

    /// Bans the experts of all but the best groups.
    private func dropGroups(_ choice: UnsafeMutablePointer<Float>) {
        let size = config.expertCount / config.groupCount
        withUnsafeTemporaryAllocation(of: Float.self, capacity: config.groupCount) { sums in
            for group in sums.indices {
                var (best, second) = (-Float.infinity, -Float.infinity)
                for expert in group * size..<(group + 1) * size {
                    let value = choice[expert]
                    if value > best {
                        (best, second) = (value, best)
                    } else if value > second {
                        second = value
                    }
                }
                sums[group] = max(best + second, Self.banned)
            }
            guard let base = sums.baseAddress else { return }
            for _ in 0..<config.groupLimit { _ = Self.takeGreatest(base, sums.count) }
            for group in sums.indices where sums[group] != Self.taken {
                (choice + group * size).update(repeating: Self.banned, count: size)
            }
        }
    }

    private static let banned = -Float.greatestFiniteMagnitude
    private static let taken = -Float.infinity

    /// The index of the greatest value that was not taken yet, which is taken by that.
    private static func takeGreatest(_ values: UnsafeMutablePointer<Float>, _ count: Int) -> Int {
        var found = -1
        for index in 0..<count where values[index] != taken {
            if found < 0 || values[index] > values[found] { found = index }
        }
        precondition(found >= 0, "more experts per token than experts")
        values[found] = taken
        return found
    }

    /// Sorts the assignments of all rows by expert.
    func group(_ rows: Int) {
        let assignments = rows * config.expertsPerToken
        for expert in counts.indices { counts[expert] = 0 }
        for assignment in 0..<assignments { counts[Int(ids[assignment])] += 1 }
        var start = 0
        for expert in counts.indices {
            starts[expert] = start
            start += counts[expert]
        }
        for assignment in 0..<assignments {
            let expert = Int(ids[assignment])
            order[starts[expert]] = Int32(assignment)
            places[assignment] = Int32(starts[expert])
            starts[expert] += 1
        }
    }
}
