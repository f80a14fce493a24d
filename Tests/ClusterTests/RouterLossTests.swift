import Glibc
import NIOHTTP1
import Testing

extension ClusterTests {
    /// Routers that die and come back, alone and beside another that goes on.
    @Suite(.serialized) struct RouterLossTests {
        /// Two routers share four nodes. One is killed with work in every phase: the nodes fence and end what was
        /// its own, the other's requests do not notice, and the killed one serves again when it is back.
        @Test(.timeLimit(.minutes(5)))
        func aRouterThatDiesEndsOnlyItsOwn() async throws {
            var workload = Workload(seed: 40)
            let requests = workload.requests(32)
            let reference = try await StormTests.reference(requests)
            let cluster = try await Cluster.start(prefill: 0, decode: 0)
            let other = try cluster.launchOtherRouter()
            for name in ["prefill-1", "prefill-2", "decode-1", "decode-2"] { try cluster.launch(name, other.options) }
            try await cluster.waitUntilReady(nodes: 4)
            try await cluster.waitUntilReady(other.client)

            async let undisturbed = StormTests.wave(100, of: requests, against: reference, on: other.client, seed: 6)
            let doomed = Task {
                await withTaskGroup(of: Void.self) { clients in
                    for client in 0..<8 {
                        clients.addTask {
                            for step in 0..<4 { _ = await cluster.client.ask(requests[(client + 8 * step) % 32]) }
                        }
                    }
                }
            }
            try await cluster.wait(for: "work of the router that is to die") { $0.handoffs >= 4 }
            let router = try cluster.process("router")
            router.send(SIGKILL)
            #expect(await router.waitForExit(.seconds(5)) == .signal(SIGKILL))
            doomed.cancel()
            await doomed.value
            try cluster.launchRouter()

            let outcome = await undisturbed
            #expect(outcome.finished >= 80)
            let metrics = try await other.client.send(.GET, "/metrics").body
            #expect(metrics.contains("\nbaton_retries_total 0"), "the other router had to try again")
            try await cluster.waitUntilReady(nodes: 4)
            _ = await StormTests.wave(32, of: requests, against: reference, on: cluster, seed: 7)
            try await cluster.waitUntilQuiet()
            await other.client.close()
            await cluster.stop()
        }
    }
}
