import Engine
import Kernels
import Testing

/// Qwen3-MoE models of random shapes against a slow, obvious implementation in double precision, with the bounds of
/// `GLM5PropertyTests`.
@Suite struct Qwen3MoePropertyTests {
    @Test(arguments: UInt64(0)..<30)
    func everythingEqualsTheSlowModel(seed: UInt64) throws {
        let drawn = RandomQwen3Moe(seed: seed)
        let folder = try drawn.weights.write(config: drawn.json)
        var options = LoadOptions()
        options.kvType = .f32
        options.pageTokens = 32
        options.threads = 1
        let model = try LoadedModel.load(path: folder.path, options: options)
        let prompt = drawn.prompt.map { TokenID($0) }
        let (ids, logits) = try Evaluation(model: model, threads: 1, chunkTokens: 32).greedy(after: prompt, count: 8)
        var first: EngineTrace?
        for (threads, chunk) in [(2, 512), (1, 32)] {
            let evaluation = try Evaluation(model: model, threads: threads, chunkTokens: chunk)
            let trace = try EngineTrace(evaluation, prompt + ids.dropLast(), in: folder)
            #expect(first?.difference(from: trace) == nil, "chunks of \(chunk); \(drawn.description)")
            first = trace
        }
        let trace = try #require(first)
        let read = try trace.floats("logits").dropFirst(prompt.count - 1)
        #expect(read.joined().map(\.bitPattern) == logits.map(\.bitPattern), "\(drawn.description)")

        let names = drawn.config.isSparse.indices.map { ($0, "layer\($0)") }
        let referee = try Referee(trace, names: Dictionary(uniqueKeysWithValues: names), tolerance: 1e-5)
        var slow = drawn.slow
        slow.settle = referee.settle
        let pass = slow.forward(drawn.prompt + ids.dropLast().map { Int($0) })
        #expect(try farthest(trace.floats("logits"), pass.logits) < 2e-5, "\(drawn.description)")
        #expect(try farthest(trace.floats("hidden"), Array(pass.hidden.joined())) < 2e-5, "\(drawn.description)")
        for (step, id) in ids.enumerated() {
            let row = pass.logits[prompt.count - 1 + step]
            let top = row.max() ?? 0
            #expect(row[Int(id)] >= top - 2e-5 * max(top, 1), "token \(step); \(drawn.description)")
        }
        #expect(referee.complaints.isEmpty, "\(referee.complaints.first ?? ""); \(drawn.description)")
    }
}
