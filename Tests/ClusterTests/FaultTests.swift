import FoundationEssentials
import Glibc
import NIOHTTP1
import OrderedJSON
import SeededRandom
import Testing

extension ClusterTests {
    /// Wrong surroundings and hostile peers: one clear error, no crash, and the cluster goes on.
    @Suite(.serialized) struct FaultTests {
        /// Runs an executable that should refuse to start; returns what it printed.
        private func refusal(_ executable: String, _ arguments: [String]) async throws -> String {
            let path = "/tmp/baton-refusal-\(getpid())-\(UInt64.random(in: 0 ... .max)).log"
            defer { try? FileManager.default.removeItem(atPath: path) }
            let process = try ChildProcess(executable, arguments, name: executable, logPath: path)
            let exit = await process.waitForExit(.seconds(30))
            guard case .code(let code) = exit, code != 0 else {
                Issue.record("\(executable) \(arguments): expected an error, got \(String(describing: exit))")
                return process.log
            }
            return process.log
        }

        @Test func aMissingModelIsNamed() async throws {
            for executable in ["prefill-node", "decode-node"] {
                let text = try await refusal(
                    executable, ["--model", "/nowhere/model.gguf", "--router", "127.0.0.1:1"])
                #expect(text.contains("/nowhere/model.gguf"))
            }
            let text = try await refusal("router", ["serve", "--model", "/nowhere/model.gguf"])
            #expect(text.contains("/nowhere/model.gguf"))
        }

        @Test func aTruncatedModelIsRefused() async throws {
            let path = "/tmp/baton-truncated-\(getpid()).gguf"
            defer { try? FileManager.default.removeItem(atPath: path) }
            let whole = try Data(contentsOf: URL(filePath: Cluster.model), options: .alwaysMapped)
            try whole.prefix(5_000_000).write(to: URL(filePath: path))
            let text = try await refusal("prefill-node", ["--model", path, "--router", "127.0.0.1:1"])
            #expect(text.contains(path))
        }

        @Test func aSlabWithoutMemoryIsRefused() async throws {
            let text = try await refusal(
                "decode-node", ["--model", Cluster.model, "--router", "127.0.0.1:1", "--slab-gb", "50000"])
            #expect(text.contains("memory") || text.contains("GiB") || text.contains("TiB"), "\(text)")
        }

        @Test(.timeLimit(.minutes(3)))
        func portsInUseAreNamed() async throws {
            let cluster = try await Cluster.start()
            let other = try freePort()
            let http = try await refusal(
                "router",
                [
                    "serve", "--model", Cluster.model, "--http", "127.0.0.1:\(cluster.httpPort)", "--control",
                    "127.0.0.1:\(other)",
                ])
            #expect(http.contains("\(cluster.httpPort)"), "\(http)")
            let control = try await refusal(
                "router",
                [
                    "serve", "--model", Cluster.model, "--http", "127.0.0.1:\(other)", "--control",
                    "127.0.0.1:\(cluster.controlPort)",
                ])
            #expect(control.contains("\(cluster.controlPort)"), "\(control)")
            await cluster.stop()
        }

