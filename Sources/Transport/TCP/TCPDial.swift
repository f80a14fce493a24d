import Glibc
import Handoff
import Threads

/// Connecting one lane over TCP: connection, hello, answer; each with a deadline.
struct TCPDial {
    struct Connected {
        let socket: Socket
        let lane: LaneID
    }

    let address: String
    let hello: LaneHello
    let timeout: Duration
    /// Asked between waits, so that a shutdown does not take a timeout.
    let isWanted: () -> Bool

    private static let slice = Duration.milliseconds(50)

    func connect() throws(TransportError) -> Connected {
        let endpoint = try Endpoint(address)
        let target = try endpoint.resolve(passive: false)
        let socket = try Socket.make(family: target.family)
        let deadline = Instant.after(timeout)
        do throws(Socket.Failure) {
            try open(socket, target, until: deadline)
            socket.configureLane()
            return try greet(socket, until: deadline)
        } catch {
            throw failure(error, endpoint)
        }
    }

    private func open(_ socket: Socket, _ target: SocketAddress, until deadline: Instant) throws(Socket.Failure) {
        socket.setBlocking(false)
        let result = target.withPointer { Glibc.connect(socket.descriptor, $0, $1) }
        if result != 0 {
            guard errno == EINPROGRESS else { throw .system(errno) }
            try inSlices(until: deadline) { (slice) throws(Socket.Failure) in
                try socket.wait(for: POLLOUT, until: slice)
            }
            var code: Int32 = 0
            var length = socklen_t(MemoryLayout<Int32>.size)
            getsockopt(socket.descriptor, SOL_SOCKET, SO_ERROR, &code, &length)
            if code != 0 { throw .system(code) }
        }
        socket.setBlocking(true)
    }

    private func greet(_ socket: Socket, until deadline: Instant) throws(Socket.Failure) -> Connected {
        let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: LaneWire.reasonBytesMax, alignment: 8)
        defer { bytes.deallocate() }
        hello.write(to: bytes)
        try socket.write(UnsafeRawBufferPointer(rebasing: bytes[..<LaneWire.helloBytes]), until: deadline)
        try inSlices(until: deadline) { (slice) throws(Socket.Failure) in
            try socket.wait(for: POLLIN, until: slice)
        }
        let frame = UnsafeMutableRawBufferPointer(rebasing: bytes[..<LaneWire.helloAckBytes])
        try socket.read(into: frame, until: deadline)
        guard let ack = LaneHelloAck(reading: UnsafeRawBufferPointer(frame)) else { throw .system(EPROTO) }
        if ack.status == LaneHelloAck.Status.accepted.rawValue {
            guard ack.digests == hello.digests else { throw .refused("it has another mind about digests") }
            return Connected(socket: socket, lane: ack.lane)
        }
        let reason = UnsafeMutableRawBufferPointer(rebasing: bytes[..<ack.reasonBytes])
        try socket.read(into: reason, until: deadline)
        throw .refused(String(decoding: reason, as: UTF8.self))
    }

    private func inSlices(
        until deadline: Instant, _ wait: (Instant) throws(Socket.Failure) -> Void
    ) throws(Socket.Failure) {
        while true {
            do throws(Socket.Failure) {
                return try wait(min(deadline, .after(TCPDial.slice)))
            } catch {
                guard error == .timeout, !deadline.hasPassed, isWanted() else { throw error }
            }
        }
    }

    private func failure(_ failure: Socket.Failure, _ endpoint: Endpoint) -> TransportError {
        switch failure {
        case .closed: TransportError(.refused, "\(endpoint) closed the connection before it was a lane")
        case .timeout: TransportError(.timeout, "\(endpoint) did not answer within \(timeout)")
        case .refused(let reason): TransportError(.refused, "\(endpoint) refused: \(reason)")
        case .system(let code): TransportError(.system, "can't connect a lane to \(endpoint)", errno: code)
        }
    }
}
