import Kernels
import ModelFormat

/// A model whose layers have grouped-query attention, followed by an MLP or a mixture of experts. How it computes is the
/// same for all of them.
protocol GroupedQueryModel: Model {
    var stack: GroupedQueryStack { get }
}

/// The weights of such a model, and what all its layers have in common.
struct GroupedQueryStack: Sendable {
    struct Layer: Sendable {
        let attention: GroupedQueryAttention
        let feedForward: FeedForwardLayer
    }

    let table: KernelTable
    let rotary: RotaryEmbedding
    let geometry: GroupedQueryAttention.Geometry
    let embedding: EmbeddingTable
    let layers: [Layer]
    let outputNorm: NormWeights
    let head: PackedMatrix
    /// Width of a dense MLP.
    let denseSize: Int
    /// Nil for a model without experts.
    let mixture: MixtureConfig?

    fileprivate var mixtureLayers: [Int] {
        layers.indices.filter { if case .experts = layers[$0].feedForward { true } else { false } }
    }
}

/// What the configs of these architectures have in common.
protocol GroupedQueryConfig {
    var common: CommonConfig { get }
    var headCount: Int { get }
    var keyValueHeadCount: Int { get }
    var headDimension: Int { get }
    var rope: RopeConfig { get }
    var normEpsilon: Float { get }
}

extension LlamaConfig: GroupedQueryConfig {}
extension Qwen3MoeConfig: GroupedQueryConfig {}

extension GroupedQueryConfig {
    /// What a page holds of each layer. Throws `invalid` for page tokens out of range.
    func pageLayout(_ options: LoadOptions) throws(EngineError) -> PageLayout {
        try .keysAndValues(
            architecture: common.architecture.rawValue, layers: common.layerCount, heads: keyValueHeadCount,
            width: headDimension, options)
    }

    /// Throws `invalid` for a shape that attention or the pages don't take.
    func geometry(_ layout: PageLayout) throws(EngineError) -> GroupedQueryAttention.Geometry {
        try GroupedQueryAttention.Geometry(
            heads: headCount, kvHeads: keyValueHeadCount, headDimension: headDimension, pairing: rope.pairing,
            rotaryDimensions: rope.dimensions, epsilon: normEpsilon, layout: layout)
    }
}

extension GroupedQueryModel {
    package func makeWorkspace(
        rows: Int, logitRows: Int, pool: ComputePool
    ) throws(EngineError) -> any ModelWorkspace {
        try GroupedQueryWorkspace(stack, facts, rows: rows, logitRows: logitRows, pool: pool)
    }

    package func forward(
        _ batch: borrowing Batch, workspace: any ModelWorkspace, pool: ComputePool, hooks: ForwardHooks
    ) -> Bool {
        guard let memory = workspace as? GroupedQueryWorkspace else { preconditionFailure("another model's workspace") }
        let (stack, table, rows, count) = (stack, stack.table, memory.rows, batch.rowCount)
        precondition(count <= rows.rowLimit && batch.logitRows.count <= memory.logits.rows, "a batch too large")
        rows.times?.begin()
        rows.embed(batch, stack.embedding, stack.rotary, table, pool)
        hooks.hidden?(0, rows.residual(count))
        let last = stack.layers.count - 1
        var active = count
        for (index, layer) in stack.layers.enumerated() {
            let offset = layout.layerOffsets[index]
            layer.attention.store(
                batch, pageOffset: offset, stack.geometry, memory.attention, rows, table: table, pool: pool)
            if let stored = hooks.layerStored, !stored(index) { return false }
            if index == last {
                // Nobody reads what the last layer makes of a row without logits.
                active = batch.logitRows.count
                if active == 0 { return true }
            }
            layer.attention.attend(
                batch, pageOffset: offset, logitRowsOnly: active < count, stack.geometry, memory.attention, rows,
                table: table, pool: pool)
            layer.feedForward.run(
                active, epsilon: stack.geometry.epsilon, rows, memory.feedForward, decided: hooks.decisions(of: index),
                table: table, pool: pool)
            if index < last { hooks.hidden?(index + 1, rows.residual(count)) }
        }
        rows.norm(active, stack.outputNorm, epsilon: stack.geometry.epsilon, table, pool)
        hooks.hidden?(last + 1, rows.normed(active))
        rows.activations.encode(rows.normed(active), as: stack.head.encodings, pool: pool)
        let logits = FloatRows(memory.logits.base, rows: active, columns: facts.vocabularySize)
        matmul(stack.head, rows.activations, into: logits, pool: pool)
        rows.times?.lap(.head)
        return true
    }
}

/// Scratch memory of their forward passes.
private final class GroupedQueryWorkspace: ModelWorkspace {
    let rows: RowScratch
    let attention: GroupedQueryAttention.Memory
    let feedForward: FeedForwardLayer.Memory
    let logits: FloatRows
    var expertLoads: [ExpertLoad] { feedForward.expertLoads }
    var times: PartTimes? {
        get { rows.times }
        set { rows.times = newValue }
    }
    private let scratch: Scratch

    init(
        _ stack: GroupedQueryStack, _ facts: ModelFacts, rows: Int, logitRows: Int, pool: ComputePool
    ) throws(EngineError) {
        self.rows = try RowScratch(
            rows: rows, hiddenSize: facts.hiddenSize, rotaryPairs: stack.rotary.rotaryDimensions / 2,
            columns: max(stack.denseSize, stack.geometry.queryWidth), table: stack.table, pool: pool)
        attention = try GroupedQueryAttention.Memory(stack.geometry, rows: rows)
        feedForward = try FeedForwardLayer.Memory(
            rows: rows, hiddenSize: facts.hiddenSize, denseSize: stack.denseSize, mixture: stack.mixture,
            mixtureLayers: stack.mixtureLayers, table: stack.table, pool: pool)
        scratch = try Scratch(floats: [logitRows * facts.vocabularySize])
        logits = FloatRows(scratch[0], rows: logitRows, columns: facts.vocabularySize)
    }
}
