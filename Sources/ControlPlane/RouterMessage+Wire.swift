import Handoff
import Messages
import SwiftProtobuf

extension RouterMessage {
    /// Checks a message of the router. nil for those that this module handles by itself (Welcome, Rejected,
    /// HeartbeatAck). Throws `ControlError.invalid` naming the field and the limit.
    init?(_ message: Baton_Control_V1_FromRouter) throws(ControlError) {
        guard let body = message.body else { throw .invalid(field: "message", reason: "has no known body") }
        switch body {
        case .welcome, .rejected, .heartbeatAck:
            return nil
        case .reserve(let reserve):
            self = .reserve(try Reservation(reserve))
        case .reclaim(let reclaim):
            guard try QuiescenceProof.Kind(reclaim.proof, "reclaim.proof") == .drained else {
                throw .invalid(field: "reclaim.proof", reason: "only a drain can be reported by a router")
            }
            self = .reclaim(
                try Wire.handoff(reclaim.hasHandoff, reclaim.handoff, "reclaim.handoff"),
                try Wire.partSet(reclaim.parts, "reclaim.parts"))
        case .fence(let fence):
            self = .fence(
                try Wire.handoff(fence.hasHandoff, fence.handoff, "fence.handoff"),
                try Wire.partSet(fence.parts, "fence.parts"))
        case .prefill(let prefill):
            guard prefill.hasGrant else { throw .invalid(field: "prefill.grant", reason: "is missing") }
            let grant = try Wire.grant(prefill.grant, "prefill.grant")
            self = .prefill(
                PrefillOrder(
                    grant: grant, part: try Wire.count(prefill.part, "prefill.part", atMost: grant.parts.count - 1),
                    tokens: try Wire.tokens(prefill.tokens, "prefill.tokens")))
        case .release(let release):
            self = .release(try Wire.handoff(release.hasHandoff, release.handoff, "release.handoff"))
        case .peers(let peers):
            self = .peers(try Self.addresses(peers))
        case .cancel(let cancel):
            self = .cancel(try Wire.handoff(cancel.hasHandoff, cancel.handoff, "cancel.handoff"))
        case .drain:
            self = .drain
        case .listHandoffs:
            self = .listHandoffs
        case .query(let query):
            self = .query(try Wire.handoff(query.hasHandoff, query.handoff, "query.handoff"))
        }
    }

    private static func addresses(_ peers: Baton_Control_V1_Peers) throws(ControlError) -> [PeerAddress] {
        try Wire.most(peers.decodes.count, "peers.decodes", ControlLimits.peers)
        var addresses: [PeerAddress] = []
        for peer in peers.decodes {
            addresses.append(
                PeerAddress(
                    incarnation: try Wire.incarnation(peer.incarnation, "peers.decodes.incarnation"),
                    laneAddress: try Wire.address(peer.laneAddress, "peers.decodes.lane_address"),
                    name: Wire.shown(peer.name, atMost: ControlLimits.nodeNameBytes),
                    rdmaAddresses: try Wire.addresses(peer.rdmaAddresses, "peers.decodes.rdma_addresses")))
        }
        return addresses
    }

    var wire: Baton_Control_V1_FromRouter {
        .with { message in
            switch self {
            case .reserve(let reservation): message.reserve = reservation.wire
            case .reclaim(let handoff, let parts):
                message.reclaim = .with {
                    $0.handoff = handoff.wire
                    $0.proof = .proofDrained
                    $0.parts = parts.rawValue
                }
            case .fence(let handoff, let parts):
                message.fence = .with {
                    $0.handoff = handoff.wire
                    $0.parts = parts.rawValue
                }
            case .prefill(let order):
                message.prefill = .with {
                    $0.grant = order.grant.wire
                    $0.part = UInt32(clamping: order.part)
                    $0.tokens = order.tokens
                }
            case .release(let handoff): message.release = .with { $0.handoff = handoff.wire }
            case .peers(let peers): message.peers = .with { $0.decodes = peers.map(\.wire) }
            case .cancel(let handoff): message.cancel = .with { $0.handoff = handoff.wire }
            case .drain: message.drain = .init()
            case .listHandoffs: message.listHandoffs = .init()
            case .query(let handoff): message.query = .with { $0.handoff = handoff.wire }
            }
        }
    }

