import Glibc
import Kernels
import ModelFormat

extension LatentAttention.Geometry {
    /// Throws `invalid` for a shape that the kernels don't take.
    init(_ config: GLM5Config, _ options: LoadOptions) throws(EngineError) {
        // YaRN scales all of a score, not just what is rotated (DeepSeek-V2's modelling code).
        var scale = 1 / Float(config.plainDimension + config.ropeDimension).squareRoot()
        if case .yarn(let yarn) = config.rope.scaling, let all = yarn.mscaleAllDimensions, yarn.factor > 1 {
            let magnitude = Float(0.1 * all * log(yarn.factor) + 1)
            scale *= magnitude * magnitude
        }
        shape = try EngineError.wrap("attention shape") { () throws(KernelError) in
            try LatentShape(
                heads: config.headCount, latent: config.latentRank, rope: config.ropeDimension,
                pageTokens: options.pageTokens, cacheType: options.kvType, scale: scale)
        }
        index = try EngineError.wrap("indexer shape") { () throws(KernelError) in
            try IndexShape(
                heads: config.indexHeadCount, dimension: config.indexDimension, pageTokens: options.pageTokens,
                cacheType: options.kvType)
        }
        plain = config.plainDimension
        value = config.valueDimension
        queryRank = config.queryRank
        topK = config.indexTopK
        indexRopeStyle = config.indexerRopePairing == .halfSplit ? .halfSplit : .interleaved
        epsilon = config.normEpsilon
        latentEpsilon = options.latentEpsilon
    }
}

extension GLM5Config {
    /// What a page holds of each layer: latent, rotated key, and index key where the layer has an indexer. The draft
    /// layer comes last, with the hidden state of the page's last token.
    package func pageLayout(_ options: LoadOptions, draftLayer: Bool) throws(EngineError) -> PageLayout {
        typealias Plane = PageLayout.Plane
        let latent = Plane(name: "latent", heads: 1, width: latentRank)
        let rope = Plane(name: "rope", heads: 1, width: ropeDimension, storage: .unscaled)
        let index = Plane(name: "index", heads: 1, width: indexDimension)
        var layers = ownsIndexer.map { $0 ? [latent, rope, index] : [latent, rope] }
        if draftLayer {
            let hidden = Plane(name: "hidden", heads: 1, width: common.hiddenSize, storage: .page)
            layers.append([latent, rope, index, hidden])
        }
        return try PageLayout(
            architecture: common.architecture.rawValue, kvType: options.kvType, pageTokens: options.pageTokens,
            layers: layers)
    }
}

extension WeightLoader {
    /// - Parameter sparse: the layer's place among those with experts; nil for a dense one.
    func glm5Layer(
        _ index: Int, _ config: GLM5Config, _ geometry: LatentAttention.Geometry, _ layout: PageLayout,
        ownsIndexer: Bool, sparse: Int?
    ) throws(EngineError) -> GLM5Model.Layer {
        func name(_ tensor: GLM5Tensor.Layer) -> String { GLM5Tensor.layer(index, tensor).name }
        let heads = try headMatrices(name(.latentUp), config)
        let attention = LatentAttention(
            norm: try norm(name(.attentionNorm)),
            down: try matrix(
                [name(.latentDown), name(.queryDown)]
                    + (ownsIndexer ? [name(.indexKey), name(.indexWeights)] : []), biases: nil),
            queryNorm: try norm(name(.queryNorm)), latentNorm: try norm(name(.latentNorm)),
            up: try matrix([name(.queryUp)] + (ownsIndexer ? [name(.indexQuery)] : []), biases: nil),
            absorb: heads.absorb, expand: heads.expand, output: try matrix([name(.attentionOutput)], biases: nil),
            indexNorm: ownsIndexer ? (try norm(name(.indexKeyNorm)), try norm(name(.indexKeyNormBias))) : nil)
        let mlpNorm = try norm(name(.mlpNorm))
        let feedForward: FeedForwardLayer
        if let sparse {
            feedForward = .experts(try glm5Mixture(index, config, mlpNorm), sparse)
        } else {
            feedForward = .dense(
                FeedForward(
                    norm: mlpNorm, gateUp: try matrix([name(.gate), name(.up)], biases: nil),
                    down: try matrix([name(.down)], biases: nil)))
        }
        return GLM5Model.Layer(
            attention: attention,
            planes: LatentAttention.Planes(layout, layer: index, hasIndex: ownsIndexer), feedForward: feedForward)
    }

