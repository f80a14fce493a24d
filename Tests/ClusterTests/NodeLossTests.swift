import Glibc
import OrderedJSON
import Testing

extension ClusterTests {
    /// Nodes that die, drain, and come back while clients are served.
    @Suite(.serialized) struct NodeLossTests {
        /// Kills a node of each role in a wave of requests and starts it again; four in five of them must be answered, as in
        /// the reference, and nothing may be left behind. For two nodes of each role.
        static func killUnderLoad(
            on cluster: Cluster, _ requests: [WorkRequest], _ reference: [StreamedAnswer], count: Int
        ) async throws {
            for victim in ["decode-1", "prefill-2"] {
                async let storm = StormTests.wave(
                    count, of: requests, against: reference, on: cluster, seed: UInt64(victim.count))
                try await cluster.waitForWork(on: victim)
                let process = try cluster.process(victim)
                process.send(SIGKILL)
                #expect(await process.waitForExit(.seconds(5)) == .signal(SIGKILL))
                try await cluster.wait(for: "\(victim) to be noticed") { $0.node(victim)?.state != "ready" }
                try cluster.launch(victim)
                let outcome = await storm
                #expect(outcome.finished >= count * 4 / 5)
                try await cluster.waitUntilReady(nodes: 4)
                try await cluster.waitUntilQuiet()
            }
        }

        /// Stops prefill-1 of two in a wave of requests until its lease has ended: its work is fenced and done again by the
        /// other; then it wakes up and goes on writing.
        static func stopUnderLoad(
            on cluster: Cluster, _ requests: [WorkRequest], _ reference: [StreamedAnswer]
        ) async throws {
            async let storm = StormTests.wave(60, of: requests, against: reference, on: cluster, seed: 4)
            try await cluster.waitForWork(on: "prefill-1")
            let process = try cluster.process("prefill-1")
            process.send(SIGSTOP)
            try await cluster.wait(for: "the lease to end") { $0.node("prefill-1")?.state != "ready" }
            process.send(SIGCONT)
            let outcome = await storm
            #expect(outcome.finished >= 48)
            try await cluster.waitUntilReady(nodes: 3)
            try await cluster.waitUntilQuiet()
        }

        @Test(.timeLimit(.minutes(10)))
        func killedNodesCostNobodyAToken() async throws {
            var workload = Workload(seed: 30)
            let requests = workload.requests(40)
            let reference = try await StormTests.reference(requests)
            let cluster = try await Cluster.start(prefill: 2, decode: 2)
            try await Self.killUnderLoad(on: cluster, requests, reference, count: 100)
            // Those that came back are used again.
            _ = await StormTests.wave(32, of: requests, against: reference, on: cluster, seed: 9)
            try await cluster.waitUntilQuiet()
            await cluster.stop()
        }

        @Test(.timeLimit(.minutes(5)))
        func aStoppedPrefillNodeCannotWriteLate() async throws {
            var workload = Workload(seed: 31)
            let requests = workload.requests(24)
            let reference = try await StormTests.reference(requests)
            let cluster = try await Cluster.start(prefill: 2, decode: 1)
            try await Self.stopUnderLoad(on: cluster, requests, reference)
            await cluster.stop()
        }

        @Test(.timeLimit(.minutes(5)))
        func aDrainedNodeFinishesItsWorkAndLeaves() async throws {
            var workload = Workload(seed: 32)
            let requests = workload.requests(16)
            let reference = try await StormTests.reference(requests)
            let cluster = try await Cluster.start(prefill: 1, decode: 2)
            async let storm = StormTests.wave(48, of: requests, against: reference, on: cluster, seed: 5)
            try await cluster.waitForWork(on: "decode-2")
            let node = try cluster.process("decode-2")
            node.send(SIGTERM)
            #expect(await node.waitForExit(.seconds(60)) == .code(0))
            let outcome = await storm
            #expect(outcome.finished >= 38)
            try await cluster.waitUntilQuiet()
            await cluster.stop()
        }

        @Test(.timeLimit(.minutes(5)))
        func everythingStopsOnRequestAndLeavesNothing() async throws {
            let cluster = try await Cluster.start()
            for process in cluster.all {
                process.send(SIGTERM)
                #expect(
                    await process.waitForExit(.seconds(20)) == .code(0), "\(process.name): \(process.log.suffix(400))")
            }
            await cluster.stop()
        }
    }
}
