import Telemetry
import Transport

/// What lanes have done, by what carries them: `tcp` or an RDMA device, whose own counters are shown too.
final class LaneMetrics: Sendable {
    private let megabytes: Gauge
    private let staleWrites: Counter
    private let uncheckedSeals: Counter
    private let bytes: CounterFamily
    private let records: CounterFamily
    private let completions: CounterFamily
    private let opened: CounterFamily
    private let closed: CounterFamily
    private let refused: CounterFamily
    private let dialFailures: CounterFamily
    private let portCounters: GaugeFamily

    init(_ registry: MetricsRegistry) {
        megabytes = registry.gauge("kv_transfer_total_mb", "KV moved since the start, in MB.")
        staleWrites = registry.counter("stale_write_rejected_total", "Writes for slots that were not granted.")
        uncheckedSeals = registry.counter("unchecked_seals_total", "Handoffs without digests, which are off.")
        bytes = registry.counters("lane_bytes_total", "KV bytes over lanes.", labels: ["over"])
        records = registry.counters("lane_records_total", "Records of KV pages over lanes.", labels: ["over"])
        completions = registry.counters("lane_completions_total", "Completion records over lanes.", labels: ["over"])
        opened = registry.counters("lanes_opened_total", "Lanes opened.", labels: ["over"])
        closed = registry.counters("lanes_closed_total", "Lanes that ended, by why.", labels: ["over", "reason"])
        refused = registry.counters(
            "lanes_refused_total", "Connections that did not become lanes, by why.", labels: ["over", "reason"])
        dialFailures = registry.counters(
            "lane_dial_failures_total", "Attempts to connect a lane that failed.", labels: ["over"])
        portCounters = registry.gauges(
            "rdma_port_counter", "What an RDMA device in use counts itself, as in /sys/class/infiniband.",
            labels: ["device", "port", "counter"])
    }

    func update(_ tally: LaneTally) {
        let total = tally.total
        megabytes.set(Double(total.bytes) / 1e6)
        staleWrites.raise(to: UInt64(total.staleWritesRejected))
        uncheckedSeals.raise(to: UInt64(total.uncheckedCompletions))
        for (carrier, counters) in tally.carriers {
            bytes.with(carrier).raise(to: UInt64(counters.bytes))
            records.with(carrier).raise(to: UInt64(counters.records))
            completions.with(carrier).raise(to: UInt64(counters.completions))
            opened.with(carrier).raise(to: UInt64(counters.opened))
            dialFailures.with(carrier).raise(to: UInt64(counters.dialFailures))
            for (kind, count) in counters.closed { closed.with(carrier, kind.rawValue).raise(to: UInt64(count)) }
            for (kind, count) in counters.refused { refused.with(carrier, kind.rawValue).raise(to: UInt64(count)) }
        }
        for port in RDMAPort.all() where tally.carriers[port.device] != nil {
            for (name, value) in port.counters() {
                portCounters.with(port.device, "\(port.number)", name).set(Double(value))
            }
        }
    }
}
