/// What a node makes of routers that refuse it. Pure.
///
/// One router's refusal is that router's: a node serves the others. Only a node that every router it knows has refused for
/// good has nothing to live for.
package struct RouterRefusals<Router: Hashable & Sendable>: Sendable {
    private let routers: Set<Router>
    private var refused: Set<Router> = []

    package init(_ routers: [Router]) { self.routers = Set(routers) }

    /// Whether the node should end.
    package mutating func refused(by router: Router, isPermanent: Bool) -> Bool {
        guard isPermanent, routers.contains(router) else { return false }
        refused.insert(router)
        return refused == routers
    }

    package mutating func accepted(by router: Router) { refused.remove(router) }
}

/// When to say again what goes wrong again and again: at once, when the reason changes, and every minute. Pure.
package struct RepeatedProblem: Sendable {
    private let interval: Duration
    private var last: (reason: String, said: Duration)?

    package init(every interval: Duration = .seconds(60)) { self.interval = interval }

    /// Whether to say it now.
    package mutating func occurs(_ reason: String, now: Duration) -> Bool {
        if let last, last.reason == reason, now - last.said < interval { return false }
        last = (reason, now)
        return true
    }

    package mutating func isOver() { last = nil }
}
