/// How long it took from giving up a handoff to its pages being free: quantiles of all since the start, within an
/// eighth of an octave. Pure.
struct ReclaimTimes: Sendable {
    private static let stepsPerOctave = 8
    /// From 1 µs to 2^40 µs, which is twelve days.
    private var counts = Array(repeating: 0, count: 40 * stepsPerOctave + 1)
    private(set) var count = 0
    private(set) var longest = Duration.zero

    mutating func note(_ time: Duration) {
        counts[Self.bucket(time)] += 1
        count += 1
        longest = max(longest, time)
    }

    /// The time that this share took at most; zero when there are none.
    func quantile(_ share: Double) -> Duration {
        let wanted = max(1, Int((share * Double(count)).rounded(.up)))
        var seen = 0
        for (bucket, count) in counts.enumerated() {
            seen += count
            if seen >= wanted { return min(Self.upperBound(bucket), longest) }
        }
        return .zero
    }

    private static func microseconds(_ time: Duration) -> Int {
        Int(clamping: Int64((time / .microseconds(1)).rounded(.up)))
    }

    /// Octave by octave, each in equal steps.
    private static func bucket(_ time: Duration) -> Int {
        let value = max(1, microseconds(time))
        let octave = Int.bitWidth - 1 - value.leadingZeroBitCount
        let step = ((value - (1 << octave)) * stepsPerOctave) >> octave
        return min(octave * stepsPerOctave + step, 40 * stepsPerOctave)
    }

    private static func upperBound(_ bucket: Int) -> Duration {
        let (octave, step) = (bucket / stepsPerOctave, bucket % stepsPerOctave)
        return .microseconds((1 << octave) + ((step + 1) << octave) / stepsPerOctave)
    }
}
