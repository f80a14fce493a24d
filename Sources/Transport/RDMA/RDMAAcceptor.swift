import CRDMA
import Glibc
import Handoff
import Threads

/// Accepts lanes over RDMA, on one address of every device in use.
final class RDMAAcceptor: Sendable {
    /// An address that is listened on; no identifier while its device is gone.
    ///
    /// `@unchecked Sendable`: librdmacm locks what the identifier points to.
    private struct Listening: @unchecked Sendable {
        let endpoint: Endpoint
        var id: UnsafeMutablePointer<rdma_cm_id>?
        /// Keeps the slab registered while there are no lanes.
        var domain: RDMADomain?
    }

    /// How often it is looked whether devices have gone or come back.
    static let lookInterval = Duration.seconds(1)

    /// `@unchecked Sendable`: never changed, and librdmacm locks what it points to.
    private struct Events: @unchecked Sendable {
        let channel: UnsafeMutablePointer<rdma_event_channel>
    }

    private let register: LaneRegister
    private let threads: ThreadGroup
    private let domains: RDMADomains
    private let events: Events
    private let listening: Monitor<[Listening]>
    private let waker: Waker
    /// Lanes whose peer has not said its first word.
    private let waiting = Monitor(0)

    let addresses: [String]
    /// Of those adapters that should be in use and cannot be.
    let failures: [String]

    /// Binds and listens, and registers the slab with each device. Throws when there is none that can be used.
    /// - Parameter port: RDMA has ports of its own, so that of the TCP lanes is free.
    init(_ register: LaneRegister, _ threads: ThreadGroup, port: UInt16) throws(TransportError) {
        self.register = register
        self.threads = threads
        let configuration = register.configuration
        let ports = try RDMAPort.usable(configuration.rdma, near: register.slab.numaNode)
        waker = try Waker()
        domains = RDMADomains(slab: register.slab, windows: configuration.rdmaWindows, isWritten: true)
        guard let channel = rdma_create_event_channel() else {
            throw RDMAHalf.unavailable(errno)
        }
        events = Events(channel: channel)
        _ = fcntl(channel.pointee.fd, F_SETFL, O_NONBLOCK)
        var listening: [Listening] = []
        var failures: [TransportError] = []
        for address in ports.compactMap(\.addresses.first) {
            let endpoint = Endpoint(host: address, port: port)
            do throws(TransportError) {
                let (id, domain) = try RDMAAcceptor.listen(endpoint, channel, domains)
                listening.append(Listening(endpoint: endpoint, id: id, domain: domain))
            } catch {
                failures.append(error)
            }
        }
        if listening.isEmpty, let failure = failures.first {
            rdma_destroy_event_channel(channel)
            throw failure
        }
        self.failures = failures.map(\.message)
        addresses = listening.map(\.endpoint.description)
        self.listening = Monitor(listening)
    }

    deinit {
        for id in listening.withLock({ $0.compactMap(\.id) }) { rdma_destroy_id(id) }
        rdma_destroy_event_channel(events.channel)
    }

    private static func listen(
        _ endpoint: Endpoint, _ channel: UnsafeMutablePointer<rdma_event_channel>, _ domains: RDMADomains
    ) throws(TransportError) -> (UnsafeMutablePointer<rdma_cm_id>, RDMADomain) {
        let address = try endpoint.resolve(passive: true)
        var made: UnsafeMutablePointer<rdma_cm_id>?
        guard rdma_create_id(channel, &made, nil, RDMA_PS_TCP) == 0, let id = made else {
            throw RDMAHalf.unavailable(errno)
        }
        do throws(TransportError) {
            let bound = address.withPointer { address, _ in rdma_bind_addr(id, UnsafeMutablePointer(mutating: address))
            }
            guard bound == 0, rdma_listen(id, 64) == 0 else {
                throw TransportError(.system, "can't listen for RDMA lanes on \(endpoint)", errno: errno)
            }
            guard let context = id.pointee.verbs else {
                throw TransportError(.system, "\(endpoint) is no address of an RDMA device")
            }
            return (id, try domains.domain(of: context))
        } catch {
            rdma_destroy_id(id)
            throw error
        }
    }

