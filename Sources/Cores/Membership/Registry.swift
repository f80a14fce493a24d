package import Handoff
package import Messages

/// Who is attached: the embedded registry, as a pure state machine. A stream is opened, registers within the
/// lease, is heard from at least once per lease, and ends. Time is given by the caller, since any fixed start.
///
///     opened ──register──▶ attached ──ended, expired, replaced──▶ gone
///
/// A name belongs to one process at a time, for as long as that is heard from: a newcomer with the name of a living node
/// is refused and may come again, or anybody could end a node, and two processes started under one name by mistake
/// each other. Once the holder's stream has ended or its lease has run out, a new incarnation takes the name over, and
/// the old one is dead for good: if it was only paused, it is refused when it comes back. The same incarnation attaching
/// again replaces its own older stream, which must be half dead.
package struct Registry: Sendable {
    package typealias Session = UInt64

    package enum Action: Equatable, Sendable {
        /// The stream is attached; tell the node, then the router.
        case admit(Session)
        /// Tell the node why, then close its stream. A permanent reason means that trying again is no use.
        case reject(Session, message: String, isPermanent: Bool)
        /// An attached node is gone; close what is left of its stream.
        case expel(Session, LeaveReason)
        /// A stream that never registered.
        case close(Session, LeaveReason)
    }

    private struct Member {
        var registration: Registration?
        var lastHeard: Duration
    }

    private var members: [Session: Member] = [:]
    private var byName: [String: Session] = [:]
    /// Who had a name last, of names that nobody has now; oldest first.
    private var former: [(name: String, incarnation: Incarnation)] = []
    /// Incarnations that another process has replaced, oldest first.
    private var replaced: [Incarnation] = []
    private let lease: Duration
    private let sessionsLimit: Int
    private static let replacedLimit = 1024

    /// - Parameter sessionsLimit: streams at once at most, attached or not.
    package init(lease: Duration, sessionsLimit: Int = 4096) {
        self.lease = lease
        self.sessionsLimit = sessionsLimit
    }

    /// Registrations of all attached nodes.
    package var attached: [Registration] { members.values.compactMap(\.registration) }

    /// A stream was opened. It has one lease to register.
    package mutating func opened(_ session: Session, now: Duration) -> [Action] {
        precondition(members[session] == nil, "session \(session) opened twice")
        guard members.count < sessionsLimit else {
            return [
                .reject(session, message: "\(members.count) nodes, at most \(sessionsLimit)", isPermanent: false)
            ]
        }
        members[session] = Member(registration: nil, lastHeard: now)
        return []
    }

    /// A stream registers. `refusal` is what the router's own policy says of the registration, nil if nothing.
    package mutating func register(
        _ session: Session, _ registration: Registration, refusal: String?, now: Duration
    ) -> [Action] {
        guard let member = members[session], member.registration == nil else { return [] }
        func refuse(_ message: String, isPermanent: Bool = true) -> [Action] {
            members[session] = nil
            return [.reject(session, message: message, isPermanent: isPermanent)]
        }
        if replaced.contains(registration.incarnation) {
            return refuse("another process has taken over the name \(registration.name)")
        }
        if let refusal { return refuse(refusal) }
        var actions: [Action] = []
        if let older = byName[registration.name], let holder = members[older], let held = holder.registration {
            guard held.incarnation == registration.incarnation else {
                let silence = max(.zero, now - holder.lastHeard)
                return refuse(
                    "the name \(registration.name) belongs to a node that was heard from \(silence) ago (incarnation "
                        + "\(held.incarnation.text)): give this one another --name, or stop that one first",
                    isPermanent: false)
            }
            remove(older)
            actions.append(.expel(older, .replaced(by: registration.incarnation)))
        }
        takeOver(registration)
        members[session] = Member(registration: registration, lastHeard: now)
        byName[registration.name] = session
        actions.append(.admit(session))
        return actions
    }

    /// Any message arrived on the stream. False when the session is not attached (any more): ignore the message.
    package mutating func heard(_ session: Session, now: Duration) -> Bool {
        guard members[session]?.registration != nil else { return false }
        members[session]?.lastHeard = now
        return true
    }

    /// The stream ended, for the reason given. Does nothing for a session that is gone already.
    package mutating func ended(_ session: Session, _ reason: LeaveReason) -> [Action] {
        guard let member = members[session] else { return [] }
        remove(session)
        return member.registration == nil ? [] : [.expel(session, reason)]
    }

    /// Takes out what was not heard from for a lease.
    package mutating func tick(now: Duration) -> [Action] {
        let late = members.filter { now - $0.value.lastHeard > lease }.keys.sorted()
        return late.map { session in
            let wasAttached = members[session]?.registration != nil
            remove(session)
            return wasAttached ? .expel(session, .leaseExpired) : .close(session, .leaseExpired)
        }
    }

    private mutating func remove(_ session: Session) {
        guard let member = members.removeValue(forKey: session) else { return }
        guard let registration = member.registration, byName[registration.name] == session else { return }
        byName[registration.name] = nil
        former.append((registration.name, registration.incarnation))
        if former.count > Self.replacedLimit { former.removeFirst() }
    }

    /// Whoever had the name before is dead from now on.
    private mutating func takeOver(_ registration: Registration) {
        for holder in former where holder.name == registration.name && holder.incarnation != registration.incarnation {
            replaced.append(holder.incarnation)
        }
        former.removeAll { $0.name == registration.name }
        if replaced.count > Self.replacedLimit { replaced.removeFirst(replaced.count - Self.replacedLimit) }
    }
}

/// Why a node is no longer attached.
package enum LeaveReason: Sendable, Equatable, CustomStringConvertible {
    case disconnected
    case leaseExpired
    /// Another stream has the name now.
    case replaced(by: Incarnation)
    /// The node sent something that breaks the protocol.
    case protocolError(String)
    /// The node did not read what was sent to it.
    case tooSlow
    /// The router detached it.
    case detached(String)
    /// The router stops.
    case stopped

    package var description: String {
        switch self {
        case .disconnected: "disconnected"
        case .leaseExpired: "lease expired"
        case .replaced(let incarnation): "replaced by incarnation \(incarnation.text)"
        case .protocolError(let message): "protocol error: \(message)"
        case .tooSlow: "does not read its messages"
        case .detached(let message): message
        case .stopped: "the router stops"
        }
    }
}
