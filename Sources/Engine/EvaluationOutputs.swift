import Kernels
import ModelFormat

/// The numbers of a sequence as tensors of a file, with the names of the reference outputs they are compared with.
extension Evaluation {
    package struct Outputs: Sendable {
        /// Tokens of the greedy continuation; no token stops it.
        package var greedy = 0
        package var hidden = false
        /// What layers decided: positions selected, experts chosen.
        package var decisions = false
        /// What the draft layer makes of the sequence, and this many drafts after it; 0: nothing of it.
        package var drafts = 0
        /// Drafts per round of a greedy continuation with speculative decoding; 0: none.
        package var speculate = 0

        package init() {}
    }

    /// Evaluates every prompt and writes, all float32 and int32:
    /// - `<name>.logits` [S, V]
    /// - hidden: `<name>.hidden` [states, S, H] (see `ForwardHooks.hidden`)
    /// - decisions: `<name>.layer<i>.topk` [S, k], positions ascending and then -1; `<name>.layer<i>.experts` and
    ///   `.expert_weights` [S, experts per token]
    /// - drafts: `<name>.mtp_logits` [S, V] (row i takes token i + 1, after the last one the first greedy one), with
    ///   hidden `mtp_hidden` and `mtp_norm_hidden` [S, H], with decisions `mtp.topk`, `mtp.experts`,
    ///   `mtp.expert_weights`; `mtp_draft<n>_<own|share>_ids` [n] and `_logits` [n, V]
    /// - greedy: `<name>.greedy_ids` [N], `<name>.greedy_logits` [N, V] (row i chose id i)
    /// - speculate: `<name>.spec<k>_accepted` [rounds], after a check that its tokens are the greedy ones
    ///
    /// Throws `invalid` or `tooLong` before anything is written.
    package func write(_ input: EvaluationInput, _ outputs: Outputs, to path: String) throws(EngineError) {
        try check(outputs)
        for prompt in input.prompts {
            try check(prompt.tokens)
            let length = prompt.tokens.count + outputs.greedy
            guard length <= model.facts.contextLimit else {
                throw .tooLong(tokens: length, limit: model.facts.contextLimit, what: "the context")
            }
        }
        // Of everything but the logits, shapes may depend on what comes out: all of a prompt is computed first.
        var declared: [SafetensorsWriter.Declaration] = []
        var kept: [EvaluationTensors] = []
        for prompt in input.prompts {
            let tensors = try evaluate(prompt, outputs)
            declared += tensors.declarations(prompt)
            kept.append(tensors)
        }
        do throws(ModelFormatError) {
            var writer = try SafetensorsWriter(path: path, tensors: declared)
            for tensors in kept { try tensors.write(to: &writer) }
            try writer.finish()
        } catch {
            throw EngineError.invalid(field: "out", reason: "\(error)")
        }
    }

    private func check(_ outputs: Outputs) throws(EngineError) {
        for (name, value, limit) in [
            ("greedy", outputs.greedy, model.facts.contextLimit), ("drafts", outputs.drafts, EngineOptions.draftsMax),
            ("speculate", outputs.speculate, EngineOptions.draftsMax),
        ] where value < 0 || value > limit {
            throw .invalid(field: name, reason: "\(value) is not in 0...\(limit)")
        }
        if outputs.drafts > 0 || outputs.speculate > 0 { try model.requireDraftLayer() }
        guard outputs.speculate == 0 || outputs.greedy > 0 else {
            throw .invalid(field: "speculate", reason: "needs a greedy continuation to compare with")
        }
    }

    private func evaluate(_ prompt: EvaluationInput.Prompt, _ outputs: Outputs) throws(EngineError) -> EvaluationTensors
    {
        let (tokens, facts) = (prompt.tokens, model.facts)
        let session = try makeSession(capacity: tokens.count + outputs.greedy, spare: 1 + outputs.drafts)
        let tensors = EvaluationTensors(rows: tokens.count)
        var taps = Taps()
        if outputs.hidden {
            let states = facts.hiddenStateCount
            taps.hidden = { tensors.fill("hidden", blocks: states, block: $1, first: $0, $2) }
        }
        if outputs.decisions { taps.decided = { tensors.keep($2, under: "layer\($1)", first: $0) } }
        if outputs.drafts > 0 {
            var drafts = DraftTaps { tensors.fill("mtp_logits", first: $0, $1) }
            if outputs.hidden {
                drafts.hidden = { tensors.fill($1 == 0 ? "mtp_hidden" : "mtp_norm_hidden", first: $0, $2) }
            }
            if outputs.decisions { drafts.decided = { tensors.keep($1, under: "mtp", first: $0) } }
            taps.drafts = drafts
        }
        var (last, lastRow) = ([Float](), 0)
        try extend(session, by: tokens, taps: taps) { (first, logits) throws(EngineError) in
            tensors.fill("logits", first: first, logits)
            lastRow = logits.rows - 1
            last = Array(Self.buffer(logits, row: lastRow))
        }
        if outputs.drafts > 0 {
            let (ids, logits) = chain(session, from: lastRow, position: tokens.count - 1, count: outputs.drafts)
            let name = "mtp_draft\(outputs.drafts)_\(model.model.sharesDraftSelection ? "share" : "own")"
            tensors.add("\(name)_ids", ids)
            tensors.add("\(name)_logits", logits, columns: facts.vocabularySize)
        }
        guard outputs.greedy > 0 else { return tensors }
        let (ids, logits) = try greedy(session, count: outputs.greedy, from: last)
        tensors.add("greedy_ids", ids)
        tensors.add("greedy_logits", logits, columns: facts.vocabularySize)
        if outputs.speculate > 0 {
            let speculated = try speculate(after: tokens, count: outputs.greedy, drafts: outputs.speculate)
            guard speculated.ids == ids else {
                throw .invalid(field: "speculate", reason: "tokens of \(prompt.name) differ from those without drafts")
            }
            tensors.add("spec\(outputs.speculate)_accepted", speculated.accepted)
        }
        return tensors
    }
}

