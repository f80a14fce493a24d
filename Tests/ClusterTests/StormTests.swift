import OrderedJSON
import SeededRandom
import Testing

/// Everything that starts processes runs one after another: they share the machine's few cores.
@Suite(.serialized) struct ClusterTests {}

extension ClusterTests {
    /// Many clients at once, some of whom leave: who stays gets what an idle pair would have answered.
    @Suite(.serialized) struct StormTests {
        /// The answers of an idle pair, one request after another.
        static func reference(
            _ requests: [WorkRequest], model: String = Cluster.model, options: [String] = []
        ) async throws -> [StreamedAnswer] {
            let pair = try await Cluster.start(model: model, options: options)
            var answers: [StreamedAnswer] = []
            for request in requests {
                let answer = await pair.client.ask(request)
                try #require(answer.isComplete && answer.error == nil, "\(request.number): \(answer.error ?? "cut")")
                answers.append(answer)
            }
            try await pair.waitUntilQuiet()
            await pair.stop()
            return answers
        }

        /// What became of a wave of requests.
        struct Outcome {
            var finished = 0
            var left = 0
        }

        /// Sends `count` requests with 16 clients at once; a fifth of the clients leave at a random point.
        static func wave(
            _ count: Int, of requests: [WorkRequest], against reference: [StreamedAnswer], on cluster: Cluster,
            seed: UInt64
        ) async -> Outcome {
            await wave(count, of: requests, against: reference, on: cluster.client, seed: seed)
        }

        /// The same through one router of several.
        static func wave(
            _ count: Int, of requests: [WorkRequest], against reference: [StreamedAnswer], on router: ClusterClient,
            seed: UInt64
        ) async -> Outcome {
            var random = SplitMix64(state: seed)
            var plan = (0..<count).map { index -> (WorkRequest, Departure) in
                let work = requests[random.below(requests.count)]
                guard index % 5 == 0 else { return (work, .never) }
                if random.below(2) == 0 { return (work, .after(.milliseconds(random.below(400)))) }
                return (work, .afterEvents(random.below(12)))
            }
            plan.shuffle(using: &random)
            let orders = plan
            return await withTaskGroup(of: Outcome.self) { clients in
                for client in 0..<16 {
                    clients.addTask {
                        var outcome = Outcome()
                        for index in stride(from: client, to: orders.count, by: 16) {
                            let (work, leaving) = orders[index]
                            let answer = await router.ask(work, leaving: leaving)
                            check(answer, of: work, leaving: leaving, against: reference[work.number], &outcome)
                        }
                        return outcome
                    }
                }
                return await clients.reduce(into: Outcome()) { total, part in
                    total.finished += part.finished
                    total.left += part.left
                }
            }
        }

        static func check(
            _ answer: StreamedAnswer, of work: WorkRequest, leaving: Departure, against whole: StreamedAnswer,
            _ outcome: inout Outcome
        ) {
            if answer.isComplete {
                outcome.finished += 1
                #expect(answer == whole, "request \(work.number) differs from the idle pair's answer")
                return
            }
            outcome.left += 1
            if case .never = leaving {
                Issue.record("request \(work.number) did not finish: \(answer.error ?? "cut off")")
                return
            }
            // A task that was cancelled sees an error of its own making.
            var seen = answer
            seen.error = nil
            #expect(seen.isStart(of: whole), "request \(work.number): a client that left saw other tokens")
        }

        @Test(.timeLimit(.minutes(15)))
        func answersAreThoseOfAnIdlePairAndNothingIsLeftBehind() async throws {
            var workload = Workload(seed: 20)
            let requests = workload.requests(60)
            let reference = try await Self.reference(requests)

            let cluster = try await Cluster.start(prefill: 2, decode: 2)
            // The first wave touches every page and fills every buffer; growth is measured after it.
            let first = await Self.wave(120, of: requests, against: reference, on: cluster, seed: 1)
            try await cluster.waitUntilQuiet()
            let before = cluster.all.map { ($0.name, $0.residentBytes, $0.openFiles) }
            let second = await Self.wave(240, of: requests, against: reference, on: cluster, seed: 2)
            try await cluster.waitUntilQuiet()

            #expect(first.finished + second.finished >= 288)
            #expect(first.left + second.left > 0)
            for ((name, bytes, files), process) in zip(before, cluster.all) {
                #expect(!process.hasExited, "\(name) has ended: see \(cluster.folder)")
                #expect(process.residentBytes < bytes + bytes / 10 + (24 << 20), "\(name) has grown from \(bytes)")
                #expect(process.openFiles <= files + 20, "\(name) has \(process.openFiles) files open, had \(files)")
            }
            await cluster.stop()
        }

        @Test(.timeLimit(.minutes(5)))
        func aClientThatLeavesStopsBothLegsAtOnce() async throws {
            let cluster = try await Cluster.start()
            var random = SplitMix64(state: 7)
            let ids = (0..<1500).map { _ in Int64(random.below(40_000) + 1_000) }
            let body = """
                {"prompt": \(ids), "max_tokens": 400, "stream": true, "ignore_eos": true}
                """
            let long = WorkRequest(number: 0, path: "/v1/completions", body: try JSON.parse(body))
            for leaving in [Departure.after(.milliseconds(60)), .after(.milliseconds(300)), .afterEvents(3)] {
                _ = await cluster.client.ask(long, leaving: leaving)
                let start = ContinuousClock.now
                try await cluster.waitUntilQuiet()
                // Undisturbed it would take many seconds; heartbeats tell of the end only every half second.
                #expect(ContinuousClock.now - start < .seconds(5))
            }
            await cluster.stop()
        }
    }
}
