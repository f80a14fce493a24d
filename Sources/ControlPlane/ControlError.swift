package import Handoff

/// Everything this module can fail with. The message names the field and the limit.
package enum ControlError: Error, Sendable, Equatable, CustomStringConvertible {
    /// A message from the peer has a field with a value that cannot be used.
    case invalid(field: String, reason: String)
    /// The address cannot be listened on.
    case listen(address: String, reason: String)
    /// The address to dial cannot be used.
    case address(String, reason: String)
    /// The router refused this node, and trying again will not help.
    case rejected(router: String, message: String)
    /// Nothing was heard from the peer for the lease time.
    case leaseLost(Duration)

    package var description: String {
        switch self {
        case .invalid(let field, let reason): "\(field): \(reason)"
        case .listen(let address, let reason): "cannot listen on \(address): \(reason)"
        case .address(let address, let reason): "address \(address): \(reason)"
        case .rejected(let router, let message): "the router at \(router) refused this node: \(message)"
        case .leaseLost(let lease): "nothing heard from the router for \(lease)"
        }
    }
}

/// The bounds of everything in a control message. Together they keep each message below `messageBytes`.
package enum ControlLimits {
    /// 2: grants of parts.
    package static let protocolVersion: UInt32 = 2
    package static let messageBytes = 16 << 20
    /// Tokens of one sequence.
    package static let tokens = 1 << 20
    /// Slots of one grant.
    package static let grantSlots = 1 << 18
    /// Layers of a page.
    package static let layers = 1 << 16
    /// Slots of one node's slab.
    package static let slabSlots = 1 << 24
    package static let nodeNameBytes = 64
    /// Free text shown to people.
    package static let textBytes = 1024
    package static let pageLayoutBytes = 8192
    package static let pageTokens = 4096
    package static let pageBytes = 1 << 40
    package static let contextTokens = 1 << 24
    package static let sequences = 1 << 16
    package static let lanesPerPeer = 256
    package static let adapters = 16
    package static let logitBias = 1024
    package static let stopTokens = 256
    package static let topLogprobs = 20
    /// Requests in one batch of tokens, tokens of one run.
    package static let runs = 1 << 16
    package static let runTokens = 1 << 12
    package static let peers = 1 << 12
    /// Of one node; what policies add up stays far from overflow.
    package static let queuedTokens = 1 << 40
    package static let openHandoffs = 1 << 17
    /// Messages and bytes that may wait for a slow peer before it is given up.
    package static let outboxMessages = 4096
    package static let outboxBytes = 64 << 20
}

extension HandoffID {
    /// For logs and tables: router incarnation in hexadecimal, request, attempt.
    package var text: String {
        "\(router.text)/\(request)/\(attempt)"
    }
}

extension Incarnation {
    /// Sixteen hexadecimal digits.
    package var text: String {
        let digits = String(value, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }

    /// A new one for this process. Never 0, which the wire uses for "none".
    package static func random() -> Incarnation {
        Incarnation(UInt64.random(in: 1...UInt64.max))
    }
}
