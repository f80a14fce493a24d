import OrderedJSON
import Testing

extension ClusterTests {
    /// The architecture this is made for: latents, selected positions and drafts go from node to node like any KV.
    @Suite(.serialized) struct GLM5Tests {
        /// Prompts beyond the 256 positions that this model attends to; drafts on all decode nodes; clients that leave.
        /// Every answer is that of an idle pair without drafts, over TCP, and over RDMA where there is a device.
        @Test(.timeLimit(.minutes(10)), arguments: [["--kv-dtype", "f16"], ["--kv-dtype", "fp8"]])
        func draftsChangeNoAnswer(options: [String]) async throws {
            var workload = Workload(seed: 70, vocabulary: 300..<3000)
            let requests = workload.requests(24)
            let reference = try await StormTests.reference(requests, model: Cluster.bundledModel, options: options)
            let cluster = try await Cluster.start(
                model: Cluster.bundledModel, prefill: 2, decode: 2, options: options,
                decodeOptions: ["--speculate", "3"], laneHost: Cluster.rdmaHost ?? "127.0.0.1")
            if Cluster.rdmaHost != nil {
                try await cluster.wait(for: "lanes over RDMA") { status in
                    ["prefill-1", "prefill-2"].allSatisfy { status.lanes(of: $0).map(\.transport) == ["rdma", "rdma"] }
                }
            }
            let outcome = await StormTests.wave(96, of: requests, against: reference, on: cluster, seed: 7)
            #expect(outcome.finished >= 76 && outcome.left > 0)
            try await cluster.waitUntilQuiet()
            try await showsItself(cluster)
            await cluster.stop()
        }

        /// What drafts and experts came to is in the status of the router and in the answers.
        private func showsItself(_ cluster: Cluster) async throws {
            // The next heartbeat has it.
            try await cluster.wait(for: "speculation in the status") { status in
                ["decode-1", "decode-2"].allSatisfy { status.node($0)?.acceptLength ?? 0 > 1 }
            }
            let status = try await cluster.status()
            for name in ["prefill-1", "prefill-2", "decode-1", "decode-2"] {
                #expect(status.node(name)?.expertImbalance ?? 0 >= 1, "\(name)")
            }
            #expect(status.node("prefill-1")?.acceptLength == nil)
        }

        /// A node that keeps the draft layer's KV is never paired with one that does not.
        @Test(.timeLimit(.minutes(5)))
        func nodesWithOtherPagesAreNotPaired() async throws {
            let cluster = try await Cluster.start(model: Cluster.bundledModel)
            try cluster.launch("decode-2", ["--mtp", "off"])
            try await cluster.wait(for: "the third node to be attached and unpaired") { status in
                status.node("decode-2")?.state == "unpaired"
            }
            await cluster.stop()
        }
    }
}
