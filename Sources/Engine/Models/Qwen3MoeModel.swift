package import Kernels
package import ModelFormat

/// The Qwen3-MoE architecture (Qwen3 technical report, arXiv:2505.09388): Llama's attention with a norm on each head's
/// query and key, and mixtures of experts with softmax routing.
package final class Qwen3MoeModel: GroupedQueryModel {
    package let facts: ModelFacts
    package let layout: PageLayout
    let stack: GroupedQueryStack

    /// Packs the weights for `table`. Throws `model` for a checkpoint that does not hold this architecture.
    package init(
        checkpoint: Checkpoint, config: Qwen3MoeConfig, options: LoadOptions, table: KernelTable, pool: ComputePool
    ) throws(EngineError) {
        let loader = WeightLoader(checkpoint: checkpoint, table: table, pool: pool)
        try loader.check(config.expectedTensors(in: checkpoint.format))
        let contextLimit = options.servedContext(config.common)
        let rotary = try RotaryEmbedding(
            config.rope, trainedContext: config.common.contextLimit, servedContext: contextLimit)
        layout = try config.pageLayout(options)
        let geometry = try config.geometry(layout)
        var layers: [GroupedQueryStack.Layer] = []
        for index in 0..<config.common.layerCount { layers.append(try Self.load(index, config, loader)) }
        let output = config.tiedEmbeddings ? Qwen3MoeTensor.embedding : .output
        stack = GroupedQueryStack(
            table: table, rotary: rotary, geometry: geometry,
            embedding: try loader.embedding(Qwen3MoeTensor.embedding.name), layers: layers,
            outputNorm: try loader.norm(Qwen3MoeTensor.outputNorm.name),
            head: try loader.matrix([output.name], biases: nil), denseSize: config.denseSize,
            mixture: config.mixture)
        facts = loader.facts(
            config.common, contextLimit: contextLimit, hiddenStateCount: config.common.layerCount + 1)
    }

    private static func load(
        _ index: Int, _ config: Qwen3MoeConfig, _ loader: WeightLoader
    ) throws(EngineError) -> GroupedQueryStack.Layer {
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
            return GroupedQueryStack.Layer(attention: attention, feedForward: .dense(dense))
        }
        func expert(_ expert: Int, _ projection: Qwen3MoeTensor.Projection) -> String {
            Qwen3MoeTensor.expert(layer: index, expert: expert, projection).name
        }
        let experts = 0..<config.mixture.expertCount
        let mixture = ExpertMixture(
            norm: norm, router: try loader.matrix([name(.router)], biases: nil), routerBias: nil,
            gateUp: try loader.matrices(experts.map { [expert($0, .gate), expert($0, .up)] }),
            down: try loader.matrices(experts.map { [expert($0, .down)] }), shared: nil)
        return GroupedQueryStack.Layer(
            attention: attention, feedForward: .experts(mixture, config.isSparse[..<index].count { $0 }))
    }
}
