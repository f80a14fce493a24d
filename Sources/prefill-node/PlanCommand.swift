import ArgumentParser
import Engine
import OrderedJSON

/// Tells what memory a model and its sequences take and how long handoffs are, from the model's config.
struct PlanCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "plan",
        abstract: "Plan memory without weights: what a model and its KV take, what handoffs move, what fits.",
        discussion: """
            Of a config.json alone, weights are taken to be as published: BF16, or 8-bit floats with their scales where \
            the config says so. Of a checkpoint, tensors are what they are. Nothing is loaded.
            """)

    @Option(help: ArgumentHelp("A config.json, or a checkpoint: folder, safetensors or GGUF file.", valueName: "path"))
    var config: String

    @Option(help: "Tokens of one sequence (default: what the model allows).")
    var context: Int?

    @Option(help: "Sequences of that many tokens at once.")
    var sequences = 1

    @Option(help: "Type of KV elements: f32, f16, bf16, or fp8 for models with latent attention.")
    var kvDtype = "f16"

    @Option(help: "Tokens per KV page, a multiple of 16.")
    var pageTokens = 32

    @Option(help: "The model's layer that drafts tokens (MTP): auto (hold it if there is one) or off.")
    var mtp = "auto"

    @Option(help: ArgumentHelp("Link speeds in Gbit/s (default: 10,25,100,200,400).", valueName: "speed,…"))
    var link: String?

    @Option(help: ArgumentHelp("Memory that all has to fit in, in GiB: tells what does.", valueName: "gib"))
    var ram: Double?

    @Flag(help: "Write JSON, for machines.")
    var json = false

    private func request() throws(EngineError) -> PlanRequest {
        try PlanRequest(
            context: context, sequences: sequences, kvDtype: kvDtype, pageTokens: pageTokens, mtp: mtp, links: link,
            memoryGiB: ram)
    }

    func validate() throws {
        do throws(EngineError) {
            _ = try request()
        } catch {
            throw ValidationError(error.description)
        }
    }

    func run() throws {
        let plan = try MemoryPlan(PlannedModel(path: config), request())
        print(json ? plan.json.text() : plan.text)
    }
}
