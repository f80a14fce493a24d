import ArgumentParser
import Engine
import Handoff
import Kernels
import OrderedJSON
import SeededRandom

/// Prefill and decode speed of one sequence on an idle engine, counted as llama.cpp's llama-bench does: prefill is a
/// prompt of random tokens on empty KV, decode generates one token after another from empty KV.
struct EngineBenchmark: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "engine", abstract: "Prefill and decode tokens per second of the engine alone.")

    @Option(help: "GGUF file or folder with safetensors.")
    var model: String

    @Option(help: "Compute threads.")
    var threads = 2

    @Option(help: "Tokens of the prompt.")
    var prompt = 512

    @Option(help: "Tokens to generate.")
    var generate = 64

    @Option(help: "Runs of each, after one to warm up.")
    var repetitions = 1

    @Option(help: "Instruction set: portable, avx2 or avx512; default is the best one.")
    var isa: String?

    func run() async throws {
        var options = LoadOptions()
        options.threads = threads
        if let isa {
            guard let chosen = ISA(rawValue: isa) else { throw ValidationError("--isa \(isa) is no instruction set") }
            options.isa = chosen
        }
        let model = try LoadedModel.load(path: model, options: options)
        let prefill = try await measure(model, role: .prefill, tokens: prompt)
        let decode = try await measure(model, role: .decode, tokens: generate)
        let result: JSON = .object(
            JSONObject([
                ("isa", .string(model.isa.rawValue)), ("threads", .int(Int64(threads))),
                ("prefill_tokens_per_s", .array(prefill.map { .double($0) })),
                ("decode_tokens_per_s", .array(decode.map { .double($0) })),
            ]))
        print(result.text())
    }

    /// Tokens per second of each repetition.
    func measure(_ model: LoadedModel, role: Scheduler.Role, tokens: Int) async throws -> [Double] {
        let pages = 2 * model.layout.pages(for: max(prompt, generate) + 1) * (repetitions + 1)
        let memory = try KVMemory(layout: model.layout, pageCount: pages)
        let (events, continuation) = AsyncStream.makeStream(of: EngineEvent.self)
        let loop = try EngineLoop(
            model: model, memory: memory, options: EngineOptions(role: role, threads: threads),
            onEvent: { continuation.yield($0) })
        defer { loop.shutdown() }
        var iterator = events.makeAsyncIterator()
        var speeds: [Double] = []
        for run in 0...repetitions {
            let id = HandoffID(router: Incarnation(1), request: UInt64(run + 1), attempt: 1)
            let clock = ContinuousClock()
            let start = clock.now
            submit(id, to: loop, role: role, tokens: tokens, vocabulary: model.facts.vocabularySize)
            try await waitForEnd(&iterator)
            let seconds = (clock.now - start) / .seconds(1)
            if role == .prefill { loop.releasePrefill(id) }
            if run > 0 { speeds.append(Double(tokens) / seconds) }
        }
        return speeds
    }

    private func submit(_ id: HandoffID, to loop: EngineLoop, role: Scheduler.Role, tokens: Int, vocabulary: Int) {
        // Other tokens in each run, so that the prefix cache has nothing to offer.
        var random = SplitMix64(state: id.request)
        let count = role == .prefill ? tokens : 1
        let prompt = (0..<count).map { _ in TokenID(random.next() % UInt64(vocabulary)) }
        if role == .prefill { return loop.submit(PrefillJob(id: id, tokens: prompt)) }
        var sampling = SamplingParameters()
        sampling.temperature = 0
        sampling.maxTokens = tokens
        loop.start(DecodeJob(id: id, tokens: prompt, sampling: sampling, slots: []))
    }

    private func waitForEnd(_ events: inout AsyncStream<EngineEvent>.AsyncIterator) async throws {
        while let event = await events.next(isolation: nil) {
            switch event {
            case .prefilled, .finished: return
            case .failed(_, let error): throw error
            case .started, .pagesReady, .tokens: continue
            }
        }
    }
}
