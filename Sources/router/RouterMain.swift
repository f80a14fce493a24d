import ArgumentParser

/// The front door of a Baton cluster, and the operator's command line.
@main
struct RouterCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "router",
        abstract: "The front door of a Baton cluster, and the operator's command line.",
        version: batonVersion,
        subcommands: [
            ServeCommand.self, UpCommand.self, StatusCommand.self, NodesCommand.self, DrainCommand.self,
            HandoffsCommand.self, AskCommand.self,
        ])
}

/// Shown by `--version`, in status reports and in `system_fingerprint`.
let batonVersion = "0.1.0"
