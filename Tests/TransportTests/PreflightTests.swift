import FoundationEssentials
import Glibc
import Handoff
import Testing

@testable import Transport

/// A host made of files: one adapter with all that lanes over RDMA need, unless a test takes something away.
private final class FakeHost {
    let root = FileManager.default.temporaryDirectory.appending(
        component: "host-\(UInt64.random(in: 0 ... .max))")
    private let port = "sys/class/infiniband/mlx5_0/ports/1"
    var addresses = ["ens1f0": ["10.0.0.4"]]
    var verbs = HostFacts.Verbs.answers(hasWindows: true, packetBytes: [1: 4096])

    init() throws {
        try write("sys/class/infiniband/mlx5_0/node_type", "1: CA")
        try write("sys/class/infiniband/mlx5_0/device/numa_node", "1")
        try write("\(port)/state", "4: ACTIVE")
        try write("\(port)/phys_state", "5: LinkUp")
        try write("\(port)/rate", "100 Gb/sec (4X EDR)")
        try write("\(port)/link_layer", "Ethernet")
        try write("\(port)/gid_attrs/ndevs/0", "ens1f0")
        try write("\(port)/gid_attrs/types/0", "IB/RoCE v1")
        try write("\(port)/gid_attrs/types/1", "RoCE v2")
        try write("sys/class/infiniband_verbs/uverbs0/ibdev", "mlx5_0")
        try write("sys/class/misc/rdma_cm/dev", "10:256")
        try write("sys/class/net/ens1f0/mtu", "9000")
        try write("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never")
        try write("sys/devices/system/node/node0/cpulist", "0-15")
        try write("sys/devices/system/node/node1/cpulist", "16-30,31")
        try write("proc/self/uid_map", "         0          0 4294967295")
        try write("dev/infiniband/rdma_cm", "")
        try write("dev/infiniband/uverbs0", "")
        try self.process(lockable: "unlimited")
    }

    deinit { try? FileManager.default.removeItem(at: root) }

    func write(_ path: String, _ text: String) throws {
        let file = root.appending(path: path)
        try FileManager.default.createDirectory(
            at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
        try Data((text + "\n").utf8).write(to: file)
    }

    func remove(_ path: String) throws { try FileManager.default.removeItem(at: root.appending(path: path)) }

    func set(_ name: String, _ text: String) throws { try write("\(port)/\(name)", text) }

    func process(lockable: String, capabilities: String = "0000000000000000", processors: String = "16-31") throws {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax locked memory         \(lockable)   unlimited   bytes"
        try write("proc/self/limits", limits)
        try write("proc/self/status", "Name:\tx\nCapEff:\t\(capabilities)\nCpus_allowed_list:\t\(processors)")
    }

    var facts: HostFacts {
        HostFacts.gather(below: root.path, addresses: addresses, verbs: { ["mlx5_0": verbs] })
    }

    func findings(_ adjust: (inout RDMAPreflight.Settings) -> Void = { _ in }) -> [RDMAPreflight.Finding] {
        var settings = RDMAPreflight.Settings()
        adjust(&settings)
        return RDMAPreflight(facts, settings).findings
    }

    /// What is not as it should be; fails unless that is one thing.
    func fault(_ adjust: (inout RDMAPreflight.Settings) -> Void = { _ in }) throws -> RDMAPreflight.Finding {
        let faults = findings(adjust).filter { $0.state != .ok }
        #expect(faults.count == 1, "\(faults)")
        return try #require(faults.first)
    }
}

extension Lanes {
    @Suite struct PreflightTests {
        @Test func nothingIsMissing() throws {
            let findings = try FakeHost().findings()
            #expect(findings.map(\.subject) == ["device", "kernel", "mtu", "memlock", "pages", "windows", "numa"])
            #expect(findings.allSatisfy { $0.state == .ok && $0.mend == nil }, "\(findings)")
            #expect(findings[0].what == "mlx5_0 port 1, RoCE v2, 100 Gb/s, ACTIVE, on ens1f0 with 10.0.0.4")
        }

        @Test func noDevice() throws {
            let host = try FakeHost()
            try host.remove("sys/class/infiniband")
            let fault = try host.fault()
            #expect(fault.subject == "device" && fault.state == .missing)
            #expect(fault.what == "no RDMA device on this host")
            #expect(fault.mend?.contains("driver") == true)
        }

