package import Handoff
import Threads

/// A decode node to keep lanes to.
package struct LanePeer: Sendable, Hashable {
    package let decode: Incarnation
    /// `HOST:PORT` of its lane listener.
    package let address: String
    package let name: String
    /// Where it accepts lanes over RDMA, each `HOST:PORT`; none when it has no adapter.
    package let rdmaAddresses: [String]

    package init(decode: Incarnation, address: String, name: String, rdmaAddresses: [String] = []) {
        self.decode = decode
        self.address = address
        self.name = name
        self.rdmaAddresses = rdmaAddresses
    }
}

/// The lanes to one decode node, as an operator sees them.
package struct PeerLanesState: Sendable, Equatable {
    package let decode: Incarnation
    package let name: String
    package let address: String
    /// `rdma`, `tcp`, or both while one replaces the other.
    package let transport: String
    /// Why it is not RDMA; nil when it is.
    package let reason: String?
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
        package var rdma = RDMAChoice.auto
        /// Lanes over RDMA in a row that carry nothing before TCP is used for a while. One may be fenced for an abort.
        package var rdmaUnprovenMax = 8
        /// Between attempts over RDMA to a node that is reached over TCP meanwhile: at first, and at most.
        package var rdmaRetryMin: Duration = .seconds(1)
        package var rdmaRetryMax: Duration = .seconds(30)

        package init() {}
    }

    private struct Peer: Sendable {
        let peer: LanePeer
        /// Told apart from an earlier entry of the same peer, whose dialing thread must not serve this one.
        let serial: UInt64
        var lanes: [LaneID: any SendingLane] = [:]
        /// False when its dialing thread could not be started.
        var isDialed = true
        var lastError: String?
        var path: RDMAPath
        /// Lanes whose handoff was called off: that the peer closes them says nothing of the path.
        var calledOff: Set<LaneID> = []

        func count(_ transport: LaneTransport) -> Int { lanes.values.count { $0.transport == transport } }

        /// What the next lane should be; nil when there are enough. RDMA where it works, beside TCP lanes that then go.
        func wants(_ lanesPerPeer: Int, rdma: RDMAChoice) -> LaneTransport? {
            let mayTry = rdma != .off && !peer.rdmaAddresses.isEmpty && path.isOpen
            if mayTry, count(.rdma) < lanesPerPeer { return .rdma }
            return lanes.count < lanesPerPeer ? .tcp : nil
        }

        func reason(_ rdma: RDMAChoice) -> String? {
            if !lanes.isEmpty, count(.tcp) == 0 { return nil }
            if rdma == .off { return "--rdma is off" }
            if peer.rdmaAddresses.isEmpty { return "\(peer.name) has no RDMA device in use" }
            return path.error
        }
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
    private let tallies = LaneTallies()
    private let domains: RDMADomains

    package init(
        configuration: Configuration = Configuration(), slab: SlabRegion, incarnation: Incarnation,
        onEvent: @escaping @Sendable (LanePoolEvent) -> Void
    ) {
        self.configuration = configuration
        self.slab = slab
        self.incarnation = incarnation
        self.onEvent = onEvent
        // What is read from needs no windows.
        domains = RDMADomains(slab: slab, windows: .off, isWritten: false)
    }

    // MARK: The node

    /// Replaces the list of decode nodes. Lanes to those that are no longer in it are closed.
    package func setPeers(_ peers: [LanePeer]) {
        let wanted = Dictionary(peers.map { ($0.decode, $0) }, uniquingKeysWith: { first, _ in first })
        let (closing, fresh) = table.update { table -> ([any SendingLane], [Target]) in
            guard !table.stopping else { return ([], []) }
            var closing: [any SendingLane] = []
            for (decode, peer) in table.peers where wanted[decode] != peer.peer {
                closing += peer.lanes.values
                table.peers[decode] = nil
            }
            var fresh: [Target] = []
            for peer in wanted.values where table.peers[peer.decode] == nil {
                table.nextSerial += 1
                table.peers[peer.decode] = Peer(peer: peer, serial: table.nextSerial, path: RDMAPath(configuration))
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
    package func postCompletion(_ lane: LaneKey, _ terms: PartTerms) -> Bool {
        self.lane(lane)?.post(.completion(terms)) ?? false
    }

    /// The handoff on this lane was called off before it was written. A decode node whose adapter has no memory windows then
    /// closes the lane, however healthy it is.
    package func calledOff(_ lane: LaneKey) {
        table.withLock { table in
            guard table.peers[lane.decode]?.lanes[lane.lane] != nil else { return }
            table.peers[lane.decode]?.calledOff.insert(lane.lane)
        }
    }

    /// Closes a lane; `closed` says when nothing reads the slab for it any more. It is then connected anew.
    package func close(_ lane: LaneKey) {
        self.lane(lane)?.stop(LaneCloseReason(.fenced))
    }

    package var tally: LaneTally { tallies.tally }

    package func snapshot() -> [PeerLanesState] {
        table.withLock { table in
            table.peers.values.map { peer in
                PeerLanesState(
                    decode: peer.peer.decode, name: peer.peer.name, address: peer.peer.address,
                    transport: Set(peer.lanes.values.map(\.transport.rawValue)).sorted().joined(separator: "+"),
                    reason: peer.reason(configuration.rdma), connected: peer.lanes.count,
                    wanted: configuration.lanesPerPeer,
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

    private func lane(_ key: LaneKey) -> (any SendingLane)? {
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
        var backoff = Backoff(initial: configuration.backoffMin, limit: configuration.backoffMax)
        while let transport = nextTransport(target) {
            if table.withLock({ $0.peers[target.peer.decode]?.lastError }) != nil {
                pause(configuration.reconnectPause, target)
            }
            do throws(TransportError) {
                switch transport {
                case .tcp: try open(try connectOverTCP(target), to: target)
                case .rdma: try open(try connectOverRDMA(target), to: target)
                }
                backoff.reset()
            } catch {
                tallies[transport.rawValue].withLock { $0.dialFailures += 1 }
                note(error, transport, target)
                // Then it is tried over TCP, at once.
                if transport == .rdma { continue }
                pause(backoff.next(random: Double.random(in: 0..<1)), target)
            }
        }
    }

    private func note(_ error: TransportError, _ transport: LaneTransport, _ target: Target) {
        table.withLock { table in
            guard table.wants(target) else { return }
            let decode = target.peer.decode
            switch transport {
            case .tcp: table.peers[decode]?.lastError = error.message
            case .rdma: table.peers[decode]?.path.fail(error.message)
            }
        }
    }

    private func hello(to target: Target) -> LaneHello {
        LaneHello(
            prefill: incarnation, decode: target.peer.decode, shape: slab.shape,
            digests: configuration.digests.makesDigests)
    }

    private func connectOverTCP(_ target: Target) throws(TransportError) -> any SendingLane {
        let connected = try TCPDial(
            address: target.peer.address, hello: hello(to: target), timeout: configuration.dialTimeout,
            isWanted: { [self] in table.withLock { $0.wants(target) } }
        ).connect()
        return try TCPSendLane(
            key: LaneKey(decode: target.peer.decode, lane: connected.lane), socket: connected.socket, slab: slab,
            digests: configuration.digests.makesDigests, table: configuration.table, tallies: tallies)
    }

    /// Over the next of the adapters on either side, in turn; over another where they do not reach each other.
    private func connectOverRDMA(_ target: Target) throws(TransportError) -> any SendingLane {
        let local = try RDMAPort.usable(configuration.rdma, near: slab.numaNode).compactMap(\.addresses.first)
        let turn = table.withLock { $0.peers[target.peer.decode]?.path.attempt() ?? 0 }
        let remote = target.peer.rdmaAddresses
        var lastError = TransportError(.refused, "\(target.peer.name) has no RDMA device")
        // All together take no longer than one, for lanes over TCP wait behind them.
        let pairs = local.count * remote.count
        let deadline = Instant.after(configuration.dialTimeout)
        for step in 0..<pairs where step == 0 || !deadline.hasPassed {
            let dial = RDMADial(
                address: remote[(turn + step) % remote.count],
                source: local[(turn + step / remote.count) % local.count], hello: hello(to: target),
                timeout: max(configuration.dialTimeout / pairs, .milliseconds(500)), domains: domains,
                isWanted: { [self] in table.withLock { $0.wants(target) } })
            do throws(TransportError) {
                let connected = try dial.connect()
                return try RDMASendLane(
                    key: LaneKey(decode: target.peer.decode, lane: connected.lane), connected: connected, slab: slab,
                    digests: configuration.digests.makesDigests, table: configuration.table, tallies: tallies)
            } catch {
                lastError = error
            }
        }
        throw lastError
    }

    /// Looks whether the lanes' devices are there, and says when to look again, or to try RDMA again. Nothing of a lane
    /// is kept meanwhile: its device could not be let go of.
    private func nextLook(_ target: Target) -> Instant? {
        let lanes = table.withLock { table in table.peers[target.peer.decode].map { Array($0.lanes.values) } ?? [] }
        for lane in lanes { lane.checkDevice() }
        let retry = table.withLock { $0.peers[target.peer.decode]?.path.opening }
        let look = lanes.contains { $0.transport == .rdma } ? Instant.after(RDMAAcceptor.lookInterval) : nil
        return [retry, look].compactMap { $0 }.min()
    }

    /// Waits until another lane is needed; nil when the peer is not wanted any more.
    private func nextTransport(_ target: Target) -> LaneTransport? {
        while true {
            let found = table.wait(until: nextLook(target)) { table -> LaneTransport?? in
                guard table.wants(target), let peer = table.peers[target.peer.decode] else { return .some(nil) }
                return peer.wants(configuration.lanesPerPeer, rdma: configuration.rdma).map { .some($0) }
            }
            if let found { return found }
        }
    }

    private func pause(_ time: Duration, _ target: Target) {
        _ = table.wait(until: .after(time)) { $0.wants(target) ? nil : true }
    }

    private func open(_ lane: any SendingLane, to target: Target) throws(TransportError) {
        let key = lane.key
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

    private func serve(_ lane: any SendingLane) {
        let key = lane.key
        lane.counters.withLock { $0.opened += 1 }
        onEvent(.opened(key))
        var isProven = false
        let reason = lane.run { [self] answer in
            switch answer {
            case .acknowledged(let handoff, let epoch, let records):
                if lane.transport == .rdma, !isProven {
                    table.withLock { $0.peers[key.decode]?.path.prove() }
                }
                isProven = true
                onEvent(.acknowledged(key, handoff, epoch, records: records))
            case .completionAcknowledged(let handoff, let epoch):
                onEvent(.completionAcknowledged(key, handoff, epoch))
            case .sourceChanged(let handoff, let slot, let mismatches):
                onEvent(.sourceChanged(handoff, slot, mismatches))
            }
        }
        lane.counters.withLock { $0.closed[reason.kind, default: 0] += 1 }
        // Before the table, so that a lane with this number can't be opened again before it is closed.
        onEvent(.closed(key, reason))
        remove(lane, because: reason, isProven: isProven)
    }

    private func remove(_ lane: any SendingLane, because reason: LaneCloseReason? = nil, isProven: Bool = false) {
        let others = table.update { table -> [any SendingLane] in
            table.live.remove(lane.key)
            guard table.peers[lane.key.decode]?.lanes[lane.key.lane] === lane else { return [] }
            table.peers[lane.key.decode]?.lanes[lane.key.lane] = nil
            let wasCalledOff = table.peers[lane.key.decode]?.calledOff.remove(lane.key.lane) != nil
            guard let reason else { return [] }
            table.peers[lane.key.decode]?.lastError = reason.description
            guard lane.transport == .rdma else { return [] }
            table.peers[lane.key.decode]?.path.laneEnded(reason, isProven: isProven || wasCalledOff)
            guard reason.meansNoPath else { return [] }
            return table.peers[lane.key.decode]?.lanes.values.filter { $0.transport == .rdma } ?? []
        }
        // An idle lane does not notice that nothing gets through any more.
        for other in others { other.stop(LaneCloseReason(.timeout, "as another lane found out")) }
    }
}
