import Engine
import Kernels
import OrderedJSON
import Testing

/// GLM-5 models of random shapes against a slow, obvious implementation in double precision.
///
/// Weights are the same numbers to both, so what differs is float32's rounding: at most 2e-5 of the greatest number of
/// a tensor, some times what is seen. Discrete choices (positions, experts) are compared by their scores in the slow
/// model: a choice may differ only where the scores it swaps are nearer to each other than 1e-5 of the greatest, and
/// then the slow model goes on with the engine's choice, so that everything behind it is compared too.
@Suite struct GLM5PropertyTests {
    static let seeds = UInt64(0)..<60

    private func load(_ folder: CheckpointFolder, _ type: CacheType, pageTokens: Int) throws -> LoadedModel {
        var options = LoadOptions()
        options.kvType = type
        options.pageTokens = pageTokens
        options.threads = 1
        return try LoadedModel.load(path: folder.path, options: options)
    }

    private func names(_ drawn: RandomGLM5) -> [Int: String] {
        let layers = drawn.config.ownsIndexer.count
        let names = (0..<layers).map { ($0, "layer\($0)") } + (drawn.config.hasDraftLayer ? [(layers, "mtp")] : [])
        return Dictionary(uniqueKeysWithValues: names)
    }

    @Test(arguments: seeds)
    func everythingEqualsTheSlowModel(seed: UInt64) throws {
        try compareAll(RandomGLM5(seed: seed), chunk: seed % 2 == 0 ? 16 : 512)
    }

    /// The greatest shapes that the kernels take, which are far above those drawn.
    @Test(arguments: 0..<4)
    func theGreatestShapes(index: Int) throws {
        let drawn = RandomGLM5(seed: 7, storage: .bf16, draftLayer: true) { config in
            switch index {
            case 0: config.latentRank = 1024
            case 1: (config.rope, config.indexDimension) = (256, 256)
            case 2: (config.indexHeads, config.indexDimension) = (128, 128)
            default: (config.heads, config.plain, config.value) = (65, 3, 2)
            }
        }
        try compareAll(drawn, chunk: 16)
    }

    private func compareAll(_ drawn: RandomGLM5, chunk: Int) throws {
        let (prompt, drafts) = (drawn.prompt, drawn.config.hasDraftLayer ? drawn.drafts : 0)
        let folder = try drawn.write()
        let model = try load(folder, .f32, pageTokens: 16)
        #expect((model.model.draftLayer != nil) == drawn.config.hasDraftLayer, "\(drawn.description)")
        let evaluation = try Evaluation(model: model, threads: 2, chunkTokens: chunk)
        let steps = 12 + drafts
        let (ids, logits) = try evaluation.greedy(after: prompt, count: steps)
        let trace = try EngineTrace(evaluation, prompt + ids.dropLast(), in: folder, drafts: drafts)
        // A token that was generated has the bits of one that is read.
        let read = try trace.floats("logits").dropFirst(prompt.count - 1)
        #expect(read.joined().map(\.bitPattern) == logits.map(\.bitPattern), "\(drawn.description)")

        let referee = try Referee(trace, names: names(drawn), tolerance: 1e-5)
        var slow = drawn.slow
        slow.settle = referee.settle
        let tokens = (prompt + ids).map { Int($0) }
        let pass = slow.forward(Array(tokens.dropLast()))
        try compare(pass, trace, drawn, limit: 2e-5)
        for (step, id) in ids.enumerated() {
            let row = pass.logits[prompt.count - 1 + step]
            let top = row.max() ?? 0
            #expect(row[Int(id)] >= top - 2e-5 * max(top, 1), "token \(step); \(drawn.description)")
        }
        if drafts > 0 {
            let hidden = pass.hidden[pass.hidden.count - 1]
            let next = Array(tokens.dropFirst())
            try compare(drafts: slow.draft(next, hidden, verified: next.count), trace, drawn, limit: 2e-5)
            let chain = slow.chain(next, hidden, count: drafts)
            let name = "mtp_draft\(drafts)_\(drawn.config.sharesDraftSelection ? "share" : "own")"
            #expect(try trace.integers("\(name)_ids")[0] == chain.ids, "\(drawn.description)")
            #expect(try farthest(trace.floats("\(name)_logits"), chain.logits) < 2e-5, "\(drawn.description)")
            let found = try evaluation.speculate(after: prompt, count: steps - drafts, drafts: drafts)
            #expect(found.ids == Array(ids.prefix(steps - drafts)), "\(drawn.description)")
            let accepted = slow.accepted(
                tokens, hidden, prompt: prompt.count, count: steps - drafts, drafts: drafts)
            #expect(found.accepted.map { Int($0) } == accepted, "\(drawn.description)")
        }
        #expect(referee.complaints.isEmpty, "\(referee.complaints.first ?? ""); \(drawn.description)")
    }

