import ArgumentParser
import ControlPlane
import Engine
import Messages
import Node

@main
struct DecodeNodeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "decode-node",
        abstract: "Receives KV pages from prefill nodes and generates tokens.",
        version: NodeProcess.version,
        subcommands: [ServeCommand.self, CheckCommand.self],
        defaultSubcommand: ServeCommand.self)
}

struct ServeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve", abstract: "Attaches to routers and serves until it is stopped.")

    @OptionGroup var node: NodeOptions

    @Option(help: ArgumentHelp("Where lanes of prefill nodes are accepted.", valueName: "host:port"))
    var lane = "127.0.0.1:0"

    @Option(help: "Tokens drafted ahead for each sequence by the model's MTP layer, and verified; 0 is off.")
    var speculate = 0

    func validate() throws {
        do throws(NodeError) {
            _ = try NodeOptions.address(lane, "lane", ports: 0...65535)
        } catch {
            throw ValidationError(error.description)
        }
        guard (0...EngineOptions.draftsMax).contains(speculate) else {
            throw ValidationError("--speculate \(speculate) is not in 0...\(EngineOptions.draftsMax).")
        }
        guard speculate == 0 || node.mtp != "off" else {
            throw ValidationError("--speculate needs the MTP layer, which --mtp off leaves out.")
        }
    }

    func run() async throws {
        let (lane, speculate) = (lane, speculate)
        let status = await NodeProcess.run(.decode, node) { (configuration) throws(NodeError) in
            configuration.lane = try NodeOptions.address(lane, "lane", ports: 0...65535)
            configuration.speculate = speculate
        }
        throw ExitCode(status)
    }
}

struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: CheckOptions.abstract, discussion: CheckOptions.discussion)

    @OptionGroup var check: CheckOptions

    @Option(help: ArgumentHelp("Where lanes of prefill nodes would be accepted.", valueName: "host:port"))
    var lane: String?

    func validate() throws { _ = try address() }

    func run() throws {
        let (output, status) = try check.run(.decode, lane: try address())
        print(output)
        throw ExitCode(status)
    }

    private func address() throws -> HostPort? {
        do throws(NodeError) {
            return try lane.map { (text) throws(NodeError) in try NodeOptions.address(text, "lane", ports: 0...65535) }
        } catch {
            throw ValidationError(error.description)
        }
    }
}
