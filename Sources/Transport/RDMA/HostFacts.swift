import CRDMA
import Glibc

/// What a host says of itself, as far as lanes over RDMA need it: read from files below a root, so that a tree of them
/// may stand in for a host, and asked of its adapters.
package struct HostFacts: Sendable, Equatable {
    /// What happens to this process when it opens a device file.
    package enum DeviceFile: Sendable, Equatable {
        case opens
        /// The kernel has what it stands for, but it is not here: a container without it.
        case hidden
        /// The kernel module behind it is not loaded.
        case noModule
        /// An errno value.
        case refused(Int32)
    }

    /// What libibverbs says of an adapter.
    package enum Verbs: Sendable, Equatable {
        /// It knows none of this name: the library of its provider is not installed.
        case unknown
        /// It cannot be asked; an errno value.
        case closed(Int32)
        /// - Parameter packetBytes: what each port puts into one packet.
        case answers(hasWindows: Bool, packetBytes: [Int: Int])
    }

    package struct Port: Sendable, Equatable {
        package var port: RDMAPort
        /// `LinkUp`, `Disabled`, `Polling`…
        package var physicalState: String?
        /// As `100 Gb/s`.
        package var rate: String?
        /// The kinds of its addresses: `RoCE v2`, `IB/RoCE v1`.
        package var addressKinds: Set<String>
        /// Of its network interface.
        package var interfaceMTU: Int?
    }

    package struct Adapter: Sendable, Equatable {
        package var isIWARP: Bool
        /// Its `/dev/infiniband/uverbsN`.
        package var file: DeviceFile
        package var verbs: Verbs
    }

    package var ports: [Port]
    /// By name.
    package var adapters: [String: Adapter]
    /// `/dev/infiniband/rdma_cm`.
    package var connectionManager: DeviceFile
    /// Bytes that this process may lock in memory; nil for any number.
    package var lockableBytes: Int?
    /// `always`, `madvise` or `never`; nil where the kernel has no transparent huge pages.
    package var transparentHugePages: String?
    /// Huge pages of 2 MiB that are set aside and free.
    package var freeHugePages: Int
    /// The processors of each NUMA node, and those that this process may run on.
    package var numaNodes: [Int: Set<Int>]
    package var processors: Set<Int>

    /// - Parameter root: what stands before `/sys`, `/dev` and `/proc`.
    package static func gather(
        below root: String = "", addresses: [String: [String]] = RDMAPort.interfaceAddresses(),
        verbs: () -> [String: Verbs] = Verbs.all
    ) -> HostFacts {
        let ports = RDMAPort.all(below: "\(root)/sys/class/infiniband", addresses: addresses)
        let devices = Set(ports.map(\.device))
        // Loads the providers, and some of them complain.
        let answers = devices.isEmpty ? [:] : verbs()
        let adapters = devices.map { name in
            let isIWARP = RDMAPort.line("\(root)/sys/class/infiniband/\(name)/node_type")?.hasPrefix("4") ?? false
            return (name, Adapter(isIWARP: isIWARP, file: verbsFile(root, name), verbs: answers[name] ?? .unknown))
        }
        let transparent = RDMAPort.line("\(root)/sys/kernel/mm/transparent_hugepage/enabled")
        return HostFacts(
            ports: ports.map { port(root, $0) },
            adapters: Dictionary(uniqueKeysWithValues: adapters),
            connectionManager: file(root, "rdma_cm", isKnown: access("\(root)/sys/class/misc/rdma_cm", F_OK) == 0),
            lockableBytes: mayLockAnything(root) ? nil : lockLimit(root),
            transparentHugePages: transparent?.split(separator: "[").last?.split(separator: "]").first.map(String.init),
            freeHugePages: RDMAPort.line("\(root)/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
                .flatMap(Int.init) ?? 0,
            numaNodes: numaNodes(root), processors: list(status(root, "Cpus_allowed_list:")))
    }

    // MARK: Files

    private static func port(_ root: String, _ port: RDMAPort) -> Port {
        let folder = "\(root)/sys/class/infiniband/\(port.device)/ports/\(port.number)"
        let kinds = RDMAPort.entries("\(folder)/gid_attrs/types").lazy
            .compactMap { RDMAPort.line("\(folder)/gid_attrs/types/\($0)") }
        return Port(
            port: port,
            // As "5: LinkUp" and "100 Gb/sec (4X EDR)".
            physicalState: RDMAPort.line("\(folder)/phys_state").map { String($0.drop { $0 != " " }.dropFirst()) },
            rate: RDMAPort.line("\(folder)/rate").map { "\($0.prefix { $0 != " " }) Gb/s" },
            addressKinds: Set(kinds),
            interfaceMTU: port.interface.flatMap { RDMAPort.line("\(root)/sys/class/net/\($0)/mtu") }.flatMap(Int.init)
        )
    }

    private static func verbsFile(_ root: String, _ device: String) -> DeviceFile {
        let folder = "\(root)/sys/class/infiniband_verbs"
        let name = RDMAPort.entries(folder).first { RDMAPort.line("\(folder)/\($0)/ibdev") == device }
        guard let name else { return .noModule }
        return file(root, name, isKnown: true)
    }

    private static func file(_ root: String, _ name: String, isKnown: Bool) -> DeviceFile {
        let file = open("\(root)/dev/infiniband/\(name)", O_RDWR | O_CLOEXEC)
        if file >= 0 {
            close(file)
            return .opens
        }
        guard errno == ENOENT else { return .refused(errno) }
        return isKnown ? .hidden : .noModule
    }

    /// A field of /proc/self/status.
    private static func status(_ root: String, _ field: String) -> String? {
        value("\(root)/proc/self/status", field)
    }

    private static func value(_ path: String, _ field: String) -> String? {
        guard let file = fopen(path, "re") else { return nil }
        defer { fclose(file) }
        return withUnsafeTemporaryAllocation(of: CChar.self, capacity: 4096) { buffer in
            while let base = buffer.baseAddress, fgets(base, Int32(buffer.count), file) != nil {
                let line = String(cString: base)
                guard line.hasPrefix(field) else { continue }
                let rest = line.dropFirst(field.count).drop { $0 == " " || $0 == "\t" }
                return String(rest.prefix { $0 != "\n" })
            }
            return nil
        }
    }

    private static func lockLimit(_ root: String) -> Int? {
        // The limit in force and the highest that may be set, in columns.
        value("\(root)/proc/self/limits", "Max locked memory").flatMap { Int($0.prefix { $0 != " " }) }
    }

    /// Limits are not for who has CAP_IPC_LOCK, by the host's word: that of a user namespace does not count.
    private static func mayLockAnything(_ root: String) -> Bool {
        let capabilities = status(root, "CapEff:").flatMap { UInt64($0, radix: 16) } ?? 0
        let isHost = RDMAPort.line("\(root)/proc/self/uid_map")?.split(separator: " ") == ["0", "0", "4294967295"]
        return isHost && capabilities & (1 << 14) != 0
    }

    private static func numaNodes(_ root: String) -> [Int: Set<Int>] {
        let folder = "\(root)/sys/devices/system/node"
        let nodes = RDMAPort.entries(folder).compactMap { name -> (Int, Set<Int>)? in
            guard name.hasPrefix("node"), let number = Int(name.dropFirst(4)) else { return nil }
            return (number, list(RDMAPort.line("\(folder)/\(name)/cpulist")))
        }
        return Dictionary(uniqueKeysWithValues: nodes)
    }

    /// Numbers as in `0-3,8`.
    private static func list(_ text: String?) -> Set<Int> {
        var numbers: Set<Int> = []
        for part in text?.split(separator: ",") ?? [] {
            let ends = part.split(separator: "-").compactMap { Int($0) }
            guard let first = ends.first, let last = ends.last, first >= 0, first <= last, last < 1 << 20 else {
                continue
            }
            numbers.formUnion(first...last)
        }
        return numbers
    }
}

extension HostFacts.Verbs {
    /// Opens every adapter and asks it.
    package static func all() -> [String: HostFacts.Verbs] {
        var count: Int32 = 0
        guard let devices = ibv_get_device_list(&count) else { return [:] }
        defer { ibv_free_device_list(devices) }
        var found: [String: HostFacts.Verbs] = [:]
        for index in 0..<Int(count) {
            guard let device = devices[index], let name = ibv_get_device_name(device) else { continue }
            found[String(cString: name)] = ask(device)
        }
        return found
    }

    private static func ask(_ device: UnsafeMutablePointer<ibv_device>) -> HostFacts.Verbs {
        guard let context = ibv_open_device(device) else { return .closed(errno) }
        defer { ibv_close_device(context) }
        var attributes = ibv_device_attr()
        guard ibv_query_device(context, &attributes) == 0 else { return .closed(errno) }
        var packets: [Int: Int] = [:]
        for number in 1...max(1, attributes.phys_port_cnt) {
            var port = ibv_port_attr()
            guard crdma_query_port(context, number, &port) == 0 else { continue }
            // The enumeration counts the doublings of 256 bytes, from 1.
            packets[Int(number)] = 128 << Int(port.active_mtu.rawValue)
        }
        return .answers(hasWindows: RDMADomain.hasWindows(attributes), packetBytes: packets)
    }
}
