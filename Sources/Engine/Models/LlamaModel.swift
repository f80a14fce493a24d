package import Kernels
package import ModelFormat

/// The Llama architecture: RMSNorm, rotary grouped-query attention, SwiGLU (Touvron et al. 2023, arXiv:2302.13971
/// and 2307.09288), from Hugging Face safetensors or GGUF.
///
/// The two formats differ in the order of the rows of the query and key projections: llama.cpp's converter makes
/// the two halves of a rotated head alternate. The rows are kept as the file has them, and rotated as
/// `RopeConfig.pairing` says.
package final class LlamaModel: Model {
    private struct Layer: Sendable {
        let attention: GroupedQueryAttention
        let feedForward: FeedForward
    }

    package let facts: ModelFacts
    package let layout: PageLayout
    let config: LlamaConfig
    let table: KernelTable
    let rotary: RotaryEmbedding
    let geometry: GroupedQueryAttention.Geometry
    private let embedding: EmbeddingTable
    private let layers: [Layer]
    private let outputNorm: NormWeights
    private let head: PackedMatrix

    /// Packs the weights for `table`. Throws `model` for a checkpoint that does not hold this architecture.
    package init(
        checkpoint: Checkpoint, config: LlamaConfig, options: LoadOptions, table: KernelTable, pool: ComputePool
    ) throws(EngineError) {
        let loader = WeightLoader(checkpoint: checkpoint, table: table, pool: pool)
        try loader.check(config.expectedTensors(in: checkpoint.format))
        self.config = config
        self.table = table
        let contextLimit = min(options.contextLimit ?? config.common.contextLimit, config.common.contextLimit)
        rotary = try RotaryEmbedding(
            config.rope, trainedContext: config.common.contextLimit, servedContext: contextLimit)
        layout = try .keysAndValues(
            architecture: "llama", layers: config.common.layerCount, heads: config.keyValueHeadCount,
            width: config.headDimension, options)
        geometry = try GroupedQueryAttention.Geometry(
            heads: config.headCount, kvHeads: config.keyValueHeadCount, headDimension: config.headDimension,
            pairing: config.rope.pairing, rotaryDimensions: rotary.rotaryDimensions, epsilon: config.normEpsilon,
            layout: layout)
        let names = { (tensor: LlamaTensor) in tensor.name(in: checkpoint.format) }
        embedding = try loader.embedding(names(.embedding))
        layers = try Self.loadLayers(config, loader, names)
        outputNorm = try loader.norm(names(.outputNorm))
        head = try loader.matrix([names(config.tiedEmbeddings ? .embedding : .output)], biases: nil)
        facts = ModelFacts(
            name: checkpoint.name, architecture: "llama", layerCount: config.common.layerCount,
            hiddenSize: config.common.hiddenSize, vocabularySize: config.common.vocabularySize,
            hiddenStateCount: config.common.layerCount + 1, contextLimit: contextLimit,
            parameterCount: loader.parameterCount, weightBytes: loader.packedBytes)
    }

    private static func loadLayers(
        _ config: LlamaConfig, _ loader: WeightLoader, _ name: (LlamaTensor) -> String
    ) throws(EngineError) -> [Layer] {
        var layers: [Layer] = []
        for index in 0..<config.common.layerCount {
            func tensor(_ tensor: LlamaTensor.Layer) -> String { name(.layer(index, tensor)) }
            let bias = config.attentionBias
            let attention = GroupedQueryAttention(
                norm: try loader.norm(tensor(.attentionNorm)),
                queryKeyValue: try loader.matrix(
                    [tensor(.query), tensor(.key), tensor(.value)],
                    biases: [
                        bias.query ? tensor(.queryBias) : nil, bias.key ? tensor(.keyBias) : nil,
                        bias.value ? tensor(.valueBias) : nil,
                    ]),
                headNorms: nil,
                output: try loader.matrix(
                    [tensor(.attentionOutput)], biases: [bias.output ? tensor(.attentionOutputBias) : nil]))
            let feedForward = FeedForward(
                norm: try loader.norm(tensor(.mlpNorm)),
                gateUp: try loader.matrix(
                    [tensor(.gate), tensor(.up)], biases: config.mlpBias ? [tensor(.gateBias), tensor(.upBias)] : nil),
                down: try loader.matrix([tensor(.down)], biases: config.mlpBias ? [tensor(.downBias)] : nil))
            layers.append(Layer(attention: attention, feedForward: feedForward))
        }
        return layers
    }

    package func makeWorkspace(
        rows: Int, logitRows: Int, pool: ComputePool
    ) throws(EngineError) -> any ModelWorkspace {
        try LlamaWorkspace(model: self, rows: rows, logitRows: logitRows, pool: pool)
    }

    package func forward(
        _ batch: borrowing Batch, workspace: any ModelWorkspace, pool: ComputePool, hooks: ForwardHooks
    ) -> Bool {
        guard let scratch = workspace as? LlamaWorkspace else { preconditionFailure("another model's workspace") }
        let (rows, count, epsilon) = (scratch.rows, batch.rowCount, config.normEpsilon)
        precondition(
            count <= rows.rowLimit && batch.logitRows.count <= scratch.logits.rows, "a batch too large")
        rows.embed(batch, embedding, rotary, table, pool)
        hooks.hidden?(0, rows.residual(count))
        var active = count
        for (index, layer) in layers.enumerated() {
            let offset = layout.layerOffsets[index]
            layer.attention.store(
                batch, pageOffset: offset, geometry, scratch.attention, rows, table: table, pool: pool)
            if let stored = hooks.layerStored, !stored(index) { return false }
            if index == layers.count - 1 {
                // Nobody reads what the last layer makes of a row without logits.
                active = batch.logitRows.count
                if active == 0 { return true }
            }
            layer.attention.attend(
                batch, pageOffset: offset, logitRowsOnly: active < count, geometry, scratch.attention, rows,
                table: table, pool: pool)
            layer.feedForward.run(
                active, epsilon: epsilon, rows, inner: scratch.inner, table: table, pool: pool)
            if index < layers.count - 1 { hooks.hidden?(index + 1, rows.residual(count)) }
        }
        rows.norm(active, outputNorm, epsilon: epsilon, table, pool)
        hooks.hidden?(layers.count, rows.normed(active))
        rows.activations.encode(rows.normed(active), as: head.encodings, pool: pool)
        let logits = FloatRows(scratch.logits.base, rows: active, columns: facts.vocabularySize)
        matmul(head, rows.activations, into: logits, pool: pool)
        return true
    }
}

/// Scratch memory of a Llama forward pass.
private final class LlamaWorkspace: ModelWorkspace {
    let rows: RowScratch
    package var times: PartTimes? {
        get { rows.times }
        set { rows.times = newValue }
    }
    let attention: GroupedQueryAttention.Memory
    let logits: FloatRows
    /// [rows][gate | up]
    let inner: UnsafeMutablePointer<Float>
    private let scratch: Scratch

    init(model: LlamaModel, rows: Int, logitRows: Int, pool: ComputePool) throws(EngineError) {
        let config = model.config
        self.rows = try RowScratch(
            rows: rows, hiddenSize: config.common.hiddenSize, rotaryPairs: model.rotary.rotaryDimensions / 2,
            columns: max(config.intermediateSize, model.geometry.queryWidth), table: model.table, pool: pool)
        attention = try GroupedQueryAttention.Memory(model.geometry, rows: rows)
        scratch = try Scratch(floats: [logitRows * model.facts.vocabularySize, rows * 2 * config.intermediateSize])
        logits = FloatRows(scratch[0], rows: logitRows, columns: model.facts.vocabularySize)
        inner = scratch[1]
    }
}
