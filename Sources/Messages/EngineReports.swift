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
}
