package import ArgumentParser
import ControlPlane
import Glibc
package import Messages
import OrderedJSON
import Transport

/// The flags of `check`, with the meaning that they have where a node is started, and what it says.
package struct CheckOptions: ParsableArguments {
    package static let abstract = "Tells whether this host can do lanes over RDMA, and what to mend; tries it."
    package static let discussion = """
        Exit status: 0 when lanes would be RDMA, 1 when they would not; standard output says why.
        """

    @Option(help: "Lanes over RDMA: auto, off, or the one adapter to use, DEVICE or DEVICE:PORT.")
    package var rdma = "auto"

    @Option(help: "Memory windows of the adapter: auto, on or off.")
    package var rdmaWindows = RDMAWindows.auto.rawValue

    @Option(help: ArgumentHelp("Memory for KV pages, in GiB (default: 1).", valueName: "gib"))
    package var slabGb: Double?

    @Flag(help: "Write JSON, for machines.")
    package var json = false

    package init() {}

    package func validate() throws {
        do throws(NodeError) {
            _ = try settings(of: .prefill, lane: nil)
        } catch {
            throw ValidationError(error.description)
        }
    }

    private func settings(of role: NodeRole, lane: HostPort?) throws(NodeError) -> RDMAPreflight.Settings {
        var settings = RDMAPreflight.Settings()
        settings.rdma = try RDMAChoice(option: rdma)
        settings.windows = try RDMAWindows(option: rdmaWindows)
        settings.slabBytes = try NodeOptions.slabBytes(slabGb)
        if role == .decode {
            let address = lane ?? NodeConfiguration(name: "", modelPath: "").lane
            if address.isLoopback { settings.loopbackLane = (address.description, isChosen: lane != nil) }
        }
        return settings
    }

    /// Checks this host for a node of a role; takes some seconds.
    /// - Parameter lane: where a decode node would take lanes, if somebody said so.
    /// - Returns: what to print, and the status to exit with.
    package func run(_ role: NodeRole, lane: HostPort? = nil) throws(NodeError) -> (output: String, status: Int32) {
        // A peer that closes its connection is an error code, not a signal.
        signal(SIGPIPE, SIG_IGN)
        let report = PreflightReport.make(try settings(of: role, lane: lane))
        return (json ? report.json.text() : report.text, report.transport == .rdma ? 0 : 1)
    }
}

extension PreflightReport {
    /// For a machine: what lanes would go over (null for nothing), the findings, and what was measured.
    var json: JSON {
        [
            "lanes": transport.map { .string($0.rawValue) } ?? .null,
            "verdict": .string(verdict),
            "findings": .array(
                findings.map { finding in
                    [
                        "subject": .string(finding.subject), "state": .string(finding.state.rawValue),
                        "what": .string(finding.what), "mend": finding.mend.map { .string($0) } ?? .null,
                    ]
                }),
            "writes": .array(trials.compactMap(\.json)),
        ]
    }
}

extension PreflightReport.Trial {
    /// What was measured, if it went well.
    fileprivate var json: JSON? {
        guard case .success(let found) = result else { return nil }
        return [
            "transport": .string(found.transport.rawValue),
            "device": port.map { .string($0.device) } ?? .null,
            "port": port.map { .int(Int64($0.number)) } ?? .null,
            "bytes": .int(Int64(found.bytes)), "seconds": .double(found.time / .seconds(1)),
            "gb_per_second": .double(found.gigabytesPerSecond), "page_bytes": .int(Int64(found.pageBytes)),
            "page_seconds": .double(found.pageTime / .seconds(1)),
        ]
    }
}
