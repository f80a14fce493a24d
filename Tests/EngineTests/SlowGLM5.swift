import Kernels

/// GLM-5 straight from its formulas (DeepSeek-V2, arXiv:2405.04434; DeepSeek-V3.2, arXiv:2512.02556; index sharing,
/// arXiv:2603.12201), written to be read: attention in its expanded form, the whole sequence at once, nothing cached.
/// Shares no code with the engine.
struct SlowGLM5 {
    struct Config {
        var vocabulary = 0, hidden = 0
        /// By layer: has an indexer of its own; has experts.
        var ownsIndexer: [Bool] = [], isSparse: [Bool] = []
        var heads = 0, queryRank = 0, latentRank = 0, plain = 0, rope = 0, value = 0
        var indexHeads = 0, indexDimension = 0, topK = 0
        var indexPairing = Slow.Pairing.neighbours
        var denseSize = 0, expertSize = 0
        var experts = 0, perToken = 0, shared = 0, groups = 1, groupLimit = 1
        var normalises = true
        var scaling = 1.0, theta = 1e4, epsilon = 1e-5
        var hasDraftLayer = false, sharesDraftSelection = false
    }

    /// A choice of the greatest of some scores.
    enum Choice { case positions, experts }

    /// Of the norms of latents and of queries in their low rank, and of the indexer's keys.
    static let fixedEpsilon = 1e-6

    let config: Config
    /// Matrices by the names of the checkpoint; a vector is a single row.
    let weights: [String: Matrix]
    /// What latents, rotated keys and index keys are rounded to.
    var cache = CacheType.f32
    /// Has the last word on choices: what this model chose, the best first, may depend on rounding.
    var settle: (_ choice: Choice, _ layer: Int, _ row: Int, _ scores: Vector, _ own: [Int]) -> [Int] = { $4 }

    /// What a pass computes, row by row.
    struct Pass {
        /// The embedding, the residual stream after each layer, and that normed.
        var hidden: [Matrix] = []
        var logits: Matrix = []
        /// By layer; positions ascend, experts come best first.
        var selected: [Int: [[Int]]] = [:]
        var experts: [Int: [[Int]]] = [:]
        var expertWeights: [Int: Matrix] = [:]
        var routerLogits: [Int: Matrix] = [:]
    }

    var draftLayer: Int { config.ownsIndexer.count }

    func weight(_ name: String) -> Matrix { weights[name + ".weight"] ?? [] }

    private func norm(_ x: Matrix, _ name: String, epsilon: Double? = nil) -> Matrix {
        let weight = weight(name)[0]
        return x.map { Slow.rmsNorm($0, weight, epsilon: epsilon ?? config.epsilon) }
    }

    private func product(_ name: String, _ x: Matrix) -> Matrix {
        let weight = weight(name)
        return x.map { Slow.product(weight, $0) }
    }

    // MARK: Passes

    func forward(_ tokens: [Int]) -> Pass {
        let embedding = weight("model.embed_tokens")
        var x = tokens.map { embedding[$0] }
        var pass = Pass(hidden: [x])
        var selected: [[Int]] = []
        for layer in config.ownsIndexer.indices {
            x = block(x, layer, ownRows: config.ownsIndexer[layer] ? x.count : 0, &selected, &pass)
            pass.hidden.append(x)
        }
        let normed = norm(x, "model.norm")
        pass.hidden.append(normed)
        pass.logits = product("lm_head", normed)
        return pass
    }

    /// The draft layer: row i takes token i + 1, `next[i]`, and the hidden state at i. Rows from `verified` on are
    /// drafts, which select for themselves or attend to what the last row before them selected. `hidden` of the result
    /// is the layer's output and that normed.
    func draft(_ next: [Int], _ hidden: Matrix, verified: Int) -> Pass {
        let (embedding, name) = (weight("model.embed_tokens"), "model.layers.\(draftLayer)")
        let tokens = norm(next.map { embedding[$0] }, "\(name).enorm")
        let states = norm(hidden, "\(name).hnorm")
        var x = product("\(name).eh_proj", zip(tokens, states).map { $0 + $1 })
        var (pass, selected) = (Pass(), [[Int]]())
        let ownRows = config.sharesDraftSelection ? verified : x.count
        x = block(x, draftLayer, ownRows: ownRows, &selected, &pass)
        let normed = norm(x, "\(name).shared_head.norm")
        pass.hidden = [x, normed]
        pass.logits = product("lm_head", normed)
        return pass
    }