        @Test func anotherDevice() throws {
            let fault = try FakeHost().fault { $0.rdma = .device("mlx5_7", port: nil) }
            #expect(fault.state == .missing && fault.what == "no RDMA device mlx5_7 here, but mlx5_0")
            let off = try FakeHost().fault { $0.rdma = .off }
            #expect(off.state == .missing && off.mend == "--rdma auto")
        }

        @Test func portDown() throws {
            let host = try FakeHost()
            try host.set("state", "1: DOWN")
            try host.set("phys_state", "3: Disabled")
            let fault = try host.fault()
            #expect(fault.subject == "device" && fault.state == .missing)
            #expect(fault.what == "mlx5_0 port 1 is DOWN (Disabled)")
            #expect(fault.mend?.hasPrefix("ip link set ens1f0 up") == true)
        }

        /// The other port is enough.
        @Test func oneOfTwoPortsDown() throws {
            let host = try FakeHost()
            try host.write("sys/class/infiniband/mlx5_0/ports/2/state", "1: DOWN")
            #expect(try host.fault().state == .warning)
            #expect(try host.fault { $0.rdma = .device("mlx5_0", port: 2) }.state == .missing)
            #expect(host.findings { $0.rdma = .device("mlx5_0", port: 1) }.allSatisfy { $0.state == .ok })
        }

        @Test func noAddress() throws {
            let host = try FakeHost()
            host.addresses = [:]
            let fault = try host.fault()
            #expect(fault.subject == "device" && fault.state == .missing)
            #expect(fault.mend == "ip address add ADDRESS/PREFIX dev ens1f0")
            try host.remove("sys/class/infiniband/mlx5_0/ports/1/gid_attrs/ndevs")
            #expect(try host.fault().mend?.contains("--network host") == true)
        }

        @Test func addressesOfRoCE() throws {
            let host = try FakeHost()
            try host.remove("sys/class/infiniband/mlx5_0/ports/1/gid_attrs/types/1")
            #expect(try host.fault().state == .warning)
            try host.remove("sys/class/infiniband/mlx5_0/ports/1/gid_attrs/types")
            #expect(try host.fault().state == .missing)
            // These are for Ethernet.
            try host.set("link_layer", "InfiniBand")
            #expect(host.findings()[0].what.contains("InfiniBand"))
            #expect(host.findings().allSatisfy { $0.state == .ok })
        }

        @Test func kernelModulesAndDeviceFiles() throws {
            let host = try FakeHost()
            try host.remove("dev/infiniband/rdma_cm")
            #expect(try host.fault().mend?.contains("--device /dev/infiniband") == true)
            try host.remove("sys/class/misc/rdma_cm")
            let fault = try host.fault()
            #expect(fault.subject == "kernel" && fault.state == .missing)
            #expect(fault.mend?.contains("modprobe rdma_ucm") == true)
            try host.write("dev/infiniband/rdma_cm", "")
            try host.remove("sys/class/infiniband_verbs")
            #expect(try host.fault().mend?.contains("modprobe ib_uverbs") == true)
        }

        @Test func deviceFilesThatAreClosedToUs() throws {
            var facts = try FakeHost().facts
            facts.adapters["mlx5_0"]?.file = .refused(EACCES)
            let faults = RDMAPreflight(facts, .init()).findings.filter { $0.state != .ok }
            #expect(faults.map(\.subject) == ["kernel"])
            #expect(faults.first?.what.contains("Permission denied") == true)
            facts.adapters["mlx5_0"]?.file = .opens
            facts.adapters["mlx5_0"]?.verbs = .unknown
            let provider = RDMAPreflight(facts, .init()).findings.filter { $0.state != .ok }
            #expect(provider.map(\.subject) == ["provider"])
            #expect(provider.first?.mend?.contains("ibverbs-providers") == true)
        }

        @Test func smallPackets() throws {
            let host = try FakeHost()
            host.verbs = .answers(hasWindows: true, packetBytes: [1: 1024])
            #expect(try host.fault().mend == "take ens1f0 down and up again")
            try host.write("sys/class/net/ens1f0/mtu", "1500")
            let fault = try host.fault()
            #expect(fault.subject == "mtu" && fault.state == .warning)
            #expect(fault.mend?.contains("mtu 9000") == true)
        }

