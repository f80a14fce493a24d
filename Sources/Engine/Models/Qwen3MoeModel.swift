package import Kernels
package import ModelFormat

/// The Qwen3-MoE architecture (Qwen3 technical report, arXiv:2505.09388): Llama's attention with a norm on each head's
/// query and key, and mixtures of experts with softmax routing.
package final class Qwen3MoeModel: Model {
    private struct Layer: Sendable {
        let attention: GroupedQueryAttention
        let feedForward: FeedForwardKind
    }

    private enum FeedForwardKind: Sendable {
        case dense(FeedForward)
        /// With its place among the layers that have experts.
        case experts(ExpertMixture, Int)
    }

    package let facts: ModelFacts
    package let layout: PageLayout
    let config: Qwen3MoeConfig
    let table: KernelTable
    let rotary: RotaryEmbedding
    let geometry: GroupedQueryAttention.Geometry
    private let embedding: EmbeddingTable
    private let layers: [Layer]
    private let outputNorm: NormWeights
    private let head: PackedMatrix

    /// Packs the weights for `table`. Throws `model` for a checkpoint that does not hold this architecture.
    package init(
        checkpoint: Checkpoint, config: Qwen3MoeConfig, options: LoadOptions, table: KernelTable, pool: ComputePool
    ) throws(EngineError) {
        let loader = WeightLoader(checkpoint: checkpoint, table: table, pool: pool)
        try loader.check(config.expectedTensors(in: checkpoint.format))
        self.config = config
        self.table = table
        let contextLimit = min(options.contextLimit ?? config.common.contextLimit, config.common.contextLimit)
        rotary = try RotaryEmbedding(
            config.rope, trainedContext: config.common.contextLimit, servedContext: contextLimit)
        layout = try .keysAndValues(
            architecture: config.common.architecture.rawValue, layers: config.common.layerCount,
            heads: config.keyValueHeadCount, width: config.headDimension, options)
        geometry = try GroupedQueryAttention.Geometry(
            heads: config.headCount, kvHeads: config.keyValueHeadCount, headDimension: config.headDimension,
            pairing: config.rope.pairing, rotaryDimensions: rotary.rotaryDimensions, epsilon: config.normEpsilon,
            layout: layout)
        embedding = try loader.embedding(Qwen3MoeTensor.embedding.name)
        var layers: [Layer] = []
        for index in 0..<config.common.layerCount { layers.append(try Self.load(index, config, loader)) }
        self.layers = layers
        outputNorm = try loader.norm(Qwen3MoeTensor.outputNorm.name)
        let output = config.tiedEmbeddings ? Qwen3MoeTensor.embedding : .output
        head = try loader.matrix([output.name], biases: nil)
        facts = ModelFacts(
            name: checkpoint.name, architecture: config.common.architecture.rawValue,
            layerCount: config.common.layerCount, hiddenSize: config.common.hiddenSize,
            vocabularySize: config.common.vocabularySize, hiddenStateCount: config.common.layerCount + 1,
            contextLimit: contextLimit, parameterCount: loader.parameterCount, weightBytes: loader.packedBytes)
    }

    private static func load(
        _ index: Int, _ config: Qwen3MoeConfig, _ loader: WeightLoader
    ) throws(EngineError) -> Layer {
        func name(_ tensor: Qwen3MoeTensor.Layer) -> String { Qwen3MoeTensor.layer(index, tensor).name }
        let biases: [String?]? =
            config.attentionBias ? [name(.queryBias), name(.keyBias), name(.valueBias)] : nil
        let attention = GroupedQueryAttention(
            norm: try loader.norm(name(.attentionNorm)),
            queryKeyValue: try loader.matrix([name(.query), name(.key), name(.value)], biases: biases),
            headNorms: (try loader.norm(name(.queryNorm)), try loader.norm(name(.keyNorm))),
            output: try loader.matrix(
                [name(.attentionOutput)], biases: config.attentionBias ? [name(.attentionOutputBias)] : nil))
        let norm = try loader.norm(name(.mlpNorm))
        guard config.isSparse[index] else {
            let dense = FeedForward(
                norm: norm, gateUp: try loader.matrix([name(.gate), name(.up)], biases: nil),
                down: try loader.matrix([name(.down)], biases: nil))
            return Layer(attention: attention, feedForward: .dense(dense))
        }
        func expert(_ expert: Int, _ projection: Qwen3MoeTensor.Projection) -> String {
            Qwen3MoeTensor.expert(layer: index, expert: expert, projection).name
        }
        let experts = 0..<config.mixture.expertCount
        let mixture = ExpertMixture(
            norm: norm, router: try loader.matrix([name(.router)], biases: nil), routerBias: nil,
            gateUp: try loader.matrices(experts.map { [expert($0, .gate), expert($0, .up)] }),
            down: try loader.matrices(experts.map { [expert($0, .down)] }), shared: nil)
        return Layer(attention: attention, feedForward: .experts(mixture, config.isSparse[..<index].count { $0 }))
    }

    package func makeWorkspace(
        rows: Int, logitRows: Int, pool: ComputePool
    ) throws(EngineError) -> any ModelWorkspace {
        try Qwen3MoeWorkspace(model: self, rows: rows, logitRows: logitRows, pool: pool)
    }

    package func forward(
        _ batch: borrowing Batch, workspace: any ModelWorkspace, pool: ComputePool, hooks: ForwardHooks
    ) -> Bool {
        guard let memory = workspace as? Qwen3MoeWorkspace else { preconditionFailure("another model's workspace") }
        let (rows, count) = (memory.rows, batch.rowCount)
        precondition(count <= rows.rowLimit && batch.logitRows.count <= memory.logits.rows, "a batch too large")
        rows.embed(batch, embedding, rotary, table, pool)
        hooks.hidden?(0, rows.residual(count))
        var active = count
        for (index, layer) in layers.enumerated() {
            let offset = layout.layerOffsets[index]
            layer.attention.store(
                batch, pageOffset: offset, geometry, memory.attention, rows, table: table, pool: pool)
            if let stored = hooks.layerStored, !stored(index) { return false }
            if index == layers.count - 1 {
                // Nobody reads what the last layer makes of a row without logits.
                active = batch.logitRows.count
                if active == 0 { return true }
            }
            layer.attention.attend(
                batch, pageOffset: offset, logitRowsOnly: active < count, geometry, memory.attention, rows,
                table: table, pool: pool)
            finish(layer, index, active, memory, pool, hooks)
            if index < layers.count - 1 { hooks.hidden?(index + 1, rows.residual(count)) }
        }
        rows.norm(active, outputNorm, epsilon: config.normEpsilon, table, pool)
        hooks.hidden?(layers.count, rows.normed(active))
        rows.activations.encode(rows.normed(active), as: head.encodings, pool: pool)
        let logits = FloatRows(memory.logits.base, rows: active, columns: facts.vocabularySize)
        matmul(head, rows.activations, into: logits, pool: pool)
        return true
    }

    private func finish(
        _ layer: Layer, _ index: Int, _ count: Int, _ memory: Qwen3MoeWorkspace, _ pool: ComputePool,
        _ hooks: ForwardHooks
    ) {
        switch layer.feedForward {
        case .dense(let feedForward):
            feedForward.run(
                count, epsilon: config.normEpsilon, memory.rows, inner: memory.inner, table: table, pool: pool)
        case .experts(let mixture, let place):
            mixture.run(
                count, epsilon: config.normEpsilon, memory.rows, memory.mixture,
                load: &memory.expertLoads[place].tokens,
                decided: hooks.decided.map { decided in { decided(index, $0) } }, table: table, pool: pool)
        }
    }
}

