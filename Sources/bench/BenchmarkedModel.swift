import ArgumentParser
import Engine
import Kernels

/// The model that a benchmark runs, and on how many threads.
struct BenchmarkedModel: ParsableArguments {
    @Option(help: "GGUF file or folder with safetensors.")
    var model: String

    @Option(help: "Compute threads.")
    var threads = 2

    /// - Parameter isa: nil for the best there is.
    func load(isa: ISA? = nil) throws -> LoadedModel {
        var options = LoadOptions()
        options.threads = threads
        options.isa = isa
        return try LoadedModel.load(path: model, options: options)
    }
}
