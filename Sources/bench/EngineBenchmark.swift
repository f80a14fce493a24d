import ArgumentParser
import Engine
import Kernels
import OrderedJSON

/// Prefill and decode speed of one sequence (`EngineSpeed`).
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
        let speed = EngineSpeed(model: model, threads: threads, repetitions: repetitions)
        let prefill = try await speed.measure(role: .prefill, tokens: prompt)
        let decode = try await speed.measure(role: .decode, tokens: generate)
        let result: JSON = .object(
            JSONObject([
                ("isa", .string(model.isa.rawValue)), ("threads", .int(Int64(threads))),
                ("prefill_tokens_per_s", .array(prefill.map { .double($0) })),
                ("decode_tokens_per_s", .array(decode.map { .double($0) })),
            ]))
        print(result.text())
    }
}
