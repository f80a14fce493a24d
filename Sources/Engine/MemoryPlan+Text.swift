import Kernels
import ModelFormat
package import OrderedJSON

extension MemoryPlan {
    /// For a person: sections of aligned rows.
    package var text: String {
        var table = PlanTable()
        let draft = hasDraftLayer ? " and a draft layer (MTP)" : ""
        table.title("\(architecture), \(layerCount) layers\(draft), up to \(grouped(contextLimit)) tokens")
        addWeights(&table)
        addPages(&table)
        addHandoff(&table)
        if let fit { addFit(fit, &table) }
        table.title("not counted: scratch memory of batches, norms, the prefix index, the process itself")
        return table.text
    }

    private func addWeights(_ table: inout PlanTable) {
        table.title("weights")
        let types = weights.fileTypes.map(\.name).joined(separator: ", ")
        table.row("parameters", grouped(weights.parameterCount))
        table.row("checkpoint", bytes: weights.fileBytes, types + (isOfConfigAlone ? ", by the config" : ""))
        table.row("packed in memory", bytes: weights.packedBytes)
        table.row("read from the file", bytes: weights.mappedBytes, "the embedding")
    }

    private func addPages(_ table: inout PlanTable) {
        table.title("KV as \(layout.kvType.name), in pages of \(layout.pageTokens) tokens")
        table.row("a token", bytes: layout.tokenBytes)
        table.row("a page", bytes: layout.pageBytes)
        table.row("a sequence of \(count(context, "token"))", bytes: handoffBytes, count(pagesPerSequence, "page"))
        if sequences > 1 { table.row("\(sequences) of them (slab)", bytes: slabBytes, count(pages, "page")) }
    }

    private func addHandoff(_ table: inout PlanTable) {
        table.title("handoff of \(count(context, "token")), at full speed")
        for link in links {
            let (number, unit) = duration(handoffSeconds(gigabits: link))
            table.row("at \(short(link)) Gbit/s", number, unit)
        }
    }

    private func addFit(_ fit: Fit, _ table: inout PlanTable) {
        let memory = size(fit.memoryBytes)
        table.title("in \(memory.hasSuffix(".0 GiB") ? "\(memory.dropLast(6)) GiB" : memory) of memory")
        guard fit.holdsWeights else {
            table.row("weights", bytes: weights.memoryBytes, "\(size(fit.missingBytes)) too much")
            table.title("the weights do not fit: one node holds the whole model, it cannot be split over several yet")
            return
        }
        table.row("weights", bytes: weights.memoryBytes)
        table.row("left for pages", bytes: fit.memoryBytes - weights.memoryBytes, count(fit.pages, "page"))
        table.row("for all sequences", grouped(fit.tokens), "tokens")
        let missing = max(0, weights.memoryBytes + slabBytes - fit.memoryBytes)
        table.row(
            "of \(count(context, "token")) each", grouped(fit.sequences), "sequences",
            missing == 0 ? "" : "\(size(missing)) too little for \(sequences)")
        table.row(
            sequences == 1 ? "for one sequence" : "for each of \(grouped(sequences))", grouped(fit.longestContext),
            "tokens", fit.longestContext == contextLimit ? "what the model allows" : "")
    }

    /// For a machine: bytes, tokens and seconds.
    package var json: JSON {
        [
            "model": [
                "architecture": .string(architecture), "layers": int(layerCount), "draft_layer": .bool(hasDraftLayer),
                "context_limit": int(contextLimit),
            ],
            "weights": [
                "parameters": int(weights.parameterCount), "checkpoint_bytes": int(weights.fileBytes),
                "checkpoint_types": .array(weights.fileTypes.map { .string($0.name) }),
                "from_config_alone": .bool(isOfConfigAlone), "packed_bytes": int(weights.packedBytes),
                "mapped_bytes": int(weights.mappedBytes),
            ],
            "kv": [
                "dtype": .string(layout.kvType.name), "layout": .string(layout.text),
                "token_bytes": int(layout.tokenBytes), "page_tokens": int(layout.pageTokens),
                "page_bytes": int(layout.pageBytes),
            ],
            "plan": [
                "context": int(context), "sequences": int(sequences), "pages_per_sequence": int(pagesPerSequence),
                "pages": int(pages), "slab_bytes": int(slabBytes),
            ],
            "handoff": [
                "bytes": int(handoffBytes),
                "links": .array(
                    links.map { ["gbit_per_second": .double($0), "seconds": .double(handoffSeconds(gigabits: $0))] }),
            ],
            "fit": fit.map { $0.json } ?? .null,
        ]
    }
}

