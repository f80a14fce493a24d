import Handoff
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
        let attentionNorm: NormWeights
        /// Query, key and value projections, one below the other.
        let queryKeyValue: PackedMatrix
        let attentionOutput: PackedMatrix
        let mlpNorm: NormWeights
        /// Gate and up projections, one below the other.
        let gateUp: PackedMatrix
        let down: PackedMatrix
    }

    package let facts: ModelFacts
    package let layout: PageLayout
    let config: LlamaConfig
    let table: KernelTable
    let rotary: RotaryEmbedding
    let shape: AttentionShape
    private let ropeStyle: RopeStyle
    private let embedding: EmbeddingTable
    private let layers: [Layer]
    private let outputNorm: NormWeights
    private let head: PackedMatrix

    var queryWidth: Int { config.headCount * config.headDimension }
    var keyWidth: Int { config.keyValueHeadCount * config.headDimension }

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
        ropeStyle = config.rope.pairing == .halfSplit ? .halfSplit : .interleaved
        layout = try PageLayout(
            architecture: "llama", kvType: options.kvType, pageTokens: options.pageTokens,
            layers: Array(
                repeating: [
                    PageLayout.Plane(name: "k", heads: config.keyValueHeadCount, width: config.headDimension),
                    PageLayout.Plane(name: "v", heads: config.keyValueHeadCount, width: config.headDimension),
                ], count: config.common.layerCount))
        shape = try EngineError.wrap("attention shape") { () throws(KernelError) in
            try AttentionShape(
                heads: config.headCount, kvHeads: config.keyValueHeadCount, headDim: config.headDimension,
                pageTokens: options.pageTokens, cacheType: options.kvType)
        }
        guard shape.layerBytes == layout.layerRange(0).count else {
            throw .invalid(field: "head dimension", reason: "\(config.headDimension) leaves gaps between KV planes")
        }
        let names = { (tensor: LlamaTensor) in tensor.name(in: checkpoint.format) }
        embedding = try loader.embedding(names(.embedding))
        layers = try Self.loadLayers(config, loader, names)
        outputNorm = try loader.norm(names(.outputNorm))
        head = try loader.matrix([names(config.tiedEmbeddings ? .embedding : .output)], biases: nil)
        facts = ModelFacts(
            name: checkpoint.name, architecture: "llama", layerCount: config.common.layerCount,
            hiddenSize: config.common.hiddenSize, vocabularySize: config.common.vocabularySize,
            contextLimit: contextLimit, parameterCount: loader.parameterCount, weightBytes: loader.packedBytes)
    }

    private static func loadLayers(
        _ config: LlamaConfig, _ loader: WeightLoader, _ name: (LlamaTensor) -> String
    ) throws(EngineError) -> [Layer] {
        var layers: [Layer] = []
        for index in 0..<config.common.layerCount {
            func tensor(_ tensor: LlamaTensor.Layer) -> String { name(.layer(index, tensor)) }
            let bias = config.attentionBias
            layers.append(
                Layer(
                    attentionNorm: try loader.norm(tensor(.attentionNorm)),
                    queryKeyValue: try loader.matrix(
                        [tensor(.query), tensor(.key), tensor(.value)],
                        biases: [
                            bias.query ? tensor(.queryBias) : nil, bias.key ? tensor(.keyBias) : nil,
                            bias.value ? tensor(.valueBias) : nil,
                        ]),
                    attentionOutput: try loader.matrix(
                        [tensor(.attentionOutput)], biases: [bias.output ? tensor(.attentionOutputBias) : nil]),
                    mlpNorm: try loader.norm(tensor(.mlpNorm)),
                    gateUp: try loader.matrix(
                        [tensor(.gate), tensor(.up)],
                        biases: config.mlpBias ? [tensor(.gateBias), tensor(.upBias)] : nil),
                    down: try loader.matrix(
                        [tensor(.down)], biases: config.mlpBias ? [tensor(.downBias)] : nil)))
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
        let rows = batch.rowCount
        precondition(rows <= scratch.rowLimit && batch.logitRows.count <= scratch.logitLimit, "a batch too large")
        embed(batch, scratch, pool)
        hooks.hidden?(0, scratch.residual(rows))
        var active = rows
        for index in layers.indices {
            storeKeysValues(batch, layer: index, scratch, pool)
            if let stored = hooks.layerStored, !stored(index) { return false }
            if index == layers.count - 1 {
                // Nobody reads what the last layer makes of a row without logits.
                active = batch.logitRows.count
                if active == 0 { return true }
            }
            attend(batch, layer: index, logitRowsOnly: active < rows, scratch, pool)
            project(layers[index], rows: active, scratch, pool)
            if index < layers.count - 1 { hooks.hidden?(index + 1, scratch.residual(rows)) }
        }
        let (width, epsilon, norm, table) = (config.common.hiddenSize, config.normEpsilon, outputNorm.base, table)
        let residual = scratch.residual(active)
        if let hidden = hooks.hidden {
            let normed = FloatRows(scratch.normed, rows: active, columns: width)
            for row in 0..<active {
                table.rmsNorm(residual[row], weight: norm, count: width, epsilon: epsilon, into: normed[row])
            }
            hidden(layers.count, normed)
        }
        scratch.activations.encode(rows: active, columns: width, as: head.encodings, pool: pool) { row, out in
            table.rmsNorm(residual[row], weight: norm, count: width, epsilon: epsilon, into: out)
        }
        let logits = FloatRows(scratch.logits.base, rows: active, columns: facts.vocabularySize)
        matmul(head, scratch.activations, into: logits, pool: pool)
        return true
    }

    /// Fills the residual stream with embeddings, and the angles of every row's position.
    private func embed(_ batch: borrowing Batch, _ scratch: LlamaWorkspace, _ pool: ComputePool) {
        let residual = scratch.residual(batch.rowCount)
        let half = rotary.rotaryDimensions / 2
        let (table, rotary, embedding) = (table, rotary, embedding)
        let (cosines, sines) = (scratch.cosines, scratch.sines)
        let count = batch.rowCount
        batch.tokens.withUnsafeBufferPointer { tokens in
            batch.positions.withUnsafeBufferPointer { positions in
                let body = { (row: Int) in
                    embedding.row(Int(tokens[row]), table: table, into: residual[row])
                    rotary.angles(
                        position: positions[row], cosines: cosines + row * half, sines: sines + row * half)
                }
                if count <= 2 {
                    for row in 0..<count { body(row) }
                } else {
                    pool.run(count, body)
                }
            }
        }
    }

    /// Norm, query/key/value projection, rotation; keys and values go to their pages, queries stay in scratch.
    private func storeKeysValues(
        _ batch: borrowing Batch, layer index: Int, _ scratch: LlamaWorkspace, _ pool: ComputePool
    ) {
        let layer = layers[index]
        let rows = batch.rowCount
        let (width, epsilon, table) = (config.common.hiddenSize, config.normEpsilon, table)
        let residual = scratch.residual(rows)
        let norm = layer.attentionNorm.base
        scratch.activations.encode(rows: rows, columns: width, as: layer.queryKeyValue.encodings, pool: pool) {
            row, out in
            table.rmsNorm(residual[row], weight: norm, count: width, epsilon: epsilon, into: out)
        }
        let projected = FloatRows(scratch.projected, rows: rows, columns: queryWidth + 2 * keyWidth)
        matmul(layer.queryKeyValue, scratch.activations, into: projected, pool: pool)

        let (shape, style, config) = (shape, ropeStyle, config)
        let (queryWidth, keyWidth, rotaryDim) = (queryWidth, keyWidth, rotary.rotaryDimensions)
        let (cosines, sines) = (scratch.cosines, scratch.sines)
        let pageOffset = layout.layerOffsets[index]
        batch.runs.withUnsafeBufferPointer { runs in
            batch.runOfRow.withUnsafeBufferPointer { runOfRow in
                batch.pages.withUnsafeBufferPointer { pages in
                    guard let pages = pages.baseAddress else { return }
                    let body = { (row: Int) in
                        let run = runs[runOfRow[row]]
                        let cos = cosines + row * (rotaryDim / 2)
                        let sin = sines + row * (rotaryDim / 2)
                        let query = projected[row]
                        table.rope(
                            query, heads: config.headCount, headDim: config.headDimension, rotaryDim: rotaryDim,
                            style: style, cosines: cos, sines: sin)
                        table.rope(
                            query + queryWidth, heads: config.keyValueHeadCount, headDim: config.headDimension,
                            rotaryDim: rotaryDim, style: style, cosines: cos, sines: sin)
                        table.storeKeysValues(
                            shape,
                            AttentionRun(
                                pages: pages + run.firstPage, pageOffset: pageOffset,
                                firstPosition: run.firstPosition, count: run.count),
                            row: row - run.firstRow, key: query + queryWidth, value: query + queryWidth + keyWidth)
                    }
                    if rows <= 2 {
                        for row in 0..<rows { body(row) }
                    } else {
                        pool.run(rows, body)
                    }
                }
            }
        }
    }

    /// Attention of all rows, or of those with logits only; then the rows, and the residual stream, are packed
    /// together in the order of `batch.logitRows`.
    private func attend(
        _ batch: borrowing Batch, layer index: Int, logitRowsOnly: Bool, _ scratch: LlamaWorkspace,
        _ pool: ComputePool
    ) {
        let stride = queryWidth + 2 * keyWidth
        let width = config.common.hiddenSize
        let pageOffset = layout.layerOffsets[index]
        var jobCount = 0
        batch.pages.withUnsafeBufferPointer { pages in
            guard let pages = pages.baseAddress else { return }
            func add(_ run: Batch.Run, firstPosition: Int, count: Int, row: Int, outRow: Int) {
                let job = AttentionJob(
                    run: AttentionRun(
                        pages: pages + run.firstPage, pageOffset: pageOffset, firstPosition: firstPosition,
                        count: count),
                    queries: UnsafePointer(scratch.projected + row * stride), queryStride: stride,
                    out: scratch.attention + outRow * queryWidth, outStride: queryWidth)
                (scratch.jobs + jobCount).initialize(to: job)
                jobCount += 1
            }
            if logitRowsOnly {
                let residual = scratch.residual(batch.rowCount)
                for (out, row) in batch.logitRows.enumerated() {
                    let run = batch.runs[batch.runOfRow[row]]
                    add(run, firstPosition: batch.positions[row], count: 1, row: row, outRow: out)
                    // logitRows ascend, so nothing is overwritten before it is read.
                    if out != row { residual[out].update(from: residual[row], count: width) }
                }
            } else {
                for run in batch.runs {
                    add(
                        run, firstPosition: run.firstPosition, count: run.count, row: run.firstRow,
                        outRow: run.firstRow)
                }
            }
            Kernels.attend(
                shape, jobs: UnsafeBufferPointer(start: scratch.jobs, count: jobCount), table: table, pool: pool)
        }
    }

    /// The layer's second half: attention output projection and MLP, both added to the residual stream.
    private func project(_ layer: Layer, rows: Int, _ scratch: LlamaWorkspace, _ pool: ComputePool) {
        let residual = scratch.residual(rows)
        let (width, epsilon, table) = (config.common.hiddenSize, config.normEpsilon, table)
        scratch.activations.encode(
            FloatRows(scratch.attention, rows: rows, columns: queryWidth), as: layer.attentionOutput.encodings,
            pool: pool)
        matmul(layer.attentionOutput, scratch.activations, into: residual, adding: true, pool: pool)

        let norm = layer.mlpNorm.base
        scratch.activations.encode(rows: rows, columns: width, as: layer.gateUp.encodings, pool: pool) { row, out in
            table.rmsNorm(residual[row], weight: norm, count: width, epsilon: epsilon, into: out)
        }
        let inner = config.intermediateSize
        let gateUp = FloatRows(scratch.gateUp, rows: rows, columns: 2 * inner)
        matmul(layer.gateUp, scratch.activations, into: gateUp, pool: pool)
        scratch.activations.encode(rows: rows, columns: inner, as: layer.down.encodings, pool: pool) { row, out in
            table.siluMultiply(gate: gateUp[row], up: gateUp[row] + inner, count: inner, into: out)
        }
        matmul(layer.down, scratch.activations, into: residual, adding: true, pool: pool)
    }
}

