package import Kernels
package import ModelFormat

/// The Llama architecture: RMSNorm, rotary grouped-query attention, SwiGLU (Touvron et al. 2023, arXiv:2302.13971
/// and 2307.09288), from Hugging Face safetensors or GGUF.
///
/// The two formats differ in the order of the rows of the query and key projections: llama.cpp's converter makes
/// the two halves of a rotated head alternate. The rows are kept as the file has them, and rotated as
/// `RopeConfig.pairing` says.
package final class LlamaModel: GroupedQueryModel {
    package let facts: ModelFacts
    package let layout: PageLayout
    let stack: GroupedQueryStack

    /// Packs the weights for `table`. Throws `model` for a checkpoint that does not hold this architecture.
    package init(
        checkpoint: Checkpoint, config: LlamaConfig, options: LoadOptions, table: KernelTable, pool: ComputePool
    ) throws(EngineError) {
        let loader = WeightLoader(checkpoint: checkpoint, table: table, pool: pool)
        try loader.check(config.expectedTensors(in: checkpoint.format))
        let contextLimit = options.servedContext(config.common)
        let rotary = try RotaryEmbedding(
            config.rope, trainedContext: config.common.contextLimit, servedContext: contextLimit)
        layout = try config.pageLayout(options)
        let geometry = try config.geometry(layout)
        let names = { (tensor: LlamaTensor) in tensor.name(in: checkpoint.format) }
        stack = GroupedQueryStack(
            table: table, rotary: rotary, geometry: geometry,
            embedding: try loader.embedding(names(.embedding)),
            layers: try Self.loadLayers(config, loader, names),
            outputNorm: try loader.norm(names(.outputNorm)),
            head: try loader.matrix([names(config.tiedEmbeddings ? .embedding : .output)], biases: nil),
            denseSize: config.intermediateSize, mixture: nil)
        facts = loader.facts(
            config.common, contextLimit: contextLimit, hiddenStateCount: config.common.layerCount + 1)
    }

    private static func loadLayers(
        _ config: LlamaConfig, _ loader: WeightLoader, _ name: (LlamaTensor) -> String
    ) throws(EngineError) -> [GroupedQueryStack.Layer] {
        var layers: [GroupedQueryStack.Layer] = []
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
            layers.append(GroupedQueryStack.Layer(attention: attention, feedForward: .dense(feedForward)))
        }
        return layers
    }
}