    private func compare(
        _ pass: SlowGLM5.Pass, _ trace: EngineTrace, _ drawn: RandomGLM5, limit: Double
    ) throws {
        #expect(try farthest(trace.floats("logits"), pass.logits) < limit, "\(drawn.description)")
        let rows = pass.logits.count
        let hidden = try trace.floats("hidden")
        #expect(hidden.count == rows * pass.hidden.count)
        for (index, state) in pass.hidden.enumerated() {
            let found = Array(hidden[index * rows..<(index + 1) * rows])
            #expect(farthest(found, state) < limit, "state \(index); \(drawn.description)")
        }
        try compareChoices(pass, trace, drawn, limit: limit)
    }

    private func compare(
        drafts pass: SlowGLM5.Pass, _ trace: EngineTrace, _ drawn: RandomGLM5, limit: Double
    ) throws {
        #expect(try farthest(trace.floats("mtp_logits"), pass.logits) < limit, "\(drawn.description)")
        #expect(try farthest(trace.floats("mtp_hidden"), pass.hidden[0]) < limit, "\(drawn.description)")
        #expect(try farthest(trace.floats("mtp_norm_hidden"), pass.hidden[1]) < limit, "\(drawn.description)")
        try compareChoices(pass, trace, drawn, limit: limit)
    }

    /// The slow model follows the engine's choices as far as they are right, so they are equal now.
    private func compareChoices(
        _ pass: SlowGLM5.Pass, _ trace: EngineTrace, _ drawn: RandomGLM5, limit: Double
    ) throws {
        let names = names(drawn)
        for (layer, selected) in pass.selected {
            #expect(try trace.integers("\(names[layer] ?? "").topk") == selected, "\(drawn.description)")
        }
        for (layer, experts) in pass.experts {
            let name = names[layer] ?? ""
            #expect(try trace.integers("\(name).experts") == experts, "\(drawn.description)")
            let weights = try trace.floats("\(name).expert_weights")
            #expect(farthest(weights, pass.expertWeights[layer] ?? []) < limit, "\(drawn.description)")
            let logits = try trace.floats("\(name).router_logits")
            #expect(farthest(logits, pass.routerLogits[layer] ?? []) < limit, "\(drawn.description)")
        }
    }

    /// Pages, chunks and threads show in no bit of anything.
    @Test(arguments: seeds)
    func cutsDoNotShow(seed: UInt64) throws {
        let drawn = RandomGLM5(seed: seed)
        let folder = try drawn.write()
        var first: EngineTrace?
        for (pageTokens, chunk, threads) in [(16, 16, 1), (16, 512, 2), (32, 32, 2), (32, 512, 1)] {
            let evaluation = try Evaluation(
                model: load(folder, .f16, pageTokens: pageTokens), threads: threads, chunkTokens: chunk)
            let trace = try EngineTrace(
                evaluation, drawn.prompt, in: folder, drafts: drawn.config.hasDraftLayer ? drawn.drafts : 0, greedy: 6)
            if let first {
                let difference = first.difference(from: trace)
                #expect(difference == nil, "pages of \(pageTokens), chunks of \(chunk); \(drawn.description)")
            } else {
                first = trace
            }
        }
    }

    /// Sequences longer than any block, segment or slice that attention and selection are cut into.
    @Test(arguments: [(UInt64(1), 2100), (6, 1100), (3, 1500)])
    func longSequences(seed: UInt64, length: Int) throws {
        let drawn = RandomGLM5(seed: seed, storage: .f32, draftLayer: true, length: length)
        let folder = try drawn.write()
        let evaluation = try Evaluation(model: load(folder, .f32, pageTokens: 16), threads: 2, chunkTokens: 512)
        let trace = try EngineTrace(evaluation, drawn.prompt, in: folder, drafts: 1, greedy: 2)
        // Position by position from somewhere on.
        let session = try evaluation.makeSession(capacity: length)
        let read = try trace.floats("logits")
        try evaluation.extend(session, by: Array(drawn.prompt.dropLast(3))) { _, _ in }
        for position in length - 3..<length {
            try evaluation.extend(session, by: [drawn.prompt[position]]) { _, logits in
                let found = UnsafeBufferPointer(start: logits[0], count: logits.columns).map(\.bitPattern)
                #expect(found == read[position].map(\.bitPattern), "\(drawn.description)")
            }
        }
        let referee = try Referee(trace, names: names(drawn), tolerance: 1e-5)
        var slow = drawn.slow
        slow.settle = referee.settle
        let pass = slow.forward(drawn.prompt.map { Int($0) })
        try compare(pass, trace, drawn, limit: 2e-5)
        let next = drawn.prompt.dropFirst().map { Int($0) } + [try trace.integers("greedy_ids")[0][0]]
        let drafts = slow.draft(next, pass.hidden[pass.hidden.count - 1], verified: next.count)
        try compare(drafts: drafts, trace, drawn, limit: 2e-5)
        #expect(referee.complaints.isEmpty, "\(referee.complaints.first ?? ""); \(drawn.description)")
    }

