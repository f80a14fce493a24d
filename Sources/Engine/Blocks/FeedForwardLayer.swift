import Kernels
import ModelFormat

/// What follows attention in a layer.
enum FeedForwardLayer: Sendable {
    case dense(FeedForward)
    /// With its place among the layers that have experts.
    case experts(ExpertMixture, Int)

    /// Scratch memory of all layers of a model, and what its experts have got.
    final class Memory {
        /// [rows][gate | up] of dense layers
        fileprivate let inner: UnsafeMutablePointer<Float>
        fileprivate let mixture: ExpertMixture.Memory?
        fileprivate(set) var expertLoads: [ExpertLoad] = []
        private let scratch: Scratch

        /// - Parameters:
        ///   - mixture: nil for a model without experts.
        ///   - mixtureLayers: the layers that have experts, in their order.
        init(
            rows: Int, hiddenSize: Int, denseSize: Int, mixture: MixtureConfig?, mixtureLayers: [Int],
            table: KernelTable, pool: ComputePool
        ) throws(EngineError) {
            scratch = try Scratch(floats: [rows * 2 * denseSize])
            inner = scratch[0]
            guard let mixture else {
                self.mixture = nil
                return
            }
            self.mixture = try ExpertMixture.Memory(
                mixture, rows: rows, hiddenSize: hiddenSize, table: table, pool: pool)
            expertLoads = mixtureLayers.map { ExpertLoad(layer: $0, experts: mixture.expertCount) }
        }
    }

    /// Adds what it makes of the normed residual stream to that.
    func run(
        _ count: Int, epsilon: Float, _ rows: RowScratch, _ memory: Memory, decided: ((Decision) -> Void)?,
        table: KernelTable, pool: ComputePool
    ) {
        switch self {
        case .dense(let feedForward):
            feedForward.run(count, epsilon: epsilon, rows, inner: memory.inner, table: table, pool: pool)
        case .experts(let mixture, let place):
            guard let scratch = memory.mixture else { preconditionFailure("memory of a model without experts") }
            mixture.run(
                count, epsilon: epsilon, rows, scratch, load: &memory.expertLoads[place].tokens, decided: decided,
                table: table, pool: pool)
        }
    }
}
