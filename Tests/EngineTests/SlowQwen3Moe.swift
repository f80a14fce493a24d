import ModelFormat
import OrderedJSON
import SeededRandom

/// Qwen3-MoE straight from its formulas (arXiv:2505.09388), written to be read: the whole sequence at once, nothing
/// cached. Shares no code with the engine.
struct SlowQwen3Moe {
    struct Config {
        var vocabulary = 0, hidden = 0
        var isSparse: [Bool] = []
        var heads = 0, keyHeads = 0, width = 0
        var denseSize = 0, expertSize = 0, experts = 0, perToken = 0
        var normalises = false, isTied = false, hasBias = false
        var theta = 1e4, epsilon = 1e-6
    }

    let config: Config
    let weights: [String: Matrix]
    /// Has the last word on experts, as in `SlowGLM5`.
    var settle: (_ choice: SlowGLM5.Choice, _ layer: Int, _ row: Int, _ scores: Vector, _ own: [Int]) -> [Int] = { $4 }

    private func weight(_ name: String) -> Matrix { weights[name + ".weight"] ?? [] }

    private func norm(_ x: Matrix, _ name: String) -> Matrix {
        x.map { Slow.rmsNorm($0, weight(name)[0], epsilon: config.epsilon) }
    }

    private func product(_ name: String, _ x: Matrix) -> Matrix {
        let weight = weight(name)
        let bias = weights["\(name).bias"]?[0]
        return x.map { x in
            let product = Slow.product(weight, x)
            return bias.map { Slow.sum(product, $0) } ?? product
        }
    }

    /// Logits, and the states that the engine shows: what each layer starts from, and the last one's output normed.
    func forward(_ tokens: [Int]) -> (logits: Matrix, hidden: [Matrix]) {
        let embedding = weight("model.embed_tokens")
        var x = tokens.map { embedding[$0] }
        var hidden: [Matrix] = []
        for layer in config.isSparse.indices {
            hidden.append(x)
            let name = "model.layers.\(layer)"
            x = zip(x, attention("\(name).self_attn", norm(x, "\(name).input_layernorm"))).map(Slow.sum)
            let normed = norm(x, "\(name).post_attention_layernorm")
            let added = config.isSparse[layer] ? mixture(normed, layer) : normed.map { feedForward("\(name).mlp", $0) }
            x = zip(x, added).map(Slow.sum)
        }
        let normed = norm(x, "model.norm")
        return (product(config.isTied ? "model.embed_tokens" : "lm_head", normed), hidden + [normed])
    }

    private func feedForward(_ name: String, _ x: Vector) -> Vector {
        Slow.feedForward(
            x, gate: weight("\(name).gate_proj"), up: weight("\(name).up_proj"), down: weight("\(name).down_proj"))
    }

    private func attention(_ name: String, _ x: Matrix) -> Matrix {
        let width = config.width
        /// A head's part of each row; queries and keys normed and turned.
        func heads(_ name: String, _ count: Int, norm: String?) -> [Matrix] {
            let rows = product(name, x)
            return (0..<count).map { head in
                rows.enumerated().map { position, row in
                    let own = Array(row[head * width..<(head + 1) * width])
                    guard let norm else { return own }
                    let normed = Slow.rmsNorm(own, weight(norm)[0], epsilon: config.epsilon)
                    return Slow.rotate(normed, dimensions: width, position: position, theta: config.theta, .halves)
                }
            }
        }
        let queries = heads("\(name).q_proj", config.heads, norm: "\(name).q_norm")
        let keys = heads("\(name).k_proj", config.keyHeads, norm: "\(name).k_norm")
        let values = heads("\(name).v_proj", config.keyHeads, norm: nil)
        let outputs = x.indices.map { row in
            (0..<config.heads).flatMap { head in
                let group = head / (config.heads / config.keyHeads)
                let scores = (0...row).map {
                    Slow.dot(queries[head][row], keys[group][$0]) / Double(width).squareRoot()
                }
                var sum = Vector(repeating: 0, count: width)
                for (position, weight) in Slow.softmax(scores).enumerated() {
                    for d in 0..<width { sum[d] += weight * values[group][position][d] }
                }
                return sum
            }
        }
        return product("\(name).o_proj", outputs)
    }

    private func mixture(_ x: Matrix, _ layer: Int) -> Matrix {
        let name = "model.layers.\(layer).mlp"
        return x.enumerated().map { row, x in
            let scores = Slow.softmax(Slow.product(weight("\(name).gate"), x))
            let chosen = settle(.experts, layer, row, scores, Slow.greatest(scores, config.perToken))
            let total = config.normalises ? chosen.reduce(0) { $0 + scores[$1] } : 1
            return chosen.reduce(Vector(repeating: 0, count: x.count)) { sum, expert in
                Slow.sum(sum, feedForward("\(name).experts.\(expert)", x).map { $0 * scores[expert] / total })
            }
        }
    }
}

/// A small Qwen3-MoE model drawn from a seed.
struct RandomQwen3Moe {
    let seed: UInt64
    var config = SlowQwen3Moe.Config()
    var json: JSONObject = [:]
    var weights: RandomWeights
    var prompt: [Int] = []