    private func glm5Mixture(
        _ index: Int, _ config: GLM5Config, _ mlpNorm: NormWeights
    ) throws(EngineError) -> ExpertMixture {
        func name(_ tensor: GLM5Tensor.Layer) -> String { GLM5Tensor.layer(index, tensor).name }
        func expert(_ expert: Int, _ projection: GLM5Tensor.Projection) -> String {
            GLM5Tensor.expert(layer: index, expert: expert, projection).name
        }
        let experts = 0..<config.mixture.expertCount
        let hasShared = config.mixture.sharedSize > 0
        return ExpertMixture(
            norm: mlpNorm, router: try matrix([name(.router)], biases: nil), routerBias: try norm(name(.routerBias)),
            gateUp: try matrices(experts.map { [expert($0, .gate), expert($0, .up)] }),
            down: try matrices(experts.map { [expert($0, .down)] }),
            shared: hasShared
                ? (
                    try matrix([name(.sharedGate), name(.sharedUp)], biases: nil),
                    try matrix([name(.sharedDown)], biases: nil)
                ) : nil)
    }

    func glm5DraftLayer(
        _ config: GLM5Config, _ geometry: LatentAttention.Geometry, _ layout: PageLayout
    ) throws(EngineError) -> GLM5Model.DraftLayer {
        let index = config.common.layerCount
        func name(_ tensor: GLM5Tensor.Layer) -> String { GLM5Tensor.layer(index, tensor).name }
        return GLM5Model.DraftLayer(
            layer: try glm5Layer(
                index, config, geometry, layout, ownsIndexer: true, sparse: config.isSparse.count { $0 }),
            embeddingNorm: try norm(name(.embeddingNorm)), hiddenNorm: try norm(name(.hiddenNorm)),
            outputNorm: try norm(name(.draftNorm)), projection: try matrix([name(.draftProjection)], biases: nil),
            hiddenPlane: layout.planeOffset(index, 3))
    }

    /// Cuts the up-projection of latents, [heads][plain | value][latent], into what takes a head's query to latents,
    /// [latent][plain], and what takes its result back, [value][latent].
    private func headMatrices(
        _ name: String, _ config: GLM5Config
    ) throws(EngineError) -> (absorb: [PackedMatrix], expand: [PackedMatrix]) {
        let (plain, value, latent) = (config.plainDimension, config.valueDimension, config.latentRank)
        let rows = plain + value
        // Blocks that share a scale don't end where heads do, so 8-bit weights become floats here; they are 0.5 % of all.
        let elements = try plainElements(name)
        let size = elements.type == .f32 ? 4 : 2
        var transposed = [UInt8](repeating: 0, count: config.headCount * plain * latent * size)
        elements.bytes.withUnsafeBytes { source in
            transposed.withUnsafeMutableBytes { target in
                for head in 0..<config.headCount {
                    for row in 0..<plain {
                        for column in 0..<latent {
                            let from = ((head * rows + row) * latent + column) * size
                            let to = ((head * latent + column) * plain + row) * size
                            for byte in 0..<size { target[to + byte] = source[from + byte] }
                        }
                    }
                }
            }
        }
        let absorb = try pack(transposed, elements.type, count: config.headCount, columns: plain) {
            ($0 * latent * plain, latent)
        }
        let expand = try pack(elements.bytes, elements.type, count: config.headCount, columns: latent) {
            (($0 * rows + plain) * latent, value)
        }
        return (absorb, expand)
    }

    /// Matrices cut from elements in memory: `place` gives the first element and the rows of each.
    private func pack(
        _ bytes: [UInt8], _ type: ElementType, count: Int, columns: Int, place: (Int) -> (first: Int, rows: Int)
    ) throws(EngineError) -> [PackedMatrix] {
        let size = type.blockBytes
        var packed: Result<[PackedMatrix], EngineError> = .success([])
        bytes.withUnsafeBytes { bytes in
            let sources = (0..<count).map { index in
                let (first, rows) = place(index)
                return [
                    MatrixSource(
                        type: type, rows: rows, columns: columns,
                        bytes: UnsafeRawBufferPointer(rebasing: bytes[first * size..<(first + rows * columns) * size]))
                ]
            }
            packed = Result { () throws(EngineError) in try matrices(sources) }
        }
        return try packed.get()
    }
}
