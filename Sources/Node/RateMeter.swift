/// A rate from a growing total, over windows of at least `window`. Pure: times are given.
struct RateMeter {
    private let window: Duration
    private var start: (time: Duration, total: UInt64)?
    private(set) var perSecond = 0.0

    init(window: Duration = .milliseconds(500)) {
        self.window = window
    }

    /// Notes the total at a time; returns the rate of the last full window.
    mutating func note(_ total: UInt64, now: Duration) -> Double {
        guard let (time, before) = start else {
            start = (now, total)
            return 0
        }
        if now - time >= window {
            perSecond = Double(total &- before) / ((now - time) / .seconds(1))
            start = (now, total)
        }
        return perSecond
    }
}