    var description: String { "seed \(seed), \(weights.storage): \(JSON.object(json).text())" }
    var slow: SlowQwen3Moe { SlowQwen3Moe(config: config, weights: weights.values) }

    init(seed: UInt64) {
        self.seed = seed
        let storages = [RandomWeights.Storage.f32, .bf16, .mixed]
        weights = RandomWeights(storages[Int(seed % 3)], seed: seed)
        var random = SplitMix64(state: seed ^ 0x9e3)
        drawConfig(&random)
        describe(&random)
        drawWeights()
        prompt = (0...random.below(60)).map { _ in random.below(config.vocabulary) }
    }

    private mutating func drawConfig(_ random: inout SplitMix64) {
        func any(_ range: ClosedRange<Int>) -> Int { range.lowerBound + random.below(range.count) }
        config.vocabulary = any(7...70)
        config.hidden = any(5...70)
        config.keyHeads = any(1...3)
        config.heads = config.keyHeads * any(1...4)
        config.width = 2 * any(1...14)
        config.denseSize = any(1...60)
        config.expertSize = any(1...40)
        config.experts = any(1...12)
        config.perToken = any(1...config.experts)
        config.normalises = random.below(2) == 0
        config.isTied = random.below(3) == 0
        config.hasBias = random.below(3) == 0
        config.theta = [100, 1e4, 1e6][random.below(3)]
        config.epsilon = [1e-6, 1e-5, 1e-3][random.below(3)]
        let (layers, step) = (any(1...4), any(1...3))
        let dense = (0..<layers).filter { _ in random.below(4) == 0 }
        config.isSparse = (0..<layers).map { ($0 + 1) % step == 0 && !dense.contains($0) }
        json["num_hidden_layers"] = .int(Int64(layers))
        if step > 1 || random.below(2) == 0 { json["decoder_sparse_step"] = .int(Int64(step)) }
        if !dense.isEmpty || random.below(2) == 0 { json["mlp_only_layers"] = .array(dense.map { .int(Int64($0)) }) }
    }

    private mutating func describe(_ random: inout SplitMix64) {
        let numbers = [
            "vocab_size": config.vocabulary, "hidden_size": config.hidden, "num_attention_heads": config.heads,
            "num_key_value_heads": config.keyHeads, "head_dim": config.width, "intermediate_size": config.denseSize,
            "moe_intermediate_size": config.expertSize, "num_experts_per_tok": config.perToken,
            "max_position_embeddings": RandomGLM5.context,
        ]
        for (name, number) in numbers.sorted(by: { $0.key < $1.key }) { json[name] = .int(Int64(number)) }
        json[["num_experts", "num_local_experts"][random.below(2)]] = .int(Int64(config.experts))
        json["architectures"] = ["Qwen3MoeForCausalLM"]
        json["norm_topk_prob"] = .bool(config.normalises)
        json["tie_word_embeddings"] = .bool(config.isTied)
        json["attention_bias"] = .bool(config.hasBias)
        json["rope_theta"] = .double(config.theta)
        json["rms_norm_eps"] = .double(config.epsilon)
    }

    private mutating func drawWeights() {
        let (hidden, width) = (config.hidden, config.width)
        weights.matrix("model.embed_tokens", config.vocabulary, hidden, gain: 3)
        if !config.isTied { weights.matrix("lm_head", config.vocabulary, hidden, gain: 3) }
        weights.vector("model.norm.weight", hidden, in: 0.5...1.5)
        for layer in config.isSparse.indices {
            let name = "model.layers.\(layer)"
            let attention = "\(name).self_attn"
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                weights.vector("\(name).\(norm).weight", hidden, in: 0.5...1.5)
            }
            for norm in ["q_norm", "k_norm"] { weights.vector("\(attention).\(norm).weight", width, in: 0.5...2) }
            let (queries, keys) = (config.heads * width, config.keyHeads * width)
            for (part, rows, columns) in [
                ("q_proj", queries, hidden), ("k_proj", keys, hidden), ("v_proj", keys, hidden),
                ("o_proj", hidden, queries),
            ] {
                weights.matrix("\(attention).\(part)", rows, columns)
                if config.hasBias { weights.vector("\(attention).\(part).bias", rows, in: -0.5...0.5) }
            }
            drawFeedForward(layer, "\(name).mlp")
        }
    }

    private mutating func drawFeedForward(_ layer: Int, _ name: String) {
        let isSparse = config.isSparse[layer]
        let parts = isSparse ? (0..<config.experts).map { "\(name).experts.\($0)" } : [name]
        let width = isSparse ? config.expertSize : config.denseSize
        if isSparse { weights.matrix("\(name).gate", config.experts, config.hidden, gain: 2) }
        for part in parts {
            weights.matrix("\(part).gate_proj", width, config.hidden, gain: 1.5)
            weights.matrix("\(part).up_proj", width, config.hidden)
            weights.matrix("\(part).down_proj", config.hidden, width)
        }
    }
}
