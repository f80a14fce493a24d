package import Kernels

/// What is known of a model whatever its architecture.
package struct ModelFacts: Sendable, Equatable {
    package var name: String
    package var architecture: String
    package var layerCount: Int
    package var hiddenSize: Int
    package var vocabularySize: Int
    /// The longest sequence this node accepts.
    package var contextLimit: Int
    package var parameterCount: Int
    /// Packed weights in memory.
    package var weightBytes: Int
}

/// What a forward pass tells while it runs, on the calling thread. Nil closures cost nothing.
package struct ForwardHooks {
    /// The KV of this layer is complete for every row of the batch. False: abandon the batch; its rows' KV of
    /// later layers stays as it was.
    package var layerStored: ((_ layer: Int) -> Bool)?
    /// The hidden states of all rows: index 0 is the embedding, i the residual stream after layer i - 1, and the
    /// last one (layer count) what the final norm made of the last layer's. Only for batches that want all logits.
    package var hidden: ((_ index: Int, _ rows: FloatRows) -> Void)?

    package init(
        layerStored: ((Int) -> Bool)? = nil, hidden: ((Int, FloatRows) -> Void)? = nil
    ) {
        self.layerStored = layerStored
        self.hidden = hidden
    }
}

/// One architecture's definition, with loaded weights: all that the rest of the engine knows about it. A second
/// architecture is a second file with a type that conforms, and a case in `LoadedModel.load`.
///
/// A forward pass is batch-invariant: the bits of a row's logits and KV depend on the tokens of its sequence alone,
/// not on the other rows, nor on how the sequence was cut into runs, nor on the number of threads.
package protocol Model: AnyObject, Sendable {
    var facts: ModelFacts { get }
    var layout: PageLayout { get }

    /// Scratch memory for batches of up to that many rows, of which that many want logits. Throws `memory`.
    func makeWorkspace(rows: Int, logitRows: Int, pool: ComputePool) throws(EngineError) -> any ModelWorkspace

    /// Computes the batch: stores its KV, and leaves the logits of row `batch.logitRows[i]` in row i of
    /// `workspace.logits`. False when a hook abandoned it. `workspace` is one this model made, and the pages are
    /// owned by the caller.
    func forward(
        _ batch: borrowing Batch, workspace: any ModelWorkspace, pool: ComputePool, hooks: ForwardHooks
    ) -> Bool
}

/// A model's scratch memory. Used by one forward pass at a time.
package protocol ModelWorkspace: AnyObject {
    /// Rows of `vocabularySize` logits.
    var logits: FloatRows { get }
}
