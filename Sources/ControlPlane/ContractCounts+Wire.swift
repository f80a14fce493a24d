import Messages
import SwiftProtobuf

extension ContractCounts {
    init(_ message: Baton_Control_V1_ContractCounts) {
        self.init()
        proofsWriteComplete = Wire.total(message.proofsWriteComplete)
        proofsDrained = Wire.total(message.proofsDrained)
        proofsFenced = Wire.total(message.proofsFenced)
        duplicateEvents = Wire.total(message.duplicateEvents)
        staleEvents = Wire.total(message.staleEvents)
        peerFaults = Wire.total(message.peerFaults)
        scrubMismatches = Wire.total(message.scrubMismatches)
        sendMismatches = Wire.total(message.sendMismatches)
        uncheckedSeals = Wire.total(message.uncheckedSeals)
        scrubPasses = Wire.total(message.scrubPasses)
        reclaims = Wire.total(message.reclaims)
        reclaimMedian = Wire.microseconds(message.reclaimP50Us)
        reclaimP99 = Wire.microseconds(message.reclaimP99Us)
        reclaimMax = Wire.microseconds(message.reclaimMaxUs)
    }

    var wire: Baton_Control_V1_ContractCounts {
        .with {
            $0.proofsWriteComplete = UInt64(clamping: proofsWriteComplete)
            $0.proofsDrained = UInt64(clamping: proofsDrained)
            $0.proofsFenced = UInt64(clamping: proofsFenced)
            $0.duplicateEvents = UInt64(clamping: duplicateEvents)
            $0.staleEvents = UInt64(clamping: staleEvents)
            $0.peerFaults = UInt64(clamping: peerFaults)
            $0.scrubMismatches = UInt64(clamping: scrubMismatches)
            $0.sendMismatches = UInt64(clamping: sendMismatches)
            $0.uncheckedSeals = UInt64(clamping: uncheckedSeals)
            $0.scrubPasses = UInt64(clamping: scrubPasses)
            $0.reclaims = UInt64(clamping: reclaims)
            $0.reclaimP50Us = Wire.microseconds(reclaimMedian)
            $0.reclaimP99Us = Wire.microseconds(reclaimP99)
            $0.reclaimMaxUs = Wire.microseconds(reclaimMax)
        }
    }
}
