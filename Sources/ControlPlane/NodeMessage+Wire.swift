import Handoff
import Messages
import SwiftProtobuf

extension NodeMessage {
    /// Checks a message of an attached node. Throws `ControlError.invalid` naming the field and the limit.
    init(_ message: Baton_Control_V1_FromNode) throws(ControlError) {
        guard let body = message.body else { throw .invalid(field: "message", reason: "has no known body") }
        switch body {
        case .register:
            throw .invalid(field: "register", reason: "may only be the first message")
        case .heartbeat(let load):
            self = .heartbeat(NodeLoad(load))
        case .granted(let grant):
            self = .granted(try Wire.grant(grant, "granted"))
        case .refused(let refused):
            self = .refused(try Refusal(refused))
        case .sealed(let sealed):
            self = .sealed(
                try Wire.handoff(sealed.hasHandoff, sealed.handoff, "sealed.handoff"),
                sealTime: Wire.microseconds(sealed.sealUs))
        case .reclaimed(let reclaimed):
            self = .reclaimed(
                try Wire.handoff(reclaimed.hasHandoff, reclaimed.handoff, "reclaimed.handoff"),
                try QuiescenceProof.Kind(reclaimed.proof, "reclaimed.proof"))
        case .tokens(let tokens):
            self = .tokens(try TokenBatch(tokens))
        case .finished(let finished):
            self = .finished(try FinishReport(finished))
        case .written(let written):
            self = .written(try WriteReport(written))
        case .drained(let drained):
            self = .drained(
                try Wire.handoff(drained.hasHandoff, drained.handoff, "drained.handoff"),
                posted: drained.posted, completed: drained.completed)
        case .failed(let failed):
            guard let cause = HandoffFailure.Cause(rawValue: failed.cause) else {
                throw .invalid(field: "failed.cause", reason: "\"\(Wire.shown(failed.cause))\" is not a known cause")
            }
            self = .failed(
                try Wire.handoff(failed.hasHandoff, failed.handoff, "failed.handoff"),
                HandoffFailure(cause, retryable: failed.retryable), details: Wire.shown(failed.message))
        case .openHandoffs(let open):
            try Wire.most(open.handoffs.count, "open_handoffs.handoffs", ControlLimits.openHandoffs)
            var handoffs: [HandoffID] = []
            for handoff in open.handoffs { handoffs.append(try Wire.handoff(handoff, "open_handoffs.handoffs")) }
            self = .openHandoffs(handoffs)
        case .draining:
            self = .draining
        case .lanes(let report):
            self = .lanes(try Self.peerLanes(report))
        case .accepted(let accepted):
            self = .accepted(try Wire.handoff(accepted.hasHandoff, accepted.handoff, "accepted.handoff"))
        }
    }

    private static func peerLanes(_ report: Baton_Control_V1_LaneReport) throws(ControlError) -> [PeerLanes] {
        try Wire.most(report.peers.count, "lanes.peers", ControlLimits.peers)
        var peers: [PeerLanes] = []
        for peer in report.peers {
            peers.append(
                PeerLanes(
                    decode: try Wire.incarnation(peer.decode, "lanes.peers.decode"), idle: Int(peer.idle),
                    busy: Int(peer.busy), transport: Wire.shown(peer.transport, atMost: 16),
                    error: Wire.shown(peer.error), reason: Wire.shown(peer.reason)))
        }
        return peers
    }

