import ArgumentParser
import Engine
import Kernels
import OrderedJSON

/// Prefill and decode speed of one sequence (`EngineSpeed`).
struct EngineBenchmark: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "engine", abstract: "Prefill and decode tokens per second of the engine alone.")

    @OptionGroup
    var subject: BenchmarkedModel

    @Option(help: "Tokens of the prompt.")
    var prompt = 512

    @Option(help: "Tokens to generate.")
    var generate = 64

    @Option(help: "Runs of each, after one to warm up.")
    var repetitions = 1

    @Option(help: "Instruction set: portable, avx2 or avx512; default is the best one.")
    var isa: String?

    func run() async throws {
        let chosen = isa.flatMap { ISA(rawValue: $0) }
        if let isa, chosen == nil { throw ValidationError("--isa \(isa) is no instruction set") }
        let model = try subject.load(isa: chosen)
        let speed = EngineSpeed(model: model, threads: subject.threads, repetitions: repetitions)
        let prefill = try await speed.measure(role: .prefill, tokens: prompt).speeds
        let decode = try await speed.measure(role: .decode, tokens: generate).speeds
        let result: JSON = .object(
            JSONObject([
                ("isa", .string(model.isa.rawValue)), ("threads", .int(Int64(subject.threads))),
                ("prefill_tokens_per_s", .array(prefill.map { .double($0) })),
                ("decode_tokens_per_s", .array(decode.map { .double($0) })),
            ]))
        print(result.text())
    }
}
