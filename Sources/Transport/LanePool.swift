package import Handoff

/// A decode node to keep lanes to.
package struct LanePeer: Sendable, Hashable {
    package let decode: Incarnation
    /// `HOST:PORT` of its lane listener.
    package let address: String
    package let name: String

    package init(decode: Incarnation, address: String, name: String) {
        self.decode = decode
        self.address = address
        self.name = name
    }
}

/// The lanes to one decode node, as an operator sees them.
package struct PeerLanesState: Sendable, Equatable {
    package let decode: Incarnation
    package let name: String
    package let address: String
    package let transport: String
    package let connected: Int
    package let wanted: Int
    /// Why there are fewer than wanted; nil when there are not.
    package let lastError: String?
}

/// The prefill node's end of all lanes: keeps a number of them connected to every decode node ahead of need.
package final class LanePool: Sendable {
    package struct Configuration: Sendable {
        package var lanesPerPeer = 4
        /// Connecting and greeting a node that is up takes two round trips.
        package var dialTimeout: Duration = .seconds(3)
        /// A node that restarts is back within seconds; the first retry is quick, the last rare.
        package var backoffMin: Duration = .milliseconds(100)
        package var backoffMax: Duration = .seconds(5)
        /// Between a lane's end and its successor, so that a peer which drops every lane is not hammered.
        package var reconnectPause: Duration = .milliseconds(20)
        /// How long a shutdown waits for dialing threads, which a name server may hold up for much longer. They
        /// touch no pages.
        package var dialShutdown: Duration = .seconds(1)
        package var digests = DigestMode.sealed
        /// Where the digests of pages are kept that may be sent again; nil: nowhere.
        package var table: DigestTable?

        package init() {}
    }

    private struct Peer: Sendable {
        let peer: LanePeer
        /// Told apart from an earlier entry of the same peer, whose dialing thread must not serve this one.
        let serial: UInt64
        var lanes: [LaneID: SendLane] = [:]
        /// False when its dialing thread could not be started.
        var isDialed = true
        var lastError: String?
    }

    /// What one dialing thread works for.
    private struct Target: Sendable {
        let peer: LanePeer
        let serial: UInt64
    }

    private struct Table: Sendable {
        var peers: [Incarnation: Peer] = [:]
        /// All lanes that have not reported their end, those of replaced peers included: no number may come twice.
        var live: Set<LaneKey> = []
        var stopping = false
        var nextSerial: UInt64 = 0

        func wants(_ target: Target) -> Bool { !stopping && peers[target.peer.decode]?.serial == target.serial }
    }

    private let configuration: Configuration
    private let slab: SlabRegion
    private let incarnation: Incarnation
    private let onEvent: @Sendable (LanePoolEvent) -> Void
    private let dialThreads = ThreadGroup()
    private let laneThreads = ThreadGroup()
    private let table = Monitor(Table())
    private let totals = Monitor(LaneCounters())

    package init(
        configuration: Configuration = Configuration(), slab: SlabRegion, incarnation: Incarnation,
        onEvent: @escaping @Sendable (LanePoolEvent) -> Void
    ) {
        self.configuration = configuration
        self.slab = slab
        self.incarnation = incarnation
        self.onEvent = onEvent
    }

    // MARK: The node

    /// Replaces the list of decode nodes. Lanes to those that are no longer in it are closed.
    package func setPeers(_ peers: [LanePeer]) {
        let wanted = Dictionary(peers.map { ($0.decode, $0) }, uniquingKeysWith: { first, _ in first })
        let (closing, fresh) = table.update { table -> ([SendLane], [Target]) in
            guard !table.stopping else { return ([], []) }
            var closing: [SendLane] = []
            for (decode, peer) in table.peers where wanted[decode] != peer.peer {
                closing += peer.lanes.values
                table.peers[decode] = nil
            }
            var fresh: [Target] = []
            for peer in wanted.values where table.peers[peer.decode] == nil {
                table.nextSerial += 1
                table.peers[peer.decode] = Peer(peer: peer, serial: table.nextSerial)
                fresh.append(Target(peer: peer, serial: table.nextSerial))
            }
            return (closing, fresh)
        }
        for lane in closing { lane.stop(LaneCloseReason(.shutdown, "the peer is not wanted any more")) }
        for target in fresh { keepConnected(target) }
    }

    /// Dials the peers for which the system had no thread to give. To be called now and then.
    package func retryDialing() {
        let targets = table.withLock { table -> [Target] in
            guard !table.stopping else { return [] }
            return table.peers.filter { !$0.value.isDialed }.map { decode, peer in
                table.peers[decode]?.isDialed = true
                return Target(peer: peer.peer, serial: peer.serial)
            }
        }
        for target in targets { keepConnected(target) }
    }

    /// Queues a record; false when the lane is gone, whose `closed` event has come or is coming.
    @discardableResult
    package func post(_ lane: LaneKey, _ batch: WriteBatch) -> Bool {
        self.lane(lane)?.post(.batch(batch)) ?? false
    }

    /// Queues the completion record behind everything posted before.
    @discardableResult
    package func postCompletion(_ lane: LaneKey, _ terms: GrantTerms) -> Bool {
        self.lane(lane)?.post(.completion(terms)) ?? false
    }

    /// Closes a lane; `closed` says when nothing reads the slab for it any more. It is then connected anew.
    package func close(_ lane: LaneKey) {
        self.lane(lane)?.stop(LaneCloseReason(.fenced))
    }

    package var counters: LaneCounters { totals.withLock { $0 } }

    package func snapshot() -> [PeerLanesState] {
        table.withLock { table in
            table.peers.values.map { peer in
                PeerLanesState(
                    decode: peer.peer.decode, name: peer.peer.name, address: peer.peer.address, transport: "tcp",
                    connected: peer.lanes.count, wanted: configuration.lanesPerPeer,
                    lastError: peer.lanes.count < configuration.lanesPerPeer ? peer.lastError : nil)
            }
        }.sorted { $0.name < $1.name }
    }

    /// Closes everything and waits for the lanes' threads, and for the dialing ones as long as the configuration
    /// says. No event comes and no page is read after that. Not to be called from an event handler.
    package func shutdown() {
        let lanes = table.update { table in
            table.stopping = true
            return table.peers.values.flatMap { $0.lanes.values }
        }
        for lane in lanes { lane.stop(LaneCloseReason(.shutdown)) }
        dialThreads.waitForAll(until: .after(configuration.dialShutdown))
        laneThreads.waitForAll()
    }

    private func lane(_ key: LaneKey) -> SendLane? {
        table.withLock { $0.peers[key.decode]?.lanes[key.lane] }
    }

    // MARK: Dialing, one thread per peer

    private func keepConnected(_ target: Target) {
        do throws(TransportError) {
            try dialThreads.start("lane-dial") { [self] in dial(target) }
        } catch {
            table.withLock { table in
                guard table.wants(target) else { return }
                table.peers[target.peer.decode]?.isDialed = false
                table.peers[target.peer.decode]?.lastError = error.message
            }
        }
    }

    private func dial(_ target: Target) {
        var backoff = configuration.backoffMin
        while waitUntilNeeded(target) {
            if table.withLock({ $0.peers[target.peer.decode]?.lastError }) != nil {
                pause(configuration.reconnectPause, target)
            }
            let hello = LaneHello(
                prefill: incarnation, decode: target.peer.decode, shape: slab.shape,
                digests: configuration.digests.makesDigests)
            let attempt = LaneDial(
                address: target.peer.address, hello: hello, timeout: configuration.dialTimeout,
                isWanted: { [self] in table.withLock { $0.wants(target) } })
            do throws(TransportError) {
                try open(try attempt.connect(), to: target)
                backoff = configuration.backoffMin
            } catch {
                totals.withLock { $0.dialFailures += 1 }
                table.withLock { table in
                    if table.wants(target) { table.peers[target.peer.decode]?.lastError = error.message }
                }
                pause(backoff, target)
                backoff = min(backoff * 2, configuration.backoffMax)
            }
        }
    }

    /// Waits while there are lanes enough; false when the peer is not wanted any more.
    private func waitUntilNeeded(_ target: Target) -> Bool {
        let needed = table.wait(until: nil) { table -> Bool? in
            guard table.wants(target) else { return false }
            let count = table.peers[target.peer.decode]?.lanes.count ?? 0
            return count < configuration.lanesPerPeer ? true : nil
        }
        return needed ?? false
    }

    private func pause(_ time: Duration, _ target: Target) {
        _ = table.wait(until: .after(time)) { $0.wants(target) ? nil : true }
    }

    private func open(_ connected: LaneDial.Connected, to target: Target) throws(TransportError) {
        let key = LaneKey(decode: target.peer.decode, lane: connected.lane)
        let lane = try SendLane(
            key: key, socket: connected.socket, slab: slab, digests: configuration.digests.makesDigests,
            table: configuration.table, counters: totals)
        let isFresh = table.update { table -> Bool? in
            guard table.wants(target) else { return nil }
            guard table.live.insert(key).inserted else { return false }
            table.peers[target.peer.decode]?.lanes[key.lane] = lane
            table.peers[target.peer.decode]?.lastError = nil
            return true
        }
        guard let isFresh else { return }
        guard isFresh else {
            throw TransportError(.refused, "\(target.peer.address) gave lane \(key.lane.value) twice")
        }
        do throws(TransportError) {
            try laneThreads.start("lane-tx") { [self] in serve(lane) }
        } catch {
            remove(lane)
            throw error
        }
    }

    // MARK: One lane, on its own thread

    private func serve(_ lane: SendLane) {
        let key = lane.key
        totals.withLock { $0.opened += 1 }
        onEvent(.opened(key))
        let reason = lane.run { [self] answer in
            switch answer {
            case .acknowledged(let handoff, let epoch, let records):
                onEvent(.acknowledged(key, handoff, epoch, records: records))
            case .completionAcknowledged(let handoff, let epoch):
                onEvent(.completionAcknowledged(key, handoff, epoch))
            case .sourceChanged(let handoff, let slot, let mismatches):
                onEvent(.sourceChanged(handoff, slot, mismatches))
            }
        }
        totals.withLock { $0.closed[reason.kind, default: 0] += 1 }
        // Before the table, so that a lane with this number can't be opened again before it is closed.
        onEvent(.closed(key, reason))
        remove(lane, because: reason)
    }

    private func remove(_ lane: SendLane, because reason: LaneCloseReason? = nil) {
        table.update { table in
            table.live.remove(lane.key)
            guard table.peers[lane.key.decode]?.lanes[lane.key.lane] === lane else { return }
            table.peers[lane.key.decode]?.lanes[lane.key.lane] = nil
            if let reason { table.peers[lane.key.decode]?.lastError = reason.description }
        }
    }
}
