import ArgumentParser
import ControlPlane
import Messages
import Node

@main
struct PrefillNodeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "prefill-node",
        abstract: "Computes prompts and writes their KV pages to decode nodes.",
        version: NodeProcess.version,
        subcommands: [ServeCommand.self, CheckCommand.self, EvalCommand.self, PlanCommand.self],
        defaultSubcommand: ServeCommand.self)
}

struct ServeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve", abstract: "Attaches to routers and serves until it is stopped.")

    @OptionGroup var node: NodeOptions

    func run() async throws {
        throw ExitCode(await NodeProcess.run(.prefill, node))
    }
}

struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: CheckOptions.abstract, discussion: CheckOptions.discussion)

    @OptionGroup var check: CheckOptions

    func run() throws {
        let (output, status) = try check.run(.prefill)
        print(output)
        throw ExitCode(status)
    }
}
