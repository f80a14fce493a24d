package import API
package import ControlPlane
package import Cores
package import Handoff
package import Logging
package import Messages
import Synchronization
import Telemetry

/// A node as the router reaches it: a real one over gRPC, or a fake in a test.
package struct NodeLink: Sendable {
    package let registration: Registration
    /// Numbers the node's streams in the order they were opened: a node that attaches again has another link.
    package let session: UInt64
    /// Never blocks; false when the node is gone.
    package let send: @Sendable (RouterMessage) -> Bool

    package init(
        registration: Registration, session: UInt64 = 0, send: @escaping @Sendable (RouterMessage) -> Bool
    ) {
        self.registration = registration
        self.session = session
        self.send = send
    }

    package init(_ node: AttachedNode) {
        registration = node.registration
        session = node.id
        send = { node.send($0) }
    }
}

/// The shell around `RoutingCore`: one lock, the clock, the nodes' streams and the clients' mailboxes.
///
/// Every event is handled under the lock, which is held for microseconds: sending to a node only fills a
/// buffer, and telling a client only fills its mailbox. So effects happen in the order the core gave them. Mailboxes
/// that got something are pumped after unlocking, by the same thread.
package final class Router: Sendable {
    private struct Client {
        var mailbox: AnswerMailbox
        var choice: Int
        /// The run has ended; the entry stays until the client has taken what it was told.
        var isOver = false
    }

    private struct State: ~Copyable {
        var core: RoutingCore
        var links: [Incarnation: NodeLink] = [:]
        var clients: [UInt64: Client] = [:]
        /// To be logged once the lock is free: writing a line may block.
        var unlogged: [RoutingNote] = []
        /// Got something while the lock was held.
        var filled: [AnswerMailbox] = []
    }

    package let incarnation: Incarnation
    package let settings: RoutingSettings
    package let metrics: RouterMetrics
    private let logger: Logger
    private let start = ContinuousClock.now
    private let state: Mutex<State>

    package init(incarnation: Incarnation, settings: RoutingSettings, metrics: RouterMetrics, logger: Logger) {
        self.incarnation = incarnation
        self.settings = settings
        self.metrics = metrics
        self.logger = logger
        state = Mutex(State(core: RoutingCore(incarnation: incarnation, settings: settings)))
    }

    /// Time since this router started: what all its instants are.
    package var now: Duration { ContinuousClock.now - start }

    // MARK: Requests

    /// Starts a client's runs, all or none; what happens to run i arrives in the mailbox as choice i.
    package func submit(_ requests: [RunRequest], to mailbox: AnswerMailbox) throws(APIError) -> [UInt64] {
        let result = transact { state, now -> Result<[UInt64], APIError> in
            let numbers: [UInt64]
            do throws(APIError) {
                numbers = try state.core.submit(requests, now: now)
            } catch {
                return .failure(error)
            }
            for (choice, number) in numbers.enumerated() {
                state.clients[number] = Client(mailbox: mailbox, choice: choice)
            }
            return .success(numbers)
        }
        writeNotes()
        return try result.get()
    }

    /// Stops runs at once, in whatever phase they are; nobody waits for them any more, nor for what those that
    /// have ended were still told.
    package func cancel(_ runs: [UInt64]) {
        guard !runs.isEmpty else { return }
        transact { state, now in
            for run in runs { state.core.cancel(run, now: now) }
            perform(&state, now)
            for run in runs { state.clients[run] = nil }
        }
        writeNotes()
    }

    /// A stop string was met: the run ends well, and its end arrives in the mailbox.
    package func complete(_ run: UInt64) {
        handle { $0.complete(run, now: $1) }
    }

    // MARK: Nodes

    /// To be called for every event of the control server.
    package func handle(_ event: NodeEvent) {
        switch event {
        case .joined(let node): joined(NodeLink(node))
        case .message(let node, let message): received(message, from: node.incarnation, session: node.id)
        case .left(let node, let reason): left(node.incarnation, session: node.id, reason: "\(reason)")
        }
    }

    package func joined(_ link: NodeLink) {
        let id = link.registration.incarnation
        transact { state, now in
            if let older = state.links[id] {
                // The events of one stream are in order, those of two are not: the older one's end may come
                // after this, and is ignored then. What ran over it ends here.
                guard older.session <= link.session else { return }
                state.links[id] = nil
                state.core.left(id, reason: "attached again", now: now)
                perform(&state, now)
            }
            state.links[id] = link
            state.core.joined(link.registration, now: now)
        }
    }

    /// - Parameter session: of the link the message came over; of one that is not current it is ignored.
    package func received(_ message: NodeMessage, from node: Incarnation, session: UInt64 = 0) {
        transact { state, now in
            guard state.links[node]?.session == session else { return }
            state.core.received(message, from: node, now: now)
        }
    }

    /// - Parameter session: of the link that ended; nothing happens when it is not current.
    package func left(_ node: Incarnation, session: UInt64 = 0, reason: String) {
        transact { state, now in
            guard state.links[node]?.session == session else { return }
            state.links[node] = nil
            state.core.left(node, reason: reason, now: now)
        }
    }

    /// Takes a node out of rotation. False when there is none of that name.
    package func drain(_ name: String) -> Bool {
        transact { state, now in
            guard let node = state.core.nodes.named(name) else { return false }
            state.core.drain(node.id, now: now)
            return true
        }
    }

    // MARK: Time and shutdown

    /// Runs deadlines until cancelled.
    package func runClock(every interval: Duration = .milliseconds(20)) async {
        while !Task.isCancelled {
            handle { $0.tick(now: $1) }
            cutSlowClients()
            try? await Task.sleep(for: interval)
        }
    }

    /// Refuses new requests; waits for the running ones up to the deadline, then ends them; waits briefly for
    /// the last pages to be reclaimed.
    package func drain(within limit: Duration) async {
        let deadline = now + limit
        handle { core, _ in core.beginDrain() }
        while now < deadline, activeCount > 0 { try? await Task.sleep(for: .milliseconds(20)) }
        handle { $0.cancelAll(now: $1) }
        let last = now + .seconds(2)
        while now < last, !state.withLock({ $0.core.isIdle }) { try? await Task.sleep(for: .milliseconds(10)) }
        writeNotes()
    }

    /// Runs that wait or run.
    package var activeCount: Int { state.withLock { $0.core.runningCount + $0.core.waitingCount } }
    package var isDraining: Bool { state.withLock { $0.core.isDraining } }

    /// The longest sequence the attached nodes can hold; nil without a pair.
    package var sequenceLimit: Int? { state.withLock { $0.core.nodes.sequenceLimit } }

    /// Reads the core's state, for status reports.
    package func inspect<Value: Sendable>(_ read: (borrowing RoutingCore) -> Value) -> Value {
        state.withLock { read($0.core) }
    }

    private func cutSlowClients() {
        let now = now
        let slow = state.withLock { state in
            state.clients = state.clients.filter { !$0.value.isOver || $0.value.mailbox.backlog != nil }
            return state.clients.compactMap { run, client -> (UInt64, AnswerMailbox)? in
                guard let backlog = client.mailbox.backlog else { return nil }
                let isSlow =
                    now - backlog.since > settings.slowClientTimeout || backlog.tokens > settings.unreadTokensMax
                return isSlow ? (run, client.mailbox) : nil
            }
        }
        for (run, mailbox) in slow {
            if !mailbox.isCut {
                logger.warning("slow client cut off", metadata: ["request": "\(run)"])
                metrics.slowClients.add()
            }
            mailbox.cut()
        }
        cancel(slow.map(\.0))
    }

    // MARK: Effects

    private func handle(_ event: (inout RoutingCore, Duration) -> Void) {
        transact { state, now in event(&state.core, now) }
        writeNotes()
    }

    /// One event: changes the state, has its effects, and then lets the clients' followers take what came for them.
    private func transact<Value: Sendable>(_ event: (inout State, Duration) -> Value) -> Value {
        let now = now
        let (value, filled) = state.withLock { state in
            let value = event(&state, now)
            perform(&state, now)
            defer { state.filled = [] }
            return (value, state.filled)
        }
        for mailbox in filled { mailbox.pump() }
        return value
    }

    /// Logs what was noted. Called after unlocking; where a caller does not, the next tick does.
    private func writeNotes() {
        let notes = state.withLock { state in
            defer { state.unlogged = [] }
            return state.unlogged
        }
        for note in notes { log(note) }
    }

    private func perform(_ state: inout State, _ now: Duration) {
        for effect in state.core.takeEffects() {
            switch effect {
            case .send(let message, let node):
                _ = state.links[node]?.send(message)
            case .deliver(let event, let run):
                guard let client = state.clients[run] else { continue }
                client.mailbox.append(event, choice: client.choice, now: now)
                state.filled.append(client.mailbox)
                if case .ended = event { state.clients[run]?.isOver = true }
            case .note(let note):
                if case .ended(let run, .cancelled, _, _) = note { state.clients[run] = nil }
                metrics.count(note)
                if Self.isLogged(note) { state.unlogged.append(note) }
            }
        }
    }

    private static func isLogged(_ note: RoutingNote) -> Bool {
        switch note {
        case .nodeLeft, .settled, .tokenGap, .firstToken: false
        case .nodeJoined, .engineStalled, .runFailed, .retrying, .refused, .probed, .ended: true
        }
    }

    private func log(_ note: RoutingNote) {
        switch note {
        case .nodeJoined(let name, let warning):
            if let warning { logger.warning("node \(warning)", metadata: ["node": "\(name)"]) }
        case .engineStalled(let name, let time):
            logger.error(
                "the node's engine has work and does not move: its requests go elsewhere, it gets none until it moves",
                metadata: ["node": "\(name)", "for": "\(time)"])
        case .runFailed(let run, let error):
            logger.warning(
                "request failed",
                metadata: ["request": "\(run)", "status": "\(error.status)", "reason": "\(error.message)"])
        case .retrying(let handoff, let cause, let delivered):
            logger.notice(
                "trying again",
                metadata: ["handoff": "\(handoff.text)", "reason": "\(cause)", "delivered": "\(delivered)"])
        case .refused(let handoff, let reason, let node):
            logger.debug(
                "refused", metadata: ["handoff": "\(handoff.text)", "reason": "\(reason)", "node": "\(node)"])
        case .probed(let prefill, let decode, let failure):
            if let failure {
                logger.warning(
                    "round trip failed",
                    metadata: ["prefill": "\(prefill)", "decode": "\(decode)", "reason": "\(failure)"])
            } else {
                logger.info("round trip works", metadata: ["prefill": "\(prefill)", "decode": "\(decode)"])
            }
        case .ended(let run, let outcome, let request, let tokens):
            logger.info(
                "request ended",
                metadata: [
                    "request": "\(run)", "outcome": "\(outcome)", "prompt": "\(request.prompt.count)",
                    "completion": "\(tokens)", "attempts": "\(request.times.attempts)",
                    "prefill": "\(request.times.prefillNode)", "decode": "\(request.times.decodeNode)",
                ])
        case .nodeLeft, .settled, .tokenGap, .firstToken: break
        }
    }
}
