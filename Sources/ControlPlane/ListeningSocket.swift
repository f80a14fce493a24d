import Glibc
import Messages

/// A bound TCP socket that becomes a gRPC server's. Binding by ourselves gives clear errors, and the port at
/// once when it was chosen by the system.
struct ListeningSocket {
    let descriptor: Int32
    let port: Int

    /// Resolves the host, binds (IPv4 or IPv6, whichever the host resolves to first).
    init(_ address: HostPort) throws(ControlError) {
        func failure(_ reason: String) -> ControlError { .listen(address: address.description, reason: reason) }

        var hints = addrinfo()
        hints.ai_family = AF_UNSPEC
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV
        var list: UnsafeMutablePointer<addrinfo>?
        let status = getaddrinfo(address.host, String(address.port), &hints, &list)
        guard status == 0, let info = list else {
            throw failure("\(String(cString: gai_strerror(status)))")
        }
        defer { freeaddrinfo(list) }

        let socket = socket(
            info.pointee.ai_family, info.pointee.ai_socktype | Int32(SOCK_CLOEXEC.rawValue), info.pointee.ai_protocol)
        guard socket >= 0 else { throw failure(String(cString: strerror(errno))) }
        var yes: Int32 = 1
        setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
        // Listening here and now makes a second process on the port fail too; NIO may listen again.
        guard bind(socket, info.pointee.ai_addr, info.pointee.ai_addrlen) == 0, listen(socket, 256) == 0 else {
            let reason = String(cString: strerror(errno))
            close(socket)
            throw failure(reason)
        }
        guard let port = Self.boundPort(socket) else {
            close(socket)
            throw failure("getsockname failed")
        }
        descriptor = socket
        self.port = port
    }

    private static func boundPort(_ socket: Int32) -> Int? {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let status = withUnsafeMutablePointer(to: &storage) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(socket, $0, &length) }
        }
        guard status == 0 else { return nil }
        return withUnsafePointer(to: storage) { pointer in
            switch Int32(pointer.pointee.ss_family) {
            case AF_INET:
                pointer.withMemoryRebound(to: sockaddr_in.self, capacity: 1) {
                    Int(UInt16(bigEndian: $0.pointee.sin_port))
                }
            case AF_INET6:
                pointer.withMemoryRebound(to: sockaddr_in6.self, capacity: 1) {
                    Int(UInt16(bigEndian: $0.pointee.sin6_port))
                }
            default: nil
            }
        }
    }
}