        @Test func memlockTooLow() throws {
            let host = try FakeHost()
            try host.process(lockable: "8388608")
            let fault = try host.fault()
            #expect(fault.subject == "memlock" && fault.state == .missing)
            #expect(fault.what == "this process may lock 8 MiB, the slab is 1024 MiB")
            #expect(fault.mend?.contains("LimitMEMLOCK=infinity") == true)
            // As much as the slab leaves nothing for lanes.
            try host.process(lockable: "\(1 << 30)")
            #expect(try host.fault().what.contains("lanes need") == true)
            try host.process(lockable: "\(2 << 30)")
            #expect(host.findings().allSatisfy { $0.state == .ok })
            #expect(try host.fault { $0.slabBytes = 2 << 30 }.subject == "memlock")
        }

        /// CAP_IPC_LOCK lifts the limit; not that of a user namespace.
        @Test func memlockOfRoot() throws {
            let host = try FakeHost()
            try host.process(lockable: "8388608", capabilities: "000001ffffffffff")
            #expect(host.findings().allSatisfy { $0.state == .ok })
            try host.write("proc/self/uid_map", "         0       1000          1")
            #expect(try host.fault().subject == "memlock")
        }

        @Test func noWindows() throws {
            let host = try FakeHost()
            host.verbs = .answers(hasWindows: false, packetBytes: [1: 4096])
            let fault = try host.fault { $0.windows = .on }
            #expect(fault.subject == "windows" && fault.state == .missing)
            #expect(fault.mend?.hasPrefix("--rdma-windows auto") == true)
            #expect(try host.fault().state == .warning)
            #expect(host.findings { $0.windows = .off }.allSatisfy { $0.state == .ok })
        }

        @Test func pagesAndProcessors() throws {
            let host = try FakeHost()
            try host.write("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]")
            #expect(try host.fault().subject == "pages")
            try host.write("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never")
            for (processors, isNear) in [("0-15", false), ("0-31", false), ("16-19,31", true)] {
                try host.process(lockable: "unlimited", processors: processors)
                #expect(host.findings().allSatisfy { $0.state == .ok } == isNear, "\(processors)")
            }
        }

        @Test func lanesOnLoopback() throws {
            let host = try FakeHost()
            let chosen = try host.fault { $0.loopbackLane = ("127.0.0.1:0", isChosen: true) }
            #expect(chosen.state == .missing && chosen.mend == "--lane 10.0.0.4:0")
            #expect(try host.fault { $0.loopbackLane = ("127.0.0.1:0", isChosen: false) }.state == .warning)
        }

        // MARK: The report

        @Test func aReportInColumns() throws {
            let host = try FakeHost()
            let port = try #require(host.facts.ports.first?.port)
            let found = LaneProbe.Measurement(
                transport: .rdma, bytes: 256 << 20, time: .milliseconds(107), pageTime: .microseconds(183),
                pageBytes: 512 << 10)
            var trials = [PreflightReport.Trial(over: port, .success(found))]
            let fine = PreflightReport(.init(), host.findings(), trials)
            #expect(fine.transport == .rdma)
            #expect(fine.text.hasSuffix("\nLanes between this node and others will be RDMA."))
            try host.process(lockable: "8388608")
            let low = PreflightReport(.init(), host.findings().filter { $0.state != .ok }, trials)
            #expect(low.transport == .tcp)
            #expect(
                low.text == """
                    RDMA on this host
                      missing  memlock  this process may lock 8 MiB, the slab is 1024 MiB
                                        mend: LimitMEMLOCK=infinity in the systemd unit, --ulimit memlock=-1 for a \
                    container, ulimit -l unlimited
                      ok       write    256 MiB to itself over RDMA on mlx5_0 port 1 in 0.11 s: 2.5 GB/s, a page of \
                    512 KiB in 180 us, digests equal
                    Lanes between this node and others will be TCP, until what is missing above is mended.
                    """)
            let failure = TransportError(.timeout, "does not answer")
            trials = [.init(over: port, .failure(failure)), .init(over: nil, .failure(failure))]
            let broken = PreflightReport(.init(), [], trials)
            #expect(broken.transport == nil)
            #expect(broken.findings.first?.mend?.contains("UDP port 4791") == true)
            // The reason stands above already.
            #expect(PreflightReport(.init(), host.findings(), trials).findings.last?.mend == nil)
        }

