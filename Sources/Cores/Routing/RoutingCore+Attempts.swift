import API
import Handoff
import Messages

/// Attempts: finding a pair, opening a handoff, and what to do when one fails.
extension RoutingCore {
    /// Places what can be placed, oldest first. A run that must wait holds back younger ones, so that a long
    /// prompt is not passed over for ever; one that waits out its own backoff does not.
    mutating func dispatch(now: Duration) {
        for number in waiting.ready(now: now) {
            guard let run = runs[number] else { continue }
            switch PairPolicy.choose(run.job, nodes: nodes, affinity: affinity, now: now) {
            case .pair(let pair):
                waiting.remove(number)
                open(number, on: pair, now: now)
            case .wait:
                if run.request.isProbe { continue }
                return
            case .noPair(let missing):
                // A run that was admitted waits for nodes to come back, up to the queue's timeout; one that came while
                // there were none, for as long as they may need to attach.
                if run.request.isProbe || run.attachBy.map({ $0 <= now }) ?? false {
                    fail(
                        number,
                        .unavailable("Nothing can serve this: \(missing).", code: "no_nodes", retryAfter: .seconds(2)),
                        now: now)
                }
            case .tooLong(let limit):
                if run.completion.isEmpty {
                    fail(
                        number,
                        .contextLength(
                            limit: limit, prompt: run.request.prompt.count, completion: nil, param: "prompt"),
                        now: now)
                } else if run.completion.count >= run.request.sampling.maxTokens {
                    finish(number, .length, now: now)
                }
            // Else the nodes that could hold it are gone: it waits for such to come back, as above.
            }
        }
    }

    private mutating func open(_ number: UInt64, on pair: PairPolicy.Pair, now: Duration) {
        guard var run = runs[number] else { return }
        run.attempt += 1
        run.attachBy = nil
        let handoff = HandoffID(router: incarnation, request: number, attempt: run.attempt)
        run.handoff = handoff
        run.reported = nil
        run.failureText = nil
        run.request.times.beginAttempt(now: now)
        run.request.times.prefillNode = nodes[pair.prefill]?.registration.name ?? ""
        run.request.times.decodeNode = nodes[pair.decode]?.registration.name ?? ""
        runs[number] = run
        place(handoff, run: run, on: pair)
        affinity.record(run.request.prefixHashes, on: pair.prefill)
        perform(
            ledger.open(handoff, prefills: [pair.prefill], decode: pair.decode, delivered: run.completion.count),
            now: now)
    }

    private mutating func place(_ handoff: HandoffID, run: Run, on pair: PairPolicy.Pair) {
        let tokens = run.request.prompt + run.completion
        let pages = nodes[pair.decode]?.pages(for: tokens.count + 1) ?? 0
        // The prefill node is charged what its cache probably lacks.
        let overlap = affinity.overlap(of: run.request.prefixHashes, with: pair.prefill)
        let work = max(0, tokens.count - overlap)
        placements[handoff] = Placement(
            run: run.id, pair: pair, prefillTokens: work, decodeTokens: tokens.count, decodePages: pages,
            tokens: tokens)
        nodes.update(pair.prefill) { node in
            node.prefillTokens += work
            node.outstanding[pair.decode, default: 0] += 1
        }
        nodes.update(pair.decode) { node in
            node.decodeTokens += tokens.count
            node.decodePages += pages
            node.sequences += 1
        }
    }

    /// The prompt is computed and written: the prefill node's work is done.
    mutating func prefillDone(_ handoff: HandoffID) {
        guard let placement = placements[handoff], placement.prefillTokens > 0 else { return }
        nodes.update(placement.pair.prefill) { $0.prefillTokens -= placement.prefillTokens }
        placements[handoff]?.prefillTokens = 0
    }

    /// The lane is free for the next handoff of this pair.
    mutating func laneDone(_ handoff: HandoffID) {
        guard let placement = placements[handoff], placement.holdsLane else { return }
        nodes.update(placement.pair.prefill) { $0.outstanding[placement.pair.decode, default: 1] -= 1 }
        placements[handoff]?.holdsLane = false
    }

    /// The handoff's row is settled: everything it took is given back.
    mutating func unplace(_ handoff: HandoffID) {
        prefillDone(handoff)
        laneDone(handoff)
        guard let placement = placements.removeValue(forKey: handoff), placement.isCountedOnDecode else { return }
        nodes.update(placement.pair.decode) { node in
            node.decodeTokens -= placement.decodeTokens
            node.decodePages -= placement.decodePages
            node.sequences -= 1
        }
    }

    /// A node is gone with its counts: what ran on it must not be given back to a successor of the same name.
    mutating func forgetPlacements(on id: Incarnation) {
        for handoff in placements.keys {
            guard var placement = placements[handoff] else { continue }
            let pair = placement.pair
            if pair.prefill == id { placement.prefillTokens = 0 }
            if pair.prefill == id || pair.decode == id { placement.holdsLane = false }
            if pair.decode == id { placement.isCountedOnDecode = false }
            placements[handoff] = placement
        }
    }

    // MARK: Outcomes of a handoff

    /// The current run of a handoff; nil when the run has ended or gone on to another attempt.
    func run(of handoff: HandoffID) -> Run? {
        guard let run = runs[handoff.request], run.handoff == handoff else { return nil }
        return run
    }

