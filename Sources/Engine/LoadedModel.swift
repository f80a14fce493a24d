package import Kernels
package import ModelFormat

/// How to load a model. The defaults suit a node that has the machine for itself.
package struct LoadOptions: Sendable {
    /// nil: the best instruction set this machine has.
    package var isa: ISA?
    package var kvType = CacheType.f16
    package var pageTokens = 32
    /// Lowers the model's own limit.
    package var contextLimit: Int?
    /// Threads that pack the weights; 0: all cores.
    package var threads = 0
    /// Load the layer that drafts tokens, if the checkpoint has one, and keep its KV.
    package var draftLayer = true
    /// Whether later drafts of a round attend to what the first one selected; nil: as the checkpoint says.
    package var sharesDraftSelection: Bool?
    /// Added to the mean square in GLM-5's norms of latents and low-rank queries. transformers has this value in its
    /// code; vLLM and SGLang take the config's `rms_norm_eps`, which changes logits by some 1e-4.
    package var latentEpsilon = defaultLatentEpsilon

    package static let defaultLatentEpsilon: Float = 1e-6

    /// The longest sequence that is served.
    func servedContext(_ common: CommonConfig) -> Int { min(contextLimit ?? common.contextLimit, common.contextLimit) }

    package init() {}
}

extension CacheType {
    /// A KV element type by the name an option uses: f32, f16, bf16 or fp8.
    package init(option: String) throws(EngineError) {
        switch option {
        case "f32": self = .f32
        case "f16": self = .f16
        case "bf16": self = .bf16
        case "fp8": self = .fp8
        default: throw .invalid(field: "kv dtype", reason: "\(option) is none of f32, f16, bf16, fp8")
        }
    }
}

/// A model ready to compute, and what nodes compare before they exchange its KV.
package final class LoadedModel: Sendable {
    package let model: any Model
    package let checkpoint: Checkpoint
    package let options: LoadOptions
    package let isa: ISA
    let table: KernelTable
    /// What must be equal on two nodes for KV to mean the same: 64 hex digits over the checkpoint, and the context
    /// limit where the rotary embedding depends on it.
    package let fingerprint: String
    /// The ids that end a completion, according to the checkpoint.
    package let endTokens: [TokenID]

    package var facts: ModelFacts { model.facts }
    package var layout: PageLayout { model.layout }

    /// Opens a GGUF file, a safetensors file or a directory, and packs its weights. Blocks for seconds.
    package static func load(path: String, options: LoadOptions = LoadOptions()) throws(EngineError) -> LoadedModel {
        let checkpoint: Checkpoint
        let fingerprint: String
        do throws(ModelFormatError) {
            checkpoint = try Checkpoint.open(path)
            fingerprint = try checkpoint.fingerprint()
        } catch {
            throw EngineError.model(path: error.subject, problems: error.problems)
        }
        let isa = options.isa ?? ISA.best
        let table = try EngineError.wrap("instruction set") { () throws(KernelError) in try KernelTable(isa: isa) }
        let pool = try ComputePool.make(threads: options.threads)
        defer { pool.shutdown() }
        if let limit = options.contextLimit, limit < 1 {
            throw .invalid(field: "context limit", reason: "\(limit) is not positive")
        }
        let model: any Model
        let rotary: RotaryEmbedding
        var suffix = ""
        switch checkpoint.config {
        case .llama(let config):
            let llama = try LlamaModel(
                checkpoint: checkpoint, config: config, options: options, table: table, pool: pool)
            (model, rotary) = (llama, llama.stack.rotary)
        case .qwen3Moe(let config):
            let qwen = try Qwen3MoeModel(
                checkpoint: checkpoint, config: config, options: options, table: table, pool: pool)
            (model, rotary) = (qwen, qwen.stack.rotary)
        case .glm5(let config):
            let glm = try GLM5Model(
                checkpoint: checkpoint, config: config, options: options, table: table, pool: pool)
            (model, rotary) = (glm, glm.rotary)
            if options.latentEpsilon != LoadOptions.defaultLatentEpsilon { suffix = "-\(options.latentEpsilon)" }
        }
        if rotary.dependsOnServedContext { suffix = "-\(model.facts.contextLimit)" + suffix }
        return LoadedModel(
            model: model, checkpoint: checkpoint, options: options, table: table, fingerprint: fingerprint + suffix)
    }

    /// Throws unless the layer that drafts tokens for speculative decoding is loaded.
    package func requireDraftLayer() throws(EngineError) {
        if model.draftLayer != nil { return }
        let reason =
            options.draftLayer
            ? "this \(facts.architecture) checkpoint has no draft (MTP) layer to speculate with"
            : "the draft (MTP) layer it needs is turned off"
        throw .invalid(field: "speculate", reason: reason)
    }

    private init(
        model: any Model, checkpoint: Checkpoint, options: LoadOptions, table: KernelTable, fingerprint: String
    ) {
        self.model = model
        self.checkpoint = checkpoint
        self.options = options
        self.isa = table.isa
        self.table = table
        self.fingerprint = fingerprint
        endTokens = checkpoint.config.common.eosTokens.compactMap { TokenID(exactly: $0) }
    }
}

extension ComputePool {
    /// A pool of that many threads, or for 0 one per core, as far as a pool can use them.
    package static func make(threads: Int) throws(EngineError) -> ComputePool {
        let count = threads == 0 ? min(Processors.count, threadsMax) : threads
        guard (1...threadsMax).contains(count) else {
            throw .invalid(field: "threads", reason: "\(count) is not in 1...\(threadsMax)")
        }
        return try EngineError.wrap("threads") { () throws(KernelError) in try ComputePool(threads: count) }
    }
}

extension EngineError {
    /// Runs code of the kernels; what it throws becomes an `invalid` of that field, or `memory`.
    static func wrap<Value>(
        _ field: String, _ body: () throws(KernelError) -> Value
    ) throws(EngineError) -> Value {
        do throws(KernelError) {
            return try body()
        } catch {
            if case .outOfMemory(let bytes) = error {
                throw .memory(reason: "no \(SystemMemory.text(bytes)) for \(field)")
            }
            throw .invalid(field: field, reason: "\(error)")
        }
    }
}