        @Test func whatMendsSeveralStandsOnce() throws {
            var facts = try FakeHost().facts
            facts.connectionManager = .hidden
            facts.adapters["mlx5_0"]?.file = .hidden
            let text = PreflightReport(.init(), RDMAPreflight(facts, .init()).findings, []).text
            #expect(text.ranges(of: "missing").count == 2)
            #expect(text.ranges(of: "mend: --device /dev/infiniband").count == 1)
        }

        @Test func theLanesAddressIsInTheVerdict() throws {
            let host = try FakeHost()
            let found = LaneProbe.Measurement(
                transport: .rdma, bytes: 1, time: .seconds(1), pageTime: .seconds(1), pageBytes: 1)
            let findings = host.findings { $0.loopbackLane = ("127.0.0.1:0", isChosen: false) }
            let report = PreflightReport(
                .init(), findings, [.init(over: host.facts.ports.first?.port, .success(found))])
            #expect(report.verdict.hasSuffix("will be RDMA, if it is started with --lane 10.0.0.4:0."))
        }

        @Test func pagesThatAreSetAside() throws {
            let host = try FakeHost()
            try host.write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "512")
            let enough = try #require(host.findings().first { $0.subject == "pages" })
            #expect(enough.state == .ok && enough.what.contains("512 huge pages of 2 MiB"))
            let few = try #require(host.findings { $0.slabBytes += 1 }.first { $0.subject == "pages" })
            #expect(few.what.hasSuffix("512 set aside, but the slab would take 513"))
        }

        @Test func theNearestAdaptersComeFirst() throws {
            let host = try FakeHost()
            try host.write("sys/devices/system/node/node2/distance", "21 12 10")
            let first = try #require(host.facts.ports.first?.port)
            func port(_ name: String, _ node: Int?) -> RDMAPort {
                RDMAPort(
                    device: name, number: 1, state: first.state, linkLayer: first.linkLayer, interface: first.interface,
                    addresses: first.addresses, numaNode: node)
            }
            let ports = [port("far", 0), port("near", 1), port("here", 2)]
            let order = try RDMAPort.usable(.auto, near: 2, of: ports, below: host.root.path).map(\.device)
            #expect(order == ["here", "near", "far"])
            #expect(try RDMAPort.usable(.auto, near: nil, of: ports).map(\.device) == ["far", "near", "here"])
        }

        // MARK: Trying it

        @Test func theProbeOverTCP() throws {
            var probe = LaneProbe(over: .off)
            probe.pages = 24
            probe.bytesMax = 64 << 20
            let found = try probe.run()
            #expect(found.transport == .tcp)
            #expect(found.bytes >= found.pageBytes && found.bytes < probe.bytesMax + 24 * found.pageBytes)
            #expect(found.time > .zero && found.pageTime > .zero)
        }

        @Test(.enabled(if: !LaneCarrier.hasRDMA)) func theProbeSaysWhyNotOverRDMA() throws {
            let error = #expect(throws: TransportError.self) { try LaneProbe(over: .auto).run() }
            #expect(error?.message == "no RDMA device on this host")
        }

        @Test(.enabled(if: LaneCarrier.hasRDMA), arguments: [RDMAWindows.off, .on])
        func theProbeOverRDMA(windows: RDMAWindows) throws {
            let port = try #require(try RDMAPort.usable(.auto).first)
            var probe = LaneProbe(over: .device(port.device, port: port.number))
            probe.windows = windows
            probe.pages = 24
            probe.bytesMax = 32 << 20
            #expect(try probe.run().transport == .rdma)
        }

        @Test(.enabled(if: LaneCarrier.hasRDMA)) func aHostWithRDMA() {
            let report = PreflightReport.make(.init())
            #expect(report.transport == .rdma, "\(report.text)")
            #expect(report.trials.allSatisfy { $0.port != nil })
        }

        @Test func aHostAsItIs() {
            var settings = RDMAPreflight.Settings()
            settings.rdma = .off
            let report = PreflightReport.make(settings)
            #expect(report.transport == .tcp)
            #expect(report.findings.contains { $0.subject == "write" && $0.state == .ok })
        }
    }
}