        @Test(.timeLimit(.minutes(3)))
        func garbageOnALanePortIsRefused() async throws {
            let lane = try freePort()
            let cluster = try await Cluster.start(decode: 0)
            try cluster.launch("decode-1", ["--lane", "127.0.0.1:\(lane)"])
            try await cluster.waitUntilReady(nodes: 2)
            var random = SplitMix64(state: 3)
            for size in [0, 1, 7, 64, 4096, 1 << 20] {
                let bytes = (0..<size).map { _ in UInt8(truncatingIfNeeded: random.next()) }
                try throwAt(port: lane, bytes)
                try throwAt(port: cluster.controlPort, bytes)
            }
            var workload = Workload(seed: 5)
            let answer = await cluster.client.ask(workload.requests(1)[0])
            #expect(answer.isComplete && answer.error == nil)
            try await cluster.waitUntilQuiet()
            for process in cluster.all { #expect(!process.hasExited) }
            await cluster.stop()
        }

        /// Connects, sends what the peer will take, leaves.
        private func throwAt(port: Int, _ bytes: [UInt8]) throws {
            let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
            defer { close(descriptor) }
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_port = in_port_t(UInt16(port)).bigEndian
            address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
            withUnsafePointer(to: &address) { pointer in
                pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
                    _ = connect(descriptor, generic, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
            _ = Glibc.send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL))
        }

        @Test(.timeLimit(.minutes(3)))
        func aNodeWithAnotherLayoutIsNotPairedAndSaysWhy() async throws {
            let cluster = try await Cluster.start()
            try cluster.launch("decode-odd", ["--page-tokens", "64"])
            try await cluster.wait(for: "decode-odd to be left out") { $0.node("decode-odd")?.state == "unpaired" }
            let error = try await cluster.status().node("decode-odd")?.lastError ?? ""
            #expect(error.contains("page"), "\(error)")
            var workload = Workload(seed: 6)
            #expect(await cluster.client.ask(workload.requests(1)[0]).isComplete)
            await cluster.stop()
        }

        @Test(.timeLimit(.minutes(3)))
        func aNodeWithAnotherModelIsRefused() async throws {
            let cluster = try await Cluster.start()
            let odd = try ChildProcess(
                "prefill-node",
                [
                    "--model", Cluster.otherModel, "--router", "127.0.0.1:\(cluster.controlPort)", "--name",
                    "prefill-odd", "--pages", "16", "--stop-with-parent",
                ], name: "prefill-odd", logPath: "\(cluster.folder)/prefill-odd.log")
            let deadline = ContinuousClock.now + .seconds(30)
            while !odd.log.contains("fingerprint"), !odd.hasExited, ContinuousClock.now < deadline {
                try await Task.sleep(for: .milliseconds(50))
            }
            #expect(odd.log.contains("fingerprint"), "\(odd.log.suffix(600))")
            #expect(try await cluster.status().node("prefill-odd") == nil)
            await odd.stop()
            await cluster.stop()
        }

        @Test(.timeLimit(.minutes(3)))
        func nonsenseIsAnsweredWithAnError() async throws {
            let cluster = try await Cluster.start(prefill: 0, decode: 0)
            let model = try await cluster.client.modelName()
            let cases = [
                (400, "{"), (400, "[]"), (400, "{\"prompt\": 5}"), (400, "{\"prompt\": \"a\", \"temperature\": -1}"),
                (400, "{\"prompt\": \"a\", \"max_tokens\": \"many\"}"), (400, "{\"prompt\": [99999999]}"),
                (404, "{\"model\": \"no-such-model\", \"prompt\": \"a\"}"), (400, "{}"),
            ]
            for (status, fields) in cases {
                let body = fields.replacing("{\"prompt", with: "{\"model\": \"\(model)\", \"prompt", maxReplacements: 1)
                let answer = try await cluster.client.send(.POST, "/v1/completions", body: body)
                #expect(answer.status == status, "\(body): \(answer.body)")
                let error = try JSON.parse(answer.body)["error"]
                #expect(error?["message"]?.string?.isEmpty == false, "\(body): \(answer.body)")
                #expect(error?["type"]?.string == "invalid_request_error", "\(body): \(answer.body)")
            }
            let prompt = String(repeating: "a", count: 40 << 20)
            // The router answers before it has read all of it, and closes: a client may see either first.
            let large = try? await cluster.client.send(
                .POST, "/v1/completions", body: "{\"model\": \"\(model)\", \"prompt\": \"\(prompt)\"}")
            #expect(large == nil || large?.status == 413)
            #expect(try await cluster.client.send(.GET, "/health").status == 200)
            await cluster.stop()
        }
    }
}
