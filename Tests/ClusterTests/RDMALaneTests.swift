import Testing

extension ClusterTests {
    /// A cluster whose pages go over a real RDMA device; run where there is one (`make test-rdma`).
    @Suite(.serialized, .enabled(if: Cluster.rdmaHost != nil)) struct RDMALaneTests {
        /// All nodes up, every pair of them with lanes over RDMA and no other.
        private func start(prefill: Int, decode: Int, options: [String] = []) async throws -> Cluster {
            let host = try #require(Cluster.rdmaHost)
            let cluster = try await Cluster.start(prefill: prefill, decode: decode, options: options, laneHost: host)
            try await waitForRDMA(cluster, prefill: prefill, decode: decode)
            return cluster
        }

        private func waitForRDMA(_ cluster: Cluster, prefill: Int, decode: Int) async throws {
            try await cluster.wait(for: "lanes over RDMA") { status in
                (1...prefill).allSatisfy { number in
                    status.lanes(of: "prefill-\(number)").map(\.transport) == Array(repeating: "rdma", count: decode)
                }
            }
        }

        /// Clients that leave included: the answers are those over TCP, no page is lost, nothing grows.
        @Test(.timeLimit(.minutes(10)))
        func answersAreThoseOverTCP() async throws {
            var workload = Workload(seed: 50)
            let requests = workload.requests(16)
            let reference = try await StormTests.reference(requests)

            let cluster = try await start(prefill: 2, decode: 2)
            var outcome = await StormTests.wave(48, of: requests, against: reference, on: cluster, seed: 3)
            try await cluster.waitUntilQuiet()
            let before = cluster.all.map { ($0.name, $0.openFiles) }
            let second = await StormTests.wave(64, of: requests, against: reference, on: cluster, seed: 4)
            try await cluster.waitUntilQuiet()
            outcome.finished += second.finished
            outcome.left += second.left
            #expect(outcome.finished >= 88 && outcome.left > 0)
            for ((name, files), process) in zip(before, cluster.all) {
                #expect(!process.hasExited, "\(name) has ended: see \(cluster.folder)")
                #expect(process.openFiles <= files + 20, "\(name) has \(process.openFiles) files open, had \(files)")
            }
            try await waitForRDMA(cluster, prefill: 2, decode: 2)
            await cluster.stop()
        }

        /// Nodes of either role that are killed while pages are being written cost nobody a token.
        @Test(.timeLimit(.minutes(10)))
        func killedNodesCostNobodyAToken() async throws {
            var workload = Workload(seed: 51)
            let requests = workload.requests(16)
            let reference = try await StormTests.reference(requests)
            let cluster = try await start(prefill: 2, decode: 2)
            try await NodeLossTests.killUnderLoad(on: cluster, requests, reference, count: 80)
            try await waitForRDMA(cluster, prefill: 2, decode: 2)
            await cluster.stop()
        }

        /// What a stopped process has posted its adapter still writes. Its lease ends, its lanes are fenced, its work is
        /// done again by the other; then it wakes up and goes on.
        @Test(.timeLimit(.minutes(5)))
        func aStoppedPrefillNodeCannotWriteLate() async throws {
            var workload = Workload(seed: 52)
            let requests = workload.requests(16)
            let reference = try await StormTests.reference(requests)
            let cluster = try await start(prefill: 2, decode: 1)
            try await NodeLossTests.stopUnderLoad(on: cluster, requests, reference)
            try await waitForRDMA(cluster, prefill: 2, decode: 1)
            await cluster.stop()
        }

        /// Each pair of nodes uses what both have, and says why it is not RDMA.
        @Test(.timeLimit(.minutes(5)))
        func aMixedClusterWorks() async throws {
            var workload = Workload(seed: 53)
            let requests = workload.requests(12)
            let reference = try await StormTests.reference(requests)
            let cluster = try await start(prefill: 1, decode: 1)
            try cluster.launch("prefill-2", ["--rdma", "off"])
            try cluster.launch("decode-2", ["--rdma", "off"])
            try cluster.launch("decode-3", ["--rdma", "nosuch0"])
            try await cluster.waitUntilReady(nodes: 5)
            try await cluster.wait(for: "every pair's lanes") { status in
                let (first, second) = (status.lanes(of: "prefill-1"), status.lanes(of: "prefill-2"))
                return first.map(\.transport).sorted() == ["rdma", "tcp", "tcp"]
                    && second.map(\.transport) == ["tcp", "tcp", "tcp"]
            }
            let status = try await cluster.status()
            let reasons = Set(status.lanes(of: "prefill-1").map(\.reason))
            #expect(reasons == ["", "decode-2 has no RDMA device in use", "decode-3 has no RDMA device in use"])
            #expect(Set(status.lanes(of: "prefill-2").map(\.reason)) == ["--rdma is off"])
            let outcome = await StormTests.wave(48, of: requests, against: reference, on: cluster, seed: 6)
            #expect(outcome.finished >= 38)
            try await cluster.waitUntilQuiet()
            await cluster.stop()
        }
    }
}
