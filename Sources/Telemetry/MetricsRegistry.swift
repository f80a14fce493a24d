import Synchronization

/// All metrics of a process, and their text for Prometheus (exposition format 0.0.4).
///
/// Instruments are made once and kept by who uses them; the registry's lock is taken only to make one, to look a
/// label up, and to write the text.
package final class MetricsRegistry: Sendable {
    package static let contentType = "text/plain; version=0.0.4; charset=utf-8"
    /// Label combinations of one family; what is beyond is counted under the value "other".
    package static let cardinalityLimit = 256

    enum Instrument: Sendable {
        case counter(Counter)
        case gauge(Gauge)
        case histogram(Histogram)
    }

    enum Kind: String {
        case counter, gauge, histogram
    }

    struct Description: Equatable {
        var name: String
        var help: String
        var kind: Kind
        var labels: [String]
        var bounds: [Double]
    }

    private struct Family {
        var description: Description
        var instruments: [[String]: Instrument] = [:]
    }

    private struct State {
        var families: [Family] = []
        var indices: [String: Int] = [:]
        var collectors: [@Sendable () -> Void] = []
    }

    private let prefix: String
    private let state = Mutex(State())

    /// - Parameter prefix: put before each metric's name.
    package init(prefix: String = "baton_") {
        self.prefix = prefix
    }

    // MARK: Making instruments

    package func counter(_ name: String, _ help: String) -> Counter {
        counters(name, help, labels: []).with()
    }

    package func gauge(_ name: String, _ help: String) -> Gauge {
        gauges(name, help, labels: []).with()
    }

    package func histogram(_ name: String, _ help: String, bounds: [Double] = HistogramBounds.seconds) -> Histogram {
        histograms(name, help, labels: [], bounds: bounds).with()
    }

    package func counters(_ name: String, _ help: String, labels: [String]) -> CounterFamily {
        CounterFamily(registry: self, index: family(.counter, name, help, labels))
    }

    package func gauges(_ name: String, _ help: String, labels: [String]) -> GaugeFamily {
        GaugeFamily(registry: self, index: family(.gauge, name, help, labels))
    }

    package func histograms(
        _ name: String, _ help: String, labels: [String], bounds: [Double] = HistogramBounds.seconds
    ) -> HistogramFamily {
        precondition(zip(bounds, bounds.dropFirst()).allSatisfy { $0 < $1 }, "\(name): bounds must ascend")
        precondition(bounds.allSatisfy(\.isFinite), "\(name): bounds must be finite")
        return HistogramFamily(registry: self, index: family(.histogram, name, help, labels, bounds))
    }

    /// Counts the log lines that found no room.
    package func watch(_ queue: LogQueue = .standardError) {
        let dropped = counter("log_lines_dropped_total", "Log lines that nobody read in time.")
        onCollect { dropped.raise(to: UInt64(queue.dropped)) }
    }

    /// Runs `body` before each exposition, to set gauges from a snapshot.
    package func onCollect(_ body: @escaping @Sendable () -> Void) {
        state.withLock { $0.collectors.append(body) }
    }

    private func family(
        _ kind: Kind, _ name: String, _ help: String, _ labels: [String], _ bounds: [Double] = []
    ) -> Int {
        let full = prefix + name
        precondition(Self.isName(full, colons: true), "\(full) is no metric name")
        precondition(labels.allSatisfy { Self.isName($0, colons: false) && $0 != "le" }, "\(full): a bad label name")
        let description = Description(name: full, help: help, kind: kind, labels: labels, bounds: bounds)
        return state.withLock { state in
            if let index = state.indices[full] {
                precondition(
                    state.families[index].description == description, "\(full) registered twice, differently")
                return index
            }
            state.families.append(Family(description: description))
            state.indices[full] = state.families.count - 1
            return state.families.count - 1
        }
    }

    private static func isName(_ name: String, colons: Bool) -> Bool {
        guard let first = name.utf8.first, !(48...57).contains(first) else { return false }
        return name.utf8.allSatisfy { byte in
            (65...90).contains(byte) || (97...122).contains(byte) || (48...57).contains(byte)
                || byte == UInt8(ascii: "_") || (colons && byte == UInt8(ascii: ":"))
        }
    }

    func instrument(_ index: Int, _ values: [String]) -> Instrument {
        state.withLock { state in
            let description = state.families[index].description
            precondition(
                values.count == description.labels.count,
                "\(description.name): \(values.count) label values for \(description.labels.count) labels")
            var key = values
            if let known = state.families[index].instruments[key] { return known }
            if state.families[index].instruments.count >= Self.cardinalityLimit - 1 {
                key = values.map { _ in "other" }
                if let known = state.families[index].instruments[key] { return known }
            }
            let made: Instrument =
                switch description.kind {
                case .counter: .counter(Counter())
                case .gauge: .gauge(Gauge())
                case .histogram: .histogram(Histogram(bounds: description.bounds))
                }
            state.families[index].instruments[key] = made
            return made
        }
    }

    // MARK: Exposition

    /// The text of all metrics, families in the order they were made, label values sorted.
    package func exposition() -> String {
        let collectors = state.withLock { $0.collectors }
        for collector in collectors { collector() }
        let families = state.withLock { $0.families }
        var text = ExpositionText()
        for family in families where !family.instruments.isEmpty {
            text.header(family.description)
            let rows = family.instruments.sorted { $0.key.lexicographicallyPrecedes($1.key) }
            for (values, instrument) in rows {
                text.sample(family.description, values, instrument)
            }
        }
        return text.text
    }
}

/// Counters that differ in the values of their labels. Keep what `with` returns on hot paths.
package struct CounterFamily: Sendable {
    let registry: MetricsRegistry
    let index: Int

    package func with(_ values: String...) -> Counter {
        guard case .counter(let counter) = registry.instrument(index, values) else {
            preconditionFailure("a family holds one kind")
        }
        return counter
    }
}

/// Gauges that differ in the values of their labels.
package struct GaugeFamily: Sendable {
    let registry: MetricsRegistry
    let index: Int

    package func with(_ values: String...) -> Gauge {
        guard case .gauge(let gauge) = registry.instrument(index, values) else {
            preconditionFailure("a family holds one kind")
        }
        return gauge
    }
}

/// Histograms that differ in the values of their labels.
package struct HistogramFamily: Sendable {
    let registry: MetricsRegistry
    let index: Int

    package func with(_ values: String...) -> Histogram {
        guard case .histogram(let histogram) = registry.instrument(index, values) else {
            preconditionFailure("a family holds one kind")
        }
        return histogram
    }
}