    /// What is drawn reaches every switch, and sizes that fill no vector.
    @Test func seedsReachEverything() {
        let drawn = Self.seeds.map { RandomGLM5(seed: $0) }
        let features: [(String, (RandomGLM5) -> Bool)] = [
            ("indexer_types", { $0.json["indexer_types"] != nil }),
            ("index_topk_pattern", { $0.json["index_topk_pattern"] != nil }),
            ("index_topk_freq", { $0.json["index_topk_freq"] != nil }),
            ("shared indexers", { $0.config.ownsIndexer.contains(false) }),
            ("an indexer after shared ones", { $0.config.ownsIndexer.dropFirst().drop { $0 }.contains(true) }),
            ("mlp_layer_types", { $0.json["mlp_layer_types"] != nil }),
            ("moe_layer_freq", { $0.json["moe_layer_freq"] != nil }),
            ("dense layers alone", { !$0.config.isSparse.contains(true) }),
            ("experts alone", { !$0.config.isSparse.contains(false) }),
            ("half-split pairs", { $0.config.indexPairing == .halves }),
            ("groups left out", { $0.config.groupLimit < $0.config.groups }),
            ("one expert", { $0.config.experts == 1 }), ("all experts", { $0.config.perToken == $0.config.experts }),
            ("no shared expert", { $0.config.shared == 0 }), ("two shared experts", { $0.config.shared == 2 }),
            ("plain weights of experts", { !$0.config.normalises }), ("no draft layer", { !$0.config.hasDraftLayer }),
            (
                "a draft layer announced, not there",
                { !$0.config.hasDraftLayer && $0.json["num_nextn_predict_layers"] != nil }
            ),
            ("shared selection of drafts", { $0.config.hasDraftLayer && $0.config.sharesDraftSelection }),
            ("own selection of drafts", { $0.config.hasDraftLayer && !$0.config.sharesDraftSelection }),
            ("one position", { $0.config.topK == 1 }), ("selection", { $0.prompt.count > $0.config.topK }),
            ("one head", { $0.config.heads == 1 }), ("many heads", { $0.config.heads > 16 }),
            ("odd latents", { $0.config.latentRank % 2 == 1 }), ("odd hidden", { $0.config.hidden % 2 == 1 }),
            (
                "many blocks of scales",
                { $0.weights.storage == .fp8 && $0.config.hidden > 128 && $0.config.queryRank > 128 }
            ),
        ]
        for (name, isSeen) in features { #expect(drawn.contains(where: isSeen), "no seed has \(name)") }
    }

    struct Bounds: Sendable {
        var type: CacheType
        /// Of what is computed from rounded latents and keys, in parts of the greatest number. Where rounding in float32
        /// takes one of them to the next step of the cache's type, the step shows.
        var slow: Double
        /// Of what rounding them does to logits, as long as it changes no choice.
        var exact: Double
    }

    static let bounds = [
        Bounds(type: .f16, slow: 2e-3, exact: 0.01), Bounds(type: .bf16, slow: 1e-2, exact: 0.05),
        Bounds(type: .fp8, slow: 5e-2, exact: 0.3),
    ]

    /// A cache of few bits changes what it must, and nothing else: the slow model rounds what is cached too.
    @Test(arguments: seeds)
    func cacheTypes(seed: UInt64) throws {
        let drawn = RandomGLM5(seed: seed)
        let folder = try drawn.write()
        func trace(_ type: CacheType) throws -> EngineTrace {
            let model = try load(folder, type, pageTokens: 16)
            return try EngineTrace(Evaluation(model: model, threads: 1, chunkTokens: 512), drawn.prompt, in: folder)
        }
        let exact = try trace(.f32)
        for bounds in Self.bounds {
            let rounded = try trace(bounds.type)
            let about = "\(bounds.type); \(drawn.description)"
            var slow = drawn.slow
            slow.cache = bounds.type
            let referee = try Referee(rounded, names: names(drawn), tolerance: bounds.slow)
            slow.settle = referee.settle
            let pass = slow.forward(drawn.prompt.map { Int($0) })
            let logits = try rounded.floats("logits")
            #expect(farthest(logits, pass.logits) < bounds.slow, "\(about)")
            #expect(referee.complaints.isEmpty, "\(referee.complaints.first ?? ""); \(about)")
            let same = try rowsWithTheSameChoices(exact, rounded, count: logits.count)
            let drift = farthest(
                Array(logits[..<same]), try exact.floats("logits")[..<same].map { $0.map(Double.init) })
            #expect(drift < bounds.exact, "\(about)")
        }
    }

    /// Rows before the first that chose something else in any layer.
    private func rowsWithTheSameChoices(_ a: EngineTrace, _ b: EngineTrace, count: Int) throws -> Int {
        var same = count
        for name in a.names where name.hasSuffix(".topk") || name.hasSuffix(".experts") {
            let (left, right) = (try a.integers(name), try b.integers(name))
            same = min(same, (0..<count).first { left[$0] != right[$0] } ?? count)
        }
        return same
    }
}
