import ControlPlane
import Handoff
import Logging
import Messages
import Testing

@testable import Cores
@testable import Routing

/// A node that attaches again while the end of its older stream is still under way.
@Suite struct ReattachTests {
    @Test func whatComesOverAnOlderStreamIsIgnored() {
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        let router = Router(
            incarnation: Incarnation(7), settings: RoutingSettings(), metrics: RouterMetrics(), logger: logger)
        let node = registration("d1", .decode, incarnation: 101)
        let link = { NodeLink(registration: node, session: $0) { _ in true } }
        let state = { router.inspect { core in core.nodes.all.map(\.isDraining) } }
        router.joined(link(1))
        router.joined(link(2))
        router.left(node.incarnation, session: 1, reason: "disconnected")
        #expect(state() == [false])
        router.received(.draining, from: node.incarnation, session: 1)
        #expect(state() == [false])
        router.joined(link(1))
        router.received(.draining, from: node.incarnation, session: 2)
        #expect(state() == [true])
        router.left(node.incarnation, session: 2, reason: "disconnected")
        #expect(state().isEmpty)
    }
}
