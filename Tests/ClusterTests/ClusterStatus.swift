import OrderedJSON

/// What the router says about its nodes and its ledger, as `router status --json` prints it.
struct ClusterStatus: Sendable {
    static let path = "/admin/status"

    struct Node: Sendable {
        let name: String
        let role: String
        let state: String
        let lastError: String
        let free: Int
        let cached: Int
        let total: Int
        let running: Int
        let waiting: Int
        let openHandoffs: Int
        /// Nil where nothing was drafted, or the model has no experts.
        let acceptLength: Double?
        let expertImbalance: Double?
    }

    let json: JSON
    let nodes: [Node]
    /// Rows of the ledger that are not settled.
    let handoffs: Int

    init(_ json: JSON) {
        self.json = json
        nodes = (json["nodes"]?.array ?? []).map { node in
            func number(_ path: String...) -> Int {
                var value: JSON? = node
                for key in path { value = value?[key] }
                return value?.int.map { Int($0) } ?? -1
            }
            return Node(
                name: node["name"]?.string ?? "", role: node["role"]?.string ?? "",
                state: node["state"]?.string ?? "", lastError: node["last_error"]?.string ?? "",
                free: number("pages", "free"),
                cached: number("pages", "cached"), total: number("pages", "total"),
                running: number("requests", "running"),
                waiting: number("requests", "waiting"), openHandoffs: number("open_handoffs"),
                acceptLength: node["speculation"]?["accept_length"]?.double,
                expertImbalance: node["experts"]?["mean_imbalance"]?.double)
        }
        handoffs = json["handoffs"]?["open"]?.int.map { Int($0) } ?? -1
    }

    /// What carries the lanes of a prefill node to its decode nodes, and why it is not RDMA.
    func lanes(of prefill: String) -> [(transport: String, reason: String)] {
        let node = json["nodes"]?.array?.first { $0["name"]?.string == prefill }
        return (node?["lanes"]?["peers"]?.array ?? []).map {
            ($0["transport"]?.string ?? "", $0["reason"]?.string ?? "")
        }
    }

    func node(_ name: String) -> Node? { nodes.first { $0.name == name } }

    /// Nothing in flight: no open handoff anywhere, and on every node free + cached = total.
    var isQuiet: Bool {
        handoffs == 0
            && nodes.allSatisfy {
                $0.openHandoffs == 0 && $0.running == 0 && $0.waiting == 0 && $0.total > 0
                    && $0.free + $0.cached == $0.total
            }
    }
}
