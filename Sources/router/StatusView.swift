import OrderedJSON

/// Draws the admin interface's reports for people.
struct StatusView {
    let style: TerminalStyle

    /// `GET /admin/status`
    func text(_ status: JSON) -> String {
        let ready = status["ready"]?.bool ?? false
        let draining = status["draining"]?.bool ?? false
        let state =
            draining
            ? style.paint("draining", .yellow)
            : ready ? style.paint("ready", .green) : style.paint("not ready", .red)
        let requests = status["requests"]
        let running = requests?["running"]?.int ?? 0
        let waiting = requests?["waiting"]?.int ?? 0
        let open = status["handoffs"]?["open"]?.int ?? 0
        let uptime = status["uptime_s"]?.int ?? 0
        var head = "\(style.paint("router", .bold))  \(state)   \(status["model"]?.string ?? "")"
        head += "   up \(Self.duration(seconds: uptime))"
        head += "   \(running) running, \(waiting) waiting, \(open) open handoff\(open == 1 ? "" : "s")"
        let nodes = status["nodes"]?.array ?? []
        guard !nodes.isEmpty else {
            return head + "\n\nno node is attached; nodes are started with --router and this router's control address"
        }
        return [head, table(nodes), pairs(nodes), engines(nodes)].filter { !$0.isEmpty }.joined(separator: "\n\n")
    }

    /// Speculative decoding and the balance of experts, where there are such.
    private func engines(_ nodes: [JSON]) -> String {
        var table = TextTable([
            ("NODE", .left), ("DRAFTED", .right), ("ACCEPTED", .right), ("ACCEPT LENGTH", .right),
            ("BUSIEST EXPERT", .right), ("WORST LAYER", .left),
        ])
        var isEmpty = true
        for node in nodes {
            let (speculation, experts) = (node["speculation"], node["experts"])
            guard speculation?.object != nil || experts?.object != nil else { continue }
            isEmpty = false
            let none = TextTable.Cell("-", .dim)
            let length = speculation?["accept_length"]?.double.map { TextTable.Cell("\(Self.oneDecimal($0))") }
            let rate = speculation?["accept_rate"]?.double.map {
                TextTable.Cell("\(Int(($0 * 100).rounded())) %")
            }
            let mean = experts?["mean_imbalance"]?.double.map { TextTable.Cell("\(Self.oneDecimal($0)) × even") }
            let worst = experts?["worst_imbalance"]?.double.map {
                let (layer, expert) = (experts?["worst_layer"]?.int ?? 0, experts?["worst_expert"]?.int ?? 0)
                return TextTable.Cell("\(Self.oneDecimal($0)) × (layer \(layer), expert \(expert))")
            }
            table.add([
                .init(node["name"]?.string ?? "", .bold),
                speculation?.object == nil ? none : Self.number(speculation?["drafted"]), rate ?? none,
                length ?? none, mean ?? none, worst ?? none,
            ])
        }
        return isEmpty ? "" : table.text(style)
    }

    /// Over what each prefill node reaches each decode node, and why it is not RDMA.
    private func pairs(_ nodes: [JSON]) -> String {
        var table = TextTable([("FROM", .left), ("TO", .left), ("LANES", .right), ("OVER", .left)])
        var isEmpty = true
        for node in nodes {
            for peer in node["lanes"]?["peers"]?.array ?? [] {
                let (idle, busy) = (peer["idle"]?.int ?? 0, peer["busy"]?.int ?? 0)
                let reason = peer["reason"]?.string ?? ""
                let transport = peer["transport"]?.string ?? ""
                table.add([
                    .init(node["name"]?.string ?? ""), .init(peer["decode"]?.string ?? ""),
                    .init("\(busy)/\(idle + busy)"),
                    .init(
                        (transport.isEmpty ? "-" : transport) + (reason.isEmpty ? "" : ": \(Self.clipped(reason))")),
                ])
                isEmpty = false
            }
        }
        return isEmpty ? "" : table.text(style)
    }

    private func table(_ nodes: [JSON]) -> String {
        var table = TextTable([
            ("NODE", .left), ("ROLE", .left), ("STATE", .left), ("PAGES", .right), ("FREE", .right),
            ("IN USE", .right), ("GRANTED", .right), ("QUARANTINED", .right), ("CACHED", .right),
            ("RUNNING", .right), ("WAITING", .right), ("TOKENS/S", .right), ("LANES", .right), ("LAST ERROR", .left),
        ])
        for node in nodes {
            let pages = node["pages"]
            func page(_ key: String) -> TextTable.Cell { Self.number(pages?[key]) }
            let quarantined = pages?["quarantined"]?.int ?? 0
            let idle = node["lanes"]?["idle"]?.int ?? 0
            let busy = node["lanes"]?["busy"]?.int ?? 0
            let error = node["last_error"]?.string ?? ""
            let rate = node["tokens_per_second"]?.double ?? 0
            table.add([
                .init(node["name"]?.string ?? "", .bold), .init(node["role"]?.string ?? ""), state(node),
                page("total"), page("free"), page("in_use"), page("granted"),
                .init("\(quarantined)", quarantined > 0 ? .yellow : nil), page("cached"),
                Self.number(node["requests"]?["running"]), Self.number(node["requests"]?["waiting"]),
                .init(rate >= 100 || rate == 0 ? "\(Int(rate.rounded()))" : Self.oneDecimal(rate)),
                .init("\(busy)/\(idle + busy)"),
                error.isEmpty ? .init("-", .dim) : .init(Self.clipped(error), .red),
            ])
        }
        return table.text(style)
    }

