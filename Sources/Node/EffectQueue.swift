/// Effects that were decided under a lock and are performed outside it, in the order of the decisions, by one
/// thread at a time: whichever decided while nobody else was performing. Without this, a cancel decided after a
/// start could overtake it.
struct EffectQueue<Effect> {
    private var pending: [Effect] = []
    private var isPerforming = false

    mutating func append(_ effect: Effect) { pending.append(effect) }

    /// Whether the caller is to perform: call `next` until it gives nil.
    mutating func begin() -> Bool {
        guard !isPerforming, !pending.isEmpty else { return false }
        isPerforming = true
        return true
    }

    /// What is to be performed now; nil ends the caller's turn.
    mutating func next() -> [Effect]? {
        guard !pending.isEmpty else {
            isPerforming = false
            return nil
        }
        defer { pending = [] }
        return pending
    }
}
