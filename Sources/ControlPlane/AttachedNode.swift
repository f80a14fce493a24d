import Cores
package import Handoff
package import Messages
import SwiftProtobuf
import Synchronization

/// One attached node, as long as its stream lives. A node that attaches again is another value.
package final class AttachedNode: Sendable, Identifiable {
    /// The stream's number; never reused by this process.
    package let id: UInt64
    package let registration: Registration
    package let joined: ContinuousClock.Instant

    package var incarnation: Incarnation { registration.incarnation }
    package var name: String { registration.name }
    package var role: NodeRole { registration.role }

    private struct Status {
        var load: NodeLoad?
        var isDraining = false
    }

    private enum Delivery {
        case pending, joined, left
    }

    private let status = Mutex(Status())
    private let delivery = Mutex(Delivery.pending)
    private let stream: RouterStream

    init(stream: RouterStream, registration: Registration) {
        self.id = stream.session
        self.registration = registration
        self.stream = stream
        joined = .now
    }

    /// The latest heartbeat; nil before the first.
    package var load: NodeLoad? { status.withLock(\.load) }

    /// The node said that it drains: give it nothing new.
    package var isDraining: Bool { status.withLock(\.isDraining) }

    /// Queues a message; never blocks. False when the node is gone. A node that leaves its messages unread is
    /// detached as too slow.
    @discardableResult
    package func send(_ message: RouterMessage) -> Bool {
        stream.send(message)
    }

    /// Closes the node's stream; it may attach again.
    package func detach(reason: String) {
        stream.close(.detached(reason))
    }

    func note(_ message: NodeMessage) {
        switch message {
        case .heartbeat(let load):
            status.withLock {
                $0.load = load
                $0.isDraining = $0.isDraining || load.isDraining
            }
        case .draining:
            status.withLock { $0.isDraining = true }
        default:
            break
        }
    }

    // The callbacks for one node run one at a time: joined first, left last and once. They may send to this
    // node (another lock) but nothing that waits for this node's own events.

    func deliverJoined(_ body: () -> Void) {
        delivery.withLock { delivery in
            guard delivery == .pending else { return }
            delivery = .joined
            body()
        }
    }

    func deliverMessage(_ body: () -> Void) {
        delivery.withLock { delivery in
            guard delivery == .joined else { return }
            body()
        }
    }

    func deliverLeft(_ body: () -> Void) {
        delivery.withLock { delivery in
            defer { delivery = .left }
            guard delivery == .joined else { return }
            body()
        }
    }
}

/// The sending half of one node's stream.
final class RouterStream: Sendable {
    enum Outgoing: Sendable {
        case message(RouterMessage)
        case welcome(Baton_Control_V1_Welcome)
        case rejected(Baton_Control_V1_Rejected)
        case heartbeatAck
    }

    let session: UInt64
    let outbox = Outbox<Outgoing>()
    private let reason = Mutex<LeaveReason?>(nil)

    init(session: UInt64) {
        self.session = session
    }

    /// Why this side closed the stream; nil when it did not.
    var closeReason: LeaveReason? { reason.withLock { $0 } }

    @discardableResult
    func send(_ message: RouterMessage) -> Bool {
        post(.message(message), bytes: message.approximateBytes)
    }

    @discardableResult
    func post(_ outgoing: Outgoing, bytes: Int = 64) -> Bool {
        switch outbox.offer(outgoing, bytes: bytes) {
        case .accepted: return true
        case .closed: return false
        case .full:
            close(.tooSlow)
            return false
        }
    }

    /// What was queued is still sent, if the node reads it; then the stream ends.
    func close(_ reason: LeaveReason) {
        self.reason.withLock { $0 = $0 ?? reason }
        outbox.close()
    }
}

extension RouterStream.Outgoing {
    var wire: Baton_Control_V1_FromRouter {
        switch self {
        case .message(let message): message.wire
        case .welcome(let welcome): .with { $0.welcome = welcome }
        case .rejected(let rejected): .with { $0.rejected = rejected }
        case .heartbeatAck: .with { $0.heartbeatAck = .init() }
        }
    }
}
