package import ControlPlane
import Cores
package import Handoff
package import Logging
package import Messages
import Synchronization

/// The control streams of a node, one per configured router, and which router is behind which.
package final class RouterLinks: Sendable {
    private struct State {
        var clients: [ControlClient] = []
        var attached: [Incarnation: ControlClient] = [:]
        var refusals = RouterRefusals<HostPort>([])
    }

    private let state = Mutex(State())

    package init() {}

    /// Whether any router has accepted this node.
    package var isAttached: Bool { state.withLock { !$0.attached.isEmpty } }

    package var attachedRouters: [Incarnation] { state.withLock { Array($0.attached.keys) } }

    /// Queues a message for a router; dropped when it is not attached.
    package func send(_ message: NodeMessage, to router: Incarnation) {
        state.withLock { $0.attached[router] }?.send(message)
    }

    package func sendToAll(_ message: NodeMessage) {
        for client in state.withLock({ Array($0.attached.values) }) { client.send(message) }
    }

    /// Keeps the streams to all routers until `stop` or cancellation. Throws when all of them have refused the node
    /// for good.
    package func run(
        _ driver: any NodeDriver, registration: Registration, routers: [HostPort], logger: Logger
    ) async throws(ControlError) {
        var distinct: [HostPort] = []
        for router in routers where !distinct.contains(router) { distinct.append(router) }
        let clients = distinct.map { router in
            ControlClient(
                configuration: .init(router: router, registration: registration), logger: logger,
                load: { driver.load() },
                endsAfterRefusal: { [weak self] isPermanent in
                    self?.state.withLock { $0.refusals.refused(by: router, isPermanent: isPermanent) } ?? true
                },
                onEvent: { [weak self] in self?.handle($0, router, driver, logger) })
        }
        state.withLock { state in
            state.clients = clients
            state.refusals = RouterRefusals(distinct)
        }
        defer { state.withLock { $0.clients = [] } }
        do {
            try await withThrowingTaskGroup(of: Void.self) { group in
                for client in clients { group.addTask { try await client.run() } }
                while try await group.next() != nil {}
            }
        } catch let error as ControlError {
            throw error
        } catch {
            return
        }
    }

    /// Ends `run`; what is queued is still sent.
    package func stop() {
        for client in state.withLock({ $0.clients }) { client.stop() }
    }

    /// Enters a router that the client of this address reached. Returns that client when another one has reached
    /// the same router before, and the other's address.
    private func enter(_ router: Incarnation, _ address: HostPort) -> (surplus: ControlClient?, other: String) {
        state.withLock { state in
            let client = state.clients.first { $0.configuration.router == address }
            if let other = state.attached[router]?.configuration.router, other != address {
                return (client, other.description)
            }
            state.attached[router] = client
            state.refusals.accepted(by: address)
            return (nil, "")
        }
    }

    private func handle(
        _ event: ControlClient.Event, _ address: HostPort, _ driver: any NodeDriver, _ logger: Logger
    ) {
        switch event {
        case .attached(let router):
            let (surplus, other) = enter(router, address)
            guard let surplus else { return driver.attached(router) }
            logger.error(
                "two addresses of one router are configured, this one is given up",
                metadata: ["router": "\(address)", "kept": "\(other)", "incarnation": "\(router.text)"])
            surplus.stop()
        case .message(let message, let router):
            guard state.withLock({ $0.attached[router]?.configuration.router == address }) else { return }
            driver.received(message, from: router)
        case .lost(let router, _):
            let wasLast = state.withLock { state in
                // A surplus stream to a router that is attached by another address.
                guard state.attached[router]?.configuration.router == address else { return false }
                state.attached[router] = nil
                return true
            }
            if wasLast { driver.lost(router) }
        case .refused:
            // The client has said so, and what happens next is decided where it asks.
            break
        }
    }
}
