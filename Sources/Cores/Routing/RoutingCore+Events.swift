import API
package import Handoff
package import Messages

/// What nodes say, and what time does.
extension RoutingCore {
    // MARK: Nodes come and go

    package mutating func joined(_ registration: Registration, now: Duration) {
        nodes.add(registration, now: now)
        let id = registration.incarnation
        // What it still holds of us is settled before it is used: see `openHandoffs`.
        emit(.send(.listHandoffs, to: id))
        pairsChanged(now: now)
        let warning = nodes[id].flatMap { nodes.mismatch(of: $0) }
        note(.nodeJoined(name: registration.name, warning: warning))
        probe(now: now)
        dispatch(now: now)
    }

    package mutating func left(_ id: Incarnation, reason: String, now: Duration) {
        guard let entry = nodes[id] else { return }
        note(.nodeLeft(name: entry.registration.name, reason: reason))
        nodes.remove(id)
        forgetPlacements(on: id)
        affinity.forget(id)
        pairsChanged(now: now)
        if nodes.lacksRole { attachUntil = now + settings.attachPatience }
        perform(ledger.nodeLost(id), now: now)
        dispatch(now: now)
    }

    /// No new work for this node; what runs on it goes on.
    package mutating func drain(_ id: Incarnation, now: Duration) {
        guard nodes[id] != nil else { return }
        nodes.update(id) { $0.isDraining = true }
        emit(.send(.drain, to: id))
        pairsChanged(now: now)
        dispatch(now: now)
    }

    /// Tells prefill nodes their peers, and the probe plan its pairs.
    private mutating func pairsChanged(now: Duration) {
        var pairs: [PairPolicy.Pair] = []
        for prefill in nodes.prefills {
            emit(.send(.peers(nodes.peers(of: prefill)), to: prefill.id))
            for decode in nodes.decodes where nodes.isUsable(prefill, decode) {
                pairs.append(PairPolicy.Pair(prefill: prefill.id, decode: decode.id))
            }
        }
        probes.setPairs(pairs)
    }

    private mutating func probe(now: Duration) {
        guard !settings.probeTokens.isEmpty, !isDraining else { return }
        for pair in probes.due(now: now) {
            // Lanes are opened after the pair is known: probing before that would only be refused. Busy ones count:
            // another router may use them all, and which are busy is no news to report.
            guard let report = nodes[pair.prefill]?.lanes[pair.decode], report.idle + report.busy > 0 else { continue }
            var sampling = SamplingTerms()
            sampling.temperature = 0
            sampling.maxTokens = 1
            let request = RunRequest(
                prompt: settings.probeTokens, sampling: sampling, times: RunTimeline(), pinned: pair)
            lastRun += 1
            runs[lastRun] = Run(id: lastRun, request: request, waitingSince: now)
            waiting.insert(lastRun, since: now, notBefore: .zero, isRetry: true)
            probes.began(pair, run: lastRun)
        }
    }

    // MARK: Messages

    package mutating func received(_ message: NodeMessage, from id: Incarnation, now: Duration) {
        guard nodes[id] != nil else { return }
        switch message {
        case .tokens(let batch):
            for run in batch.runs { tokens(run, from: id, now: now) }
            return
        case .heartbeat(let load):
            heartbeat(load, from: id, now: now)
        case .lanes(let peers):
            let wasUnreachable = nodes[id]?.unreachable.isEmpty == false
            nodes.note(lanes: peers, of: id, now: now)
            if wasUnreachable { pairsChanged(now: now) }
            probe(now: now)
        case .draining:
            nodes.update(id) { $0.isDraining = true }
            pairsChanged(now: now)
        case .openHandoffs(let open):
            let isDecode = nodes[id]?.isPrefill == false
            // Handoffs of other routers are theirs to keep.
            let ours = open.filter { $0.router == incarnation }
            perform(ledger.nodeAttached(id, open: ours, isDecode: isDecode), now: now)
        default:
            handoffMessage(message, from: id, now: now)
        }
        dispatch(now: now)
    }

    private mutating func heartbeat(_ load: NodeLoad, from id: Incarnation, now: Duration) {
        guard let before = nodes[id] else { return }
        let isStalled = load.engineStalled >= settings.engineStallTimeout
        nodes.update(id) { node in
            node.load = load
            node.isDraining = node.isDraining || load.isDraining
            node.isStalled = isStalled
        }
        if load.isDraining && !before.isDraining || isStalled != before.isStalled { pairsChanged(now: now) }
        if isStalled, !before.isStalled {
            note(.engineStalled(name: before.name, for: load.engineStalled))
            failStalled(on: id, now: now)
        }
    }

