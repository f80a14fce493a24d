import OrderedJSON
import Testing

extension ClusterTests {
    /// A scrub that cries wolf would be worse than none: real nodes under load, where pages change owners all the time
    /// and sequences grow into the pages that prefill began.
    @Suite(.serialized) struct ScrubTests {
        @Test(.timeLimit(.minutes(10)))
        func nothingIsFoundWhereNothingIsWrong() async throws {
            var workload = Workload(seed: 50)
            let requests = workload.requests(24)
            let reference = try await StormTests.reference(requests)
            // As fast as one thread reads, on few pages, so that sequences are preempted and cached pages evicted.
            let cluster = try await Cluster.start(
                options: ["--digests", "scrub", "--scrub-rate", "\(4 << 30)", "--pages", "64"])
            let outcome = await StormTests.wave(96, of: requests, against: reference, on: cluster, seed: 3)
            #expect(outcome.finished >= 76)
            try await cluster.waitUntilQuiet()
            let nodes = try await cluster.status().json["nodes"]?.array ?? []
            #expect(nodes.count == 2)
            for node in nodes {
                let name = node["name"]?.string ?? "?"
                #expect(node["digest_mismatches"]?.int == 0, "\(name)")
                #expect(node["pages"]?["lost"]?.int == 0, "\(name)")
                #expect(node["contract"]?["unchecked_seals"]?.int == 0, "\(name)")
                #expect(node["contract"]?["scrub_passes"]?.int ?? 0 > 0, "\(name) has not looked")
            }
            await cluster.stop()
        }
    }
}
