package import Handoff
import Threads

/// The decode node's end of all lanes: accepts connections of prefill nodes, over TCP and where there are adapters over
/// RDMA, and receives into the slab.
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
        /// Twice what a prefill node may keep: those over RDMA open before those over TCP close.
        package var lanesPerPeerMax = 128
        /// How long a connection may take to say hello: a round trip and a scheduling delay, generously.
        package var helloTimeout: Duration = .seconds(2)
        /// How long a peer may leave acknowledgements unread before its lane is closed.
        package var writeTimeout: Duration = .seconds(5)
        package var digests = DigestMode.sealed
        package var rdma = RDMAChoice.auto
        package var rdmaWindows = RDMAWindows.auto

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
        package let transport: LaneTransport
    }

    private let register: LaneRegister
    private let threads = ThreadGroup()
    private let tcp: TCPAcceptor
    private let rdma: RDMAAcceptor?
    /// The address it listens on over TCP.
    package let host: String
    package let port: UInt16
    /// The addresses it listens on over RDMA; none, and then why.
    package let rdmaAddresses: [String]
    package let rdmaAbsence: String?
    /// Why some adapters are not used, though others are.
    package let rdmaFailures: [String]

    /// Binds, listens and starts the accept threads. Without RDMA devices, or with those that cannot be used, it goes
    /// on without them, and says why.
    package init(
        configuration: Configuration, slab: SlabRegion, incarnation: Incarnation,
        onEvent: @escaping @Sendable (LaneListenerEvent) -> Void
    ) throws(TransportError) {
        register = LaneRegister(
            configuration: configuration, slab: slab, incarnation: incarnation, onEvent: onEvent)
        tcp = try TCPAcceptor(register, threads)
        host = configuration.host
        port = tcp.port
        do throws(TransportError) {
            let rdma = try RDMAAcceptor(register, threads, port: tcp.port)
            self.rdma = rdma
            rdmaAddresses = rdma.addresses
            rdmaAbsence = nil
            rdmaFailures = rdma.failures
        } catch {
            rdma = nil
            rdmaAddresses = []
            rdmaAbsence = error.message
            rdmaFailures = []
        }
        do throws(TransportError) {
            try tcp.start()
            try rdma?.start()
        } catch {
            stop()
            throw error
        }
    }

    // MARK: The node

    /// Lets the lane of the terms write what they grant. False when that lane is gone; its `closed` event has
    /// come or is coming.
    package func bind(_ terms: PartTerms) -> Bool {
        register[terms.lane]?.bind(terms) ?? false
    }

    /// Ends the right to write of an epoch.
    package func unbind(_ lane: LaneID, _ epoch: LaneEpoch) -> LaneUnbinding {
        register[lane]?.unbind(epoch) ?? .quiet
    }

    /// Closes the lane so that nothing can land any more; `closed` says when that is so.
    package func fence(_ lane: LaneID) {
        register[lane]?.fence(LaneCloseReason(.fenced))
    }

    /// Compares the digests of a completed epoch's completion record, which are these in short, with those of the
    /// pages. An epoch that has not completed, or that was ended since, matches nothing, and is not counted.
    package func verifyDigests(lane: LaneID, epoch: LaneEpoch, expected: [UInt64]) -> DigestVerdict {
        let lane = register[lane]
        let digests = lane?.digests(epoch)
        let verdict: DigestVerdict
        if let digests, digests.expected.map(\.value) == expected {
            verdict =
                register.configuration.digests.makesDigests
                ? DigestVerdict(
                    expected: digests.expected, found: digests.landed, firstPage: digests.firstPage) : .unchecked
        } else {
            verdict = .mismatch([])
        }
        lane?.counters.withLock { counters in
            switch verdict {
            case .unchecked: counters.uncheckedCompletions += 1
            case .matching: break
            case .mismatch: if digests != nil { counters.digestMismatches += 1 }
            }
        }
        return verdict
    }

    package var tally: LaneTally { register.tallies.tally }

    package var lanes: [Lane] {
        register.all.map { Lane(id: $0.id, peer: $0.peer, address: $0.address, transport: $0.transport) }
            .sorted { $0.id < $1.id }
    }

    /// Closes everything and waits for all threads. Not to be called from an event handler.
    package func shutdown() { stop() }

    private func stop() {
        let lanes = register.stop()
        tcp.stop()
        rdma?.stop()
        for lane in lanes { lane.fence(LaneCloseReason(.shutdown)) }
        threads.waitForAll()
    }
}
