import ArgumentParser
import Transport

/// The programs behind `make bench`. Each prints one line of JSON; Benchmarks/run.py runs them beside their peers.
@main
struct Bench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench", abstract: "Measures parts of Baton; `make bench` puts the figures beside their peers.",
        subcommands: [
            EngineBenchmark.self, ExpertBenchmark.self, LaneBenchmarkCommand.self, FenceBenchmark.self,
            DigestBenchmark.self,
        ])

    static func main() async {
        if runLaneReceiverIfAsked(Array(CommandLine.arguments.dropFirst())) { return }
        await main(nil)
    }
}

extension DigestMode: ExpressibleByArgument {}

/// KV pages from one process to another over a lane.
struct LaneBenchmarkCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "lanes", abstract: "KV handoff over a lane between two processes on this host.")

    @Option(help: "Bytes of a page.")
    var block = 65536

    @Option(help: "Bytes of a handoff.")
    var total = 256 << 20

    @Option(help: "Measured handoffs.")
    var iterations = 8

    @Option(help: "Digests of the pages: off, sealed or scrub.")
    var digests = DigestMode.sealed

    @Option(help: ArgumentHelp("Over RDMA, by the device with this address; default is TCP.", valueName: "address"))
    var rdma: String?

    @Option(help: "Memory windows of the device: auto, on or off.")
    var windows = RDMAWindows.auto

    func validate() throws {
        guard block >= 64, total >= block, iterations > 0 else {
            throw ValidationError("--block must be at least 64, --total at least --block, --iterations positive.")
        }
    }

    func run() throws {
        try runLaneBenchmark(
            pageBytes: block, totalBytes: total, iterations: iterations, digests: digests,
            rdmaHost: rdma, windows: windows)
    }
}
