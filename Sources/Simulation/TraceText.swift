import Handoff

/// What a trace says of events and actions.
enum TraceText {
    static func time(_ time: Duration) -> String {
        let (seconds, rest) = time.microseconds.quotientAndRemainder(dividingBy: 1_000_000)
        let digits = String(rest)
        return column("\(seconds).\(String(repeating: "0", count: 6 - digits.count))\(digits)", -12)
    }

    /// What became of a message that arrives at these times, when that is not once.
    static func fate(_ arrivals: [Duration]) -> String {
        arrivals.isEmpty ? " (lost)" : arrivals.count > 1 ? " (twice)" : ""
    }

    /// Padded behind, or with a negative width in front.
    static func column(_ text: String, _ width: Int) -> String {
        let padding = String(repeating: " ", count: max(0, abs(width) - text.count))
        return width < 0 ? padding + text : text + padding
    }

    static func text(_ message: ToNode) -> String {
        switch message {
        case .reserve(let id, let pages, let shares, let delivered):
            "Reserve \(id.text), \(pages) pages, \(shares.count) writers, \(delivered) tokens delivered"
        case .prefill(let terms, let part): "Prefill part \(part) of \(text(terms))"
        case .release(let id): "Release \(id.text)"
        case .cancel(let id): "Cancel \(id.text)"
        case .reclaim(let id, let parts): "Reclaim \(id.text)\(text(parts))"
        case .fence(let id, let parts): "Fence \(id.text)\(text(parts))"
        case .query(let id): "Query \(id.text)"
        case .listHandoffs: "ListHandoffs"
        }
    }

    static func text(_ message: ToRouter) -> String {
        switch message {
        case .granted(let terms): "Granted \(text(terms))"
        case .refused(let id, let reason): "Refused \(id.text), \(reason.rawValue)"
        case .sealed(let id): "Sealed \(id.text)"
        case .finished(let id, let end): "Finished \(id.text), \(end.tokens) tokens, \(end.reason)"
        case .reclaimed(let id, let kind): "Reclaimed \(id.text), \(kind.rawValue)"
        case .accepted(let id): "Accepted \(id.text)"
        case .written(let id): "Written \(id.text)"
        case .drained(let id, let posted, let completed): "Drained \(id.text), \(completed) of \(posted)"
        case .failed(let id, let why): "Failed \(id.text), \(why.cause.rawValue)"
        case .tokens(let id, let first, let count): "Tokens \(id.text) \(first)..<\(first + count)"
        case .openHandoffs(let open): "OpenHandoffs \(open.map(\.text))"
        }
    }

    static func text(_ terms: GrantTerms) -> String {
        let slots = terms.slots.map { "\($0.index)@\($0.generation.value)" }.joined(separator: " ")
        let parts = terms.parts.map { part in
            "lane \(part.lane.value) epoch \(part.epoch.value) pages \(part.pages) layers \(part.layers)"
        }
        return "\(terms.handoff.text) \(parts.joined(separator: ", ")), slots \(slots), \(terms.lent) lent"
    }

    static func text(_ parts: PartSet) -> String {
        parts == .all ? "" : " parts \((0..<GrantTerms.partsMax).filter { parts.has($0) })"
    }

    /// Nil for what the trace shows anyway, as a message.
    static func text(_ action: SendingAction) -> String? {
        switch action {
        case .startCompute(let id): "starts computing \(id.text)"
        case .cancelCompute(let id): "stops computing \(id.text)"
        case .post(let lane, let batch):
            "posts \(batch.ranges.count) ranges of \(batch.handoff.text) on lane \(lane.lane.value)"
        case .postCompletion(let lane, let terms):
            "posts the completion record of \(terms.handoff.text) on lane \(lane.lane.value)"
        case .unpin(let id): "lets the source pages of \(id.text) go"
        case .closeLane(let lane): "closes lane \(lane.lane.value)"
        case .setDeadline(let deadline, let id): "sets \(deadline.rawValue) of \(id.text)"
        default: nil
        }
    }

    static func text(_ action: ReceivingAction) -> String? {
        switch action {
        case .bindLane(let part): "binds lane \(part.lane.value) to part \(part.number) of \(part.handoff.text)"
        case .unbindLane(let id, let lane, _): "unbinds lane \(lane.value) from \(id.text)"
        case .fenceLane(let lane): "fences lane \(lane.value)"
        case .startSequence(let id, let slots): "seals \(id.text) in slots \(slots.map(\.index)), starts it"
        case .cancelSequence(let id): "cancels the sequence of \(id.text)"
        case .setDeadline(let deadline, let id): "sets \(deadline.rawValue) of \(id.text)"
        case .dumpEvidence(let id, _): "dumps the pages of \(id.text)"
        default: nil
        }
    }

    static func text(_ outcome: HandoffOutcome) -> String {
        switch outcome {
        case .finished: "finished"
        case .refused(let reason): "refused, \(reason.rawValue)"
        case .failed(let why): "failed, \(why.cause.rawValue)"
        case .cancelled: "cancelled"
        }
    }

    static func name(_ outcome: HandoffOutcome) -> String {
        switch outcome {
        case .finished: "finished"
        case .refused: "refused"
        case .failed: "failed"
        case .cancelled: "cancelled"
        }
    }
}

extension HandoffID {
    /// Router incarnation, request and attempt.
    var text: String { "\(router.value)/\(request).\(attempt)" }
}
