import ArgumentParser
import Engine
import Kernels
import OrderedJSON
import SeededRandom

/// Prefill, decode, speculation and the share of each part, of a model with experts.
struct ExpertBenchmark: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "experts",
        abstract: "Speed by number of drafts, time by part, balance of experts, and threads under uneven routing.")

    @OptionGroup
    var subject: BenchmarkedModel

    @Option(help: "Tokens of the prompt.")
    var prompt = 512

    @Option(help: "Tokens to generate.")
    var generate = 64

    @Option(help: "Runs of each, after one to warm up.")
    var repetitions = 1

    @Option(help: "Drafts ahead to measure, up to this many.")
    var drafts = 3

    @Option(
        help:
            "Token ids that decoding continues, separated by commas; default: random ones, which no draft is right about."
    )
    var ids: String?

    func validate() throws {
        guard prompt > 0, generate > 0, repetitions > 0, (0...EngineOptions.draftsMax).contains(drafts) else {
            throw ValidationError(
                "--prompt, --generate and --repetitions must be positive, --drafts in 0...\(EngineOptions.draftsMax).")
        }
    }

    func run() async throws {
        let model = try subject.load()
        let given = try ids.map { try Self.tokens($0) }
        var random = SplitMix64(state: 1)
        let vocabulary = UInt64(model.facts.vocabularySize)
        let tokens = (0..<prompt).map { _ in TokenID(random.next() % vocabulary) }
        let speed = EngineSpeed(model: model, threads: subject.threads, repetitions: repetitions)
        let prefill = try await speed.measure(role: .prefill, tokens: prompt).speeds
        var decode: [JSON] = []
        for count in 0...(model.model.draftLayer == nil ? 0 : drafts) {
            let measured = try await speed.measure(
                role: .decode, tokens: generate, drafts: count, prompt: given ?? Array(tokens.prefix(16)))
            decode.append([
                "drafts": .int(Int64(count)), "tokens_per_s": .array(measured.speeds.map { .double($0) }),
                "accept_length": measured.speculation.acceptLength.map { .double($0) } ?? .null,
            ])
        }
        let evaluation = try Evaluation(model: model, threads: subject.threads)
        let parts = try evaluation.parts(of: tokens, generating: generate)
        let result: JSON = [
            "threads": .int(Int64(subject.threads)), "parameters": .int(Int64(model.facts.parameterCount)),
            "prefill_tokens_per_s": .array(prefill.map { .double($0) }), "decode": .array(decode),
            "prefill_shares": Self.shares(parts.prefill, of: parts.prefillSeconds),
            "decode_shares": Self.shares(parts.decode, of: parts.decodeSeconds),
            "expert_imbalance": .array(parts.experts.compactMap { $0.imbalance.map { .double($0) } }),
            "uneven_routing": try UnevenRouting(threads: subject.threads).measure(),
        ]
        print(result.text())
    }

    private static func tokens(_ text: String) throws -> [TokenID] {
        try text.split(separator: ",").map { part in
            guard let token = TokenID(part) else { throw ValidationError("--ids: \(part) is no token id") }
            return token
        }
    }

    private static func shares(_ times: PartTimes, of whole: Double) -> JSON {
        var shares = JSONObject()
        var known = 0.0
        for part in PartTimes.Part.allCases {
            let seconds = times.seconds[part] ?? 0
            known += seconds
            shares[part.rawValue] = .double(seconds / whole)
        }
        shares["rest"] = .double(max(0, whole - known) / whole)
        return .object(shares)
    }
}

/// The products of 64 experts, with rows spread evenly and with nine rows in ten at one expert: how much of the
/// threads' time is work. What one thread takes, over the threads and what they take.
struct UnevenRouting {
    let threads: Int
    private let experts = 64
    private let rows = 1024
    private let columns = 512
    private let outputs = 1024

    init(threads: Int) { self.threads = threads }

    func measure() throws -> JSON {
        let even = Array(repeating: rows / experts, count: experts)
        var skewed = Array(repeating: rows / 10 / (experts - 1), count: experts)
        skewed[7] = rows - skewed.reduce(0, +) + skewed[7]
        var result = JSONObject()
        for (name, counts) in [("even", even), ("skewed", skewed)] {
            let (one, all) = (try seconds(counts, threads: 1), try seconds(counts, threads: threads))
            result[name] = ["ms": .double(all * 1000), "utilisation": .double(one / (Double(threads) * all))]
        }
        return .object(result)
    }

    private func seconds(_ counts: [Int], threads: Int) throws -> Double {
        let pool = try ComputePool(threads: threads)
        defer { pool.shutdown() }
        var random = SplitMix64(state: 3)
        // bf16 of magnitude about 1: the upper halves of floats in 0.5..<1.
        let weights = (0..<outputs * columns).map { _ in UInt16(0x3F00 | random.next() & 0x7F) }
        let matrices = try weights.withUnsafeBytes { bytes in
            let source = MatrixSource(type: .bf16, rows: outputs, columns: columns, bytes: bytes)
            return try PackedMatrix.many(Array(repeating: [source], count: experts), table: .best, pool: pool)
        }
        let buffer = try ActivationBuffer(
            maxRows: rows, maxColumns: columns, maxSegments: experts, table: .best, pool: pool)
        buffer.encode(segments: counts, columns: columns, as: matrices[0].encodings, pool: pool) { row, out in
            for k in 0..<columns { out[k] = Float((row + k) % 17) - 8 }
        }
        let region = try MemoryRegion(bytes: rows * outputs * MemoryLayout<Float>.size)
        let out = region.pointer(to: Float.self)
        defer { withExtendedLifetime(region) {} }
        var (jobs, first) = ([MatmulJob](), 0)
        for (expert, count) in counts.enumerated() {
            let place = FloatRows(out + first * outputs, rows: count, columns: outputs)
            jobs.append(MatmulJob(matrices[expert], buffer, segment: expert, into: place))
            first += count
        }
        let clock = ContinuousClock()
        var best = Double.infinity
        for _ in 0..<8 {
            let began = clock.now
            matmul(jobs, pool: pool)
            best = min(best, (clock.now - began) / .seconds(1))
        }
        return best
    }
}