/// Scratch memory of a Qwen3-MoE forward pass.
private final class Qwen3MoeWorkspace: ModelWorkspace {
    let rows: RowScratch
    package var times: PartTimes? {
        get { rows.times }
        set { rows.times = newValue }
    }
    let attention: GroupedQueryAttention.Memory
    let mixture: ExpertMixture.Memory
    let logits: FloatRows
    /// [rows][gate | up] of dense layers
    let inner: UnsafeMutablePointer<Float>
    package var expertLoads: [ExpertLoad]
    private let scratch: Scratch

    init(model: Qwen3MoeModel, rows: Int, logitRows: Int, pool: ComputePool) throws(EngineError) {
        let config = model.config
        let hidden = config.common.hiddenSize
        self.rows = try RowScratch(
            rows: rows, hiddenSize: hidden, rotaryPairs: model.rotary.rotaryDimensions / 2,
            columns: max(config.denseSize, model.geometry.queryWidth), table: model.table, pool: pool)
        attention = try GroupedQueryAttention.Memory(model.geometry, rows: rows)
        mixture = try ExpertMixture.Memory(
            config.mixture, rows: rows, hiddenSize: hidden, table: model.table, pool: pool)
        expertLoads = config.isSparse.indices.filter { config.isSparse[$0] }
            .map { ExpertLoad(layer: $0, experts: config.mixture.expertCount) }
        scratch = try Scratch(floats: [logitRows * model.facts.vocabularySize, rows * 2 * config.denseSize])
        logits = FloatRows(scratch[0], rows: logitRows, columns: model.facts.vocabularySize)
        inner = scratch[1]
    }
}
