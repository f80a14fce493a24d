import Synchronization

/// A number that only grows. One atomic addition.
package final class Counter: Sendable {
    private let total = Atomic<UInt64>(0)

    init() {}

    package func add(_ count: Int = 1) {
        precondition(count >= 0, "a counter only grows")
        total.wrappingAdd(UInt64(count), ordering: .relaxed)
    }

    /// Takes over a total counted elsewhere; a smaller one than before is ignored.
    package func raise(to value: UInt64) {
        total.max(value, ordering: .relaxed)
    }

    package var value: UInt64 { total.load(ordering: .relaxed) }
}

/// A number that goes up and down.
package final class Gauge: Sendable {
    private let bits = Atomic<UInt64>(0)

    init() {}

    package func set(_ value: Double) {
        bits.store(value.bitPattern, ordering: .relaxed)
    }

    package func set(_ value: Int) { set(Double(value)) }

    package func add(_ delta: Double) {
        var old = bits.load(ordering: .relaxed)
        while true {
            let (isExchanged, current) = bits.weakCompareExchange(
                expected: old, desired: (Double(bitPattern: old) + delta).bitPattern, ordering: .relaxed)
            if isExchanged { return }
            old = current
        }
    }

    package var value: Double { Double(bitPattern: bits.load(ordering: .relaxed)) }
}

/// Observations counted in fixed buckets. One uncontended lock per observation.
package final class Histogram: Sendable {
    package struct Contents: Sendable, Equatable {
        /// Not cumulative; the last one holds what is above all bounds.
        package var counts: [UInt64]
        package var sum = 0.0
        package var count: UInt64 { counts.reduce(0, +) }
    }

    package let bounds: [Double]
    private let contents: Mutex<Contents>

    init(bounds: [Double]) {
        self.bounds = bounds
        contents = Mutex(Contents(counts: Array(repeating: 0, count: bounds.count + 1)))
    }

    /// A value that is no number is not counted.
    package func observe(_ value: Double) {
        guard !value.isNaN else { return }
        var low = 0
        var high = bounds.count
        while low < high {
            let middle = (low + high) / 2
            if value <= bounds[middle] { high = middle } else { low = middle + 1 }
        }
        contents.withLock { contents in
            contents.counts[low] += 1
            contents.sum += value
        }
    }

    /// In seconds.
    package func observe(_ duration: Duration) {
        observe(duration / .seconds(1))
    }

    /// Takes over what was counted elsewhere with the same bounds.
    package func replace(counts: [UInt64], sum: Double) {
        precondition(counts.count == bounds.count + 1, "\(counts.count) counts for \(bounds.count) bounds")
        contents.withLock { $0 = Contents(counts: counts, sum: sum) }
    }

    package var snapshot: Contents { contents.withLock { $0 } }
    package var count: UInt64 { snapshot.count }
    package var sum: Double { snapshot.sum }
}

/// Upper bounds of histogram buckets.
package enum HistogramBounds {
    /// 100 µs to 100 s in steps of 1, 2.5, 5.
    package static let seconds: [Double] = [
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100,
    ]
    /// 10 µs to 1 s in steps of 1, 2.5, 5.
    package static let fine: [Double] = [
        0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
    ]
    /// 0.1 ms to 10 s, in milliseconds.
    package static let milliseconds: [Double] = [
        0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000,
    ]
    /// 4 KiB to 16 GiB in steps of 4.
    package static let bytes: [Double] = (0..<12).map { Double(4096 << (2 * $0)) }
    /// 1 to 64 Ki in steps of 2.
    package static let powersOfTwo: [Double] = (0..<17).map { Double(1 << $0) }
}
