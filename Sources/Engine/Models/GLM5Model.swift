package import Kernels
package import ModelFormat

/// The GLM-5 architecture (`GlmMoeDsaForCausalLM`): latent attention over positions that an indexer selects, mixtures
/// of experts, and a layer that drafts tokens (multi-token prediction).
///
/// The draft layer's row for position i takes the token at i + 1, so its KV lies in that token's slot, and a page
/// depends on nothing but the tokens up to its end; slot 0 stays unused. The row for a page's first token takes the
/// hidden state at the end of the page before, which is therefore part of that page.
package final class GLM5Model: Model {
    struct Layer: Sendable {
        let attention: LatentAttention
        let planes: LatentAttention.Planes
        let feedForward: FeedForwardLayer
    }

    struct DraftLayer: Sendable {
        let layer: Layer
        let embeddingNorm, hiddenNorm, outputNorm: NormWeights
        /// [hidden][embedding, hidden]
        let projection: PackedMatrix
        /// From a page's base to the hidden state of its last token.
        let hiddenPlane: Int
    }

    package let facts: ModelFacts
    package let layout: PageLayout
    let config: GLM5Config
    let table: KernelTable
    let rotary: RotaryEmbedding
    let geometry: LatentAttention.Geometry
    let embedding: EmbeddingTable
    let layers: [Layer]
    let outputNorm: NormWeights
    let head: PackedMatrix
    let drafts: DraftLayer?

    package let sharesDraftSelection: Bool

    package var draftLayer: Int? { drafts == nil ? nil : layers.count }

    /// Packs the weights for `table`. Throws `model` for a checkpoint that does not hold this architecture.
    package init(
        checkpoint: Checkpoint, config: GLM5Config, options: LoadOptions, table: KernelTable, pool: ComputePool
    ) throws(EngineError) {
        let hasDraft = options.draftLayer && config.hasDraftLayer(in: checkpoint)
        let loader = WeightLoader(checkpoint: checkpoint, table: table, pool: pool)
        try loader.check(
            config.expectedTensors(in: checkpoint.format, draftLayer: config.hasDraftLayer(in: checkpoint)))
        self.config = config
        self.table = table
        sharesDraftSelection = options.sharesDraftSelection ?? config.sharesDraftSelection
        let contextLimit = options.servedContext(config.common)
        rotary = try RotaryEmbedding(
            config.rope, trainedContext: config.common.contextLimit, servedContext: contextLimit)
        layout = try config.pageLayout(options, draftLayer: hasDraft)
        geometry = try LatentAttention.Geometry(config, options)
        embedding = try loader.embedding(GLM5Tensor.embedding.name)
        var layers: [Layer] = []
        for index in 0..<config.common.layerCount {
            let sparse = config.isSparse[index] ? config.isSparse[..<index].count { $0 } : nil
            layers.append(
                try loader.glm5Layer(
                    index, config, geometry, layout, ownsIndexer: config.ownsIndexer[index], sparse: sparse))
        }
        self.layers = layers
        outputNorm = try loader.norm(GLM5Tensor.outputNorm.name)
        head = try loader.matrix([GLM5Tensor.output.name], biases: nil)
        drafts = hasDraft ? try loader.glm5DraftLayer(config, geometry, layout) : nil
        facts = loader.facts(
            config.common, contextLimit: contextLimit, hiddenStateCount: config.common.layerCount + 2)
    }

    /// Layers with experts, the draft layer included.
    var mixtureLayers: [Int] {
        layers.indices.filter { config.isSparse[$0] } + (drafts == nil ? [] : [layers.count])
    }

    package func makeWorkspace(
        rows: Int, logitRows: Int, pool: ComputePool
    ) throws(EngineError) -> any ModelWorkspace {
        try GLM5Workspace(model: self, rows: rows, logitRows: logitRows, pool: pool)
    }

    package func forward(
        _ batch: borrowing Batch, workspace: any ModelWorkspace, pool: ComputePool, hooks: ForwardHooks
    ) -> Bool {
        guard let memory = workspace as? GLM5Workspace else { preconditionFailure("another model's workspace") }
        let rows = memory.rows
        precondition(
            batch.rowCount <= rows.rowLimit && batch.logitRows.count <= memory.logits.rows, "a batch too large")
        return batch.pages.withUnsafeBufferPointer { pages in
            guard let pages = pages.baseAddress else { return true }
            rows.times?.begin()
            rows.embed(batch, embedding, rotary, table, pool)
            for row in 0..<batch.rowCount {
                let place = RowPlace(
                    pages: pages + batch.runs[batch.runOfRow[row]].firstPage, slot: batch.positions[row], first: 0)
                (memory.attention.places + row).initialize(to: place)
            }
            hooks.hidden?(0, rows.residual(batch.rowCount))
            guard let active = compute(batch, memory, pool, hooks) else { return false }
            guard active > 0 else { return true }
            rows.norm(active, outputNorm, epsilon: config.normEpsilon, table, pool)
            hooks.hidden?(layers.count + 1, rows.normed(active))
            // Without a draft layer only rows with logits are left, in their order.
            writeLogits(batch.logitRows.count, memory, pool) { active < batch.rowCount ? $0 : batch.logitRows[$0] }
            rows.times?.lap(.head)
            guard let drafts else { return true }
            storeDrafts(batch, pages, drafts, memory, pool)
            return hooks.layerStored?(layers.count) ?? true
        }
    }

    /// All layers. Returns how many rows are left: all of them, or those with logits only. Nil if a hook abandoned it.
    private func compute(
        _ batch: borrowing Batch, _ memory: GLM5Workspace, _ pool: ComputePool, _ hooks: ForwardHooks
    ) -> Int? {
        let rows = memory.rows
        var active = batch.rowCount
        for (index, layer) in layers.enumerated() {
            layer.attention.store(
                active, layer.planes, geometry, memory.attention, rows, table: table, pool: pool)
            if let stored = hooks.layerStored, !stored(index) { return nil }
            if index == layers.count - 1, drafts == nil, batch.logitRows.count < active {
                // Nobody reads what the last layer makes of a row without logits.
                active = batch.logitRows.count
                if active == 0 { return 0 }
                memory.attention.keep(batch.logitRows, geometry)
                rows.keepResidual(batch.logitRows)
                rows.keepAngles(batch.logitRows, pairs: geometry.shape.rope / 2)
            }
            finish(layer, active, memory, pool, decided: hooks.decisions(of: index))
            hooks.hidden?(index + 1, rows.residual(active))
        }
        return active
    }

    /// A layer's work after its KV is stored.
    func finish(
        _ layer: Layer, _ count: Int, reusesSelection: Bool = false, _ memory: GLM5Workspace, _ pool: ComputePool,
        decided: ((Decision) -> Void)?
    ) {
        layer.attention.attend(
            count, layer.planes, reusesSelection: reusesSelection, geometry, memory.attention, memory.rows,
            decided: decided, table: table, pool: pool)
        layer.feedForward.run(
            count, epsilon: config.normEpsilon, memory.rows, memory.feedForward, decided: decided, table: table,
            pool: pool)
    }

    /// Logits of `count` normed rows, of which `source` tells the row.
    func writeLogits(_ count: Int, _ memory: GLM5Workspace, _ pool: ComputePool, source: (Int) -> Int) {
        guard count > 0 else { return }
        let normed = memory.rows.normed(memory.rows.rowLimit)
        let width = config.common.hiddenSize
        memory.rows.activations.encode(rows: count, columns: width, as: head.encodings, pool: pool) { row, out in
            out.update(from: normed[source(row)], count: width)
        }
        let logits = FloatRows(memory.logits.base, rows: count, columns: facts.vocabularySize)
        matmul(head, memory.rows.activations, into: logits, pool: pool)
    }
}