    /// `GET /admin/nodes`
    func nodeList(_ nodes: JSON) -> String {
        var table = TextTable([
            ("NODE", .left), ("ROLE", .left), ("STATE", .left), ("MODEL", .left), ("KV", .left), ("ISA", .left),
            ("PAGE", .right), ("CONTEXT", .right), ("HTTP", .left), ("LANES AT", .left), ("ATTACHED", .right),
        ])
        for node in nodes.array ?? [] {
            let match = node["compatibility"]
            func text(_ value: JSON?) -> TextTable.Cell { .init(value?.string ?? "") }
            table.add([
                .init(node["name"]?.string ?? "", .bold), text(node["role"]), state(node), text(node["model"]),
                text(match?["kv_dtype"]), text(match?["isa_class"]), Self.number(match?["page_tokens"]),
                Self.number(node["context_limit"]), text(node["http"]), text(node["lane_address"]),
                .init(Self.duration(seconds: node["attached_s"]?.int ?? 0)),
            ])
        }
        return table.text(style)
    }

    /// `GET /admin/handoffs`
    func handoffs(_ rows: JSON) -> String {
        let rows = rows.array ?? []
        guard !rows.isEmpty else { return "no open handoffs" }
        var table = TextTable([
            ("HANDOFF", .left), ("STATE", .left), ("PREFILL", .left), ("DECODE", .left), ("PAGES", .right),
        ])
        for row in rows {
            table.add([
                .init(row["handoff"]?.string ?? "", .bold), .init(row["state"]?.string ?? ""),
                .init(row["prefill"]?.string ?? ""), .init(row["decode"]?.string ?? ""), Self.number(row["pages"]),
            ])
        }
        return table.text(style)
    }

    /// What the contract did on every node, from `GET /admin/nodes`.
    func contract(_ nodes: JSON) -> String {
        var table = TextTable([
            ("NODE", .left), ("QUARANTINED", .right), ("LOST", .right), ("COMPLETE", .right), ("DRAINED", .right),
            ("FENCED", .right), ("RECLAIM P50", .right), ("P99", .right), ("STALE WRITES", .right),
            ("MISMATCHES", .right), ("DUPLICATE", .right), ("STALE", .right), ("PEER FAULTS", .right),
        ])
        for node in nodes.array ?? [] {
            let contract = node["contract"]
            func warning(_ value: JSON?, _ paint: TerminalStyle.Paint) -> TextTable.Cell {
                let number = value?.int ?? 0
                return .init("\(number)", number != 0 ? paint : nil)
            }
            func time(_ key: String) -> TextTable.Cell {
                let reclaims = contract?["reclaim_ms"]
                guard reclaims?["count"]?.int ?? 0 > 0 else { return .init("-", .dim) }
                return .init("\(Self.oneDecimal(reclaims?[key]?.double ?? 0)) ms")
            }
            table.add([
                .init(node["name"]?.string ?? "", .bold), warning(node["pages"]?["quarantined"], .yellow),
                warning(node["pages"]?["lost"], .red), Self.number(contract?["proofs"]?["write_complete"]),
                Self.number(contract?["proofs"]?["drained"]), Self.number(contract?["proofs"]?["fenced"]),
                time("p50"), time("p99"), Self.number(node["stale_writes"]),
                warning(node["digest_mismatches"], .red), Self.number(contract?["events"]?["duplicate"]),
                Self.number(contract?["events"]?["stale"]), warning(contract?["events"]?["peer_fault"], .yellow),
            ])
        }
        return table.text(style)
    }

    private func state(_ node: JSON) -> TextTable.Cell {
        let name = node["state"]?.string ?? "?"
        return .init(name, name == "ready" ? .green : name == "unpaired" ? .red : .yellow)
    }

    private static func number(_ value: JSON?) -> TextTable.Cell { .init("\(value?.int ?? 0)") }

    private static func clipped(_ text: String) -> String {
        text.count > 60 ? text.prefix(59) + "…" : text
    }

    static func oneDecimal(_ value: Double) -> String {
        let tenths = Int((value * 10).rounded())
        return "\(tenths / 10).\(abs(tenths % 10))"
    }

    static func duration(seconds: Int) -> String {
        if seconds < 60 { return "\(seconds)s" }
        if seconds < 3600 { return "\(seconds / 60)m\(seconds % 60)s" }
        if seconds < 86_400 { return "\(seconds / 3600)h\(seconds % 3600 / 60)m" }
        return "\(seconds / 86_400)d\(seconds % 86_400 / 3600)h"
    }
}