    /// The decode node would not take it.
    mutating func refused(_ handoff: HandoffID, _ reason: Handoff.RefusalReason, now: Duration) {
        guard var run = run(of: handoff), let pair = placements[handoff]?.pair else { return }
        note(.refused(handoff, reason: "\(reason)", node: run.request.times.decodeNode))
        run.handoff = nil
        switch reason {
        case .noPages, .noLane, .busy:
            nodes.update(pair.decode) { $0.quietUntil = now + settings.refusalBackoff }
        case .draining:
            nodes.update(pair.decode) { $0.isDraining = true }
        case .tooLong:
            run.excluded.insert(pair.decode)
        case .invalid:
            runs[run.id] = run
            let message = "The decode node refused the request as invalid: check token ids and sampling values."
            return fail(run.id, .invalid(message), now: now)
        }
        runs[run.id] = run
        waiting.insert(
            run.id, since: run.waitingSince, notBefore: .zero, isRetry: run.failures > 0 || !run.completion.isEmpty)
        // One that is refused again and again is never in the queue for long.
        if now - run.waitingSince > settings.queueTimeout { queueTimedOut(run.id, now: now) }
    }

    /// A run waited longer than it may.
    mutating func queueTimedOut(_ number: UInt64, now: Duration) {
        let seconds = settings.queueTimeout.components.seconds
        var reason = "No pair of nodes had room for \(seconds) s; the cluster is overloaded."
        if let missing = PairPolicy.missing(in: nodes) {
            reason = "Nothing could serve this for \(seconds) s: \(missing)."
        }
        fail(number, .unavailable(reason, code: "queue_timeout", retryAfter: .seconds(5)), now: now)
    }

    /// An attempt failed: try again elsewhere, or give up.
    mutating func attemptFailed(_ handoff: HandoffID, cause: String, retryable: Bool, now: Duration) {
        guard var run = run(of: handoff) else { return }
        run.handoff = nil
        run.failureText = nil
        run.failures += 1
        run.firstFailure = run.firstFailure ?? now
        run.waitingSince = now
        if let pair = placements[handoff]?.pair {
            run.avoided = [pair.prefill, pair.decode]
            for id in run.avoided { nodes.update(id) { $0.lastFailure = cause } }
        }
        runs[run.id] = run
        if run.completion.count >= run.request.sampling.maxTokens {
            // Every token was delivered; only the news of the end was lost.
            return finish(run.id, .length, now: now)
        }
        let spent = now - (run.firstFailure ?? now)
        guard retryable, !run.request.isProbe, run.failures < settings.failuresMax, spent <= settings.retryWindow
        else {
            let times = run.failures == 1 ? "" : " after \(run.failures) attempts"
            return fail(run.id, .server("The request failed\(times): \(cause).", code: "handoff_failed"), now: now)
        }
        note(.retrying(handoff, cause: cause, delivered: run.completion.count))
        let backoff = settings.retryBackoff * (1 << min(run.failures - 1, 6))
        waiting.insert(run.id, since: now, notBefore: now + backoff, isRetry: true)
    }

    // MARK: Ends of a run

    /// - Parameter isEarly: the decode node does not know yet and must be stopped.
    mutating func finish(_ number: UInt64, _ reason: FinishReason, isEarly: Bool = false, now: Duration) {
        guard let run = runs[number] else { return }
        conclude(run, .success(reason), .completed, stopsLegs: isEarly, now: now)
    }

    /// The decode node has told of the end. What the prefill node measured comes on a stream of its own, and may be
    /// behind the end of a short answer: the end waits until it is there, or cannot come any more.
    mutating func endOnceReported(_ run: Run, _ reason: FinishReason, now: Duration) {
        guard run.request.times.written == nil, !run.request.isProbe else {
            return finish(run.id, reason, now: now)
        }
        runs[run.id]?.ending = Ending(reason: reason, by: now + settings.reportPatience)
    }

    /// The prefill node has reported, or has nothing more to say.
    mutating func endIfWhole(_ handoff: HandoffID, now: Duration) {
        guard let run = run(of: handoff), let ending = run.ending else { return }
        finish(run.id, ending.reason, now: now)
    }

    /// Its report is late, or lost: it is not repeated.
    mutating func endUnreported(now: Duration) {
        let late = runs.values.filter { run in run.ending.map { $0.by <= now } ?? false }
        // In a fixed order: what happens must not depend on hashing.
        for number in late.map(\.id).sorted() {
            if let ending = runs[number]?.ending { finish(number, ending.reason, now: now) }
        }
    }

    mutating func fail(_ number: UInt64, _ error: APIError, now: Duration) {
        guard let run = runs[number] else { return }
        if let ending = run.ending { return finish(number, ending.reason, now: now) }
        if !run.request.isProbe { note(.runFailed(number, error)) }
        // A run that fails with its handoff open (a shutdown, a fault of ours) stops both legs.
        conclude(run, .failure(error), .failed, stopsLegs: true, now: now)
    }

    private mutating func conclude(
        _ run: Run, _ result: Result<FinishReason, APIError>, _ outcome: RoutingNote.Outcome, stopsLegs: Bool,
        now: Duration
    ) {
        var request = run.request
        request.times.ended = now
        request.times.completionTokens = run.completion.count
        if let pair = request.pinned {
            var failure: String?
            if case .failure(let error) = result { failure = error.message }
            probes.ended(
                pair, failure: failure, now: now, backoff: settings.probeBackoff,
                backoffMax: settings.probeBackoffMax)
            note(.probed(prefill: request.times.prefillNode, decode: request.times.decodeNode, failure: failure))
        } else {
            emit(.deliver(.ended(RunEnding(result: result, times: request.times)), run: run.id))
            note(.ended(run.id, outcome, request, run.completion.count))
        }
        end(run.id, cancelling: stopsLegs, now: now)
    }
}
