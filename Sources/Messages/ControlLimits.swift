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