/// Scratch memory of a GLM-5 forward pass.
final class GLM5Workspace: ModelWorkspace {
    let rows: RowScratch
    package var times: PartTimes? {
        get { rows.times }
        set { rows.times = newValue }
    }
    let attention: LatentMemory
    let feedForward: FeedForwardLayer.Memory
    let logits: FloatRows
    /// What the last draft pass made of its rows: [rows][hidden].
    let drafted: FloatRows
    /// Hidden states that rows to draft from build on.
    var sources: [UnsafePointer<Float>] = []
    /// The rows of the batch that `sources` are for.
    var draftRows: [Int] = []
    var expertLoads: [ExpertLoad] { feedForward.expertLoads }
    private let scratch: Scratch

    init(model: GLM5Model, rows: Int, logitRows: Int, pool: ComputePool) throws(EngineError) {
        let (config, geometry) = (model.config, model.geometry)
        let hidden = config.common.hiddenSize
        let columns = max(
            config.denseSize, config.mixture.sharedSize, geometry.queryRank, geometry.shape.heads * geometry.value,
            2 * hidden)
        self.rows = try RowScratch(
            rows: rows, hiddenSize: hidden, rotaryPairs: geometry.shape.rope / 2, columns: columns,
            table: model.table, pool: pool)
        attention = try LatentMemory(
            geometry, rows: rows, positions: model.facts.contextLimit + 1 + EngineOptions.draftsMax,
            table: model.table, pool: pool)
        feedForward = try FeedForwardLayer.Memory(
            rows: rows, hiddenSize: hidden, denseSize: config.denseSize, mixture: config.mixture,
            mixtureLayers: model.mixtureLayers, table: model.table, pool: pool)
        scratch = try Scratch(floats: [logitRows * model.facts.vocabularySize, rows * hidden])
        logits = FloatRows(scratch[0], rows: logitRows, columns: model.facts.vocabularySize)
        drafted = FloatRows(scratch[1], rows: rows, columns: hidden)
    }
}