/// Scratch memory of a Llama forward pass: one region, cut up once.
private final class LlamaWorkspace: ModelWorkspace {
    let rowLimit: Int
    let logitLimit: Int
    let logits: FloatRows
    /// [rows][hidden]
    private let residualBase: UnsafeMutablePointer<Float>
    private let hiddenSize: Int
    /// [rows][hidden], for hidden states only
    let normed: UnsafeMutablePointer<Float>
    /// [rows][query | key | value]
    let projected: UnsafeMutablePointer<Float>
    /// [rows][query heads · head dimension]
    let attention: UnsafeMutablePointer<Float>
    /// [rows][gate | up]
    let gateUp: UnsafeMutablePointer<Float>
    /// [rows][rotary dimensions / 2]
    let cosines: UnsafeMutablePointer<Float>
    let sines: UnsafeMutablePointer<Float>
    let jobs: UnsafeMutablePointer<AttentionJob>
    let activations: ActivationBuffer
    private let region: MemoryRegion

    init(model: LlamaModel, rows: Int, logitRows: Int, pool: ComputePool) throws(EngineError) {
        let config = model.config
        let hidden = config.common.hiddenSize
        let half = model.rotary.rotaryDimensions / 2
        let sizes = [
            logitRows * model.facts.vocabularySize, rows * hidden, rows * hidden,
            rows * (model.queryWidth + 2 * model.keyWidth), rows * model.queryWidth,
            rows * 2 * config.intermediateSize, rows * half, rows * half,
        ]
        var offsets = [0]
        for size in sizes { offsets.append(offsets[offsets.count - 1] + (size + 15) / 16 * 16) }
        let bytes = offsets[sizes.count] * MemoryLayout<Float>.stride
        let region = try EngineError.wrap("scratch memory") { () throws(KernelError) in
            try MemoryRegion(bytes: max(bytes, 64), hugePages: true)
        }
        let base = region.pointer(to: Float.self)
        self.region = region
        logits = FloatRows(base + offsets[0], rows: logitRows, columns: model.facts.vocabularySize)
        residualBase = base + offsets[1]
        normed = base + offsets[2]
        projected = base + offsets[3]
        attention = base + offsets[4]
        gateUp = base + offsets[5]
        cosines = base + offsets[6]
        sines = base + offsets[7]
        hiddenSize = hidden
        rowLimit = rows
        logitLimit = logitRows
        jobs = .allocate(capacity: max(rows, 1))
        activations = try EngineError.wrap("scratch memory") { () throws(KernelError) in
            try ActivationBuffer(
                maxRows: max(rows, 1), maxColumns: max(hidden, config.intermediateSize, model.queryWidth),
                table: model.table, pool: pool)
        }
    }

    deinit { jobs.deallocate() }

    func residual(_ rows: Int) -> FloatRows { FloatRows(residualBase, rows: rows, columns: hiddenSize) }
}
