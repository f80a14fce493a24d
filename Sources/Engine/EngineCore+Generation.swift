import Handoff
import Kernels
import Synchronization

/// What a step generates: tokens drawn from its logits, and drafts for the next step.
extension EngineCore {
    /// What speculative decoding keeps between the parts of a step.
    struct Drafting {
        /// Of each chunk with logits: its drafts, as the step computed them.
        fileprivate var verified: [[TokenID]] = []
        /// Sequences that go on, with the batch row whose hidden state their next drafts build on.
        fileprivate var sources: [(sequence: SequenceHandle, row: Int)] = []
        fileprivate var batch = DraftBatch()
        fileprivate var tokens: [[TokenID]] = []

        mutating func note(_ plan: StepPlan, _ scheduler: borrowing Scheduler) {
            verified.removeAll(keepingCapacity: true)
            for chunk in plan.chunks where chunk.wantsLogits {
                verified.append(Array(scheduler[chunk.sequence].drafts.prefix(chunk.drafts)))
            }
        }
    }

    /// Samples the rows with logits, delivers what was drawn, and ends the sequences that are complete.
    func deliver() {
        let chunks = plan.chunks.filter(\.wantsLogits)
        guard !chunks.isEmpty else { return }
        sample(chunks)
        var runs: [TokenRun] = []
        runs.reserveCapacity(chunks.count)
        var ended: [(SequenceHandle, FinishReason)] = []
        var (row, delivered) = (0, 0)
        let now = clock.now
        drafting.sources.removeAll(keepingCapacity: true)
        var speculation = SpeculationStats()
        for (index, chunk) in chunks.enumerated() {
            let (accepted, reason) = take(samples[row..<row + chunk.logitRows], index, chunk, at: now, runs: &runs)
            delivered += accepted + 1
            speculation.count(drafted: chunk.drafts, accepted: accepted)
            jobs[chunk.sequence.index]?.speculation.count(drafted: chunk.drafts, accepted: accepted)
            if let reason {
                ended.append((chunk.sequence, reason))
            } else {
                drafting.sources.append((chunk.sequence, batch.logitRows[row + accepted]))
            }
            row += chunk.logitRows
        }
        shared.snapshot.withLock { snapshot in
            snapshot.generatedTokensTotal += UInt64(delivered)
            snapshot.speculation += speculation
        }
        // Tokens go out before the next ones are drafted.
        if !runs.isEmpty { onEvent(.tokens(runs)) }
        for (handle, reason) in ended { finish(handle, reason) }
        if limits.drafts > 0 { draft() }
    }

    /// Draws a token for each row with logits, as far as the drafts before it were drawn too. A draw is a function of
    /// the request, its tokens and the logits, so what is drawn is what would be without drafts: verification loses
    /// nothing, and a draft is accepted exactly as often as it is likely.
    private func sample(_ chunks: [StepChunk]) {
        let (logits, table, scratch, verified) = (workspace.logits, model.table, samplerScratch, drafting.verified)
        var firsts: [Int] = []
        var rows = 0
        for chunk in chunks {
            firsts.append(rows)
            rows += chunk.logitRows
        }
        samples.withUnsafeMutableBufferPointer { samples in
            jobs.withUnsafeBufferPointer { jobs in
                pool.run(chunks.count) { index, worker in
                    guard var sampler = jobs[chunks[index].sequence.index]?.sampler else { return }
                    for step in 0...chunks[index].drafts {
                        let row = firsts[index] + step
                        samples[row] = sampler.sample(logits[row], scratch: scratch[worker], table: table)
                        guard step < chunks[index].drafts, samples[row].token == verified[index][step] else { break }
                        sampler.accept(samples[row].token)
                    }
                }
            }
        }
    }

    /// Enters what was drawn into a sequence. Returns how many drafts were accepted, and why the sequence ends here,
    /// if it does.
    private func take(
        _ drawn: ArraySlice<SampledToken>, _ index: Int, _ chunk: StepChunk, at now: ContinuousClock.Instant,
        runs: inout [TokenRun]
    ) -> (accepted: Int, FinishReason?) {
        let handle = chunk.sequence
        guard var job = jobs[handle.index], let parameters = job.sampler?.parameters else { return (0, nil) }
        // One reference to the sampler's tables at a time, or each step would copy them.
        jobs[handle.index] = nil
        defer { jobs[handle.index] = job }
        if job.began == nil { job.began = now }
        var run = TokenRun(id: job.id, firstIndex: job.sampler?.completionCount ?? 0, tokens: [], logprobs: [])
        defer { if !run.tokens.isEmpty { runs.append(run) } }
        for (step, sample) in drawn.enumerated() {
            if parameters.stopTokens.contains(sample.token) { return (step, .stopToken(sample.token)) }
            job.generated += 1
            job.last = now
            job.sampler?.accept(sample.token)
            scheduler.append(sample.token, to: handle)
            run.tokens.append(sample.token)
            if parameters.topLogprobs != nil { run.logprobs.append(sample.logprobs) }
            let atLimit = scheduler[handle].tokens.count >= limits.tokenLimit
            if run.firstIndex + run.tokens.count >= parameters.maxTokens || atLimit { return (step, .length) }
            if step == chunk.drafts || sample.token != drafting.verified[index][step] { return (step, nil) }
        }
        return (chunk.drafts, nil)
    }

    /// Drafts the next tokens of the sequences that go on: each from its newest token and the hidden state before it,
    /// then from the draft before, as far as its pages reach and tokens are wanted. Draws the most likely token each
    /// time.
    private func draft() {
        let pageTokens = limits.pageTokens
        // Longest chains first, so that the rows of each pass are the first ones of the pass before.
        let chains = drafting.sources.compactMap { source -> (SequenceHandle, Int, Int)? in
            let sequence = scheduler[source.sequence]
            // The newest token's slot is the first that a row needs.
            let room = min(sequence.slots.count * pageTokens, limits.tokenLimit) - sequence.tokens.count + 1
            // Of the tokens still wanted, the last one is drawn after the drafts.
            let useful = (jobs[source.sequence.index]?.sampler?.tokensLeft ?? 1) - 1
            let length = min(room, limits.drafts, useful)
            return length > 0 ? (source.sequence, source.row, length) : nil
        }.sorted { $0.2 > $1.2 }
        guard !chains.isEmpty else { return }
        drafting.batch.clear()
        for (handle, row, _) in chains {
            let sequence = scheduler[handle]
            let firstPage = drafting.batch.addPages(sequence.slots.map { memory.page($0.index) })
            drafting.batch.append(
                DraftBatch.Row(
                    firstPage: firstPage, slot: sequence.tokens.count - 1,
                    token: sequence.tokens[sequence.tokens.count - 1], source: row))
        }
        drafting.tokens = Array(repeating: [], count: chains.count)
        var step = 0
        while true {
            model.model.draft(
                drafting.batch, chained: step > 0, workspace: workspace, pool: pool, hooks: ForwardHooks())
            for row in drafting.batch.rows.indices {
                let vocabulary = model.facts.vocabularySize
                drafting.tokens[row].append(
                    TokenID(model.table.argmax(workspace.logits[row], count: vocabulary)))
            }
            step += 1
            let going = chains.firstIndex { $0.2 <= step } ?? chains.count
            if going == 0 { break }
            let tokens = drafting.tokens
            drafting.batch.advance(going) { tokens[$0][step - 1] }
        }
        for (index, chain) in chains.enumerated() { scheduler.draft(drafting.tokens[index], for: chain.0) }
    }
}
