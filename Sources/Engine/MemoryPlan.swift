import Kernels
import ModelFormat

/// What a node needs to hold a model and the KV of some sequences, and what their handoffs move: told from a config,
/// before there are weights. One node holds the whole model.
///
/// Scratch memory of batches, norms, the prefix index and the process itself are not counted.
package struct MemoryPlan: Sendable, Equatable {
    /// What fits in a given memory.
    package struct Fit: Sendable, Equatable {
        package let memoryBytes: Int
        /// By which the weights are too much for it; 0 where they fit.
        package let missingBytes: Int
        /// Pages beside the weights.
        package let pages: Int
        package let tokens: Int
        /// Sequences of the planned length.
        package let sequences: Int
        /// Tokens of each sequence, if there are as many as planned: at most what the model allows.
        package let longestContext: Int

        package var holdsWeights: Bool { missingBytes == 0 }
    }

    package let architecture: String
    package let layerCount: Int
    /// Tokens of a sequence that the model allows.
    package let contextLimit: Int
    /// Whether a layer that drafts tokens is held, with its KV.
    package let hasDraftLayer: Bool
    /// Whether the weights are told from a config alone.
    package let isOfConfigAlone: Bool
    package let weights: WeightPlan
    package let layout: PageLayout
    /// Tokens of one sequence.
    package let context: Int
    package let sequences: Int
    package let pagesPerSequence: Int
    /// Pages of all sequences, and their bytes.
    package let pages: Int
    package let slabBytes: Int
    /// Speeds of links, in Gbit/s.
    package let links: [Double]
    package let fit: Fit?

    /// Far above any machine, and far from overflow together with the weights.
    private static let slabBytesMax = 1 << 60

    /// Pages of a prompt as long as the context: they are sent whole.
    package var handoffBytes: Int { pagesPerSequence * layout.pageBytes }

    /// Throws `invalid` with the flag or the field of the config and its limit.
    package init(_ model: PlannedModel, _ request: PlanRequest) throws(EngineError) {
        let common = model.config.common
        let context = request.context ?? common.contextLimit
        guard (1...common.contextLimit).contains(context) else {
            throw .invalid(
                field: "--context", reason: "\(context) is not in 1...\(common.contextLimit), which the model allows")
        }
        guard request.kvType != .fp8 || model.config.hasLatentAttention else {
            throw .invalid(
                field: "--kv-dtype",
                reason: "fp8 is for latent attention, which \(common.architecture.rawValue) has not; "
                    + "use f32, f16 or bf16")
        }
        architecture = common.architecture.rawValue
        layerCount = common.layerCount
        contextLimit = common.contextLimit
        hasDraftLayer = request.draftLayer && model.hasDraftLayer
        isOfConfigAlone = model.checkpoint == nil
        layout = try model.config.pageLayout(request.loadOptions, draftLayer: hasDraftLayer)
        weights = WeightPlan(model, draftLayer: hasDraftLayer)
        self.context = context
        sequences = request.sequences
        links = request.links
        pagesPerSequence = layout.pages(for: context)
        pages = pagesPerSequence * sequences
        let (bytes, overflow) = pages.multipliedReportingOverflow(by: layout.pageBytes)
        guard !overflow, bytes <= Self.slabBytesMax else {
            throw .invalid(
                field: "--sequences", reason: "\(pages) pages of \(layout.pageBytes) bytes are above the limit of 1 EiB"
            )
        }
        slabBytes = bytes
        fit = request.memoryBytes.map { [weights, layout, sequences, pagesPerSequence] bytes in
            let left = max(0, bytes - weights.memoryBytes)
            let pages = left / layout.pageBytes
            return Fit(
                memoryBytes: bytes, missingBytes: max(0, weights.memoryBytes - bytes), pages: pages,
                tokens: pages * layout.pageTokens, sequences: pages / pagesPerSequence,
                longestContext: min(pages / sequences * layout.pageTokens, common.contextLimit))
        }
    }

    /// Seconds that a handoff takes at a link's full speed. Layers are sent while later ones are computed, so that
    /// less of it shows.
    package func handoffSeconds(gigabits: Double) -> Double { Double(handoffBytes) * 8 / (gigabits * 1e9) }
}
