import SwiftProtobuf

/// What speculative decoding came to, of one sequence or of a node since its start.
package struct Speculation: Sendable, Equatable {
    /// Steps that verified at least one drafted token.
    package var rounds: Int
    package var drafted: Int
    package var accepted: Int

    package init(rounds: Int = 0, drafted: Int = 0, accepted: Int = 0) {
        self.rounds = rounds
        self.drafted = drafted
        self.accepted = accepted
    }

    /// Tokens per round: those accepted and the one that each round delivers besides. Nil before the first round.
    package var acceptLength: Double? { rounds == 0 ? nil : 1 + Double(accepted) / Double(rounds) }
    /// The share of drafted tokens that were accepted.
    package var acceptRate: Double? { drafted == 0 ? nil : Double(accepted) / Double(drafted) }

    init(_ message: Baton_Control_V1_Speculation) {
        self.init(
            rounds: Wire.total(message.rounds), drafted: Wire.total(message.drafted),
            accepted: min(Wire.total(message.accepted), Wire.total(message.drafted)))
    }

    var wire: Baton_Control_V1_Speculation {
        .with {
            $0.rounds = UInt64(clamping: rounds)
            $0.drafted = UInt64(clamping: drafted)
            $0.accepted = UInt64(clamping: accepted)
        }
    }
}

/// How evenly tokens went to experts since a node's start. A layer's imbalance is what its busiest expert got over what an
/// even spread would have given it: 1 is even.
package struct ExpertBalance: Sendable, Equatable {
    /// Over layers.
    package var meanImbalance: Double
    package var worstImbalance: Double
    package var worstLayer: Int
    package var worstExpert: Int

    package init(meanImbalance: Double, worstImbalance: Double, worstLayer: Int, worstExpert: Int) {
        self.meanImbalance = meanImbalance
        self.worstImbalance = worstImbalance
        self.worstLayer = worstLayer
        self.worstExpert = worstExpert
    }

    /// Nil where there are no experts, or nothing was computed.
    init?(_ message: Baton_Control_V1_ExpertBalance) {
        guard message.meanImbalance >= 1, message.meanImbalance.isFinite, message.worstImbalance.isFinite else {
            return nil
        }
        self.init(
            meanImbalance: message.meanImbalance, worstImbalance: max(1, message.worstImbalance),
            worstLayer: Int(message.worstLayer), worstExpert: Int(message.worstExpert))
    }

    var wire: Baton_Control_V1_ExpertBalance {
        .with {
            $0.meanImbalance = meanImbalance
            $0.worstImbalance = worstImbalance
            $0.worstLayer = UInt32(clamping: worstLayer)
            $0.worstExpert = UInt32(clamping: worstExpert)
        }
    }
}
