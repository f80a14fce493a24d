import Cores
import GRPCCore
import GRPCNIOTransportHTTP2
package import Handoff
package import Logging
package import Messages
import SwiftProtobuf
import Synchronization
package import Threads

/// A node's end of the control plane: keeps one stream open to one router, registers on it, sends heartbeats,
/// and comes back with growing waits when it breaks. A node has one client per router.
package final class ControlClient: Sendable {
    package enum Event: Sendable {
        case attached(router: Incarnation)
        case message(RouterMessage, router: Incarnation)
        /// Follows each `attached` exactly once. What belongs to that router ends now.
        case lost(router: Incarnation, reason: String)
        /// The router refused this node.
        case refused(message: String, isPermanent: Bool)
    }

    package struct Configuration: Sendable {
        package var router: HostPort
        package var registration: Registration
        package var backoff = Backoff(limit: .seconds(1))
        /// How long to wait after a permanent refusal: what has to change is on the router's side.
        package var refusalPause = Duration.seconds(30)
        /// Every address of the router's name, in the order in which they are tried.
        package var resolve: @Sendable (HostPort) async -> [HostPort] = { await NameLookup.addresses(of: $0) }
        /// How long an attempt to attach may take.
        package var attachTimeout = Duration.seconds(5)

        package init(router: HostPort, registration: Registration) {
            self.router = router
            self.registration = registration
        }
    }

    /// One stream's shared state.
    fileprivate final class Session: Sendable {
        let outbox = Outbox<Baton_Control_V1_FromNode>()
        let lastHeard = Mutex(ContinuousClock.now)
        let router = Mutex<Incarnation?>(nil)
        let lease = Mutex<(heartbeat: Duration, lease: Duration)?>(nil)
    }

    private enum Current {
        case idle
        case session(Session)
        case stopped
    }

    package let configuration: Configuration
    private let logger: Logger
    private let load: @Sendable () -> NodeLoad
    private let onEvent: @Sendable (Event) -> Void
    private let endsAfterRefusal: @Sendable (_ isPermanent: Bool) -> Bool
    private let current = Mutex(Current.idle)

    /// - Parameters:
    ///   - load: asked for at each heartbeat.
    ///   - endsAfterRefusal: whether a refusal ends `run`; a permanent one does, unless there are other routers.
    ///   - onEvent: called in order, on the stream's task. It must not block.
    package init(
        configuration: Configuration, logger: Logger, load: @escaping @Sendable () -> NodeLoad,
        endsAfterRefusal: @escaping @Sendable (_ isPermanent: Bool) -> Bool = { $0 },
        onEvent: @escaping @Sendable (Event) -> Void
    ) {
        self.configuration = configuration
        self.logger = logger
        self.load = load
        self.onEvent = onEvent
        self.endsAfterRefusal = endsAfterRefusal
    }

    /// The router this node is attached to now.
    package var router: Incarnation? {
        current.withLock { current in
            if case .session(let session) = current { session.router.withLock { $0 } } else { nil }
        }
    }

    /// Queues a message; never blocks. False when the node is not attached: the message is dropped, for what it
    /// is about ended with the router. A router that does not read is given up.
    @discardableResult
    package func send(_ message: NodeMessage) -> Bool {
        let session = current.withLock { current -> Session? in
            if case .session(let session) = current { session } else { nil }
        }
        guard let session, session.router.withLock({ $0 != nil }) else { return false }
        switch session.outbox.offer(message.wire, bytes: message.approximateBytes) {
        case .accepted: return true
        case .closed: return false
        case .full:
            logger.error("the router does not read its messages", metadata: ["router": "\(configuration.router)"])
            session.outbox.close()
            return false
        }
    }

    /// Ends `run`; what is queued is still sent.
    package func stop() {
        let session = current.withLock { current -> Session? in
            defer { current = .stopped }
            if case .session(let session) = current { return session }
            return nil
        }
        session?.outbox.close()
    }

    /// Attaches again and again until `stop`, cancellation, or a refusal that ends it, which is thrown.
    package func run() async throws(ControlError) {
        let start = ContinuousClock.now
        var backoff = configuration.backoff
        var problem = RepeatedProblem()
        var addresses = RotatingAddresses()
        while !Task.isCancelled {
            let session = Session()
            let isStopped = current.withLock { current in
                if case .stopped = current { return true }
                current = .session(session)
                return false
            }
            if isStopped { return }
            let address: HostPort
            if let next = addresses.next() {
                address = next
            } else {
                addresses = RotatingAddresses(await configuration.resolve(configuration.router))
                address = addresses.next() ?? configuration.router
            }
            let outcome = await attachInTime(session, address)
            current.withLock { current in
                if case .session = current { current = .idle }
            }
            let wasAttached: Bool
            if let router = session.router.withLock({ $0 }) {
                wasAttached = true
                logger.warning(
                    "lost the router", metadata: ["router": "\(configuration.router)", "reason": "\(outcome)"])
                onEvent(.lost(router: router, reason: outcome.description))
                backoff.reset()
                addresses.stay()
                problem.isOver()
            } else {
                wasAttached = false
                if !Task.isCancelled, problem.occurs(outcome.description, now: ContinuousClock.now - start) {
                    logger.warning(
                        "cannot attach to the router, trying again",
                        metadata: [
                            "router": "\(configuration.router)", "address": "\(address)", "reason": "\(outcome)",
                        ])
                }
            }
            var pause = backoff.next(random: Double.random(in: 0..<1))
            if case .refused(let message, let isPermanent) = outcome {
                onEvent(.refused(message: message, isPermanent: isPermanent))
                if endsAfterRefusal(isPermanent) {
                    throw .rejected(router: configuration.router.description, message: message)
                }
                if isPermanent { pause = configuration.refusalPause * Double.random(in: 0.5..<1) }
            } else if !wasAttached, addresses.hasMore {
                // Another address of the same router may answer: that is no reason to wait.
                continue
            }
            try? await Task.sleep(for: pause)
        }
    }

    // MARK: One stream

    private enum Outcome: Sendable, CustomStringConvertible {
        case ended(String)
        case refused(message: String, isPermanent: Bool)

        var description: String {
            switch self {
            case .ended(let reason): reason
            case .refused(let message, _): message
            }
        }
    }

    /// Gives an attempt up that is not answered in time, wherever it hangs: looking up the name, connecting, or
    /// waiting for the router's first word.
    private func attachInTime(_ session: Session, _ address: HostPort) async -> Outcome {
        await withTaskGroup(of: Outcome?.self) { group in
            group.addTask { await self.attach(session, address) }
            group.addTask {
                try? await Task.sleep(for: self.configuration.attachTimeout)
                guard !Task.isCancelled, session.router.withLock({ $0 == nil }) else { return nil }
                return .ended("not attached within \(self.configuration.attachTimeout)")
            }
            defer {
                session.outbox.close()
                group.cancelAll()
            }
            while let outcome = await group.next() {
                if let outcome { return outcome }
            }
            return .ended("cancelled")
        }
    }

    private func attach(_ session: Session, _ address: HostPort) async -> Outcome {
        do {
            // Numbers where the name was found; else gRPC says what is wrong with the name.
            let target: any ResolvableTarget =
                switch address.kind {
                case .ipv4: .ipv4(address: address.host, port: address.port)
                case .ipv6: .ipv6(address: address.host, port: address.port)
                case .name: .dns(host: address.host, port: address.port)
                }
            let transport = try HTTP2ClientTransport.Posix(
                target: target, transportSecurity: .plaintext,
                config: .defaults { config in
                    config.http2.targetWindowSize = 1 << 20
                    config.connection.keepalive = .init(
                        time: .seconds(10), timeout: .seconds(5), allowWithoutCalls: true)
                    // See ControlServer: a delay here is a delay of every token.
                    config.connection.flushCoalescing = nil
                })
            var options = CallOptions.defaults
            options.waitForReady = false
            options.maxRequestMessageBytes = ControlLimits.messageBytes
            options.maxResponseMessageBytes = ControlLimits.messageBytes
            return try await withGRPCClient(transport: transport) { client in
                try await Baton_Control_V1_Control.Client(wrapping: client).attach(
                    options: options,
                    requestProducer: { writer in
                        try await writer.write(.with { $0.register = self.configuration.registration.wire })
                        while let batch = await session.outbox.take() {
                            try await writer.write(contentsOf: batch)
                        }
                    },
                    onResponse: { response in await self.converse(session, response) })
            }
        } catch let error as RPCError {
            return .ended(error.message.isEmpty ? "\(error.code)" : error.message)
        } catch {
            return .ended("\(error)")
        }
    }

    private func converse(
        _ session: Session, _ response: StreamingClientResponse<Baton_Control_V1_FromRouter>
    ) async -> Outcome {
        defer { session.outbox.close() }
        return await withTaskGroup(of: Outcome.self) { group in
            group.addTask { await self.read(session, response) }
            group.addTask { await self.beat(session) }
            let first = await group.next() ?? .ended("cancelled")
            group.cancelAll()
            return first
        }
    }

    private func read(
        _ session: Session, _ response: StreamingClientResponse<Baton_Control_V1_FromRouter>
    ) async -> Outcome {
        do {
            for try await message in response.messages {
                session.lastHeard.withLock { $0 = .now }
                switch message.body {
                case .welcome(let welcome):
                    try welcomed(session, welcome)
                case .rejected(let rejected):
                    return .refused(message: Wire.shown(rejected.message), isPermanent: rejected.permanent)
                default:
                    guard let router = session.router.withLock({ $0 }) else {
                        return .ended("the router's first message is not Welcome")
                    }
                    if let known = try understood(message) { onEvent(.message(known, router: router)) }
                }
            }
            return .ended("the router closed the stream")
        } catch let error as RPCError {
            return .ended(error.message.isEmpty ? "\(error.code)" : error.message)
        } catch {
            return .ended("the router broke the protocol: \(error)")
        }
    }

    /// A message's checked value; nil when there is nothing to tell. A bad reservation is refused rather than
    /// allowed to end the stream, and with it everybody's requests: much of it is what a client asked for.
    private func understood(_ message: Baton_Control_V1_FromRouter) throws(ControlError) -> RouterMessage? {
        do throws(ControlError) {
            return try RouterMessage(message)
        } catch {
            guard case .reserve(let reserve)? = message.body,
                let handoff = try? Wire.handoff(reserve.hasHandoff, reserve.handoff, "reserve.handoff")
            else { throw error }
            logger.warning(
                "refused a reservation", metadata: ["handoff": "\(handoff.text)", "reason": "\(error)"])
            send(.refused(Refusal(handoff: handoff, reason: .invalid, message: error.description)))
            return nil
        }
    }

    private func welcomed(_ session: Session, _ welcome: Baton_Control_V1_Welcome) throws(ControlError) {
        guard session.router.withLock({ $0 == nil }) else {
            throw .invalid(field: "welcome", reason: "came twice")
        }
        let router = try Wire.incarnation(welcome.router, "welcome.router")
        let heartbeat = try Wire.count(welcome.heartbeatMs, "welcome.heartbeat_ms", in: 10...60_000)
        let lease = try Wire.count(welcome.leaseMs, "welcome.lease_ms", in: heartbeat * 2...600_000)
        session.lease.withLock { $0 = (.milliseconds(heartbeat), .milliseconds(lease)) }
        session.router.withLock { $0 = router }
        logger.info(
            "attached", metadata: ["router": "\(configuration.router)", "incarnation": "\(router.text)"])
        onEvent(.attached(router: router))
    }

    /// Sends heartbeats, and gives the stream up when the router is silent for a lease.
    private func beat(_ session: Session) async -> Outcome {
        while !Task.isCancelled {
            guard let (heartbeat, lease) = session.lease.withLock({ $0 }) else {
                try? await Task.sleep(for: .milliseconds(5))
                continue
            }
            if ContinuousClock.now - session.lastHeard.withLock({ $0 }) > lease {
                return .ended(ControlError.leaseLost(lease).description)
            }
            send(.heartbeat(load()))
            try? await Task.sleep(for: heartbeat)
        }
        return .ended("cancelled")
    }
}
