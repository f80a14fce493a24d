import ControlPlane
import Engine
import FoundationEssentials
import Glibc
import Handoff
import Messages
import Synchronization
import Telemetry
import Testing

@testable import Node
@testable import Transport

/// Bytes that change where nobody looks, on both nodes with real lanes: what each mode makes of it.
@Suite(.serialized) struct DigestTests {
    /// A folder that is removed at the end.
    private final class Folder: Sendable {
        let path: String
        init() throws {
            var template = Array("/tmp/baton-evidence-XXXXXX".utf8CString)
            path = String(cString: try #require(mkdtemp(&template)))
        }
        deinit { try? FileManager.default.removeItem(atPath: path) }

        var files: [String] { ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).sorted() }

        func text(_ file: String) -> String {
            String(decoding: FileManager.default.contents(atPath: "\(path)/\(file)") ?? Data(), as: UTF8.self)
        }
    }

    private func prompt(_ length: Int, _ seed: UInt32 = 1) -> [UInt32] {
        NodeClusterTests().prompt(length, seed)
    }

    /// Changes a byte as a device would: by a write that no code of this process makes.
    private func flip(_ address: UnsafeMutableRawPointer) throws {
        let memory = open("/proc/self/mem", O_RDWR | O_CLOEXEC)
        defer { close(memory) }
        var byte: UInt8 = 0
        let place = off_t(UInt(bitPattern: address))
        try #require(pread(memory, &byte, 1, place) == 1)
        byte ^= 0x10
        try #require(pwrite(memory, &byte, 1, place) == 1)
    }

    private func failure(
        _ handoff: HandoffID, on cluster: TestCluster
    ) async throws -> (failure: HandoffFailure, details: String) {
        try await cluster.router.wait("failure of \(handoff.request)") { message in
            if case .failed(handoff, let failure, let details) = message { (failure, details) } else { nil }
        }
    }

    @Test func aPageInUseThatChangesEndsItsRequestAlone() async throws {
        let folder = try Folder()
        try await TestCluster.with(
            pages: 160,
            configure: { _, configuration in
                configuration.digests = .scrub
                configuration.scrubBytesPerSecond = 1 << 30
                configuration.evidenceDirectory = folder.path
            }
        ) { cluster in
            // On a busy machine a sequence may end before its page is changed.
            for request in 1...50 as ClosedRange<UInt64> {
                let handoff = ScriptedRouter.id(request)
                try cluster.router.reserve(handoff, prompt(40), maxTokens: 1900)
                let grant = try await cluster.router.granted(handoff)
                cluster.router.toPrefill(.prefill(PrefillOrder(grant: grant, tokens: prompt(40))))
                try await cluster.router.sealed(handoff)
                cluster.router.toPrefill(.release(handoff))
                try await eventually("a token") { !cluster.router.tokens(handoff).isEmpty }
                async let neighbour = cluster.router.serve(1000 + request, prompt(30, 7), maxTokens: 20)
                let layer = cluster.model.layout.layerRange(1)
                try flip(cluster.decode.memory.page(grant.slots[1].index) + layer.lowerBound + 3)
                let end = try await cluster.router.wait("an end") { message -> NodeMessage? in
                    switch message {
                    case .failed(handoff, _, _): message
                    case .finished(let report) where report.handoff == handoff: message
                    default: nil
                    }
                }
                #expect(try await neighbour == (try await cluster.greedy(prompt(30, 7), 20)))
                guard case .failed(_, let failure, let details) = end else { continue }
                #expect(failure == HandoffFailure(.digestMismatch, retryable: false))
                #expect(details.contains("page 1 layer 1") && details.contains("tokens already sent"), "\(details)")
                try await cluster.expectSettled()
                let decode = cluster.decode.metrics.registry.exposition()
                #expect(decode.contains("baton_digest_mismatches_total{where=\"scrub\"} 1\n"))
                #expect(decode.contains("baton_evidence_pages 0\n"))
                #expect(cluster.decode.driver.load().contract.scrubMismatches == 1)
                try await eventually("evidence: \(folder.files)") { folder.files.count == 2 }
                let name = "mismatch-scrub-\(handoff.text.split(separator: "/").joined(separator: "-"))-page1-layer1"
                #expect(folder.files == ["\(name).json", "\(name).kv"])
                try await eventually("the description") { folder.text("\(name).json").hasSuffix("}\n") }
                let text = folder.text("\(name).json")
                #expect(text.contains("\"handoff\": \"\(handoff.text)\""))
                #expect(text.contains("{\"page\": 1, \"layer\": 1, "))
                return
            }
            Issue.record("no sequence was met on its way")
        }
    }

