import ArgumentParser
import OrderedJSON

/// `router status`: the cluster at a glance.
struct StatusCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Show the router and its nodes.")

    @OptionGroup var address: RouterAddress

    @Flag(help: "Print the report as JSON.")
    var json = false

    @Flag(help: "Redraw until interrupted.")
    var watch = false

    @Option(help: "Seconds between two redraws.")
    var interval = 1.0

    func validate() throws {
        guard (0.1...3600).contains(interval) else { throw ValidationError("--interval must be 0.1 to 3600 seconds.") }
    }

    func run() async throws {
        let style = TerminalStyle()
        repeat {
            let status = try await address.client.get("/admin/status")
            let text = json ? status.text() : StatusView(style: style).text(status)
            if watch, !json, style.isTerminal {
                emit("\u{1b}[H\u{1b}[2J" + text)
            } else {
                emit(text)
            }
            if watch { try await Task.sleep(for: .seconds(interval)) }
        } while watch
    }
}

/// `router nodes`: one line per node, or JSON.
struct NodesCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "nodes", abstract: "List the nodes with their addresses and what makes them pairs.")

    @OptionGroup var address: RouterAddress

    @Flag(help: "Print the list as JSON.")
    var json = false

    func run() async throws {
        let nodes = try await address.client.get("/admin/nodes")
        emit(json ? nodes.text() : StatusView(style: TerminalStyle()).nodeList(nodes))
    }
}

/// `router drain NODE`
struct DrainCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "drain", abstract: "Give a node no new work; what runs on it finishes.")

    @OptionGroup var address: RouterAddress

    @Argument(help: "The node's name, as `router nodes` shows it.")
    var node: String

    @Flag(help: "Wait until nothing runs on it.")
    var wait = false

    func run() async throws {
        let client = address.client
        guard node.utf8.allSatisfy({ $0 > 32 && $0 < 127 && $0 != UInt8(ascii: "/") && $0 != UInt8(ascii: "%") }) else {
            throw CommandError("\(node) is no node's name")
        }
        _ = try await client.order("/admin/nodes/\(node)/drain")
        while wait {
            let nodes = try await client.get("/admin/nodes").array ?? []
            guard let entry = nodes.first(where: { $0["name"]?.string == node }),
                entry["state"]?.string != "drained"
            else { break }
            try await Task.sleep(for: .milliseconds(200))
        }
        emit("\(node) \(wait ? "is drained" : "is draining")")
    }
}

/// `router handoffs`: the ledger.
struct HandoffsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "handoffs",
        abstract: "List the open handoffs of the ledger, and what the handoff contract did on each node.")

    @OptionGroup var address: RouterAddress

    @Flag(help: "Print the list as JSON.")
    var json = false

    func run() async throws {
        let rows = try await address.client.get("/admin/handoffs")
        if json { return emit(rows.text()) }
        let nodes = try await address.client.get("/admin/nodes")
        let view = StatusView(style: TerminalStyle())
        emit(view.handoffs(rows) + (nodes.array?.isEmpty == false ? "\n\n" + view.contract(nodes) : ""))
    }
}
