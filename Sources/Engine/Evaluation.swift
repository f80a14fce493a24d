import Handoff
package import Kernels
import ModelFormat
import Synchronization

/// Runs a model without a cluster, and shows its numbers: the door through which an outside reference checks them.
/// Uses the same forward pass, pages and chunks as the nodes.
package final class Evaluation {
    package let model: LoadedModel
    private let pool: ComputePool
    private let chunkTokens: Int
    private let workspace: any ModelWorkspace
    private var batch = Batch()

    /// - Parameter chunkTokens: positions per forward pass; rounded up to whole pages.
    package init(model: LoadedModel, threads: Int = 0, chunkTokens: Int = 512) throws(EngineError) {
        guard (1...16384).contains(chunkTokens) else {
            throw .invalid(field: "chunk", reason: "\(chunkTokens) is not in 1...16384")
        }
        self.model = model
        self.chunkTokens = model.layout.pages(for: chunkTokens) * model.layout.pageTokens
        pool = try ComputePool.make(threads: threads)
        workspace = try model.model.makeWorkspace(rows: self.chunkTokens, logitRows: self.chunkTokens, pool: pool)
    }

    deinit { pool.shutdown() }

    /// A sequence's KV in a memory of its own.
    package final class Session {
        let memory: KVMemory
        let slots: [SlotRef]
        package internal(set) var tokens: [TokenID] = []

        init(layout: PageLayout, capacity: Int) throws(EngineError) {
            memory = try KVMemory(layout: layout, pageCount: max(1, layout.pages(for: capacity)))
            slots = memory.pool.withLock { [count = memory.pageCount] in $0.lease(count) ?? [] }
        }
    }

    /// Room for `capacity` positions. Throws `tooLong` beyond the model's context.
    package func makeSession(capacity: Int) throws(EngineError) -> Session {
        guard capacity <= model.facts.contextLimit else {
            throw .tooLong(tokens: capacity, limit: model.facts.contextLimit, what: "the context")
        }
        return try Session(layout: model.layout, capacity: capacity)
    }

    /// Appends tokens to a session in chunks, and gives `visit` the logits of their positions, chunk by chunk:
    /// row i of the view belongs to position `first + i`. `hidden` as in `ForwardHooks`.
    package func extend(
        _ session: Session, by tokens: [TokenID],
        hidden: ((_ firstPosition: Int, _ index: Int, _ rows: FloatRows) -> Void)? = nil,
        visit: (_ firstPosition: Int, _ logits: FloatRows) throws(EngineError) -> Void
    ) throws(EngineError) {
        try check(tokens)
        var start = session.tokens.count
        session.tokens += tokens
        while start < session.tokens.count {
            let page = model.layout.pageTokens
            var end = min(start + chunkTokens, session.tokens.count)
            if end < session.tokens.count { end = end / page * page }
            batch.clear()
            batch.append(
                sequence: session.tokens, range: start..<end, slots: session.slots, memory: session.memory,
                logits: .all)
            var hooks = ForwardHooks()
            let first = start
            if let hidden {
                hooks.hidden = { index, rows in hidden(first, index, rows) }
            }
            _ = model.model.forward(batch, workspace: workspace, pool: pool, hooks: hooks)
            let logits = FloatRows(workspace.logits.base, rows: end - start, columns: model.facts.vocabularySize)
            try visit(start, logits)
            start = end
        }
    }

    private func check(_ tokens: [TokenID]) throws(EngineError) {
        let vocabulary = model.facts.vocabularySize
        if let wrong = tokens.first(where: { $0 < 0 || $0 >= vocabulary }) {
            throw .invalid(field: "ids", reason: "\(wrong) is not in 0..<\(vocabulary)")
        }
    }

    // MARK: What the command line asks for

    package struct Outputs: Sendable {
        /// Tokens of the greedy continuation; no token stops it.
        package var greedy = 0
        package var hidden = false

        package init() {}
    }

    /// Evaluates every prompt and writes `<name>.logits` [S, V], `<name>.greedy_ids` [N], `<name>.greedy_logits`
    /// [N, V] (row i chose id i) and `<name>.hidden` [L + 1, S, H] (see `ForwardHooks.hidden`). All float32 and
    /// int32. Throws `invalid` or `tooLong` before anything is written.
    package func write(_ input: EvaluationInput, _ outputs: Outputs, to path: String) throws(EngineError) {
        guard outputs.greedy >= 0 else { throw .invalid(field: "greedy", reason: "\(outputs.greedy) is negative") }
        var declared: [SafetensorsWriter.Declaration] = []
        let facts = model.facts
        for prompt in input.prompts {
            try check(prompt.tokens)
            let length = prompt.tokens.count
            guard length + outputs.greedy <= facts.contextLimit else {
                throw .tooLong(tokens: length + outputs.greedy, limit: facts.contextLimit, what: "the context")
            }
            func declare(_ name: String, _ type: TensorType, _ shape: [Int]) {
                declared.append(.init(name: prompt.tensor(name), type: type, shape: shape))
            }
            declare("logits", .f32, [length, facts.vocabularySize])
            if outputs.hidden { declare("hidden", .f32, [facts.layerCount + 1, length, facts.hiddenSize]) }
            guard outputs.greedy > 0 else { continue }
            declare("greedy_ids", .i32, [outputs.greedy])
            declare("greedy_logits", .f32, [outputs.greedy, facts.vocabularySize])
        }
        do throws(ModelFormatError) {
            var writer = try SafetensorsWriter(path: path, tensors: declared)
            for prompt in input.prompts {
                do throws(EngineError) {
                    try write(prompt, outputs, to: &writer)
                } catch {
                    throw ModelFormatError(.file, path, "\(error)")
                }
            }
            try writer.finish()
        } catch {
            throw EngineError.invalid(field: "out", reason: "\(error)")
        }
    }

    private func write(
        _ prompt: EvaluationInput.Prompt, _ outputs: Outputs, to writer: inout SafetensorsWriter
    ) throws(EngineError) {
        let (length, facts) = (prompt.tokens.count, model.facts)
        let session = try makeSession(capacity: length + outputs.greedy)
        var hidden = [Float](
            repeating: 0, count: outputs.hidden ? (facts.layerCount + 1) * length * facts.hiddenSize : 0)
        var last: [Float] = []
        let keep = { (first: Int, index: Int, rows: FloatRows) in
            for row in 0..<rows.rows {
                let at = (index * length + first + row) * facts.hiddenSize
                for column in 0..<facts.hiddenSize { hidden[at + column] = rows[row][column] }
            }
        }
        try extend(session, by: prompt.tokens, hidden: outputs.hidden ? keep : nil) {
            (first, logits) throws(EngineError) in
            try Self.write(&writer, UnsafePointer(logits.base), count: logits.rows * facts.vocabularySize)
            if first + logits.rows == length { last = Array(Self.buffer(logits, row: logits.rows - 1)) }
        }
        if outputs.hidden { try Self.write(&writer, hidden) }
        guard outputs.greedy > 0 else { return }
        let (ids, rows) = try greedy(session, count: outputs.greedy, from: last)
        do throws(ModelFormatError) {
            try writer.write(ids)
        } catch {
            throw EngineError.invalid(field: "out", reason: "\(error)")
        }
        try Self.write(&writer, rows)
    }

    /// The greedy continuation of a session whose last position has the logits `last`: its ids, and the rows of
    /// logits that chose them. The lowest id wins a tie; no token stops it.
    package func greedy(
        _ session: Session, count: Int, from last: [Float]
    ) throws(EngineError) -> (ids: [TokenID], logits: [Float]) {
        var ids: [TokenID] = []
        var rows = last
        var current = last
        while true {
            let next = current.withUnsafeBufferPointer { values in
                values.baseAddress.map { TokenID(model.table.argmax($0, count: values.count)) } ?? 0
            }
            ids.append(next)
            if ids.count == count { return (ids, rows) }
            try extend(session, by: [next]) { (_, logits) throws(EngineError) in
                current = Array(Self.buffer(logits, row: 0))
            }
            rows += current
        }
    }

    /// Mean negative log-likelihood (nats) of each token after the first, given those before it. Long texts are cut
    /// into windows of the context limit, each evaluated by itself.
    package func loss(of tokens: [TokenID]) throws(EngineError) -> (loss: Double, predictedTokens: Int) {
        guard tokens.count >= 2 else {
            throw .invalid(field: "perplexity", reason: "the text has \(tokens.count) tokens, at least 2 are needed")
        }
        var total = 0.0
        var predicted = 0
        var start = 0
        while start + 1 < tokens.count {
            let window = Array(tokens[start..<min(start + model.facts.contextLimit, tokens.count)])
            let session = try makeSession(capacity: window.count)
            try extend(session, by: window) { (first, logits) throws(EngineError) in
                for row in 0..<logits.rows where first + row + 1 < window.count {
                    let normaliser = model.table.logSumExp(logits[row], count: model.facts.vocabularySize)
                    total += Double(normaliser) - Double(logits[row][Int(window[first + row + 1])])
                    predicted += 1
                }
            }
            start += window.count
        }
        return (total / Double(predicted), predicted)
    }

    // MARK: Private

    private static func buffer(_ rows: FloatRows, row: Int) -> UnsafeBufferPointer<Float> {
        UnsafeBufferPointer(start: UnsafePointer(rows[row]), count: rows.columns)
    }

    private static func write(
        _ writer: inout SafetensorsWriter, _ values: UnsafePointer<Float>, count: Int
    ) throws(EngineError) {
        do throws(ModelFormatError) {
            try writer.write(UnsafeRawBufferPointer(UnsafeBufferPointer(start: values, count: count)))
        } catch {
            throw EngineError.invalid(field: "out", reason: "\(error)")
        }
    }

    private static func write(_ writer: inout SafetensorsWriter, _ values: [Float]) throws(EngineError) {
        do throws(ModelFormatError) {
            try writer.write(values)
        } catch {
            throw EngineError.invalid(field: "out", reason: "\(error)")
        }
    }
}
