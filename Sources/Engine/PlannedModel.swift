package import ModelFormat

/// A model whose memory is planned: its config, and its tensors where the files are there to look at.
package struct PlannedModel: Sendable {
    package let config: ModelConfig
    /// Nil for a config alone; tensors are then taken to be what published checkpoints of such a config have.
    let checkpoint: Checkpoint?

    package init(config: ModelConfig) {
        self.config = config
        checkpoint = nil
    }

    /// From a `config.json`, or from a checkpoint: a GGUF file, a safetensors file or a folder, whose weights may be
    /// missing. Throws `invalid` of `--config` for what is no model or none that a node would load.
    package init(path: String) throws(EngineError) {
        do throws(ModelFormatError) {
            if path.hasSuffix(".json") {
                self.init(config: try ModelConfig(file: path))
            } else {
                try self.init(checkpoint: path)
            }
        } catch {
            throw .invalid(field: "--config", reason: error.description)
        }
    }

    private init(checkpoint path: String) throws(ModelFormatError) {
        do throws(ModelFormatError) {
            let checkpoint = try Checkpoint.open(path)
            try checkpoint.check()
            config = checkpoint.config
            self.checkpoint = checkpoint
        } catch  where error.kind == .file {
            config = try Checkpoint.open(path, weights: .ignored).config
            checkpoint = nil
        }
    }

    package var format: WeightFormat { checkpoint?.format ?? .safetensors }

    /// Whether the files hold a layer that drafts tokens; of a config alone, whether it announces one.
    package var hasDraftLayer: Bool {
        if let checkpoint { return config.hasDraftLayer(in: checkpoint) }
        if case .glm5(let config) = config { return config.draftLayerCount > 0 }
        return false
    }

    /// The tensors that a node would need.
    func tensors(draftLayer: Bool) -> [ExpectedTensor] {
        config.expectedTensors(in: format, draftLayer: draftLayer).filter { !$0.isOptional }
    }

    func type(of tensor: ExpectedTensor) -> TensorType {
        checkpoint?.tensor(named: tensor.name)?.type ?? tensor.publishedType
    }
}

extension ModelConfig {
    /// The pages of a node with this model, after the checks that loading makes. Throws `invalid` for a shape that
    /// attention or the pages don't take.
    package func pageLayout(_ options: LoadOptions, draftLayer: Bool) throws(EngineError) -> PageLayout {
        switch self {
        case .llama(let config):
            let layout = try config.pageLayout(options)
            _ = try config.geometry(layout)
            return layout
        case .qwen3Moe(let config):
            let layout = try config.pageLayout(options)
            _ = try config.geometry(layout)
            return layout
        case .glm5(let config):
            _ = try LatentAttention.Geometry(config, options)
            return try config.pageLayout(options, draftLayer: draftLayer)
        }
    }

    /// KV is a latent per position, which may be of 8-bit floats.
    var hasLatentAttention: Bool {
        if case .glm5 = self { true } else { false }
    }

    func embeddingName(in format: WeightFormat) -> String {
        switch self {
        case .llama: LlamaTensor.embedding.name(in: format)
        case .glm5: GLM5Tensor.embedding.name
        case .qwen3Moe: Qwen3MoeTensor.embedding.name
        }
    }

    var tiesEmbeddings: Bool {
        switch self {
        case .llama(let config): config.tiedEmbeddings
        case .glm5: false
        case .qwen3Moe(let config): config.tiedEmbeddings
        }
    }
}
