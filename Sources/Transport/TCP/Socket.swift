// Its headers bring `SOCK_STREAM` along.
import CRDMA
import Glibc
import Threads

/// A TCP socket that one thread reads and writes and any thread may shut down. Closing happens once, under a lock,
/// so a late shutdown can't hit a file descriptor that has become somebody else's.
final class Socket: Sendable {
    /// Used by the owning thread only, and only until it closes the socket.
    let descriptor: Int32
    private let isOpen = Monitor(true)

    init(adopting descriptor: Int32) {
        self.descriptor = descriptor
        _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
    }

    deinit { closeNow() }

    /// Wakes whoever waits in a read or write; they fail from now on.
    func shutDown() {
        isOpen.withLock { open in
            if open { _ = Glibc.shutdown(descriptor, Int32(SHUT_RDWR)) }
        }
    }

    func closeNow() {
        isOpen.withLock { open in
            if open { _ = Glibc.close(descriptor) }
            open = false
        }
    }

    // MARK: Set-up

    static func make(family: Int32) throws(TransportError) -> Socket {
        let descriptor = socket(family, Int32(SOCK_STREAM.rawValue) | O_CLOEXEC, 0)
        guard descriptor >= 0 else { throw TransportError(.system, "can't open a socket", errno: errno) }
        return Socket(adopting: descriptor)
    }

    func set(_ level: Int32, _ option: Int32, _ value: Int32) {
        var value = value
        _ = setsockopt(descriptor, level, option, &value, socklen_t(MemoryLayout<Int32>.size))
    }

    /// What every lane wants: no delay for small frames, and an end for a peer or path that is gone.
    func configureLane() {
        let tcp = Int32(IPPROTO_TCP)
        set(tcp, TCP_NODELAY, 1)
        set(SOL_SOCKET, SO_KEEPALIVE, 1)
        set(tcp, TCP_KEEPIDLE, 10)
        set(tcp, TCP_KEEPINTVL, 3)
        set(tcp, TCP_KEEPCNT, 3)
        set(tcp, TCP_USER_TIMEOUT, 10_000)
    }

    func setBlocking(_ blocking: Bool) {
        let flags = fcntl(descriptor, F_GETFL)
        _ = fcntl(descriptor, F_SETFL, blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK)
    }

    // MARK: Small fixed frames

    enum Failure: Error, Equatable {
        case closed
        case timeout
        /// The peer said no, and why.
        case refused(String)
        case system(Int32)
    }

    /// Fills `bytes`, waiting until the deadline at most.
    func read(into bytes: UnsafeMutableRawBufferPointer, until deadline: Instant?) throws(Failure) {
        var done = 0
        while done < bytes.count {
            let count = recv(descriptor, bytes.baseAddress.map { $0 + done }, bytes.count - done, messageDontWait)
            if count > 0 {
                done += count
            } else if count == 0 {
                throw .closed
            } else {
                try waitAfter(errno, for: POLLIN, until: deadline)
            }
        }
    }

    /// Sends all of `bytes`, waiting until the deadline at most.
    func write(_ bytes: UnsafeRawBufferPointer, until deadline: Instant?) throws(Failure) {
        var done = 0
        while done < bytes.count {
            let from = bytes.baseAddress.map { $0 + done }
            let count = send(descriptor, from, bytes.count - done, messageDontWait | messageNoSignal)
            if count >= 0 {
                done += count
            } else {
                try waitAfter(errno, for: POLLOUT, until: deadline)
            }
        }
    }

    private func waitAfter(_ code: Int32, for events: Int32, until deadline: Instant?) throws(Failure) {
        switch code {
        case EINTR: return
        case EAGAIN: try wait(for: events, until: deadline)
        case EPIPE, ECONNRESET: throw .closed
        case ETIMEDOUT: throw .timeout
        default: throw .system(code)
        }
    }

    /// Waits until the socket is ready or in error.
    func wait(for events: Int32, until deadline: Instant?) throws(Failure) {
        var entry = pollfd(fd: descriptor, events: Int16(events), revents: 0)
        while true {
            let count = poll(&entry, 1, deadline?.pollTimeout ?? -1)
            if count > 0 { return }
            if count == 0, deadline?.hasPassed ?? false { throw .timeout }
            if count < 0, errno != EINTR { throw .system(errno) }
        }
    }
}

/// Linux's MSG_DONTWAIT and MSG_NOSIGNAL, which the importer gives other types.
let messageDontWait: Int32 = 0x40
let messageNoSignal: Int32 = 0x4000
