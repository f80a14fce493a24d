import Glibc
package import Messages
import Threads

/// Looks names up on a thread of its own: the system's resolver blocks, for as long as its name servers take.
package enum NameLookup {
    /// All addresses of a name, in the order in which the system prefers them; empty where it has none.
    package static func addresses(of router: HostPort) async -> [HostPort] {
        await withCheckedContinuation { continuation in
            do throws(ThreadError) {
                try OwnThread.detach("name-lookup") { continuation.resume(returning: lookUp(router)) }
            } catch {
                continuation.resume(returning: [])
            }
        }
    }

    private static func lookUp(_ router: HostPort) -> [HostPort] {
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var found: UnsafeMutablePointer<addrinfo>?
        guard getaddrinfo(router.host, nil, &hints, &found) == 0 else { return [] }
        defer { freeaddrinfo(found) }
        var addresses: [HostPort] = []
        var next = found
        while let entry = next?.pointee {
            next = entry.ai_next
            var text = [CChar](repeating: 0, count: 128)
            guard
                getnameinfo(
                    entry.ai_addr, entry.ai_addrlen, &text, socklen_t(text.count), nil, 0, NI_NUMERICHOST) == 0
            else { continue }
            let host = String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
            let address = HostPort(host: host, port: router.port)
            if !addresses.contains(address) { addresses.append(address) }
        }
        return addresses
    }
}

/// The addresses of one name, each tried once before the name is looked up again. Pure.
struct RotatingAddresses {
    private var addresses: [HostPort] = []
    private var tried = 0

    init(_ addresses: [HostPort] = []) { self.addresses = addresses }

    var hasMore: Bool { tried < addresses.count }

    mutating func next() -> HostPort? {
        guard hasMore else { return nil }
        defer { tried += 1 }
        return addresses[tried]
    }

    /// The last one answered: it is the first to be tried again.
    mutating func stay() { tried = max(0, tried - 1) }
}

extension HostPort {
    enum Kind { case ipv4, ipv6, name }

    /// Whether the host is a number, and of which kind.
    var kind: Kind {
        var storage = in6_addr()
        if inet_pton(AF_INET, host, &storage) == 1 { return .ipv4 }
        return inet_pton(AF_INET6, host, &storage) == 1 ? .ipv6 : .name
    }
}
