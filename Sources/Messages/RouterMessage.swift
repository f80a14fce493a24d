package import Handoff

/// What a router tells an attached node. Every value that came over the wire is within `ControlLimits`.
package enum RouterMessage: Sendable, Equatable {
    // Decode node.
    case reserve(Reservation)
    /// The writers of these parts have drained: no write of theirs is under way.
    case reclaim(HandoffID, PartSet)
    case fence(HandoffID, PartSet)
    // Prefill node.
    case prefill(PrefillOrder)
    case release(HandoffID)
    /// The decode nodes this prefill node may be paired with.
    case peers([PeerAddress])
    // Both.
    case cancel(HandoffID)
    case drain
    case listHandoffs
    /// Asks for the last word on a handoff.
    case query(HandoffID)
}

/// How the tokens of a request are chosen, as it crosses the wire; the engine checks the ranges.
package struct SamplingTerms: Sendable, Equatable {
    package struct Bias: Sendable, Equatable {
        package var token: UInt32
        package var bias: Float
        package init(token: UInt32, bias: Float) {
            self.token = token
            self.bias = bias
        }
    }

    /// 0 is greedy.
    package var temperature: Float = 1
    /// 0 is off.
    package var topK = 0
    /// 1 is off.
    package var topP: Float = 1
    /// 0 is off.
    package var minP: Float = 0
    /// 1 is off.
    package var repetitionPenalty: Float = 1
    package var presencePenalty: Float = 0
    package var frequencyPenalty: Float = 0
    package var seed: UInt64 = 0
    package var logitBias: [Bias] = []
    package var stopTokens: [UInt32] = []
    /// Completion tokens at most, those of earlier attempts included.
    package var maxTokens = 16
    package var minTokens = 0
    package var logprobs = false
    package var topLogprobs = 0

    package init() {}
}

/// Asks a decode node for pages, a lane and a place for one request.
package struct Reservation: Sendable, Equatable {
    package var handoff: HandoffID
    /// What each prefill node will write.
    package var shares: [Share]
    /// The prompt, then the tokens that earlier attempts delivered.
    package var tokens: [UInt32]
    /// How many of `tokens`, at the end, earlier attempts delivered.
    package var delivered: Int
    package var sampling: SamplingTerms

    package init(handoff: HandoffID, shares: [Share], tokens: [UInt32], delivered: Int, sampling: SamplingTerms) {
        self.handoff = handoff
        self.shares = shares
        self.tokens = tokens
        self.delivered = delivered
        self.sampling = sampling
    }
}

/// Asks a prefill node to compute a prompt and to write its part of it as the grant says.
package struct PrefillOrder: Sendable, Equatable {
    package var grant: GrantTerms
    /// The number of the part.
    package var part: Int
    package var tokens: [UInt32]

    package init(grant: GrantTerms, part: Int = 0, tokens: [UInt32]) {
        self.grant = grant
        self.part = part
        self.tokens = tokens
    }
}

/// A decode node, and where it takes lanes.
package struct PeerAddress: Sendable, Hashable {
    package var incarnation: Incarnation
    /// HOST:PORT.
    package var laneAddress: String
    package var name: String
    /// Where it takes lanes over RDMA, HOST:PORT each.
    package var rdmaAddresses: [String]

    package init(incarnation: Incarnation, laneAddress: String, name: String, rdmaAddresses: [String] = []) {
        self.incarnation = incarnation
        self.laneAddress = laneAddress
        self.name = name
        self.rdmaAddresses = rdmaAddresses
    }
}
