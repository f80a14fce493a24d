// Its headers bring `sockaddr_storage` along.
import CRDMA
import Glibc

/// `HOST:PORT`, with IPv6 addresses in brackets.
struct Endpoint: Sendable, Hashable, CustomStringConvertible {
    let host: String
    let port: UInt16

    init(host: String, port: UInt16) {
        self.host = host
        self.port = port
    }

    init(_ text: String) throws(TransportError) {
        guard text.utf8.count <= 300, let colon = text.lastIndex(of: ":") else {
            throw TransportError(.badAddress, "\"\(text.prefix(80))\" is not HOST:PORT")
        }
        var host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
        } else if host.contains(":") {
            throw TransportError(.badAddress, "\"\(text)\": an IPv6 address goes in brackets, [::1]:PORT")
        }
        guard let port = UInt16(text[text.index(after: colon)...]), !host.isEmpty else {
            throw TransportError(.badAddress, "\"\(text)\" is not HOST:PORT with a port of 0 to 65535")
        }
        self.init(host: String(host), port: port)
    }

    var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }

    /// The first address of a numeric or named host. Calls `getaddrinfo`, which may block for a name.
    func resolve(passive: Bool) throws(TransportError) -> SocketAddress {
        var hints = addrinfo()
        hints.ai_family = AF_UNSPEC
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        hints.ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0)
        var list: UnsafeMutablePointer<addrinfo>?
        let code = getaddrinfo(host, String(port), &hints, &list)
        defer { if let list { freeaddrinfo(list) } }
        guard code == 0, let first = list?.pointee, let address = first.ai_addr else {
            throw TransportError(.unresolvable, "can't resolve \(host): \(String(cString: gai_strerror(code)))")
        }
        return SocketAddress(address, length: first.ai_addrlen)
    }
}

/// A socket address of either family.
struct SocketAddress: Sendable {
    private var storage = sockaddr_storage()
    private(set) var length: socklen_t

    init(_ address: UnsafePointer<sockaddr>, length: socklen_t) {
        self.length = min(length, socklen_t(MemoryLayout<sockaddr_storage>.size))
        withUnsafeMutableBytes(of: &storage) { bytes in
            bytes.copyMemory(from: UnsafeRawBufferPointer(start: address, count: Int(self.length)))
        }
    }

    /// Filled in by `fill`, which gets room for any family.
    init?(_ fill: (UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> Int32) {
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let result = withUnsafeMutablePointer(to: &storage) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { fill($0, &length) }
        }
        guard result >= 0 else { return nil }
        self.length = length
    }

    var family: Int32 { Int32(storage.ss_family) }

    func withPointer<Result>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result {
        withUnsafePointer(to: storage) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, length) }
        }
    }

    var endpoint: Endpoint {
        let (host, port) = withPointer { address, length -> (String, String) in
            withUnsafeTemporaryAllocation(of: CChar.self, capacity: 128) { text in
                text.initialize(repeating: 0)
                guard let host = text.baseAddress else { return ("?", "0") }
                let service = host + 96
                let flags = NI_NUMERICHOST | NI_NUMERICSERV
                let code = getnameinfo(address, length, host, 95, service, 31, flags)
                return code == 0 ? (String(cString: host), String(cString: service)) : ("?", "0")
            }
        }
        return Endpoint(host: host, port: UInt16(port) ?? 0)
    }
}
