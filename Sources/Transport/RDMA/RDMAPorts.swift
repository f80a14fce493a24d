import CRDMA
import Glibc

/// What `--rdma` says.
package enum RDMAChoice: Sendable, Hashable, CustomStringConvertible {
    /// Every device with a port that is up and has an address.
    case auto
    case off
    /// This device, or one port of it.
    case device(String, port: Int?)

    /// `auto`, `off`, `DEVICE` or `DEVICE:PORT`; nil for anything else.
    package init?(_ text: String) {
        switch text {
        case "auto": self = .auto
        case "off": self = .off
        default:
            let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            guard let name = parts.first, !name.isEmpty, !name.contains("/") else { return nil }
            guard parts.count == 2 else {
                self = .device(String(name), port: nil)
                return
            }
            guard let port = Int(parts[1]), port >= 1, port <= 255 else { return nil }
            self = .device(String(name), port: port)
        }
    }

    package var description: String {
        switch self {
        case .auto: "auto"
        case .off: "off"
        case .device(let name, let port): port.map { "\(name):\($0)" } ?? name
        }
    }

    func includes(_ port: RDMAPort) -> Bool {
        switch self {
        case .auto: true
        case .off: false
        case .device(let name, let number): port.device == name && (number == nil || number == port.number)
        }
    }
}

/// One port of an RDMA device, as the kernel shows it below /sys/class/infiniband.
package struct RDMAPort: Sendable, Hashable {
    package let device: String
    package let number: Int
    /// `ACTIVE` when it can be used.
    package let state: String
    /// `Ethernet` for RoCE, or `InfiniBand`.
    package let linkLayer: String
    /// The network interface whose addresses reach it.
    package let interface: String?
    /// Those addresses, IPv4 before IPv6, none that is link-local.
    package let addresses: [String]
    /// The NUMA node that it is attached to; nil where the system does not say.
    package let numaNode: Int?

    /// All ports of all devices, in the order of their names.
    package static func all(
        below root: String = "/sys/class/infiniband", addresses: [String: [String]] = interfaceAddresses()
    ) -> [RDMAPort] {
        entries(root).flatMap { device in
            entries("\(root)/\(device)/ports").compactMap(Int.init).sorted().map { number in
                let port = "\(root)/\(device)/ports/\(number)"
                let interface = entries("\(port)/gid_attrs/ndevs").lazy
                    .compactMap { line("\(port)/gid_attrs/ndevs/\($0)") }.first
                return RDMAPort(
                    device: device, number: number,
                    // As "4: ACTIVE".
                    state: line("\(port)/state").map { String($0.drop { $0 != " " }.dropFirst()) } ?? "unknown",
                    linkLayer: line("\(port)/link_layer") ?? "unknown", interface: interface,
                    addresses: interface.flatMap { addresses[$0] } ?? [],
                    numaNode: line("\(root)/\(device)/device/numa_node").flatMap(Int.init).flatMap { $0 < 0 ? nil : $0 }
                )
            }
        }
    }

    /// Those that lanes may use by this choice, nearest to `node` first; throws with the reason when there are none.
    static func usable(
        _ choice: RDMAChoice, near node: Int? = nil, of all: @autoclosure () -> [RDMAPort] = RDMAPort.all(),
        below root: String = ""
    ) throws(TransportError) -> [RDMAPort] {
        if choice == .off { throw TransportError(.system, "--rdma is off") }
        let all = all()
        guard !all.isEmpty else { throw TransportError(.system, "no RDMA device on this host") }
        let chosen = all.filter(choice.includes)
        guard !chosen.isEmpty else {
            let names = Set(all.map(\.device)).sorted().joined(separator: ", ")
            throw TransportError(.system, "no RDMA device \(choice) here, but \(names)")
        }
        let usable = chosen.filter { $0.state == "ACTIVE" && !$0.addresses.isEmpty }
        guard !usable.isEmpty else {
            let why = chosen.map {
                $0.state == "ACTIVE"
                    ? "\($0.device):\($0.number) has no address" : "\($0.device):\($0.number) is \($0.state)"
            }
            throw TransportError(.system, why.joined(separator: ", "))
        }
        func distance(_ port: RDMAPort) -> Int {
            guard let node, let other = port.numaNode else { return 0 }
            return RDMAPort.distance(root, from: node, to: other)
        }
        return usable.enumerated().sorted { (distance($0.element), $0.offset) < (distance($1.element), $1.offset) }
            .map(\.element)
    }

    /// As the firmware tells it: 10 is the node itself, further ones have more.
    private static func distance(_ root: String, from node: Int, to other: Int) -> Int {
        if node == other { return 10 }
        let all =
            line("\(root)/sys/devices/system/node/node\(node)/distance")?.split(separator: " ").compactMap { Int($0) }
            ?? []
        return other < all.count ? all[other] : 20
    }

    /// What the device counts of this port, by name. Soft-RoCE and adapters name different things.
    package func counters(below root: String = "/sys/class/infiniband") -> [String: Int] {
        let port = "\(root)/\(device)/ports/\(number)"
        var found: [String: Int] = [:]
        for folder in ["\(port)/counters", "\(port)/hw_counters"] {
            for name in RDMAPort.entries(folder) {
                // Beside the counters is `lifespan`, for how long they are kept.
                guard name != "lifespan" else { continue }
                if let value = RDMAPort.line("\(folder)/\(name)").flatMap(Int.init) { found[name] = value }
            }
        }
        return found
    }

    // MARK: Reading the system

    static func entries(_ path: String) -> [String] {
        guard let folder = opendir(path) else { return [] }
        defer { closedir(folder) }
        var names: [String] = []
        while let entry = readdir(folder) {
            let name = withUnsafeBytes(of: entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            if !name.hasPrefix(".") { names.append(name) }
        }
        return names.sorted()
    }

    static func line(_ path: String) -> String? {
        let file = open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return nil }
        defer { close(file) }
        return withUnsafeTemporaryAllocation(byteCount: 256, alignment: 1) { bytes in
            let count = read(file, bytes.baseAddress, bytes.count)
            guard count > 0 else { return nil }
            let text = String(decoding: bytes.prefix(count).prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
            return text.isEmpty ? nil : text
        }
    }

    /// The addresses of each network interface.
    package static func interfaceAddresses() -> [String: [String]] {
        var first: UnsafeMutablePointer<ifaddrs>?
        guard getifaddrs(&first) == 0 else { return [:] }
        defer { freeifaddrs(first) }
        var found: [String: (v4: [String], v6: [String])] = [:]
        var next = first
        while let entry = next {
            next = entry.pointee.ifa_next
            guard let address = entry.pointee.ifa_addr, let name = entry.pointee.ifa_name else { continue }
            let family = Int32(address.pointee.sa_family)
            guard family == AF_INET || family == AF_INET6 else { continue }
            let length = family == AF_INET ? MemoryLayout<sockaddr_in>.size : MemoryLayout<sockaddr_in6>.size
            let text = withUnsafeTemporaryAllocation(of: CChar.self, capacity: Int(NI_MAXHOST)) { buffer -> String? in
                guard let base = buffer.baseAddress,
                    getnameinfo(address, socklen_t(length), base, socklen_t(buffer.count), nil, 0, NI_NUMERICHOST) == 0
                else { return nil }
                return String(cString: base)
            }
            guard let text, !text.hasPrefix("fe80") else { continue }
            let interface = String(cString: name)
            if family == AF_INET {
                found[interface, default: ([], [])].v4.append(text)
            } else {
                found[interface, default: ([], [])].v6.append(text)
            }
        }
        return found.mapValues { $0.v4 + $0.v6 }
    }
}