    /// `count` drafts, each made of the one before, after a sequence whose hidden states are `hidden`; `next` are its
    /// tokens after the first, with the one to be drafted from at the end. With the logits that chose them.
    func chain(_ next: [Int], _ hidden: Matrix, count: Int) -> (ids: [Int], logits: Matrix) {
        var (next, hidden, ids, logits) = (next, hidden, [Int](), Matrix())
        let verified = next.count
        // Nothing else knows of rows that build on drafts.
        var model = self
        model.settle = { $2 < verified ? settle($0, $1, $2, $3, $4) : $4 }
        while true {
            let pass = model.draft(next, hidden, verified: verified)
            logits.append(pass.logits[next.count - 1])
            ids.append(Slow.greatest(logits[ids.count], 1)[0])
            if ids.count == count { return (ids, logits) }
            next.append(ids[ids.count - 1])
            hidden.append(pass.hidden[1][hidden.count - 1])
        }
    }

    /// How many drafts each round of greedy speculative decoding accepts until there are `count` tokens after the
    /// first `prompt`; `tokens` is the greedy sequence, with more than `drafts` tokens to spare, and `hidden` its states.
    func accepted(_ tokens: [Int], _ hidden: Matrix, prompt: Int, count: Int, drafts: Int) -> [Int] {
        var (accepted, known) = ([Int](), prompt)
        while known - prompt + 1 < count {
            let drafted = chain(Array(tokens[1...known]), Array(hidden[..<known]), count: drafts).ids
            let right = zip(drafted, tokens[(known + 1)...]).prefix { $0 == $1 }.count
            accepted.append(right)
            known += right + 1
        }
        return accepted
    }

    // MARK: A layer

    /// - Parameter ownRows: so many rows select positions by this layer's indexer; if none, `selected` is used as it
    ///   is, and if not all, the others take the selection of the last that does.
    private func block(
        _ x: Matrix, _ layer: Int, ownRows: Int, _ selected: inout [[Int]], _ pass: inout Pass
    ) -> Matrix {
        let name = "model.layers.\(layer)"
        let attended = attention(
            norm(x, "\(name).input_layernorm"), layer, ownRows: ownRows, &selected)
        pass.selected[layer] = selected
        let x = zip(x, attended).map(Slow.sum)
        let normed = norm(x, "\(name).post_attention_layernorm")
        let isSparse = layer == draftLayer || config.isSparse[layer]
        let added = isSparse ? mixture(normed, layer, &pass) : feedForward("\(name).mlp", normed)
        return zip(x, added).map(Slow.sum)
    }

    private func feedForward(_ name: String, _ x: Matrix) -> Matrix {
        let (gate, up, down) = (weight("\(name).gate_proj"), weight("\(name).up_proj"), weight("\(name).down_proj"))
        return x.map { Slow.feedForward($0, gate: gate, up: up, down: down) }
    }

    private func attention(_ x: Matrix, _ layer: Int, ownRows: Int, _ selected: inout [[Int]]) -> Matrix {
        let name = "model.layers.\(layer).self_attn"
        let (plain, rope, value) = (config.plain, config.rope, config.value)
        func turned(_ x: some Sequence<Double>, _ position: Int) -> Vector {
            Slow.rotate(Array(x), dimensions: rope, position: position, theta: config.theta, .neighbours)
        }
        let low = norm(product("\(name).q_a_proj", x), "\(name).q_a_layernorm", epsilon: Self.fixedEpsilon)
        let queries = product("\(name).q_b_proj", low)
        let joint = product("\(name).kv_a_proj_with_mqa", x)
        let latents = norm(
            joint.map { Array($0.prefix(config.latentRank)) }, "\(name).kv_a_layernorm", epsilon: Self.fixedEpsilon
        ).map { Slow.kept($0, as: cache) }
        // What is rotated has no scales in a cache.
        let keys = joint.enumerated().map {
            Slow.kept(turned($1.dropFirst(config.latentRank), $0), as: cache == .fp8 ? .bf16 : cache)
        }
        let expanded = product("\(name).kv_b_proj", latents)
        if ownRows > 0 {
            selected = select(x, low, layer, rows: ownRows)
            selected += Array(repeating: selected[ownRows - 1], count: x.count - ownRows)
        }
        let outputs = x.indices.map { row in
            (0..<config.heads).flatMap { head in
                let query = queries[row][head * (plain + rope)..<(head + 1) * (plain + rope)]
                let rotated = turned(query.dropFirst(plain), row)
                let positions = selected[row]
                let scores = positions.map { position in
                    let key = expanded[position][head * (plain + value)..<head * (plain + value) + plain]
                    return (Slow.dot(Array(query.prefix(plain)), Array(key)) + Slow.dot(rotated, keys[position]))
                        / Double(plain + rope).squareRoot()
                }
                var sum = Vector(repeating: 0, count: value)
                for (position, weight) in zip(positions, Slow.softmax(scores)) {
                    let first = head * (plain + value) + plain
                    for d in 0..<value { sum[d] += weight * expanded[position][first + d] }
                }
                return sum
            }
        }
        return product("\(name).o_proj", outputs)
    }