    private mutating func handoffMessage(_ message: NodeMessage, from id: Incarnation, now: Duration) {
        switch message {
        case .granted(let terms):
            if run(of: terms.handoff) != nil, placements[terms.handoff]?.pair.decode == id {
                runs[terms.handoff.request]?.request.times.granted = now
            }
            perform(ledger.granted(terms, from: id), now: now)
        case .refused(let refusal):
            perform(ledger.refused(refusal.handoff, refusal.reason, from: id), now: now)
        case .written(let report):
            if placements[report.handoff]?.pair.prefill == id {
                prefillDone(report.handoff)
                if run(of: report.handoff) != nil {
                    record(report, now: now)
                    endIfWhole(report.handoff, now: now)
                }
                // From here the ledger waits for the seal itself, unless that came first.
                if placements[report.handoff]?.holdsLane == true { placements[report.handoff]?.progressBy = nil }
            }
            perform(ledger.written(report.handoff, from: id), now: now)
        case .sealed(let handoff, let sealTime):
            if placements[handoff]?.pair.decode == id {
                sealed(handoff, sealTime: sealTime, now: now)
            }
            perform(ledger.sealed(handoff, from: id), now: now)
        case .finished(let report):
            finished(report, from: id, now: now)
        case .failed(let handoff, let failure, let details):
            let text = details.isEmpty ? failure.message : details
            nodes.update(id) { $0.lastFailure = text }
            if run(of: handoff) != nil, let pair = placements[handoff]?.pair, pair.prefill == id || pair.decode == id {
                runs[handoff.request]?.failureText = text
            }
            perform(ledger.failed(handoff, failure, from: id), now: now)
        case .accepted(let handoff):
            perform(ledger.accepted(handoff, from: id), now: now)
        case .drained(let handoff, let posted, let completed):
            perform(
                ledger.drained(
                    handoff, posted: Int(clamping: posted), completed: Int(clamping: completed), from: id), now: now)
        case .reclaimed(let handoff, let kind):
            perform(ledger.reclaimed(handoff, kind, from: id), now: now)
        case .heartbeat, .tokens, .openHandoffs, .draining, .lanes:
            break
        }
    }

    /// The first time only: a node says Sealed again whenever it is asked, which is no progress and no other seal.
    private mutating func sealed(_ handoff: HandoffID, sealTime: Duration, now: Duration) {
        guard placements[handoff]?.isSealed == false else { return }
        placements[handoff]?.isSealed = true
        prefillDone(handoff)
        laneDone(handoff)
        if run(of: handoff) != nil {
            runs[handoff.request]?.request.times.sealed = now
            runs[handoff.request]?.request.times.sealing = sealTime
        }
        expectTokens(handoff, now: now)
    }

    private mutating func record(_ report: WriteReport, now: Duration) {
        let number = report.handoff.request
        guard var times = runs[number]?.request.times else { return }
        times.written = now
        times.prefillQueue = report.queue
        times.prefillCompute = report.compute
        times.transferTail = report.transfer
        times.transferBytes = report.bytes
        times.cachedTokens = min(max(0, report.cachedTokens), times.promptTokens)
        runs[number]?.request.times = times
    }

    private mutating func finished(_ report: FinishReport, from id: Incarnation, now: Duration) {
        let handoff = report.handoff
        if run(of: handoff) != nil, placements[handoff]?.pair.decode == id {
            runs[handoff.request]?.request.times.firstStep = report.firstStep
            runs[handoff.request]?.request.times.decoding = report.decode
            runs[handoff.request]?.request.times.speculation = report.speculation
            runs[handoff.request]?.reported = report.reason
        }
        // Tokens that were lost at the very end show no gap: the count does. What was cancelled has no whole.
        let count = report.reason == .cancelled ? nil : report.tokens
        perform(ledger.finished(handoff, tokens: count, from: id), now: now)
    }

    // MARK: Tokens

    private mutating func tokens(_ part: TokenRun, from id: Incarnation, now: Duration) {
        // Only the decode node of the attempt may speak for it.
        guard placements[part.handoff]?.pair.decode == id else { return }
        nodes.update(id) { $0.tokensDelivered += part.tokens.count }
        switch ledger.acceptTokens(part.handoff, firstIndex: part.firstIndex, count: part.tokens.count) {
        case .drop: return
        case .gap:
            perform(ledger.fail(part.handoff, HandoffFailure(.tokenGap)), now: now)
            return dispatch(now: now)
        case .deliver(let range):
            deliver(part, range, now: now)
        }
    }

