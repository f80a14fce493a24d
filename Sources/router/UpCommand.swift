import ArgumentParser
import ControlPlane
import Glibc
import Messages

/// `router up`: a whole cluster on this host.
struct UpCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "up", abstract: "Run a router, prefill nodes and decode nodes on this host.",
        discussion: """
            Every process is a child of this one and stops with it. Each child's log goes to a file in the state \
            directory. SIGTERM or SIGINT finishes the running requests and stops everything; a second SIGINT \
            stops at once.
            """)

    @Option(help: "The model: a GGUF file, or a safetensors folder (default: glm5-nano, which comes with Baton).")
    var model: String?

    @Option(help: "What clients call the model (default: the file's name).")
    var modelName: String?

    @Option(help: "Prefill nodes.")
    var prefill = 1

    @Option(help: "Decode nodes.")
    var decode = 1

    @Option(help: "HOST:PORT for clients; port 0 takes a free one.")
    var http = "127.0.0.1:8080"

    @Option(help: "HOST:PORT for nodes; port 0 takes a free one.")
    var control = "127.0.0.1:0"

    @Option(help: "A key clients must send. May be repeated; $BATON_API_KEYS holds more, one per line.")
    var apiKey: [String] = []

    @Option(help: "A key that opens /admin from anywhere (default: $BATON_ADMIN_KEY).")
    var adminKey: String?

    @Option(help: "Where logs go (default: $XDG_STATE_HOME/baton, else ~/.local/state/baton).")
    var stateDir: String?

    @Option(help: "Seconds until everything must be ready.")
    var startTimeout = 300.0

    @Option(help: "Seconds running requests get to finish when stopping.")
    var drainTimeout = 30.0

    @Option(help: "Requests that may wait for nodes.")
    var queue: Int?

    @Option(help: "Log level of all processes.")
    var logLevel = LogLevel.info

    @Flag(help: "Stop when standard input ends: for whoever starts this as a child process.")
    var stopWithParent = false

    @Option(
        help: """
            Tokens drafted ahead for each sequence by the model's MTP layer, and verified (default: \
            \(BundledModel.speculate) without --model, else 0).
            """)
    var speculate: Int?

    @OptionGroup(title: "Passed to every node") var nodeOptions: NodeOptions

    @Option(help: "More flags for prefill nodes, separated by spaces.")
    var prefillFlags: String = ""

    @Option(help: "More flags for decode nodes, separated by spaces.")
    var decodeFlags: String = ""

    func validate() throws {
        guard (1...64).contains(prefill) else { throw ValidationError("--prefill must be 1 to 64.") }
        guard (1...64).contains(decode) else { throw ValidationError("--decode must be 1 to 64.") }
        guard HostPort(http) != nil else { throw ValidationError("--http \(http): expected HOST:PORT.") }
        guard HostPort(control) != nil else { throw ValidationError("--control \(control): expected HOST:PORT.") }
        if let problem = DoorKeys.problem(api: apiKey, admin: adminKey) { throw ValidationError(problem) }
        guard (1...86_400).contains(startTimeout), (0...86_400).contains(drainTimeout) else {
            throw ValidationError("--start-timeout and --drain-timeout must be at most 86400 seconds.")
        }
    }

    func run() async throws {
        let path = try model ?? BundledModel.path()
        guard access(path, R_OK) == 0 else {
            throw CommandError("--model \(path): \(String(cString: strerror(errno)))")
        }
        let drafts = speculate ?? (model == nil && nodeOptions.mtp != "off" ? BundledModel.speculate : 0)
        try await Cluster(self, model: path, speculate: drafts, directory: try stateDirectory()).run()
    }

    /// Created if it is not there.
    private func stateDirectory() throws(CommandError) -> String {
        var path = stateDir ?? ""
        if path.isEmpty {
            let state = TerminalStyle.environment("XDG_STATE_HOME")
            let home = TerminalStyle.environment("HOME")
            path = (state.isEmpty ? (home.isEmpty ? "/tmp" : home + "/.local/state") : state) + "/baton"
        }
        var made = path.hasPrefix("/") ? "" : "."
        for part in path.split(separator: "/") {
            made += "/" + part
            guard mkdir(made, 0o755) == 0 || errno == EEXIST else {
                throw CommandError("--state-dir \(path): cannot make \(made): \(String(cString: strerror(errno)))")
            }
        }
        return path
    }
}

/// Flags of the nodes that most people set; `--prefill-flags` and `--decode-flags` take the rest.
struct NodeOptions: ParsableArguments {
    @Option(help: "Compute threads of each node (default: all cores).")
    var threads: Int?

    @Option(help: "KV pages of each node.")
    var pages: Int?

    @Option(help: "KV memory of each node in GB, in place of --pages.")
    var slabGb: Double?

    @Option(help: "Tokens of a KV page.")
    var pageTokens: Int?

    @Option(help: "f16, bf16, f32, or fp8 for models with latent attention.")
    var kvDtype: String?

    @Option(help: "The model's layer that drafts tokens (MTP): auto or off.")
    var mtp: String?

    @Option(help: "portable, avx2 or avx512.")
    var isa: String?

    @Option(help: "Tokens of a sequence at most.")
    var context: Int?

    @Option(help: "Sequences a node runs at once.")
    var maxRunning: Int?

    @Option(help: "Prompt tokens computed at once.")
    var chunk: Int?

    @Option(help: "Lanes between each pair of nodes.")
    var lanes: Int?

    var arguments: [String] {
        func flag(_ name: String, _ value: (some CustomStringConvertible)?) -> [String] {
            value.map { ["--\(name)", "\($0)"] } ?? []
        }
        return flag("threads", threads) + flag("pages", pages) + flag("slab-gb", slabGb)
            + flag("page-tokens", pageTokens) + flag("kv-dtype", kvDtype) + flag("mtp", mtp) + flag("isa", isa)
            + flag("context", context) + flag("max-running", maxRunning) + flag("chunk", chunk)
            + flag("lanes", lanes)
    }
}