/// The tensors of one sequence, gathered row by row.
private final class EvaluationTensors {
    private enum Values {
        case floats([Float])
        case integers([Int32])
    }

    private let rows: Int
    private var tensors: [(name: String, shape: [Int], values: Values)] = []
    private var places: [String: Int] = [:]

    init(rows: Int) { self.rows = rows }

    func add(_ name: String, _ values: [Int32]) { append(name, [values.count], .integers(values)) }

    func add(_ name: String, _ values: [Float], columns: Int) {
        append(name, [values.count / columns, columns], .floats(values))
    }

    /// Rows of [rows][columns], or of one block of [blocks][rows][columns].
    func fill(_ name: String, blocks: Int? = nil, block: Int = 0, first: Int, _ values: FloatRows) {
        let columns = values.columns
        let place = place(name) {
            (
                (blocks.map { [$0] } ?? []) + [rows, columns],
                .floats(Array(repeating: 0, count: (blocks ?? 1) * rows * columns))
            )
        }
        guard case .floats(var all) = tensors[place].values else { return }
        // The only reference, or every row would copy all of them.
        tensors[place].values = .integers([])
        for row in 0..<values.rows {
            let start = (block * rows + first + row) * columns
            for column in 0..<columns { all[start + column] = values[row][column] }
        }
        tensors[place].values = .floats(all)
    }

    func keep(_ decision: Decision, under prefix: String, first: Int) {
        switch decision {
        case .selected(let selections):
            // The draft layer's rows lie in the slots of the tokens after them.
            keepSelections(selections, "\(prefix).topk", first: first, shift: prefix == "mtp" ? 1 : 0)
        case .experts(let ids, let weights, let perRow):
            fillIntegers("\(prefix).experts", first: first, columns: perRow, rows: ids.count / perRow) {
                ids[$0 * perRow + $1]
            }
            let base = UnsafeMutablePointer(mutating: weights.baseAddress)
            guard let base else { return }
            fill(
                "\(prefix).expert_weights", first: first, FloatRows(base, rows: weights.count / perRow, columns: perRow)
            )
        case .routerLogits(let logits):
            fill("\(prefix).router_logits", first: first, logits)
        }
    }

    private func keepSelections(
        _ selections: UnsafeBufferPointer<Selection>, _ name: String, first: Int, shift: Int
    ) {
        let columns = selections.map(\.count).max() ?? 0
        widen(name, to: columns)
        fillIntegers(name, first: first, columns: columns, rows: selections.count) { row, column in
            let selection = selections[row]
            guard column < selection.count else { return -1 }
            return Int32(selection.positions.map { Int($0[column]) } ?? selection.first + column) - Int32(shift)
        }
    }

    /// Makes room for wider rows than those before; what is not filled stays -1.
    private func widen(_ name: String, to columns: Int) {
        guard let place = places[name], case .integers(let old) = tensors[place].values else { return }
        let before = tensors[place].shape[1]
        guard before < columns else { return }
        var wide = [Int32](repeating: -1, count: rows * columns)
        for row in 0..<rows { for column in 0..<before { wide[row * columns + column] = old[row * before + column] } }
        tensors[place].shape[1] = columns
        tensors[place].values = .integers(wide)
    }

    private func fillIntegers(
        _ name: String, first: Int, columns: Int, rows count: Int, _ value: (_ row: Int, _ column: Int) -> Int32
    ) {
        let place = place(name) { ([rows, columns], .integers(Array(repeating: -1, count: rows * columns))) }
        guard case .integers(var all) = tensors[place].values else { return }
        tensors[place].values = .floats([])
        let stride = tensors[place].shape[1]
        for row in 0..<count {
            for column in 0..<columns { all[(first + row) * stride + column] = value(row, column) }
        }
        tensors[place].values = .integers(all)
    }

    private func place(_ name: String, _ make: () -> ([Int], Values)) -> Int {
        if let place = places[name] { return place }
        let (shape, values) = make()
        append(name, shape, values)
        return tensors.count - 1
    }

    private func append(_ name: String, _ shape: [Int], _ values: Values) {
        places[name] = tensors.count
        tensors.append((name, shape, values))
    }

    func declarations(_ prompt: EvaluationInput.Prompt) -> [SafetensorsWriter.Declaration] {
        tensors.map { tensor in
            let isFloat = if case .floats = tensor.values { true } else { false }
            return .init(name: prompt.tensor(tensor.name), type: isFloat ? .f32 : .i32, shape: tensor.shape)
        }
    }

    func write(to writer: inout SafetensorsWriter) throws(ModelFormatError) {
        for tensor in tensors {
            switch tensor.values {
            case .floats(let values): try writer.write(values)
            case .integers(let values): try writer.write(values)
            }
        }
    }
}
