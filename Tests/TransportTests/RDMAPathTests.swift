import Glibc
import Handoff
import Testing
import Threads

@testable import Transport

extension Lanes {
    /// Adapters that cannot reach each other any more, or are gone; more than one of them.
    @Suite(.enabled(if: LaneCarrier.isDisposable)) struct RDMAPathTests {
        /// Nothing gets through in the middle of a write: lanes over TCP take over, and both ends find out about the lane
        /// that was idle. The path is there again: so are lanes over it, and those over TCP go.
        @Test(.enabled(if: LaneCarrier.hasCable)) func aPathThatIsCutAndHealed() throws {
            let lanes = try LaneHarness(slots: 64, lanes: 2, over: .rdma, from: .device("rxe1", port: nil)) {
                $0.rdma = .device("rxe0", port: nil)
            }
            defer { lanes.shutdown() }
            lanes.pool.setPeers([lanes.peer])
            let key = try #require(lanes.openLanes(2).first)
            let grant = terms(key.lane, slots: 0..<64)
            #expect(lanes.listener.bind(grant))
            try setPath(works: false)
            for layer in 0..<testShape.layerCount { lanes.pool.post(key, batch(grant, layers: layer..<layer + 1)) }
            let closed = lanes.sent.first(within: .seconds(60)) {
                if case .closed(key, let reason) = $0 { reason } else { nil }
            }
            #expect(closed?.kind == .timeout, "\(closed?.description ?? "still open")")
            lanes.listener.fence(key.lane)
            let replacement = try #require(lanes.lane(over: .tcp))
            try lanes.handOver(on: replacement, generation: 10)
            let reason = lanes.pool.snapshot().first?.reason
            #expect(reason?.contains("over RDMA") == true, "\(reason ?? "none")")
            wait("both ends to find out", within: .seconds(60)) {
                !lanes.listener.lanes.contains { $0.transport == .rdma }
            }

            try setPath(works: true)
            let again = try #require(lanes.lane(over: .rdma))
            try lanes.handOver(on: again, generation: 20)
            wait("lanes over TCP to go") { !lanes.listener.lanes.contains { $0.transport == .tcp } }
        }

        /// Lanes take the adapters of both sides in turn.
        @Test(.enabled(if: LaneCarrier.hasCable)) func adaptersAreUsedSideBySide() throws {
            let lanes = try LaneHarness(slots: 64, lanes: 4, over: .rdma)
            defer { lanes.shutdown() }
            #expect(lanes.listener.rdmaAddresses.count == 2)
            lanes.pool.setPeers([lanes.peer])
            let keys = lanes.openLanes(4)
            try #require(keys.count == 4)
            for (round, key) in keys.enumerated() {
                try lanes.handOver(on: key, generation: UInt32(round + 1))
            }
            for tally in [lanes.pool.tally, lanes.listener.tally] {
                for device in ["rxe0", "rxe1"] {
                    #expect(tally.carriers[device]?.opened == 2)
                    #expect(tally.carriers[device]?.bytes == 16 * testShape.pageBytes)
                }
            }
            #expect(lanes.pool.snapshot().first?.transport == "rdma")
        }

        /// The device is removed in the middle of a write. Soft-RoCE's driver waits until its users have let go of it,
        /// and tells them nothing. It is not there for other tests after this one.
        @Test(.enabled(if: LaneCarrier.mayRemove)) func aDeviceThatIsRemoved() throws {
            let lanes = try LaneHarness(slots: 64, lanes: 2, over: .rdma)
            defer { lanes.shutdown() }
            let key = try lanes.connect()
            let grant = terms(key.lane, slots: 0..<64)
            #expect(lanes.listener.bind(grant))
            for layer in 0..<testShape.layerCount { lanes.pool.post(key, batch(grant, layers: layer..<layer + 1)) }
            try run("sh", "-c", "rdma link delete rxe0 &")
            _ = try #require(lanes.waitForClose(key.lane))
            let replacement = try #require(lanes.lane(over: .tcp))
            try lanes.handOver(on: replacement, generation: 10)
            #expect(lanes.pool.snapshot().first?.reason?.isEmpty == false)
            // Each lane finds out for itself.
            wait("the other lane over RDMA to go", within: .seconds(60)) {
                lanes.listener.lanes.allSatisfy { $0.transport == .tcp }
            }
        }

        /// Frames to an address that is nobody's are lost on the cable, as on one that is pulled out. The ports stay up:
        /// Soft-RoCE never again connects after it tried to on a port that is down.
        private func setPath(works: Bool) throws {
            for (device, other, address) in [("v0", "v1", "10.9.1.1"), ("v1", "v0", "10.9.0.1")] {
                let target = works ? try firstLine(of: "/sys/class/net/\(other)/address") : "02:00:00:00:00:99"
                try run("ip", "neigh", "replace", address, "lladdr", target, "dev", device, "nud", "permanent")
            }
        }

        private func firstLine(of path: String) throws -> String {
            let file = open(path, O_RDONLY | O_CLOEXEC)
            try #require(file >= 0)
            defer { close(file) }
            var bytes = [UInt8](repeating: 0, count: 256)
            let count = read(file, &bytes, bytes.count)
            return String(decoding: bytes.prefix(max(count, 0)).prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
        }

        private func run(_ words: String...) throws {
            var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) }
            defer { for argument in arguments { free(argument) } }
            arguments.append(nil)
            var child: pid_t = 0
            try #require(posix_spawnp(&child, words[0], nil, nil, arguments, environ) == 0)
            var status: Int32 = 0
            waitpid(child, &status, 0)
            try #require(status == 0)
        }
    }
}

extension LaneHarness {
    /// A lane that is open on both sides, over this.
    fileprivate func lane(over transport: LaneTransport) -> LaneKey? {
        let deadline = Instant.after(.seconds(20))
        while !deadline.hasPassed {
            let open = listener.lanes.filter { $0.transport == transport }.map(\.id)
            let told = sent.all.compactMap { if case .opened(let key) = $0 { key } else { nil } }
            let both = told.last { open.contains($0.lane) && isGranted($0.lane) }
            if let both { return both }
            // Until there is one.
            usleep(5000)
        }
        return nil
    }

    /// Whether the node was told of the lane, and so may grant it.
    private func isGranted(_ lane: LaneID) -> Bool {
        received.all.contains { if case .opened(lane, _, _) = $0 { true } else { false } }
    }

    /// One whole handoff, digests compared.
    fileprivate func handOver(on key: LaneKey, generation: UInt32) throws {
        let grant = terms(key.lane, slots: 8..<16, generation: generation, request: UInt64(generation))
        #expect(listener.bind(grant))
        pool.post(key, batch(grant, layers: 0..<testShape.layerCount))
        pool.postCompletion(key, grant)
        let record = try #require(
            received.first { if case .completion(key.lane, grant.epoch, let record) = $0 { record } else { nil } })
        // A lane over TCP may be gone by now, where one over RDMA took its place.
        let digests = (8..<16).map { PageDigest.of(page: target.start(of: $0), shape: testShape).value }
        #expect(record.pages.map(\.digest) == digests)
    }
}