    /// About how many bytes the message takes while it waits to be sent.
    var approximateBytes: Int {
        switch self {
        case .reserve(let reservation): 512 + 4 * reservation.tokens.count
        case .prefill(let order): 256 + 4 * order.tokens.count + 8 * order.grant.slots.count
        case .peers(let peers): 64 + 128 * peers.count
        default: 64
        }
    }
}

extension PeerAddress {
    var wire: Baton_Control_V1_Peer {
        .with {
            $0.incarnation = incarnation.value
            $0.laneAddress = laneAddress
            $0.name = name
            $0.rdmaAddresses = rdmaAddresses
        }
    }
}

extension Reservation {
    init(_ message: Baton_Control_V1_Reserve) throws(ControlError) {
        let tokens = try Wire.tokens(message.tokens, "reserve.tokens")
        self.init(
            handoff: try Wire.handoff(message.hasHandoff, message.handoff, "reserve.handoff"),
            shares: try Wire.shares(message.shares, "reserve.shares"), tokens: tokens,
            // At least one token is the prompt's.
            delivered: try Wire.count(message.delivered, "reserve.delivered", atMost: tokens.count - 1),
            sampling: try SamplingTerms(message.sampling))
    }

    var wire: Baton_Control_V1_Reserve {
        .with {
            $0.handoff = handoff.wire
            $0.shares = shares.map(\.wire)
            $0.tokens = tokens
            $0.delivered = UInt32(clamping: delivered)
            $0.sampling = sampling.wire
        }
    }
}

extension SamplingTerms {
    init(_ message: Baton_Control_V1_Sampling) throws(ControlError) {
        self.init()
        temperature = try Wire.finite(message.temperature, "sampling.temperature")
        topK = try Wire.count(message.topK, "sampling.top_k", atMost: Int(Int32.max))
        topP = try Wire.finite(message.topP, "sampling.top_p")
        minP = try Wire.finite(message.minP, "sampling.min_p")
        repetitionPenalty = try Wire.finite(message.repetitionPenalty, "sampling.repetition_penalty")
        presencePenalty = try Wire.finite(message.presencePenalty, "sampling.presence_penalty")
        frequencyPenalty = try Wire.finite(message.frequencyPenalty, "sampling.frequency_penalty")
        seed = message.seed
        try Wire.most(message.logitBias.count, "sampling.logit_bias", ControlLimits.logitBias)
        for entry in message.logitBias {
            logitBias.append(
                Bias(
                    token: try Wire.tokens([entry.token], "sampling.logit_bias.token")[0],
                    bias: try Wire.finite(entry.bias, "sampling.logit_bias.bias")))
        }
        stopTokens =
            message.stopTokens.isEmpty
            ? []
            : try Wire.tokens(message.stopTokens, "sampling.stop_tokens", atMost: ControlLimits.stopTokens)
        maxTokens = try Wire.count(message.maxTokens, "sampling.max_tokens", atMost: ControlLimits.contextTokens)
        minTokens = try Wire.count(message.minTokens, "sampling.min_tokens", atMost: ControlLimits.contextTokens)
        logprobs = message.logprobs
        topLogprobs = try Wire.count(message.topLogprobs, "sampling.top_logprobs", atMost: ControlLimits.topLogprobs)
    }

    var wire: Baton_Control_V1_Sampling {
        .with {
            $0.temperature = temperature
            $0.topK = UInt32(clamping: topK)
            $0.topP = topP
            $0.minP = minP
            $0.repetitionPenalty = repetitionPenalty
            $0.presencePenalty = presencePenalty
            $0.frequencyPenalty = frequencyPenalty
            $0.seed = seed
            $0.logitBias = logitBias.map { entry in
                .with {
                    $0.token = entry.token
                    $0.bias = entry.bias
                }
            }
            $0.stopTokens = stopTokens
            $0.maxTokens = UInt32(clamping: maxTokens)
            $0.minTokens = UInt32(clamping: minTokens)
            $0.logprobs = logprobs
            $0.topLogprobs = UInt32(clamping: topLogprobs)
        }
    }
}