    private mutating func deliver(_ part: TokenRun, _ range: Range<Int>, now: Duration) {
        guard var run = runs.removeValue(forKey: part.handoff.request) else { return }
        defer { runs[run.id] = run }
        guard run.handoff == part.handoff, !range.isEmpty else { return }
        grow(part.handoff, by: range.count)
        expectTokens(part.handoff, now: now)
        let first = run.completion.isEmpty
        run.completion.append(contentsOf: part.tokens[range])
        if first {
            run.request.times.firstToken = now
            if let pair = placements[part.handoff]?.pair { probes.succeeded(pair) }
        }
        guard !run.request.isProbe else { return }
        if first {
            note(.firstToken(run.id, run.request.times))
        } else if let last = run.request.times.lastToken {
            note(.tokenGap(now - last, tokens: range.count))
        }
        run.request.times.lastToken = now
        let whole = range.count == part.tokens.count
        let alternatives = whole || part.alternatives.isEmpty ? part.alternatives : Array(part.alternatives[range])
        let tokens = whole ? part.tokens : Array(part.tokens[range])
        emit(.deliver(.tokens(tokens, alternatives: alternatives), run: run.id))
    }

    /// A sequence grew on its decode node.
    private mutating func grow(_ handoff: HandoffID, by count: Int) {
        guard var placement = placements[handoff], placement.isCountedOnDecode else { return }
        placement.decodeTokens += count
        nodes.update(placement.pair.decode) { node in
            node.decodeTokens += count
            let pages = node.pages(for: placement.decodeTokens + 1)
            node.decodePages += pages - placement.decodePages
            placement.decodePages = pages
        }
        placements[handoff] = placement
    }

    // MARK: Time

    /// To be called every few tens of milliseconds.
    package mutating func tick(now: Duration) {
        // In a fixed order: what happens must not depend on hashing.
        let due = deadlines.filter { $0.value <= now }.sorted {
            ($0.value, $0.key.handoff.request, $0.key.handoff.attempt)
                < ($1.value, $1.key.handoff.request, $1.key.handoff.attempt)
        }
        for (key, _) in due {
            deadlines[key] = nil
            perform(ledger.deadlinePassed(key.name, key.handoff), now: now)
        }
        failStalled(now: now)
        if nodes.noteUnreachable(after: settings.lanePatience, now: now) { pairsChanged(now: now) }
        endUnreported(now: now)
        for number in waiting.takeExpired(now: now, limit: settings.queueTimeout) { queueTimedOut(number, now: now) }
        probe(now: now)
        dispatch(now: now)
    }

    // MARK: The ledger's actions

    /// Carries out what the ledger asks for.
    mutating func perform(_ actions: [LedgerAction], now: Duration) {
        for action in actions {
            switch action {
            case .sendReserve(let handoff, let id): sendReserve(handoff, to: id)
            case .sendPrefill(let terms, let part, let id):
                if let placement = placements[terms.handoff] {
                    emit(.send(.prefill(PrefillOrder(grant: terms, part: part, tokens: placement.tokens)), to: id))
                    // Not again when it is repeated: a node that takes no order makes no progress.
                    if placement.progressBy == nil { expectWritten(terms.handoff, on: id, now: now) }
                }
            case .sendRelease(let handoff, let id): emit(.send(.release(handoff), to: id))
            case .sendCancel(let handoff, let id): emit(.send(.cancel(handoff), to: id))
            case .sendReclaim(let handoff, let parts, let id): emit(.send(.reclaim(handoff, parts), to: id))
            case .sendFence(let handoff, let parts, let id): emit(.send(.fence(handoff, parts), to: id))
            case .sendQuery(let handoff, let id): emit(.send(.query(handoff), to: id))
            case .setDeadline(let name, let handoff):
                deadlines[DeadlineKey(name: name, handoff: handoff)] = now + durations[name]
            case .clearDeadline(let name, let handoff):
                deadlines[DeadlineKey(name: name, handoff: handoff)] = nil
            case .deliver(let handoff, let outcome): outcomeReached(handoff, outcome, now: now)
            case .settled(let handoff):
                unplace(handoff)
                note(.settled(handoff))
                endIfWhole(handoff, now: now)
            }
        }
    }

    private mutating func sendReserve(_ handoff: HandoffID, to id: Incarnation) {
        guard let placement = placements[handoff], let run = run(of: handoff) else { return }
        emit(
            .send(
                .reserve(
                    Reservation(
                        handoff: handoff, shares: [Share(writer: placement.pair.prefill)], tokens: placement.tokens,
                        delivered: run.completion.count, sampling: run.request.sampling)), to: id))
    }

    private mutating func outcomeReached(_ handoff: HandoffID, _ outcome: HandoffOutcome, now: Duration) {
        switch outcome {
        case .finished:
            guard let run = run(of: handoff) else { return }
            switch run.reported {
            case .length: endOnceReported(run, .length, now: now)
            case .stopToken, nil: endOnceReported(run, .stop, now: now)
            case .cancelled:
                attemptFailed(handoff, cause: "the decode node ended it", retryable: true, now: now)
            }
        case .refused(let reason):
            refused(handoff, reason, now: now)
        case .failed(let failure):
            let cause = runs[handoff.request]?.failureText ?? failure.message
            attemptFailed(handoff, cause: cause, retryable: failure.retryable, now: now)
        case .cancelled:
            break
        }
    }
}
