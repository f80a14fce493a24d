package import Kernels

/// What is known of a model whatever its architecture.
package struct ModelFacts: Sendable, Equatable {
    package var name: String
    package var architecture: String
    package var layerCount: Int
    package var hiddenSize: Int
    package var vocabularySize: Int
    /// How many states `ForwardHooks.hidden` shows.
    package var hiddenStateCount: Int
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
    /// last one what the final norm made of the last layer's. Llama's and Qwen's references leave out the residual
    /// stream after the last layer, GLM's has it too. Only for batches that want all logits.
    package var hidden: ((_ index: Int, _ rows: FloatRows) -> Void)?
    /// What a layer decided, for all rows. Only for batches that want all logits.
    package var decided: ((_ layer: Int, _ decision: Decision) -> Void)?

    package init(
        layerStored: ((Int) -> Bool)? = nil, hidden: ((Int, FloatRows) -> Void)? = nil,
        decided: ((Int, Decision) -> Void)? = nil
    ) {
        self.layerStored = layerStored
        self.hidden = hidden
        self.decided = decided
    }

    /// `decided` for one layer.
    func decisions(of layer: Int) -> ((Decision) -> Void)? {
        decided.map { decided in { decided(layer, $0) } }
    }
}

/// What a layer decided for the rows of a batch. Pointers are valid during the call.
package enum Decision {
    /// Positions each row attends to.
    case selected(UnsafeBufferPointer<Selection>)
    /// `perRow` experts for each row, the best first, and their weights: [rows][perRow] each.
    case experts(ids: UnsafeBufferPointer<Int32>, weights: UnsafeBufferPointer<Float>, perRow: Int)
    /// What experts were chosen by, before any function is applied: [rows][experts].
    case routerLogits(FloatRows)
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

    /// The layer that drafts tokens for speculative decoding (multi-token prediction); nil without one. It is the last
    /// of `layout`.
    var draftLayer: Int? { get }

    /// Whether rows of a chained draft pass attend to what the row they continue selected.
    var sharesDraftSelection: Bool { get }

    /// One pass of the draft layer: stores its KV for the rows, and leaves their logits in `workspace.logits`, row by
    /// row. Only for models with a draft layer.
    ///
    /// - Parameter chained: the rows continue those of the draft pass before, each on what that made of its
    ///   predecessor; else on what the last forward pass made of the rows that `batch.rows` name.
    func draft(
        _ batch: borrowing DraftBatch, chained: Bool, workspace: any ModelWorkspace, pool: ComputePool,
        hooks: ForwardHooks)
}

extension Model {
    package var draftLayer: Int? { nil }
    package var sharesDraftSelection: Bool { false }

    package func draft(
        _ batch: borrowing DraftBatch, chained: Bool, workspace: any ModelWorkspace, pool: ComputePool,
        hooks: ForwardHooks
    ) {
        preconditionFailure("\(facts.architecture) has no draft layer")
    }
}

/// A model's scratch memory. Used by one forward pass at a time.
package protocol ModelWorkspace: AnyObject {
    /// Rows of `vocabularySize` logits.
    var logits: FloatRows { get }
    /// Tokens that went to each expert since the workspace was made; empty without experts.
    var expertLoads: [ExpertLoad] { get }
    /// Told where time goes, if there is one.
    var times: PartTimes? { get set }
}

extension ModelWorkspace {
    package var expertLoads: [ExpertLoad] { [] }
}

/// Tokens that went to each expert of a layer.
package struct ExpertLoad: Sendable, Equatable {
    package var layer: Int
    package var tokens: [UInt64]

    package init(layer: Int, experts: Int) {
        self.layer = layer
        tokens = Array(repeating: 0, count: experts)
    }

    package var busiest: Int { tokens.indices.max { tokens[$0] < tokens[$1] } ?? 0 }

    /// The busiest expert's tokens over those of an even spread; 1 is even, nil before the first token.
    package var imbalance: Double? {
        let total = tokens.reduce(0, +)
        guard total > 0 else { return nil }
        return Double(tokens[busiest]) * Double(tokens.count) / Double(total)
    }
}