    var wire: Baton_Control_V1_FromNode {
        .with { message in
            switch self {
            case .heartbeat(let load): message.heartbeat = load.wire
            case .granted(let terms): message.granted = terms.wire
            case .refused(let refusal): message.refused = refusal.wire
            case .sealed(let handoff, let sealTime):
                message.sealed = .with {
                    $0.handoff = handoff.wire
                    $0.sealUs = Wire.microseconds(sealTime)
                }
            case .reclaimed(let handoff, let proof):
                message.reclaimed = .with {
                    $0.handoff = handoff.wire
                    $0.proof = proof.wire
                }
            case .tokens(let batch): message.tokens = batch.wire
            case .finished(let report): message.finished = report.wire
            case .written(let report): message.written = report.wire
            case .accepted(let handoff): message.accepted = .with { $0.handoff = handoff.wire }
            case .drained(let handoff, let posted, let completed):
                message.drained = .with {
                    $0.handoff = handoff.wire
                    $0.posted = posted
                    $0.completed = completed
                }
            case .failed(let handoff, let failure, let details):
                message.failed = .with {
                    $0.handoff = handoff.wire
                    $0.message = Wire.shown(details)
                    $0.retryable = failure.retryable
                    $0.cause = failure.cause.rawValue
                }
            case .openHandoffs(let handoffs): message.openHandoffs = .with { $0.handoffs = handoffs.map(\.wire) }
            case .draining: message.draining = .init()
            case .lanes(let peers): message.lanes = .with { $0.peers = peers.map(\.wire) }
            }
        }
    }

    /// About how many bytes the message takes while it waits to be sent.
    var approximateBytes: Int {
        switch self {
        case .tokens(let batch):
            batch.runs.reduce(64) { $0 + 64 + 4 * $1.tokens.count + 200 * $1.alternatives.count }
        case .granted(let terms): 64 + 8 * terms.slots.count
        case .openHandoffs(let handoffs): 64 + 24 * handoffs.count
        default: 256
        }
    }
}

extension Refusal {
    init(_ message: Baton_Control_V1_Refused) throws(ControlError) {
        let reason: RefusalReason
        switch message.reason {
        case .refusalNoPages: reason = .noPages
        case .refusalNoLane: reason = .noLane
        case .refusalTooLong: reason = .tooLong
        case .refusalDraining: reason = .draining
        case .refusalInvalid: reason = .invalid
        case .refusalBusy: reason = .busy
        default: throw .invalid(field: "refused.reason", reason: "\(message.reason.rawValue) is not a known reason")
        }
        self.init(
            handoff: try Wire.handoff(message.hasHandoff, message.handoff, "refused.handoff"), reason: reason,
            message: Wire.shown(message.message))
    }

    var wire: Baton_Control_V1_Refused {
        .with {
            $0.handoff = handoff.wire
            $0.reason =
                switch reason {
                case .noPages: .refusalNoPages
                case .noLane: .refusalNoLane
                case .tooLong: .refusalTooLong
                case .draining: .refusalDraining
                case .invalid: .refusalInvalid
                case .busy: .refusalBusy
                }
            $0.message = Wire.shown(message)
        }
    }
}

extension QuiescenceProof.Kind {
    init(_ message: Baton_Control_V1_ProofKind, _ field: String) throws(ControlError) {
        switch message {
        case .proofWriteComplete: self = .writeComplete
        case .proofDrained: self = .drained
        case .proofFenced: self = .fenced
        default: throw .invalid(field: field, reason: "\(message.rawValue) is not a known proof")
        }
    }

    var wire: Baton_Control_V1_ProofKind {
        switch self {
        case .writeComplete: .proofWriteComplete
        case .drained: .proofDrained
        case .fenced: .proofFenced
        }
    }
}

extension TokenBatch {
    init(_ message: Baton_Control_V1_Tokens) throws(ControlError) {
        try Wire.most(message.runs.count, "tokens.runs", ControlLimits.runs)
        var runs: [TokenRun] = []
        runs.reserveCapacity(message.runs.count)
        for run in message.runs { runs.append(try TokenRun(run)) }
        self.init(runs: runs, sent: Wire.nanoseconds(message.sentNs))
    }

    var wire: Baton_Control_V1_Tokens {
        .with {
            $0.runs = runs.map(\.wire)
            $0.sentNs = Wire.nanoseconds(sent)
        }
    }
}

