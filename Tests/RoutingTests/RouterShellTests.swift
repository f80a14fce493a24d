import API
import ControlPlane
import Handoff
import Logging
import Messages
import Synchronization
import Telemetry
import Testing

@testable import Cores
@testable import Routing

/// A pair of nodes in one, answering from a task of its own as real ones do.
private final class LiveNodes: Sendable {
    let router: Router
    private let reservations = Mutex<[HandoffID: Reservation]>([:])
    private let tokensPerRequest: Int

    init(_ router: Router, tokensPerRequest: Int) {
        self.router = router
        self.tokensPerRequest = tokensPerRequest
        for (name, role, id) in [("p1", NodeRole.prefill, 1), ("d1", .decode, 101)] as [(String, NodeRole, UInt64)] {
            router.joined(
                NodeLink(registration: registration(name, role, incarnation: id, slots: 4096, maxRunning: 64)) {
                    [weak self] message in
                    Task { self?.react(message, Incarnation(id)) }
                    return true
                })
        }
    }

    private func react(_ message: RouterMessage, _ id: Incarnation) {
        switch message {
        case .reserve(let reservation):
            reservations.withLock { $0[reservation.handoff] = reservation }
            let slots = (0..<UInt32((reservation.tokens.count + 15) / 16)).map {
                SlotRef(index: $0, generation: Generation(1))
            }
            let parts = reservation.shares.map { share in
                GrantPart(
                    writer: share.writer, lane: LaneID(1), epoch: LaneEpoch(1), pages: 0..<slots.count, layers: 0..<1)
            }
            router.received(
                .granted(
                    GrantTerms(handoff: reservation.handoff, decode: id, slots: slots, lent: 0, parts: parts)), from: id
            )
        case .prefill(let order): generate(order.grant.handoff)
        case .release(let handoff), .cancel(let handoff):
            if id == Incarnation(1) {
                router.received(.drained(handoff, posted: 1, completed: 1), from: id)
            } else {
                router.received(.reclaimed(handoff, .drained), from: id)
            }
        default: break
        }
    }

    private func generate(_ handoff: HandoffID) {
        let decode = Incarnation(101)
        router.received(
            .written(
                WriteReport(
                    handoff: handoff, cachedTokens: 0, queue: .zero, compute: .zero, transfer: .zero, bytes: 0)),
            from: Incarnation(1))
        router.received(.sealed(handoff, sealTime: .zero), from: decode)
        for index in 0..<tokensPerRequest {
            let run = TokenRun(handoff: handoff, firstIndex: index, tokens: [UInt32(index)])
            router.received(.tokens(TokenBatch(runs: [run], sent: .zero)), from: decode)
        }
        router.received(
            .finished(
                FinishReport(
                    handoff: handoff, reason: .length, tokens: tokensPerRequest, firstStep: .zero, decode: .zero,
                    preemptions: 0)), from: decode)
    }
}

@Suite struct RouterShellTests {
    private func router(_ settings: RoutingSettings = RoutingSettings()) -> Router {
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        return Router(incarnation: Incarnation(7), settings: settings, metrics: RouterMetrics(), logger: logger)
    }

    private func request() -> RunRequest {
        var sampling = SamplingTerms()
        sampling.maxTokens = 50
        return RunRequest(prompt: [1, 2, 3], sampling: sampling, times: RunTimeline())
    }

    @Test func manyClientsGetTheirTokensInOrder() async throws {
        let router = router()
        let nodes = LiveNodes(router, tokensPerRequest: 50)
        let clock = Task { await router.runClock() }
        defer { clock.cancel() }
        try await withThrowingTaskGroup(of: [UInt32].self) { group in
            for _ in 0..<32 {
                group.addTask {
                    let mailbox = AnswerMailbox()
                    _ = try router.submit([self.request()], to: mailbox)
                    var tokens: [UInt32] = []
                    while true {
                        for delivery in await mailbox.next() {
                            tokens += delivery.tokens
                            if delivery.ending != nil { return tokens }
                        }
                    }
                }
            }
            for try await tokens in group { #expect(tokens == Array(0..<50)) }
        }
        #expect(nodes.router.activeCount == 0)
        #expect(router.metrics.registry.exposition().contains("baton_requests_total{outcome=\"completed\"} 32"))
    }

    @Test func aClientThatReadsNothingIsCutOff() async throws {
        var settings = RoutingSettings()
        settings.slowClientTimeout = .milliseconds(50)
        let router = router(settings)
        let nodes = LiveNodes(router, tokensPerRequest: 10)
        let clock = Task { await router.runClock(every: .milliseconds(5)) }
        defer { clock.cancel() }
        let wasCut = Atomic(false)
        // A run that never ends, so that there is something to stop.
        let mailbox = AnswerMailbox(onCut: { wasCut.store(true, ordering: .relaxed) })
        var endless = request()
        endless.sampling.maxTokens = 1000
        _ = try router.submit([endless, endless], to: mailbox)
        for _ in 0..<400 where !wasCut.load(ordering: .relaxed) { try await Task.sleep(for: .milliseconds(5)) }
        let isCut = wasCut.load(ordering: .relaxed)
        #expect(isCut)
        #expect(await mailbox.next().isEmpty)
        // What was cut is cancelled next.
        for _ in 0..<400 where nodes.router.activeCount > 0 { try await Task.sleep(for: .milliseconds(5)) }
        #expect(nodes.router.activeCount == 0)
    }

    @Test func whatACancelledClientLeftUnreadCutsNobody() async throws {
        var settings = RoutingSettings()
        settings.slowClientTimeout = .milliseconds(30)
        let router = router(settings)
        let nodes = LiveNodes(router, tokensPerRequest: 10)
        let wasCut = Atomic(false)
        let mailbox = AnswerMailbox(onCut: { wasCut.store(true, ordering: .relaxed) })
        let runs = try router.submit([request()], to: mailbox)
        while nodes.router.activeCount > 0 { try await Task.sleep(for: .milliseconds(2)) }
        // It ended and nobody read it; its connection may already carry another request.
        router.cancel(runs)
        let clock = Task { await router.runClock(every: .milliseconds(5)) }
        defer { clock.cancel() }
        try await Task.sleep(for: .milliseconds(100))
        let isCut = wasCut.load(ordering: .relaxed)
        #expect(!isCut)
        mailbox.cut()
        #expect(mailbox.backlog == nil)
    }

    @Test func mailboxesWakeOnCancellation() async {
        let mailbox = AnswerMailbox()
        let reader = Task { await mailbox.next() }
        try? await Task.sleep(for: .milliseconds(20))
        reader.cancel()
        #expect(await reader.value.isEmpty)
    }
}
