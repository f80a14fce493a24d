/// How an engine loop works.
package struct EngineOptions: Sendable {
    package var role: Scheduler.Role
    /// Prefill: prompts computed at once. Decode: sequences with pages at once.
    package var maxRunning: Int
    /// Prompt positions per step. nil: 512 for prefill; 128 for decode, where recomputing a preempted sequence
    /// must not hold up the others for long.
    package var chunkTokens: Int?
    /// Compute threads, the engine's own included; 0: all cores.
    package var threads: Int
    /// Decode: tokens drafted ahead for each sequence by the model's draft layer; 0: none.
    package var drafts: Int

    /// Beyond that even a draft layer that is nearly always right gains nothing.
    package static let draftsMax = 16

    package init(
        role: Scheduler.Role, maxRunning: Int = 64, chunkTokens: Int? = nil, threads: Int = 0, drafts: Int = 0
    ) {
        self.drafts = drafts
        self.role = role
        self.maxRunning = maxRunning
        self.chunkTokens = chunkTokens
        self.threads = threads
    }

    /// The scheduler's limits for a model and memory. Throws `invalid` for values out of range.
    func limits(model: LoadedModel, memory: KVMemory) throws(EngineError) -> Scheduler.Limits {
        let pageTokens = memory.layout.pageTokens
        guard memory.layout == model.layout else {
            throw .invalid(field: "KV memory", reason: "its page layout is not the model's")
        }
        guard (1...4096).contains(maxRunning) else {
            throw .invalid(field: "max running", reason: "\(maxRunning) is not in 1...4096")
        }
        let wanted = chunkTokens ?? (role == .prefill ? 512 : 128)
        let chunk = (wanted + pageTokens - 1) / pageTokens * pageTokens
        guard wanted > 0, chunk <= 16384 else {
            throw .invalid(field: "chunk tokens", reason: "\(wanted) is not in 1...16384")
        }
        guard (0...Self.draftsMax).contains(drafts) else {
            throw .invalid(field: "speculate", reason: "\(drafts) is not in 0...\(Self.draftsMax)")
        }
        if drafts > 0 { try model.requireDraftLayer() }
        return Scheduler.Limits(
            role: role, maxRunning: maxRunning, chunkTokens: chunk, pageTokens: pageTokens,
            tokenLimit: min(model.facts.contextLimit, memory.pageCount * pageTokens),
            drafts: role == .decode ? drafts : 0)
    }
}
