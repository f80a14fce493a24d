import ArgumentParser
import Engine
import Glibc
import Handoff
import OrderedJSON
import Transport

/// What digests cost of a handoff: a prompt computed by the engine, and its pages brought to another process, in each
/// mode of `--digests`. Modes take turns, so that all see the same machine; medians are compared.
struct DigestBenchmark: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "digests", abstract: "Cost of page digests as a share of the time of a handoff.")

    @OptionGroup
    var subject: BenchmarkedModel

    @Option(help: "Tokens of the prompt.")
    var prompt = 1024

    @Option(help: "Turns of each mode.")
    var rounds = 7

    @Option(help: "Handoffs per turn.")
    var iterations = 8

    func validate() throws {
        guard prompt > 0, rounds > 0, iterations > 0 else {
            throw ValidationError("--prompt, --rounds and --iterations must be positive.")
        }
    }

    func run() async throws {
        let model = try subject.load()
        let layout = model.layout
        let pages = layout.pages(for: prompt)
        let speeds = try await EngineSpeed(model: model, threads: subject.threads, repetitions: 3)
            .measure(role: .prefill, tokens: prompt).speeds
        let compute = median(speeds.map { Double(prompt) / $0 })

        var seconds: [DigestMode: [Double]] = [:]
        var cpu: [DigestMode: [Double]] = [:]
        for _ in 0..<rounds {
            for mode in DigestMode.allCases {
                let turn = try LaneBenchmark(
                    pageBytes: layout.pageBytes, totalBytes: pages * layout.pageBytes, iterations: iterations,
                    digests: mode, layers: layout.layerCount
                ).measure()
                seconds[mode, default: []] += turn.seconds
                cpu[mode, default: []].append(turn.cpu / Double(iterations))
            }
        }
        let transfer = DigestMode.allCases.map { median(seconds[$0] ?? []) }
        let work = DigestMode.allCases.map { median(cpu[$0] ?? []) }
        let hashing = hashSeconds(bytes: pages * layout.pageBytes, pieces: layout.layerRange(0).count)
        func share(_ cost: Double) -> JSON { .double((1e4 * cost / (compute + transfer[0])).rounded() / 100) }
        func milliseconds(_ values: [Double]) -> JSON {
            .object(
                JSONObject(
                    zip(DigestMode.allCases, values).map { mode, value in
                        (mode.rawValue, .double((1e6 * value).rounded() / 1000))
                    })
            )
        }
        let report: JSON = [
            "benchmark": "digests", "model": .string(model.facts.name), "prompt_tokens": .int(Int64(prompt)),
            "bytes": .int(Int64(pages * layout.pageBytes)),
            "prefill_ms": .double((1e6 * compute).rounded() / 1000),
            "transfer_ms": milliseconds(transfer), "transfer_cpu_ms": milliseconds(work),
            "hashing_ms": [
                "one_side_in_cache": .double(hashing.hot * 1e3), "one_side_from_memory": .double(hashing.cold * 1e3),
            ],
            "share_of_handoff_percent": [
                "sealed_measured": share(transfer[1] - transfer[0]), "scrub_measured": share(transfer[2] - transfer[0]),
                "sealed_if_nothing_overlapped": share(2 * hashing.hot),
                "scrub_if_nothing_overlapped": share(hashing.hot + hashing.cold),
            ],
        ]
        print(report.text())
    }

    private func median(_ values: [Double]) -> Double {
        let sorted = values.sorted()
        return sorted.isEmpty ? 0 : sorted[sorted.count / 2]
    }

    /// Seconds to hash that many bytes piece by piece: one piece that stays in the cache, and memory that does not.
    private func hashSeconds(bytes: Int, pieces: Int) -> (hot: Double, cold: Double) {
        let shape = PageShape(layers: 1, layerBytes: pieces)
        let count = max(1, bytes / pieces)
        let size = max(bytes, 256 << 20) / pieces * pieces
        let memory = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 64)
        defer { memory.deallocate() }
        memset(memory, 7, size)
        var sink: UInt64 = 0
        func time(_ next: (Int) -> Int) -> Double {
            median(
                (0..<9).map { round in
                    let start = ContinuousClock.now
                    for piece in 0..<count {
                        let offset = next(round * count + piece) * pieces
                        sink ^= PageDigest.of(layer: 0, at: UnsafeRawPointer(memory + offset), shape: shape)
                    }
                    return (ContinuousClock.now - start) / .seconds(1)
                })
        }
        let hot = time { _ in 0 }
        let cold = time { $0 % (size / pieces) }
        // So that the loops are not taken for useless.
        precondition(sink != 1, "an unlikely digest")
        return (hot, cold)
    }
}