    // MARK: Choices

    /// The positions that the first `rows` rows attend to, by the indexer.
    private func select(_ x: Matrix, _ low: Matrix, _ layer: Int, rows: Int) -> [[Int]] {
        let name = "model.layers.\(layer).self_attn.indexer"
        let (heads, width) = (config.indexHeads, config.indexDimension)
        func turned(_ x: Vector, _ position: Int) -> Vector {
            Slow.rotate(
                x, dimensions: config.rope, position: position, theta: config.theta, config.indexPairing)
        }
        let bias = weights["\(name).k_norm.bias"]?[0] ?? []
        let keys = product("\(name).wk", x).enumerated().map { position, key in
            let normed = Slow.layerNorm(key, weight("\(name).k_norm")[0], bias, epsilon: Self.fixedEpsilon)
            return Slow.kept(turned(normed, position), as: cache)
        }
        let queries = product("\(name).wq_b", low)
        let weights = product("\(name).weights_proj", x)
        return (0..<rows).map { row in
            let own = (0..<heads).map { turned(Array(queries[row][$0 * width..<($0 + 1) * width]), row) }
            let scores = (0...row).map { position in
                (0..<heads).reduce(0.0) { sum, head in
                    let product = Slow.dot(own[head], keys[position]) / Double(width).squareRoot()
                    return sum + weights[row][head] / Double(heads).squareRoot() * max(0, product)
                }
            }
            return settle(.positions, layer, row, scores, Slow.greatest(scores, config.topK)).sorted()
        }
    }

    private func mixture(_ x: Matrix, _ layer: Int, _ pass: inout Pass) -> Matrix {
        let name = "model.layers.\(layer).mlp"
        let router = weight("\(name).gate")
        let bias = weights["\(name).gate.e_score_correction_bias"]?[0] ?? []
        return x.enumerated().map { row, x in
            let logits = Slow.product(router, x)
            let scores = logits.map(Slow.sigmoid)
            let choice = withoutLesserGroups(Slow.sum(scores, bias))
            let chosen = settle(.experts, layer, row, choice, Slow.greatest(choice, config.perToken))
            var gates = chosen.map { scores[$0] }
            if config.normalises {
                let total = gates.reduce(0, +) + 1e-20
                gates = gates.map { $0 / total }
            }
            gates = gates.map { $0 * config.scaling }
            pass.experts[layer, default: []].append(chosen)
            pass.expertWeights[layer, default: []].append(gates)
            pass.routerLogits[layer, default: []].append(logits)
            var sum = Vector(repeating: 0, count: x.count)
            for (expert, gate) in zip(chosen, gates) {
                sum = Slow.sum(sum, feedForward("\(name).experts.\(expert)", [x])[0].map { $0 * gate })
            }
            return config.shared > 0 ? Slow.sum(sum, feedForward("\(name).shared_experts", [x])[0]) : sum
        }
    }

    /// Experts outside the groups whose two best experts have the greatest sums cannot be chosen.
    private func withoutLesserGroups(_ choice: Vector) -> Vector {
        guard config.groups > 1 else { return choice }
        let size = config.experts / config.groups
        let sums = (0..<config.groups).map { group in
            choice[group * size..<(group + 1) * size].sorted(by: >).prefix(2).reduce(0, +)
        }
        let best = Set(Slow.greatest(sums, config.groupLimit))
        return choice.indices.map { best.contains($0 / size) ? choice[$0] : -.infinity }
    }
}