    @Test func aCachedPageThatChangesIsNeitherSealedNorCachedAnyLonger() async throws {
        let folder = try Folder()
        try await TestCluster.with(configure: { $1.evidenceDirectory = folder.path }) { cluster in
            let router = cluster.router
            _ = try await router.serve(1, prompt(100), maxTokens: 5)
            try await cluster.expectSettled()
            let driver = try #require(cluster.prefill.driver as? PrefillDriver)
            let cached = try #require((0..<10).lazy.compactMap { _ in driver.table.next() }.first { $0.page == 2 })
            #expect(cluster.prefill.memory.pool.withLock { $0.state(of: cached.slot) } == .cached)
            try flip(cluster.prefill.memory.page(cached.slot.index) + cluster.model.layout.layerRange(0).lowerBound)

            let handoff = ScriptedRouter.id(2)
            try router.reserve(handoff, prompt(100), maxTokens: 5)
            router.toPrefill(.prefill(PrefillOrder(grant: try await router.granted(handoff), tokens: prompt(100))))
            let (failure, details) = try await failure(handoff, on: cluster)
            #expect(failure == HandoffFailure(.digestMismatch))
            #expect(details.contains("digest"), "\(details)")
            router.toPrefill(.cancel(handoff))
            _ = try await router.drained(handoff)
            #expect(try await router.reclaimed(handoff) == .fenced)
            try await cluster.expectSettled()
            try await router.lanesIdle(4)
            // The next one computes the page again.
            #expect(try await router.serve(3, prompt(100), maxTokens: 5) == (try await cluster.greedy(prompt(100), 5)))
            let prefill = cluster.prefill.metrics.registry.exposition()
            let decode = cluster.decode.metrics.registry.exposition()
            #expect(prefill.contains("baton_digest_mismatches_total{where=\"send\"} 1\n"))
            #expect(decode.contains("baton_digest_mismatches_total{where=\"seal\"} 1\n"))
            #expect(decode.contains("baton_time_to_safe_reclaim_seconds_count{proof=\"fenced\"} 1\n"))
            let load = cluster.decode.driver.load()
            #expect(load.digestMismatches == 1 && load.contract.reclaims == 1)
            #expect(load.contract.reclaimP99 > .zero && load.contract.reclaimP99 <= load.contract.reclaimMax)
            try await eventually("evidence of both nodes: \(folder.files)") { folder.files.count == 4 }
            #expect(folder.files.contains { $0.hasPrefix("mismatch-seal-") && $0.hasSuffix("-page2-layer0.json") })
            #expect(folder.files.contains { $0.hasPrefix("mismatch-send-") && $0.hasSuffix("-page2-layer0.kv") })
        }
    }

    @Test func theScrubFindsNothingWhereNothingChanges() async throws {
        // Few pages, so that sequences are preempted, and prompts that share prefixes and tail pages that grow.
        try await TestCluster.with(
            pages: 44,
            configure: { _, configuration in
                configuration.digests = .scrub
                configuration.scrubBytesPerSecond = 1 << 34
            }
        ) { cluster in
            try await withThrowingTaskGroup(of: Void.self) { group in
                for worker in 0..<4 as Range<UInt64> {
                    group.addTask {
                        for round in 0..<5 as Range<UInt64> {
                            let request = worker * 10 + round
                            let prompt = prompt(33 + Int(request), UInt32(round % 2))
                            let tokens = try await cluster.router.serve(request, prompt, maxTokens: 120)
                            #expect(tokens == (try await cluster.greedy(prompt, 120)))
                            try await cluster.router.idle(cluster)
                        }
                    }
                }
                try await group.waitForAll()
            }
            // The scrub comes last, and on a busy machine may not have met a page in use.
            for request in 100..<200 as Range<UInt64> {
                if [cluster.prefill, cluster.decode].allSatisfy({ hasScrubbed($0.metrics) }) { break }
                _ = try await cluster.router.serve(request, prompt(40), maxTokens: 120)
                try await cluster.router.idle(cluster)
            }
            try await cluster.expectSettled()
            for part in [cluster.prefill, cluster.decode] {
                #expect(part.driver.load().digestMismatches == 0)
                #expect(hasScrubbed(part.metrics))
            }
        }
    }

    @Test func offIsSaid() async throws {
        try await TestCluster.with(configure: { $1.digests = .off }) { cluster in
            let tokens = try await cluster.router.serve(1, prompt(50), maxTokens: 5)
            #expect(tokens == (try await cluster.greedy(prompt(50), 5)))
            #expect(cluster.decode.driver.load().contract.uncheckedSeals == 1)
            #expect(cluster.decode.metrics.registry.exposition().contains("baton_unchecked_seals_total 1\n"))
        }
    }

    @Test func nodesThatDifferAboutDigestsGetNoLanesAndSayWhy() async throws {
        try await TestCluster.with(lanes: 0, configure: { $1.digests = $0 == .prefill ? .off : .sealed }) { cluster in
            let error = try await cluster.router.wait("the reason") { message -> String? in
                if case .lanes(let peers) = message { peers.first { !$0.error.isEmpty }?.error } else { nil }
            }
            #expect(error.contains("--digests must be off on both nodes or on neither"), "\(error)")
        }
    }

    private func hasScrubbed(_ metrics: NodeMetrics) -> Bool {
        metrics.registry.exposition().split(separator: "\n").contains {
            $0.hasPrefix("baton_scrubbed_pages_total ") && !$0.hasSuffix(" 0")
        }
    }

    @Test func evidenceIsBounded() async throws {
        let folder = try Folder()
        for number in 0..<EvidenceStore.incidentsLimit {
            let path = "\(folder.path)/mismatch-seal-\(number).json"
            #expect(FileManager.default.createFile(atPath: path, contents: nil))
        }
        let memory = try KVMemory(layout: TestCluster.model.get().layout, pageCount: 4)
        let incident = MismatchIncident(
            place: .seal, handoff: ScriptedRouter.id(1),
            mismatches: [DigestMismatch(page: 0, layer: 0, expected: 1, found: 2)],
            pages: [0: SlotRef(index: 0, generation: Generation(1))])
        await confirmation { given in
            EvidenceStore(directory: folder.path).store(incident, memory) { given() }
        }
        #expect(folder.files.count == EvidenceStore.incidentsLimit)
    }
}