    func start() throws(TransportError) {
        try threads.start("rdma-accept") { [self] in acceptConnections() }
    }

    /// After the register has been stopped.
    func stop() { waker.wake() }

    private func acceptConnections() {
        var entries = [
            pollfd(fd: events.channel.pointee.fd, events: Int16(POLLIN), revents: 0),
            pollfd(fd: waker.readEnd, events: Int16(POLLIN), revents: 0),
        ]
        while !register.isStopping {
            lookForDevices()
            let pause = Instant.after(RDMAAcceptor.lookInterval).pollTimeout
            guard poll(&entries, 2, pause) > 0, entries[0].revents != 0 else { continue }
            var event: UnsafeMutablePointer<rdma_cm_event>?
            guard rdma_get_cm_event(events.channel, &event) == 0, let event else { continue }
            let (kind, id) = (event.pointee.event, event.pointee.id)
            let hello = RDMAHalf.privateData(event)
            // Before anything else is done with its identifier, or that would wait for it.
            rdma_ack_cm_event(event)
            switch kind {
            case RDMA_CM_EVENT_CONNECT_REQUEST:
                if let id { receive(id, hello) }
            case RDMA_CM_EVENT_DEVICE_REMOVAL:
                if let id { lost(id) }
            default:
                break
            }
        }
    }

    /// The device of a listening address is gone. Its lanes hear of it themselves.
    private func lost(_ id: UnsafeMutablePointer<rdma_cm_id>) {
        let domain = listening.withLock { listening -> RDMADomain? in
            guard let index = listening.firstIndex(where: { $0.id == id }) else { return nil }
            listening[index].id = nil
            defer { listening[index].domain = nil }
            return listening[index].domain
        }
        guard let domain else { return }
        domain.markGone()
        rdma_destroy_id(id)
    }

    /// Ends what used a device that has gone, and listens where one has come back.
    private func lookForDevices() {
        for lane in register.all { lane.checkDevice() }
        for one in listening.withLock({ $0 }) {
            if let id = one.id {
                if one.domain?.isPresent() == false { lost(id) }
                continue
            }
            guard let (id, domain) = try? RDMAAcceptor.listen(one.endpoint, events.channel, domains) else { continue }
            guard domain.isPresent() else {
                rdma_destroy_id(id)
                continue
            }
            listening.withLock { listening in
                guard let index = listening.firstIndex(where: { $0.endpoint == one.endpoint }) else { return }
                listening[index] = Listening(endpoint: one.endpoint, id: id, domain: domain)
            }
        }
    }

    private func receive(_ id: UnsafeMutablePointer<rdma_cm_id>, _ data: [UInt8]) {
        do throws(TransportError) {
            // From here on the identifier goes when this does, or the connection made of it.
            let half = try RDMAHalf(adopting: id)
            do throws(LaneRegister.Refused) {
                try accept(half, try check(data))
            } catch {
                reject(half.id, error)
            }
        } catch {
            reject(id, LaneRegister.Refused(.noResources, error.message))
            rdma_destroy_id(id)
        }
    }

    private func check(_ data: [UInt8]) throws(LaneRegister.Refused) -> LaneHello {
        guard data.count >= LaneWire.helloBytes else { throw LaneRegister.Refused(.notALane, "not a lane") }
        let hello = data.withUnsafeBytes { LaneHello(reading: $0) }
        try register.check(hello)
        guard waiting.withLock({ $0 }) < register.configuration.handshakesMax else {
            throw LaneRegister.Refused(.tooManyLanes, "too many connections that do not become lanes")
        }
        return hello
    }

