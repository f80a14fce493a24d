import Messages
import SwiftProtobuf

extension Speculation {
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

extension ExpertBalance {
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
