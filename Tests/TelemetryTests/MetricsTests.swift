import Logging
import Testing

@testable import Telemetry

@Suite struct MetricsTests {
    @Test func exposition() {
        let registry = MetricsRegistry(prefix: "baton_")
        let requests = registry.counters("requests_total", "Requests by outcome.", labels: ["model", "outcome"])
        requests.with("m", "ok").add(3)
        requests.with("a\"b\\c\nd", "failed").add()
        registry.gauge("token_usage", "Pages in use, of all.\nA fraction.").set(0.25)
        let latency = registry.histogram("latency_seconds", "Latency.", bounds: [0.1, 1])
        for value in [0.05, 0.1, 0.5, 7] { latency.observe(value) }
        let collected = registry.gauge("collected", "Set when asked.")
        registry.onCollect { collected.set(42) }
        #expect(
            registry.exposition() == #"""
                # HELP baton_requests_total Requests by outcome.
                # TYPE baton_requests_total counter
                baton_requests_total{model="a\"b\\c\nd",outcome="failed"} 1
                baton_requests_total{model="m",outcome="ok"} 3
                # HELP baton_token_usage Pages in use, of all.\nA fraction.
                # TYPE baton_token_usage gauge
                baton_token_usage 0.25
                # HELP baton_latency_seconds Latency.
                # TYPE baton_latency_seconds histogram
                baton_latency_seconds_bucket{le="0.1"} 2
                baton_latency_seconds_bucket{le="1"} 3
                baton_latency_seconds_bucket{le="+Inf"} 4
                baton_latency_seconds_sum 7.65
                baton_latency_seconds_count 4
                # HELP baton_collected Set when asked.
                # TYPE baton_collected gauge
                baton_collected 42

                """#)
    }

    @Test func sameNameIsTheSameInstrument() {
        let registry = MetricsRegistry()
        registry.counter("a_total", "A.").add(2)
        registry.counter("a_total", "A.").add(3)
        #expect(registry.counter("a_total", "A.").value == 5)
    }

    @Test func cardinalityIsBounded() {
        let registry = MetricsRegistry()
        let family = registry.counters("hits_total", "Hits.", labels: ["key"])
        for key in 0..<10_000 { family.with("\(key)").add() }
        let lines = registry.exposition().split(separator: "\n").filter { !$0.hasPrefix("#") }
        #expect(lines.count == MetricsRegistry.cardinalityLimit)
        #expect(family.with("other").value == UInt64(10_000 - MetricsRegistry.cardinalityLimit + 1))
    }

    @Test func oddNumbers() {
        let registry = MetricsRegistry(prefix: "")
        registry.gauge("a", "").set(.infinity)
        registry.gauge("b", "").set(-.infinity)
        registry.gauge("c", "").set(.nan)
        registry.gauge("d", "").set(1e300)
        let histogram = registry.histogram("h", "", bounds: [1])
        histogram.observe(.nan)
        histogram.observe(.infinity)
        let text = registry.exposition()
        #expect(text.contains("\na +Inf\n"))
        #expect(text.contains("\nb -Inf\n"))
        #expect(text.contains("\nc NaN\n"))
        #expect(text.contains("\nd 1e+300\n"))
        #expect(histogram.count == 1)
    }

    @Test func concurrentUse() async {
        let registry = MetricsRegistry()
        let counter = registry.counter("c_total", "")
        let gauge = registry.gauge("g", "")
        let histogram = registry.histogram("h", "", bounds: [1, 2])
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<4 {
                group.addTask {
                    for _ in 0..<1000 {
                        counter.add()
                        gauge.add(0.5)
                        histogram.observe(1.5)
                    }
                }
            }
        }
        #expect(counter.value == 4000)
        #expect(gauge.value == 2000)
        #expect(histogram.snapshot == Histogram.Contents(counts: [0, 4000, 0], sum: 6000))
    }
}

@Suite struct LineLogTests {
    let fields: Logger.Metadata = [
        "handoff": "00ab/1/2", "text": "a b\"\n\u{1B}", "list": .array(["x", "y"]), "map": .dictionary(["k": "v"]),
    ]

    @Test func json() {
        let handler = LineLogHandler(label: "decode-node", format: .json)
        let line = handler.line(level: .warning, message: "lost \"it\"", fields: fields, time: "T")
        #expect(
            line
                == #"{"time":"T","level":"warning","process":"decode-node","message":"lost \"it\"","#
                + #""handoff":"00ab/1/2","list":["x","y"],"map":{"k":"v"},"text":"a b\"\n\u001b"}"# + "\n")
    }

    @Test func text() {
        let handler = LineLogHandler(label: "router", format: .text)
        let line = handler.line(level: .info, message: "two\nlines", fields: fields, time: "T")
        #expect(
            line == #"T INFO router: two\nlines handoff=00ab/1/2 list=["x","y"] map={"k":"v"} text="a b\"\n\u001b""#
                + "\n")
    }

    @Test func timestampsLookRight() {
        let stamp = LineLogHandler.timestamp()
        #expect(stamp.utf8.count == 24)
        #expect(stamp.hasPrefix("20") && stamp.hasSuffix("Z"))
    }
}
