import Cores
import Handoff
import Logging
import Messages
import SwiftProtobuf
import Synchronization

/// What the control server's streams share: the registry behind a lock, and the performing of its actions.
final class ServerCore: Sendable {
    private struct State {
        var registry: Registry
        var nextSession: UInt64 = 1
        /// Streams that the registry knows.
        var streams: [UInt64: RouterStream] = [:]
        /// Those that register now: nobody may send to them before their Welcome.
        var candidates: [UInt64: AttachedNode] = [:]
        /// Those that are attached.
        var nodes: [UInt64: AttachedNode] = [:]
        var isStopped = false
    }

    let configuration: ControlServer.Configuration
    let logger: Logger
    private let admit: @Sendable (Registration, [Registration]) -> String?
    private let onEvent: @Sendable (NodeEvent) -> Void
    private let state: Mutex<State>
    private let start = ContinuousClock.now

    init(
        configuration: ControlServer.Configuration, logger: Logger,
        admit: @escaping @Sendable (Registration, [Registration]) -> String?,
        onEvent: @escaping @Sendable (NodeEvent) -> Void
    ) {
        self.configuration = configuration
        self.logger = logger
        self.admit = admit
        self.onEvent = onEvent
        state = Mutex(State(registry: Registry(lease: configuration.lease)))
    }

    private var now: Duration { ContinuousClock.now - start }

    var nodes: [AttachedNode] {
        state.withLock { Array($0.nodes.values) }.sorted { $0.name < $1.name }
    }

    /// Looks after leases until the task is cancelled.
    func watchLeases() async {
        let interval = configuration.lease / 8
        var last = now
        while !Task.isCancelled {
            try? await Task.sleep(for: interval)
            let now = now
            let delay = now - last - interval
            last = now
            // When this task was held up, so were those that read what the nodes sent: they get another interval.
            guard delay <= configuration.lease / 4 else {
                logger.warning("leases were looked at late", metadata: ["delay": "\(delay)"])
                continue
            }
            perform(state.withLock { $0.registry.tick(now: now) })
        }
    }

    func stop() {
        let streams = state.withLock { state in
            state.isStopped = true
            return Array(state.streams.values)
        }
        for stream in streams { stream.close(.stopped) }
    }

    // MARK: One stream's life, called by the service

    /// nil when the server stops.
    func open() -> RouterStream? {
        let now = now
        let (stream, actions) = state.withLock { state -> (RouterStream?, [Registry.Action]) in
            guard !state.isStopped else { return (nil, []) }
            let stream = RouterStream(session: state.nextSession)
            state.nextSession += 1
            state.streams[stream.session] = stream
            return (stream, state.registry.opened(stream.session, now: now))
        }
        perform(actions)
        return stream
    }

    func register(_ stream: RouterStream, _ registration: Registration) -> AttachedNode {
        let node = AttachedNode(stream: stream, registration: registration)
        let now = now
        // The policy runs outside the lock; two nodes that arrive together may each be judged without the other.
        let refusal = admit(registration, state.withLock { $0.registry.attached })
        let actions = state.withLock { state in
            let actions = state.registry.register(stream.session, registration, refusal: refusal, now: now)
            if actions.contains(.admit(stream.session)) { state.candidates[stream.session] = node }
            return actions
        }
        perform(actions)
        return node
    }

    /// A node whose registration can't even be read. It may try again: either side may have been brought up to date.
    func refuse(_ stream: RouterStream, _ message: String) {
        rejected(stream.session, message: message, isPermanent: false)
    }

    func received(_ message: NodeMessage, from node: AttachedNode, on stream: RouterStream) {
        let now = now
        guard state.withLock({ $0.registry.heard(stream.session, now: now) }) else { return }
        node.note(message)
        if case .heartbeat = message { stream.post(.heartbeatAck) }
        node.deliverMessage { onEvent(.message(node, message)) }
    }

    func ended(_ stream: RouterStream, _ reason: LeaveReason) {
        perform(state.withLock { $0.registry.ended(stream.session, reason) })
        state.withLock { state in
            state.streams[stream.session] = nil
            state.candidates[stream.session] = nil
            state.nodes[stream.session] = nil
        }
    }

    // MARK: Actions

    private func perform(_ actions: [Registry.Action]) {
        for action in actions {
            switch action {
            case .admit(let session): admitted(session)
            case .reject(let session, let message, let isPermanent):
                rejected(session, message: message, isPermanent: isPermanent)
            case .expel(let session, let reason): expelled(session, reason)
            case .close(let session, let reason):
                state.withLock { $0.streams[session] }?.close(reason)
            }
        }
    }

    private func admitted(_ session: UInt64) {
        let welcome = Baton_Control_V1_Welcome.with {
            $0.router = configuration.router.value
            $0.heartbeatMs = configuration.heartbeat.wholeMilliseconds
            $0.leaseMs = configuration.lease.wholeMilliseconds
        }
        let admitted = state.withLock { state -> AttachedNode? in
            // Gone already when another stream has taken its name meanwhile.
            guard let stream = state.streams[session], let node = state.candidates.removeValue(forKey: session) else {
                return nil
            }
            stream.post(.welcome(welcome))
            state.nodes[session] = node
            return node
        }
        guard let node = admitted else { return }
        logger.info(
            "node joined",
            metadata: [
                "node": "\(node.name)", "role": "\(node.role)", "incarnation": "\(node.incarnation.text)",
                "session": "\(session)",
            ])
        node.deliverJoined { onEvent(.joined(node)) }
    }

    private func rejected(_ session: UInt64, message: String, isPermanent: Bool) {
        guard let stream = state.withLock({ $0.streams[session] }) else { return }
        logger.warning("node refused", metadata: ["session": "\(session)", "reason": "\(message)"])
        stream.post(
            .rejected(
                .with {
                    $0.message = message
                    $0.permanent = isPermanent
                }))
        stream.close(.protocolError(message))
    }

    private func expelled(_ session: UInt64, _ reason: LeaveReason) {
        let (stream, node) = state.withLock { state -> (RouterStream?, AttachedNode?) in
            state.candidates[session] = nil
            return (state.streams[session], state.nodes.removeValue(forKey: session))
        }
        if let node {
            logger.warning(
                "node left",
                metadata: ["node": "\(node.name)", "reason": "\(reason)", "session": "\(session)"])
            node.deliverLeft { onEvent(.left(node, reason)) }
        }
        stream?.close(reason)
    }
}

extension Duration {
    fileprivate var wholeMilliseconds: UInt32 {
        UInt32(max(0, min((self / .milliseconds(1)).rounded(), 4_294_967_295)))
    }
}
