/// Writes the Prometheus text format 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/).
struct ExpositionText {
    private(set) var text = ""

    mutating func header(_ family: MetricsRegistry.Description) {
        text += "# HELP \(family.name) \(Self.escaped(family.help, quotes: false))\n"
        text += "# TYPE \(family.name) \(family.kind.rawValue)\n"
    }

    mutating func sample(
        _ family: MetricsRegistry.Description, _ values: [String], _ instrument: MetricsRegistry.Instrument
    ) {
        let labels = Array(zip(family.labels, values))
        switch instrument {
        case .counter(let counter):
            line(family.name, labels, "\(counter.value)")
        case .gauge(let gauge):
            line(family.name, labels, Self.number(gauge.value))
        case .histogram(let histogram):
            let contents = histogram.snapshot
            var cumulative: UInt64 = 0
            for (bound, count) in zip(histogram.bounds, contents.counts) {
                cumulative += count
                line(family.name + "_bucket", labels + [("le", Self.number(bound))], "\(cumulative)")
            }
            line(family.name + "_bucket", labels + [("le", "+Inf")], "\(contents.count)")
            line(family.name + "_sum", labels, Self.number(contents.sum))
            line(family.name + "_count", labels, "\(contents.count)")
        }
    }

    private mutating func line(_ name: String, _ labels: [(String, String)], _ value: String) {
        text += name
        if !labels.isEmpty {
            let pairs = labels.map { "\($0.0)=\"\(Self.escaped($0.1, quotes: true))\"" }
            text += "{" + pairs.joined(separator: ",") + "}"
        }
        text += " \(value)\n"
    }

    private static func number(_ value: Double) -> String {
        if value.isNaN { return "NaN" }
        if value.isInfinite { return value < 0 ? "-Inf" : "+Inf" }
        if let whole = Int64(exactly: value) { return "\(whole)" }
        return "\(value)"
    }

    private static func escaped(_ value: String, quotes: Bool) -> String {
        var escaped = ""
        for scalar in value.unicodeScalars {
            switch scalar {
            case "\\": escaped += "\\\\"
            case "\n": escaped += "\\n"
            case "\"" where quotes: escaped += "\\\""
            default: escaped.unicodeScalars.append(scalar)
            }
        }
        return escaped
    }
}
