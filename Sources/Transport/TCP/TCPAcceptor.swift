import Glibc
import Handoff
import Threads

/// Accepts lanes over TCP.
final class TCPAcceptor: Sendable {
    private struct Handshakes: Sendable {
        /// Sockets of connections that have not become lanes yet, by a number of their own.
        var sockets: [UInt64: Socket] = [:]
        var next: UInt64 = 0
    }

    private let register: LaneRegister
    private let threads: ThreadGroup
    private let socket: Socket
    private let waker: Waker
    private let handshakes = Monitor(Handshakes())
    let port: UInt16

    /// Binds and listens.
    init(_ register: LaneRegister, _ threads: ThreadGroup) throws(TransportError) {
        self.register = register
        self.threads = threads
        waker = try Waker()
        let configuration = register.configuration
        (socket, port) = try TCPAcceptor.listen(Endpoint(host: configuration.host, port: configuration.port))
    }

    func start() throws(TransportError) {
        try threads.start("lane-accept") { [self] in acceptConnections() }
    }

    /// After the register has been stopped.
    func stop() {
        waker.wake()
        for handshake in handshakes.withLock({ Array($0.sockets.values) }) { handshake.shutDown() }
    }

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
        defer { socket.closeNow() }
        while !register.isStopping {
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
        let (configuration, lanes) = (register.configuration, register.count)
        let number = handshakes.withLock { handshakes -> UInt64? in
            guard lanes < configuration.lanesMax, !register.isStopping else { return nil }
            let waiting = handshakes.sockets.count
            if lanes + waiting >= configuration.lanesMax || waiting >= configuration.handshakesMax,
                let oldest = handshakes.sockets.keys.min()
            {
                handshakes.sockets.removeValue(forKey: oldest)?.shutDown()
            }
            handshakes.next += 1
            handshakes.sockets[handshakes.next] = connection
            return handshakes.next
        }
        guard let number else { return refuse(connection, .tooManyLanes, "too many lanes or connections") }
        do throws(TransportError) {
            try threads.start("lane-rx") { [self] in serve(connection, number: number, address: address) }
        } catch {
            endHandshake(number)
            refuse(connection, .noThread, error.message)
        }
    }

    // MARK: One connection, on its own thread

    private func serve(_ connection: Socket, number: UInt64, address: String) {
        connection.configureLane()
        let configuration = register.configuration
        do throws(LaneRegister.Refused) {
            let hello = try readHello(connection, number: number)
            try register.check(hello)
            guard endHandshake(number) else { return }
            let settings = ReceivingSettings(
                digests: configuration.digests, writeTimeout: configuration.writeTimeout)
            let lane = try register.admit(of: hello.prefill) { id in
                TCPReceiveLane(
                    id: id, peer: hello.prefill, address: address, socket: connection, slab: register.slab,
                    settings: settings, tallies: register.tallies)
            }
            answer(connection, LaneHelloAck(lane: lane.id, digests: configuration.digests.makesDigests), reason: "")
            guard register.awaitReady(lane) else {
                throw LaneRegister.Refused(.helloTimeout, "not ready within \(configuration.helloTimeout)")
            }
            register.serve(lane)
        } catch {
            endHandshake(number)
            refuse(connection, error.kind, error.reason)
        }
    }

    /// False when it was ended for a newer one.
    @discardableResult
    private func endHandshake(_ number: UInt64) -> Bool {
        handshakes.withLock { $0.sockets.removeValue(forKey: number) != nil }
    }

    private func readHello(_ connection: Socket, number: UInt64) throws(LaneRegister.Refused) -> LaneHello {
        let timeout = register.configuration.helloTimeout
        let read = withUnsafeTemporaryAllocation(byteCount: LaneWire.helloBytes, alignment: 8) { bytes in
            Result { () throws(Socket.Failure) in
                try connection.read(into: bytes, until: .after(timeout))
                return LaneHello(reading: UnsafeRawBufferPointer(bytes))
            }
        }
        if case .success(let hello) = read { return hello }
        guard handshakes.withLock({ $0.sockets[number] != nil }) else {
            throw LaneRegister.Refused(.tooManyLanes, "too many connections without a hello")
        }
        throw LaneRegister.Refused(.helloTimeout, "no hello within \(timeout)")
    }

    private func refuse(_ connection: Socket, _ refusal: LaneRefusal, _ reason: String) {
        register.count(refusal, over: LaneTransport.tcp.rawValue)
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