    private func accept(_ half: RDMAHalf, _ hello: LaneHello) throws(LaneRegister.Refused) {
        let connection: RDMAConnection
        do throws(TransportError) {
            connection = try half.connection(domains)
        } catch {
            throw LaneRegister.Refused(.noResources, error.message)
        }
        // The identifier goes with it, and is needed for a rejection.
        defer { withExtendedLifetime(connection) {} }
        do throws(LaneRegister.Refused) {
            let lane = try admit(connection, hello, from: RDMAAcceptor.peerAddress(half.id))
            waiting.withLock { $0 += 1 }
            do throws(TransportError) {
                try reply(half.id, connection, LaneHelloAck(lane: lane.id, digests: hello.digests))
                try threads.start("lane-rx") { [self] in serve(lane) }
            } catch {
                waiting.withLock { $0 -= 1 }
                register.remove(lane)
                throw LaneRegister.Refused(.noThread, error.message)
            }
        } catch {
            reject(half.id, error)
        }
    }

    private func admit(
        _ connection: RDMAConnection, _ hello: LaneHello, from address: String
    ) throws(LaneRegister.Refused) -> any ReceivingLane {
        let configuration = register.configuration
        let settings = ReceivingSettings(digests: configuration.digests, writeTimeout: configuration.writeTimeout)
        return try register.admit(of: hello.prefill) { (number) throws(TransportError) in
            try RDMAReceiveLane(
                id: number, peer: hello.prefill, address: address, connection: connection, settings: settings,
                tallies: register.tallies)
        }
    }

    private func serve(_ lane: any ReceivingLane) {
        let isReady = register.awaitReady(lane)
        waiting.withLock { $0 -= 1 }
        guard isReady else { return lane.counters.withLock { $0.refused[.helloTimeout, default: 0] += 1 } }
        register.serve(lane)
    }

    private func reply(
        _ id: UnsafeMutablePointer<rdma_cm_id>, _ connection: RDMAConnection, _ ack: LaneHelloAck
    ) throws(TransportError) {
        let domain = connection.domain
        let reach = RDMAWire.Reach(
            base: UInt64(UInt(bitPattern: domain.slab.base)),
            key: domain.hasWindows ? 0 : domain.slabRegion.pointee.rkey, hasWindows: domain.hasWindows)
        let result = withUnsafeTemporaryAllocation(byteCount: RDMAWire.replyBytes, alignment: 8) { bytes in
            ack.write(to: bytes)
            reach.write(to: UnsafeMutableRawBufferPointer(rebasing: bytes[LaneWire.helloAckBytes...]))
            var parameters = rdma_conn_param()
            parameters.private_data = UnsafeRawPointer(bytes.baseAddress)
            parameters.private_data_len = UInt8(RDMAWire.replyBytes)
            parameters.rnr_retry_count = 7
            return rdma_accept(id, &parameters)
        }
        guard result == 0 else { throw TransportError(.system, "can't accept an RDMA lane", errno: errno) }
        connection.shortenPauses()
    }

    private func reject(_ id: UnsafeMutablePointer<rdma_cm_id>, _ refused: LaneRegister.Refused) {
        register.count(refused.kind, over: id.pointee.verbs.map(RDMADomain.name) ?? LaneTransport.rdma.rawValue)
        let text = Array(refused.reason.utf8.prefix(RDMAWire.reasonBytesMax))
        let count = LaneWire.helloAckBytes + text.count
        withUnsafeTemporaryAllocation(byteCount: count, alignment: 8) { bytes in
            LaneHelloAck(refusedWithReasonOf: text.count).write(to: bytes)
            UnsafeMutableRawBufferPointer(rebasing: bytes[LaneWire.helloAckBytes...]).copyBytes(from: text)
            _ = rdma_reject(id, bytes.baseAddress, UInt8(count))
        }
    }

    private static func peerAddress(_ id: UnsafeMutablePointer<rdma_cm_id>) -> String {
        guard let address = rdma_get_peer_addr(id) else { return "?" }
        let isIPv4 = Int32(address.pointee.sa_family) == AF_INET
        let length = isIPv4 ? MemoryLayout<sockaddr_in>.size : MemoryLayout<sockaddr_in6>.size
        return SocketAddress(address, length: socklen_t(length)).endpoint.description
    }
}
