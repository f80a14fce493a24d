import Glibc

/// What lanes over RDMA need of a host, compared with what it has. Every answer is a finding in plain words.
package struct RDMAPreflight: Sendable {
    package struct Finding: Sendable, Equatable {
        package enum State: String, Sendable, CaseIterable {
            case ok, warning, missing
        }

        /// One word.
        package let subject: String
        package let state: State
        package let what: String
        /// How to change it, in one line.
        package let mend: String?

        init(_ subject: String, _ state: State, _ what: String, mend: String? = nil) {
            self.subject = subject
            self.state = state
            self.what = what
            self.mend = mend
        }
    }

    /// What a node would be started with.
    package struct Settings: Sendable {
        package var rdma = RDMAChoice.auto
        package var windows = RDMAWindows.auto
        package var slabBytes = 1 << 30
        /// Where a decode node takes lanes, where that is on loopback; and whether somebody said so.
        package var loopbackLane: (address: String, isChosen: Bool)?

        package init() {}
    }

    /// Lanes beside the slab, in bytes that are locked for them.
    private static let laneBytes = 64 * (RDMAWire.receives + RDMAWire.sends) * RDMAWire.messageBytes

    let facts: HostFacts
    let settings: Settings

    package init(_ facts: HostFacts, _ settings: Settings) {
        self.facts = facts
        self.settings = settings
    }

    /// Those ports that lanes would use.
    var usable: [RDMAPort] { (try? choice.get()) ?? [] }

    /// As lanes choose them.
    private var choice: Result<[RDMAPort], TransportError> {
        Result { () throws(TransportError) in try RDMAPort.usable(settings.rdma, of: facts.ports.map(\.port)) }
    }

    package var findings: [Finding] {
        let devices = deviceFindings
        guard settings.rdma != .off, facts.ports.contains(where: { settings.rdma.includes($0.port) }) else {
            return devices + [hugePages]
        }
        return devices + kernelFindings + mtuFindings + [memlock, hugePages] + windowFindings + numaFindings
            + [laneAddress].compactMap { $0 }
    }

    // MARK: Devices

    private var deviceFindings: [Finding] {
        let chosen = facts.ports.filter { settings.rdma.includes($0.port) }
        // Of several, one that is not connected is no harm.
        let state = usable.isEmpty ? Finding.State.missing : .warning
        return chosen.isEmpty ? [noDevice] : chosen.map { finding($0, orElse: state) }
    }

    private var noDevice: Finding {
        let mend =
            switch settings.rdma {
            case .off: "--rdma auto"
            case .device where !facts.ports.isEmpty: "--rdma auto, or the name of one of those"
            case .auto, .device:
                "load the adapter's driver (mlx5_ib, bnxt_re, irdma); without an adapter, to try it: "
                    + "rdma link add rxe0 type rxe netdev INTERFACE"
            }
        let reason = if case .failure(let error) = choice { error.message } else { "no RDMA device" }
        return Finding("device", .missing, reason, mend: mend)
    }

    private func finding(_ facts: HostFacts.Port, orElse state: Finding.State) -> Finding {
        let port = facts.port
        let name = "\(port.device) port \(port.number)"
        guard port.state == "ACTIVE" else { return unconnected(facts, name, state) }
        guard let interface = port.interface else {
            return Finding(
                "device", state, "\(name) is ACTIVE, but belongs to no network interface that this process sees",
                mend: "--network host for a container, or move the interface into its network namespace")
        }
        guard let address = port.addresses.first else {
            return Finding(
                "device", state, "\(name) is ACTIVE, but its network interface \(interface) has no address",
                mend: "ip address add ADDRESS/PREFIX dev \(interface)")
        }
        let kind = kind(facts)
        let what = [name, kind, facts.rate, "ACTIVE", "on \(interface) with \(address)"].compactMap { $0 }
            .joined(separator: ", ")
        switch kind {
        case nil:
            return Finding(
                "device", .missing, "\(what), but without a RoCE address (GID)",
                mend: "take \(interface) down and up again, which makes the addresses anew")
        case "RoCE v1":
            return Finding(
                "device", .warning, "\(what): goes through switches, but not through routers",
                mend: "a firmware or driver with RoCE v2, such as mlx4_core with roce_mode=2")
        default:
            return Finding("device", .ok, what)
        }
    }

    private func unconnected(_ facts: HostFacts.Port, _ name: String, _ state: Finding.State) -> Finding {
        let port = facts.port
        let physical = facts.physicalState.map { " (\($0))" } ?? ""
        let what = "\(name) is \(port.state)\(physical)"
        guard port.linkLayer != "InfiniBand" else {
            return Finding(
                "device", state, what,
                mend: port.state == "INIT"
                    ? "start a subnet manager on this fabric, such as opensm" : "look at its cable and its switch")
        }
        let interface = port.interface ?? "its network interface"
        return Finding(
            "device", state, what, mend: "ip link set \(interface) up; if it is, look at its cable and its switch")
    }

    /// How lanes would go over it; nil when it has no address for them.
    private func kind(_ port: HostFacts.Port) -> String? {
        if facts.adapters[port.port.device]?.isIWARP == true { return "iWARP" }
        if port.port.linkLayer == "InfiniBand" { return "InfiniBand" }
        if port.addressKinds.contains("RoCE v2") { return "RoCE v2" }
        return port.addressKinds.isEmpty ? nil : "RoCE v1"
    }

    // MARK: Kernel and libraries

    private static let container = "--device /dev/infiniband for a container"

    private var kernelFindings: [Finding] {
        var findings: [Finding] = []
        findings += file(facts.connectionManager, "/dev/infiniband/rdma_cm", module: "rdma_ucm")
        for (name, adapter) in chosenAdapters {
            findings += file(adapter.file, "/dev/infiniband/uverbs* of \(name)", module: "ib_uverbs")
            guard adapter.file == .opens else { continue }
            switch adapter.verbs {
            case .unknown:
                findings.append(
                    Finding(
                        "provider", .missing, "libibverbs does not know \(name)",
                        mend: "install ibverbs-providers, or what else came with the adapter"))
            case .closed(let code):
                findings.append(Finding("provider", .missing, "\(name) cannot be opened: \(errorText(code))"))
            case .answers:
                break
            }
        }
        return findings.isEmpty ? [Finding("kernel", .ok, "rdma_ucm and ib_uverbs, open to this process")] : findings
    }

    private func file(_ file: HostFacts.DeviceFile, _ name: String, module: String) -> [Finding] {
        switch file {
        case .opens: return []
        case .noModule:
            return [
                Finding(
                    "kernel", .missing, "\(name) is not there, and the kernel module \(module) is not loaded",
                    mend: "modprobe \(module), and its name into /etc/modules-load.d for the next start")
            ]
        case .hidden:
            return [
                Finding(
                    "kernel", .missing, "\(name) is not there, though the kernel module \(module) is loaded",
                    mend: RDMAPreflight.container)
            ]
        case .refused(let code):
            return [
                Finding(
                    "kernel", .missing, "\(name) is not open to this process: \(errorText(code))",
                    mend: "the right to write to it, by group or udev rule; \(RDMAPreflight.container)")
            ]
        }
    }

    /// Adapters with a port that lanes would use, or that was asked for.
    private var chosenAdapters: [(name: String, HostFacts.Adapter)] {
        let ports = usable.isEmpty ? facts.ports.map(\.port).filter(settings.rdma.includes) : usable
        return Set(ports.map(\.device)).sorted().compactMap { name in facts.adapters[name].map { (name, $0) } }
    }

    // MARK: Settings

    private var mtuFindings: [Finding] {
        usable.compactMap { port in
            guard let adapter = facts.adapters[port.device], case .answers(_, let packets) = adapter.verbs,
                let bytes = packets[port.number]
            else { return nil }
            let what = "\(port.device) sends \(bytes) bytes per packet"
            guard port.linkLayer != "InfiniBand", let interface = port.interface,
                let mtu = facts.ports.first(where: { $0.port == port })?.interfaceMTU
            else { return Finding("mtu", .ok, what) }
            let both = "\(what), \(interface) takes \(mtu)"
            // The largest there is.
            if bytes >= 4096 { return Finding("mtu", .ok, both) }
            // 4096 bytes and what stands around them.
            return mtu >= 4200
                ? Finding("mtu", .warning, both, mend: "take \(interface) down and up again")
                : Finding(
                    "mtu", .warning, "\(both): more packets than need be",
                    mend: "ip link set \(interface) mtu 9000, on the other nodes and the switch as well")
        }
    }

    private var memlock: Finding {
        let (adapters, slab) = (max(1, chosenAdapters.count), settings.slabBytes)
        let times = adapters > 1 ? ", locked once for each of \(adapters) adapters" : ""
        let slabText = "the slab is \(mebibytes(slab))\(times)"
        guard let limit = facts.lockableBytes else {
            return Finding("memlock", .ok, "this process may lock any amount of memory; \(slabText)")
        }
        let (needed, overflows) = slab.multipliedReportingOverflow(by: adapters)
        let lock = "this process may lock \(limit < 1 << 20 ? "\(limit >> 10) KiB" : mebibytes(limit))"
        guard !overflows, limit >= needed, limit - needed >= RDMAPreflight.laneBytes else {
            let lanes =
                !overflows && limit >= needed ? ", and lanes need up to \(mebibytes(RDMAPreflight.laneBytes))" : ""
            return Finding(
                "memlock", .missing, "\(lock), \(slabText)\(lanes)",
                mend:
                    "LimitMEMLOCK=infinity in the systemd unit, --ulimit memlock=-1 for a container, ulimit -l unlimited"
            )
        }
        return Finding("memlock", .ok, "\(lock); \(slabText)")
    }

    private var hugePages: Finding {
        let needed = (settings.slabBytes - 1) >> 21 + 1
        if facts.freeHugePages >= needed {
            return Finding(
                "pages", .ok, "\(facts.freeHugePages) huge pages of 2 MiB are set aside; the slab takes \(needed)")
        }
        let few = facts.freeHugePages > 0 ? "; \(facts.freeHugePages) set aside, but the slab would take \(needed)" : ""
        switch facts.transparentHugePages {
        case nil:
            return Finding(
                "pages", .warning, "the kernel has no transparent huge pages for the slab\(few)",
                mend: "sysctl vm.nr_hugepages=\(needed)")
        case "never":
            return Finding(
                "pages", .warning, "transparent huge pages are never given, so the slab is of small ones\(few)",
                mend: "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")
        case let mode?: return Finding("pages", .ok, "transparent huge pages for the slab (\(mode))\(few)")
        }
    }

    private var windowFindings: [Finding] {
        if settings.windows == .off { return [Finding("windows", .ok, "not used: --rdma-windows is off")] }
        return chosenAdapters.compactMap { name, adapter in
            guard case .answers(let hasWindows, _) = adapter.verbs else { return nil }
            if hasWindows { return Finding("windows", .ok, "\(name) narrows each grant to its pages") }
            return settings.windows == .on
                ? Finding(
                    "windows", .missing, "\(name) has no type 2 memory windows, and --rdma-windows is on",
                    mend: "--rdma-windows auto: a grant that is given up then costs a new lane")
                : Finding(
                    "windows", .warning,
                    "\(name) has no type 2 memory windows: a grant that is given up costs a new lane")
        }
    }

    private var numaFindings: [Finding] {
        guard facts.numaNodes.count > 1 else { return [] }
        return usable.compactMap { port in
            guard let node = port.numaNode, let processors = facts.numaNodes[node] else { return nil }
            let what = "\(port.device) is on NUMA node \(node)"
            if processors.isSuperset(of: facts.processors) {
                return Finding("numa", .ok, "\(what), as this process is")
            }
            return Finding(
                "numa", .warning,
                processors.isDisjoint(with: facts.processors)
                    ? "\(what), where this process may not run" : "\(what), this process runs on others too",
                mend: "numactl --cpunodebind=\(node) --membind=\(node), one node process for each NUMA node")
        }
    }

    private var laneAddress: Finding? {
        guard let lane = settings.loopbackLane, settings.rdma == .auto else { return nil }
        let better =
            "--lane \(usable.first?.addresses.first.map { Endpoint(host: $0, port: 0).description } ?? "ADDRESS:0")"
        return lane.isChosen
            ? Finding(
                "lane", .missing, "--lane \(lane.address) is loopback, where no lanes over RDMA are taken", mend: better
            )
            : Finding(
                "lane", .warning, "without --lane a decode node takes lanes on loopback, and none over RDMA",
                mend: better)
    }

    private func mebibytes(_ bytes: Int) -> String { "\(bytes >> 20) MiB" }
}
