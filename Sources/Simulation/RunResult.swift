/// What one run did and what it met.
package struct RunResult: Sendable, Equatable {
    package var violation: String?
    /// Of everything that happened, in order: two runs of one seed have the same.
    package var hash: UInt64 = 0
    package var steps = 0
    package var simulated = Duration.zero
    package var handoffs = 0
    /// How requests and attempts ended, and what the nodes did, by name.
    package var totals: [String: Int] = [:]
    package var coverage = Coverage()

    package init() {}

    mutating func add(_ name: String, _ count: Int = 1) { totals[name, default: 0] += count }
}
