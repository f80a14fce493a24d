import Kernels
package import ModelFormat

/// What the weights of a model take: in its files, and in the memory of a node that holds all of them.
package struct WeightPlan: Sendable, Equatable {
    /// Numbers in the files, those of a draft layer among them; scales of 8-bit floats are not counted.
    package let parameterCount: Int
    /// All tensors of the files, with scales. The files' headers come on top.
    package let fileBytes: Int
    /// Types of tensors in the files, the one with most bytes first.
    package let fileTypes: [TensorType]
    /// Matrices as the kernels want them, which is `ModelFacts.weightBytes`.
    package let packedBytes: Int
    /// The embedding, whose rows are read from the mapped file.
    package let mappedBytes: Int

    package var memoryBytes: Int { packedBytes + mappedBytes }

    init(_ model: PlannedModel, draftLayer: Bool) {
        let files = FileSizes(model)
        parameterCount = files.parameterCount
        fileBytes = files.bytes.values.reduce(0, +)
        fileTypes = files.bytes.sorted { ($1.value, $0.key.name) < ($0.value, $1.key.name) }.map(\.key)
        let embeddingName = model.config.embeddingName(in: model.format)
        let latentUps = model.config.latentUpNames
        var (packed, mapped) = (model.config.packedBiasBytes, 0)
        for tensor in model.tensors(draftLayer: draftLayer) where tensor.shape.count == 2 {
            // A checkpoint's types were checked when it was opened.
            guard let type = model.type(of: tensor).elementType else { continue }
            let (rows, columns) = (tensor.shape[0], tensor.shape[1])
            if tensor.name == embeddingName {
                mapped = rows * columns / type.blockElements * type.blockBytes
                if !model.config.tiesEmbeddings { continue }
            }
            if case .glm5(let config) = model.config, latentUps.contains(tensor.name) {
                packed += config.headMatrixBytes(type)
            } else {
                packed += PackedMatrix.byteCount(type, rows: rows, columns: columns)
            }
        }
        packedBytes = packed
        mappedBytes = mapped
    }
}

/// What is in a model's files.
private struct FileSizes {
    var parameterCount = 0
    var bytes: [TensorType: Int] = [:]

    init(_ model: PlannedModel) {
        guard let checkpoint = model.checkpoint else {
            for tensor in model.tensors(draftLayer: model.hasDraftLayer) {
                let type = tensor.publishedType
                add(type, tensor.shape)
                if type == .f8E4M3, let block = tensor.block { addScales(block.scaleShape(of: tensor.shape)) }
            }
            return
        }
        for tensor in checkpoint.tensors {
            parameterCount += tensor.elementCount
            bytes[tensor.type, default: 0] += tensor.byteCount ?? 0
            if tensor.type == .f8E4M3, let scales = checkpoint.scales(of: tensor) {
                parameterCount -= scales.elementCount
            }
        }
    }

    private mutating func add(_ type: TensorType, _ shape: [Int]) {
        let count = shape.reduce(1, *)
        parameterCount += count
        // Published types, which have no blocks.
        bytes[type, default: 0] += count * type.blockBytes
    }

    private mutating func addScales(_ shape: [Int]) {
        bytes[.f32, default: 0] += shape.reduce(TensorType.f32.blockBytes, *)
    }
}

extension ModelConfig {
    /// Of the matrices that are cut into heads when they are loaded.
    fileprivate var latentUpNames: Set<String> {
        guard case .glm5(let config) = self else { return [] }
        return Set((0...config.draftLayer).map { GLM5Tensor.layer($0, .latentUp).name })
    }

    /// Biases that are packed with their matrix. A matrix of several projections has them for all or for none.
    fileprivate var packedBiasBytes: Int {
        var rows = 0
        switch self {
        case .llama(let config):
            func count(_ roles: LlamaTensor.Layer...) -> Int { roles.reduce(0) { $0 + config.shape(of: $1)[0] } }
            let bias = config.attentionBias
            if bias.query || bias.key || bias.value { rows += count(.query, .key, .value) }
            if bias.output { rows += count(.attentionOutput) }
            if config.mlpBias { rows += count(.gate, .up, .down) }
        case .qwen3Moe(let config):
            let roles: [Qwen3MoeTensor.Layer] = [.query, .key, .value, .attentionOutput]
            if config.attentionBias { rows = roles.reduce(0) { $0 + config.shape(of: $1)[0] } }
        case .glm5: break
        }
        return rows * common.layerCount * MemoryLayout<Float>.size
    }
}

extension GLM5Config {
    /// What the up-projection of a layer's latents becomes: for each head one matrix [latent][plain] and one
    /// [value][latent], of floats where the file has 8-bit ones.
    fileprivate func headMatrixBytes(_ type: ElementType) -> Int {
        let plainType = [.f16, .bf16].contains(type) ? type : ElementType.f32
        return headCount
            * (PackedMatrix.byteCount(plainType, rows: latentRank, columns: plainDimension)
                + PackedMatrix.byteCount(plainType, rows: valueDimension, columns: latentRank))
    }
}