extension MemoryPlan.Fit {
    fileprivate var json: JSON {
        [
            "memory_bytes": int(memoryBytes), "weights_fit": .bool(holdsWeights), "missing_bytes": int(missingBytes),
            "pages": int(pages), "tokens": int(tokens), "sequences": int(sequences),
            "longest_context": int(longestContext),
        ]
    }
}

/// Titles, and below each rows of a label, a number, its unit, the same as a size, and a remark.
private struct PlanTable {
    private enum Line {
        case title(String)
        case row([String])
    }

    private var lines: [Line] = []
    /// Columns whose cells end below each other.
    private let isNumber = [false, true, false, true, false]

    mutating func title(_ text: String) { lines.append(.title(text)) }

    mutating func row(_ label: String, _ number: String, _ unit: String = "", _ remark: String = "") {
        lines.append(.row([label, number, unit, "", remark]))
    }

    mutating func row(_ label: String, bytes: Int, _ remark: String = "") {
        lines.append(.row([label, grouped(bytes), "bytes", bytes < 1024 ? "" : size(bytes), remark]))
    }

    var text: String {
        var widths = [0, 0, 0, 0, 0]
        for case .row(let cells) in lines {
            for (column, cell) in cells.enumerated() { widths[column] = max(widths[column], cell.count) }
        }
        var text = ""
        for (index, line) in lines.enumerated() {
            switch line {
            case .title(let title): text += (index == 0 ? "" : "\n") + title + "\n"
            case .row(let cells):
                var row = "  "
                for (column, cell) in cells.enumerated() {
                    let gap = String(repeating: " ", count: widths[column] - cell.count)
                    row += isNumber[column] ? gap + cell : cell + gap
                    row += column == 1 ? " " : "  "
                }
                while row.last == " " { row.removeLast() }
                text += row + "\n"
            }
        }
        return String(text.dropLast())
    }
}

private func int(_ value: Int) -> JSON { .int(Int64(value)) }

/// "1 page", "2 pages".
private func count(_ number: Int, _ noun: String) -> String { "\(grouped(number)) \(noun)\(number == 1 ? "" : "s")" }

/// "1,234,567"
private func grouped(_ number: Int) -> String {
    var text = ""
    for (place, digit) in String(number).reversed().enumerated() {
        if place > 0, place % 3 == 0 { text.append(",") }
        text.append(digit)
    }
    return String(text.reversed())
}

/// "1,404.2 GiB": never a greater unit, as memory is bought in these.
private func size(_ bytes: Int) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)]
    guard let (name, shift) = units.first(where: { bytes >> $0.1 > 0 }) else { return "\(bytes) bytes" }
    return "\(decimal(Double(bytes) / Double(1 << shift), places: 1)) \(name)"
}

private func duration(_ seconds: Double) -> (number: String, unit: String) {
    if seconds >= 100 { return (grouped(Int(seconds.rounded())), "s") }
    if seconds >= 1 { return (decimal(seconds, places: 2), "s") }
    return seconds >= 1e-3 ? (decimal(seconds * 1e3, places: 1), "ms") : (decimal(seconds * 1e6, places: 1), "µs")
}

/// Rounded to that many places.
private func decimal(_ value: Double, places: Int) -> String {
    let unit = places == 1 ? 10 : 100
    let whole = Int((value * Double(unit)).rounded())
    let fraction = String(whole % unit + unit).dropFirst()
    return "\(grouped(whole / unit)).\(fraction)"
}

/// "25" or "2.5".
private func short(_ number: Double) -> String {
    let text = "\(number)"
    return text.hasSuffix(".0") ? String(text.dropLast(2)) : text
}
