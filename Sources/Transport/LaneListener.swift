import Glibc
package import Handoff

/// The decode node's end of all lanes: accepts connections of prefill nodes, and receives into the slab.
package final class LaneListener: Sendable {
    package struct Configuration: Sendable {
        package var host: String
        /// 0 for any free port.
        package var port: UInt16
        /// Lanes and connections that have not said hello yet, all together.
        package var lanesMax = 256
        /// Connections that have not said hello yet. One more, and the oldest of them is closed for it: silent
        /// connections must not keep out those that have something to say.
        package var handshakesMax = 32
        package var lanesPerPeerMax = 64
        /// How long a connection may take to say hello: a round trip and a scheduling delay, generously.
        package var helloTimeout: Duration = .seconds(2)
        /// How long a peer may leave acknowledgements unread before its lane is closed.
        package var writeTimeout: Duration = .seconds(5)
        package var digests = DigestMode.sealed

        package init(host: String, port: UInt16) {
            self.host = host
            self.port = port
        }
    }

    /// A lane as an operator sees it.
    package struct Lane: Sendable {
        package let id: LaneID
        package let peer: Incarnation
        package let address: String
    }

    private struct Table: Sendable {
        var lanes: [LaneID: ReceiveLane] = [:]
        /// Sockets of connections that have not become lanes yet, by a number of their own.
        var handshakes: [UInt64: Socket] = [:]
        var nextHandshake: UInt64 = 0
        var nextLane: UInt32 = 1
        var stopping = false
    }

    private let configuration: Configuration
    private let slab: SlabRegion
    private let incarnation: Incarnation
    private let onEvent: @Sendable (LaneListenerEvent) -> Void
    private let socket: Socket
    private let waker: Waker
    private let threads = ThreadGroup()
    private let table = Monitor(Table())
    private let totals = Monitor(LaneCounters())
    /// The address it listens on.
    package let host: String
    package let port: UInt16

    /// Binds, listens and starts the accept thread.
    package init(
        configuration: Configuration, slab: SlabRegion, incarnation: Incarnation,
        onEvent: @escaping @Sendable (LaneListenerEvent) -> Void
    ) throws(TransportError) {
        self.configuration = configuration
        self.slab = slab
        self.incarnation = incarnation
        self.onEvent = onEvent
        waker = try Waker()
        let wanted = Endpoint(host: configuration.host, port: configuration.port)
        (socket, port) = try LaneListener.listen(wanted)
        host = configuration.host
        try threads.start("lane-accept") { [self] in acceptConnections() }
    }

    // MARK: The node

    /// Lets the lane of the terms write what they grant. False when that lane is gone; its `closed` event has
    /// come or is coming.
    package func bind(_ terms: GrantTerms) -> Bool {
        lane(terms.lane)?.gate.bind(terms) ?? false
    }

    /// Ends the right to write of an epoch. False when a record is landing right now: then only a fence helps.
    package func unbind(_ lane: LaneID, _ epoch: LaneEpoch) -> Bool {
        self.lane(lane)?.gate.unbind(epoch) ?? true
    }

    /// Closes the lane so that nothing can land any more; `closed` says when that is so.
    package func fence(_ lane: LaneID) {
        self.lane(lane)?.fence(LaneCloseReason(.fenced))
    }

    /// Compares the digests of a completed epoch's completion record, which are these in short, with those of the
    /// pages. An epoch that has not completed matches nothing.
    package func verifyDigests(lane: LaneID, epoch: LaneEpoch, expected: [UInt64]) -> DigestVerdict {
        let digests = self.lane(lane)?.gate.digests(epoch)
        let verdict: DigestVerdict
        if let digests, digests.expected.map(\.value) == expected {
            verdict =
                configuration.digests.makesDigests
                ? DigestVerdict(expected: digests.expected, found: digests.landed) : .unchecked
        } else {
            verdict = .mismatch([])
        }
        totals.withLock { counters in
            switch verdict {
            case .unchecked: counters.uncheckedCompletions += 1
            case .matching: break
            case .mismatch: counters.digestMismatches += 1
            }
        }
        return verdict
    }

    package var counters: LaneCounters { totals.withLock { $0 } }

    package var lanes: [Lane] {
        table.withLock { table in
            table.lanes.values.map { Lane(id: $0.id, peer: $0.peer, address: $0.address) }
        }.sorted { $0.id < $1.id }
    }

    /// Closes everything and waits for all threads. Not to be called from an event handler.
    package func shutdown() {
        let (lanes, handshakes) = table.withLock { table in
            table.stopping = true
            return (Array(table.lanes.values), Array(table.handshakes.values))
        }
        waker.wake()
        for handshake in handshakes { handshake.shutDown() }
        for lane in lanes { lane.fence(LaneCloseReason(.shutdown)) }
        threads.waitForAll()
        socket.closeNow()
    }

    private func lane(_ id: LaneID) -> ReceiveLane? { table.withLock { $0.lanes[id] } }

    // MARK: Accepting

    private static func listen(_ endpoint: Endpoint) throws(TransportError) -> (Socket, UInt16) {
        let address = try endpoint.resolve(passive: true)
        let socket = try Socket.make(family: address.family)
        socket.set(SOL_SOCKET, SO_REUSEADDR, 1)
        if address.withPointer({ Glibc.bind(socket.descriptor, $0, $1) }) != 0 {
            let code = errno
            let kind: TransportError.Kind = code == EADDRINUSE ? .inUse : .system
            throw TransportError(kind, "can't listen for lanes on \(endpoint)", errno: code)
        }
        guard Glibc.listen(socket.descriptor, 128) == 0 else {
            throw TransportError(.system, "can't listen for lanes on \(endpoint)", errno: errno)
        }
        socket.setBlocking(false)
        let bound = SocketAddress { getsockname(socket.descriptor, $0, $1) }
        return (socket, bound?.endpoint.port ?? endpoint.port)
    }

    private func acceptConnections() {
        var entries = [
            pollfd(fd: socket.descriptor, events: Int16(POLLIN), revents: 0),
            pollfd(fd: waker.readEnd, events: Int16(POLLIN), revents: 0),
        ]
        while !table.withLock({ $0.stopping }) {
            guard poll(&entries, 2, -1) > 0 else { continue }
            var accepted: Int32 = -1
            let address = SocketAddress { address, length in
                accepted = accept(socket.descriptor, address, length)
                return accepted
            }
            if let address {
                receive(Socket(adopting: accepted), from: address.endpoint.description)
            } else if errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS {
                // Out of descriptors or memory: the connection stays in the backlog; do not spin on it.
                _ = poll(&entries[1], 1, 50)
            }
        }
    }

    private func receive(_ connection: Socket, from address: String) {
        let number = table.withLock { table -> UInt64? in
            guard table.lanes.count < configuration.lanesMax, !table.stopping else { return nil }
            let full =
                table.lanes.count + table.handshakes.count >= configuration.lanesMax
                || table.handshakes.count >= configuration.handshakesMax
            if full, let oldest = table.handshakes.keys.min() {
                table.handshakes.removeValue(forKey: oldest)?.shutDown()
            }
            table.nextHandshake += 1
            table.handshakes[table.nextHandshake] = connection
            return table.nextHandshake
        }
        guard let number else { return refuse(connection, .tooManyLanes, "too many lanes or connections") }
        do throws(TransportError) {
            try threads.start("lane-rx") { [self] in serve(connection, number: number, address: address) }
        } catch {
            _ = table.withLock { $0.handshakes.removeValue(forKey: number) }
            refuse(connection, .noThread, error.message)
        }
    }

    // MARK: One connection, on its own thread

    private func serve(_ connection: Socket, number: UInt64, address: String) {
        connection.configureLane()
        guard let hello = readHello(connection, number: number) else {
            _ = table.withLock { $0.handshakes.removeValue(forKey: number) }
            return
        }
        let admitted = table.withLock { table -> ReceiveLane? in
            guard table.handshakes.removeValue(forKey: number) != nil else { return nil }
            let ofPeer = table.lanes.values.count { $0.peer == hello.prefill }
            guard ofPeer < configuration.lanesPerPeerMax, !table.stopping else { return nil }
            let settings = ReceiveLane.Settings(
                digests: configuration.digests, writeTimeout: configuration.writeTimeout)
            let lane = ReceiveLane(
                id: LaneID(table.nextLane), peer: hello.prefill, address: address, socket: connection, slab: slab,
                settings: settings, counters: totals)
            table.nextLane += 1
            table.lanes[lane.id] = lane
            return lane
        }
        guard let lane = admitted else {
            return refuse(connection, .tooManyOfPeer, "more than \(configuration.lanesPerPeerMax) lanes of one node")
        }
        answer(connection, LaneHelloAck(lane: lane.id, digests: configuration.digests.makesDigests), reason: "")
        guard lane.waitUntilReady(configuration.helloTimeout) else {
            _ = table.withLock { $0.lanes.removeValue(forKey: lane.id) }
            return refuse(connection, .helloTimeout, "not ready within \(configuration.helloTimeout)")
        }
        totals.withLock { $0.opened += 1 }
        onEvent(.opened(lane.id, peer: lane.peer, address: address))
        let end = lane.run { record, epoch in onEvent(.completion(lane.id, epoch, record)) }
        _ = table.withLock { $0.lanes.removeValue(forKey: lane.id) }
        totals.withLock { counters in
            counters.closed[end.reason.kind, default: 0] += 1
            guard let fence = end.fence else { return }
            counters.fences += 1
            counters.fenceTotal += fence
            counters.fenceMax = max(counters.fenceMax, fence)
        }
        onEvent(.closed(lane.id, end.reason, fence: end.fence))
    }

    /// The peer's hello, when it is one that may become a lane; else the peer has been told why not.
    private func readHello(_ connection: Socket, number: UInt64) -> LaneHello? {
        let read = withUnsafeTemporaryAllocation(byteCount: LaneWire.helloBytes, alignment: 8) { bytes in
            Result { () throws(Socket.Failure) in
                try connection.read(into: bytes, until: .after(configuration.helloTimeout))
                return LaneHello(reading: UnsafeRawBufferPointer(bytes))
            }
        }
        guard case .success(let hello) = read else {
            if table.withLock({ $0.handshakes[number] != nil }) {
                refuse(connection, .helloTimeout, "no hello within \(configuration.helloTimeout)")
            } else {
                refuse(connection, .tooManyLanes, "too many connections without a hello")
            }
            return nil
        }
        let mine = LaneHello(prefill: hello.prefill, decode: incarnation, shape: slab.shape)
        if hello.magic != mine.magic {
            refuse(connection, .notALane, "not a lane")
        } else if hello.version != mine.version {
            refuse(connection, .wrongVersion, "lane protocol \(hello.version), this node speaks \(mine.version)")
        } else if hello.decode != mine.decode {
            refuse(connection, .wrongDecodeNode, "this is another decode node, or another start of it")
        } else if hello.pageBytes != mine.pageBytes || hello.layout != mine.layout {
            refuse(connection, .wrongLayout, "pages of \(hello.pageBytes) bytes, this node's have \(mine.pageBytes)")
        } else if hello.digests != configuration.digests.makesDigests {
            refuse(
                connection, .digestsDiffer,
                "the prefill node makes \(hello.digests ? "digests" : "no digests"), this node has them "
                    + "\(configuration.digests.rawValue): --digests must be off on both nodes or on neither")
        } else {
            return hello
        }
        return nil
    }

    private func refuse(_ connection: Socket, _ refusal: LaneRefusal, _ reason: String) {
        totals.withLock { $0.refused[refusal, default: 0] += 1 }
        let reason = String(decoding: reason.utf8.prefix(LaneWire.reasonBytesMax), as: UTF8.self)
        answer(connection, LaneHelloAck(refusedWithReasonOf: reason.utf8.count), reason: reason)
        connection.shutDown()
        connection.closeNow()
    }

    /// A few bytes into an empty send buffer; a peer that is gone is noticed by the next read.
    private func answer(_ connection: Socket, _ ack: LaneHelloAck, reason: String) {
        let count = LaneWire.helloAckBytes + reason.utf8.count
        withUnsafeTemporaryAllocation(byteCount: count, alignment: 8) { bytes in
            ack.write(to: bytes)
            UnsafeMutableRawBufferPointer(rebasing: bytes[LaneWire.helloAckBytes...]).copyBytes(from: reason.utf8)
            _ = try? connection.write(UnsafeRawBufferPointer(bytes), until: .after(.milliseconds(100)))
        }
    }
}