extension TokenRun {
    init(_ message: Baton_Control_V1_TokenRun) throws(ControlError) {
        let tokens = try Wire.tokens(message.tokens, "tokens.runs.tokens", atMost: ControlLimits.runTokens)
        guard message.alternatives.isEmpty || message.alternatives.count == tokens.count else {
            throw .invalid(
                field: "tokens.runs.alternatives",
                reason: "\(message.alternatives.count) entries for \(tokens.count) tokens")
        }
        var alternatives: [[TokenLogprob]] = []
        for entry in message.alternatives {
            try Wire.most(entry.entries.count, "tokens.runs.alternatives.entries", ControlLimits.topLogprobs + 1)
            alternatives.append(entry.entries.map { TokenLogprob(token: $0.token, logprob: $0.logprob) })
        }
        self.init(
            handoff: try Wire.handoff(message.hasHandoff, message.handoff, "tokens.runs.handoff"),
            firstIndex: try Wire.count(
                message.firstIndex, "tokens.runs.first_index", atMost: ControlLimits.contextTokens),
            tokens: tokens, alternatives: alternatives)
    }

    var wire: Baton_Control_V1_TokenRun {
        .with { run in
            run.handoff = handoff.wire
            run.firstIndex = UInt32(clamping: firstIndex)
            run.tokens = tokens
            run.alternatives = alternatives.map { entries in
                .with {
                    $0.entries = entries.map { entry in
                        .with {
                            $0.token = entry.token
                            $0.logprob = entry.logprob
                        }
                    }
                }
            }
        }
    }
}

extension FinishReport {
    init(_ message: Baton_Control_V1_Finished) throws(ControlError) {
        let reason: Reason
        switch message.reason {
        case .finishStopToken: reason = .stopToken(message.stopToken)
        case .finishLength: reason = .length
        case .finishCancelled: reason = .cancelled
        default: throw .invalid(field: "finished.reason", reason: "\(message.reason.rawValue) is not a known reason")
        }
        self.init(
            handoff: try Wire.handoff(message.hasHandoff, message.handoff, "finished.handoff"), reason: reason,
            tokens: try Wire.count(message.tokens, "finished.tokens", atMost: ControlLimits.contextTokens),
            firstStep: Wire.microseconds(message.firstStepUs), decode: Wire.microseconds(message.decodeUs),
            preemptions: Int(message.preemptions), speculation: Speculation(message.speculation))
    }

    var wire: Baton_Control_V1_Finished {
        .with {
            $0.handoff = handoff.wire
            switch reason {
            case .stopToken(let token):
                $0.reason = .finishStopToken
                $0.stopToken = token
            case .length: $0.reason = .finishLength
            case .cancelled: $0.reason = .finishCancelled
            }
            $0.tokens = UInt32(clamping: tokens)
            $0.firstStepUs = Wire.microseconds(firstStep)
            $0.decodeUs = Wire.microseconds(decode)
            $0.preemptions = UInt32(clamping: preemptions)
            $0.speculation = speculation.wire
        }
    }
}

extension WriteReport {
    init(_ message: Baton_Control_V1_Written) throws(ControlError) {
        self.init(
            handoff: try Wire.handoff(message.hasHandoff, message.handoff, "written.handoff"),
            cachedTokens: try Wire.count(message.cachedTokens, "written.cached_tokens", atMost: ControlLimits.tokens),
            queue: Wire.microseconds(message.queueUs), compute: Wire.microseconds(message.computeUs),
            transfer: Wire.microseconds(message.transferUs), bytes: message.bytes)
    }

    var wire: Baton_Control_V1_Written {
        .with {
            $0.handoff = handoff.wire
            $0.cachedTokens = UInt32(clamping: cachedTokens)
            $0.queueUs = Wire.microseconds(queue)
            $0.computeUs = Wire.microseconds(compute)
            $0.transferUs = Wire.microseconds(transfer)
            $0.bytes = bytes
        }
    }
}

extension PeerLanes {
    var wire: Baton_Control_V1_PeerLanes {
        .with {
            $0.decode = decode.value
            $0.idle = UInt32(clamping: idle)
            $0.busy = UInt32(clamping: busy)
            $0.transport = transport
            $0.error = Wire.shown(error)
            $0.reason = Wire.shown(reason)
        }
    }
}
