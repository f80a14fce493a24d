import ArgumentParser
import ControlPlane
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

    func validate() throws {
        do throws(NodeError) {
            _ = try NodeOptions.address(lane, "lane", ports: 0...65535)
        } catch {
            throw ValidationError(error.description)
        }
    }

    func run() async throws {
        let lane = lane
        let status = await NodeProcess.run(.decode, node) { (configuration) throws(NodeError) in
            configuration.lane = try NodeOptions.address(lane, "lane", ports: 0...65535)
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
