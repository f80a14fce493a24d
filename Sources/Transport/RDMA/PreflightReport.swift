/// What a preflight found, of the host and by trying.
package struct PreflightReport: Sendable {
    /// A handoff of this process to itself, and how it went.
    package struct Trial: Sendable {
        /// Nil for TCP.
        package let port: RDMAPort?
        package let result: Result<LaneProbe.Measurement, TransportError>

        package init(over port: RDMAPort?, _ result: Result<LaneProbe.Measurement, TransportError>) {
            self.port = port
            self.result = result
        }

        var works: Bool { if case .success = result { true } else { false } }
    }

    package let settings: RDMAPreflight.Settings
    package let findings: [RDMAPreflight.Finding]
    package let trials: [Trial]

    /// - Parameter findings: those of the host; what the trials add stands behind them.
    package init(_ settings: RDMAPreflight.Settings, _ findings: [RDMAPreflight.Finding], _ trials: [Trial]) {
        self.settings = settings
        self.trials = trials
        let isExplained = findings.contains { $0.state == .missing }
        let isOneFine = trials.contains { $0.port != nil && $0.works }
        self.findings = findings + trials.map { $0.finding(isExplained: isExplained, isAnotherFine: isOneFine) }
    }

    /// Looks at this host and tries its lanes: over each adapter that would be used, and over TCP where that cannot be.
    /// Takes some seconds.
    package static func make(_ settings: RDMAPreflight.Settings) -> PreflightReport {
        let facts = HostFacts.gather()
        let preflight = RDMAPreflight(facts, settings)
        var trials: [Trial] = []
        for port in preflight.usable {
            var probe = LaneProbe(over: .device(port.device, port: port.number))
            probe.windows = settings.windows
            probe.pages = min(probe.pages, LaneProbe.pages(lockable: facts.lockableBytes))
            trials.append(Trial(over: port, attempt(probe)))
        }
        if !trials.contains(where: \.works) { trials.append(Trial(over: nil, attempt(LaneProbe(over: .off)))) }
        return PreflightReport(settings, preflight.findings, trials)
    }

    private static func attempt(_ probe: LaneProbe) -> Result<LaneProbe.Measurement, TransportError> {
        Result { () throws(TransportError) in try probe.run() }
    }

    // MARK: The answer

    /// What lanes would go over; nil when not even TCP works.
    package var transport: LaneTransport? {
        let isMissing = findings.contains { $0.state == .missing }
        if !isMissing, trials.contains(where: { $0.port != nil && $0.works }) { return .rdma }
        return trials.contains(where: \.works) ? .tcp : nil
    }

    package var verdict: String {
        switch transport {
        case .rdma:
            "Lanes between this node and others will be RDMA\(laneMend.map { ", if it is started with \($0)" } ?? "")."
        case .tcp where settings.rdma == .off: "Lanes between this node and others will be TCP, for --rdma is off."
        case .tcp: "Lanes between this node and others will be TCP, until what is missing above is mended."
        case nil: "There will be no lanes between this node and others."
        }
    }

    private var laneMend: String? { findings.first { $0.subject == "lane" }?.mend }

    /// For a person, in columns.
    package var text: String {
        let indent = 2
        let states = RDMAPreflight.Finding.State.allCases.map(\.rawValue.count).max() ?? 0
        let subjects = findings.map(\.subject.count).max() ?? 0
        var lines = ["RDMA on this host"]
        for (index, finding) in findings.enumerated() {
            let columns = [
                finding.state.rawValue.padded(to: states), finding.subject.padded(to: subjects), finding.what,
            ]
            lines.append(String(repeating: " ", count: indent) + columns.joined(separator: "  "))
            // What mends several stands once, behind them.
            guard let mend = finding.mend, findings.dropFirst(index + 1).first?.mend != mend else { continue }
            lines.append(String(repeating: " ", count: indent + states + 2 + subjects + 2) + "mend: \(mend)")
        }
        return (lines + [verdict]).joined(separator: "\n")
    }
}

extension PreflightReport.Trial {
    /// - Parameters:
    ///   - isExplained: whether something else is missing that would explain a failure.
    ///   - isAnotherFine: whether RDMA works over another adapter.
    fileprivate func finding(isExplained: Bool, isAnotherFine: Bool) -> RDMAPreflight.Finding {
        let path = port.map { "over RDMA on \($0.device) port \($0.number)" } ?? "over TCP"
        switch result {
        case .success(let found):
            let size = "\(found.bytes >> 20) MiB"
            let rate = "\(found.gigabytesPerSecond.short) GB/s"
            let microseconds = found.pageTime / .microseconds(1)
            let pageTime = microseconds < 1000 ? "\(microseconds.short) us" : "\((microseconds / 1000).short) ms"
            let page = "a page of \(found.pageBytes >> 10) KiB in \(pageTime)"
            return RDMAPreflight.Finding(
                "write", .ok,
                "\(size) to itself \(path) in \((found.time / .seconds(1)).short) s: \(rate), \(page), digests equal")
        case .failure(let error):
            let what = "to itself \(path): \(error.message)"
            let mend = isExplained ? nil : mend(error, isAnotherFine)
            return RDMAPreflight.Finding("write", isAnotherFine ? .warning : .missing, what, mend: mend)
        }
    }

    private func mend(_ error: TransportError, _ isAnotherFine: Bool) -> String? {
        guard let port, let address = port.addresses.first else { return nil }
        if isAnotherFine { return "--rdma DEVICE, to use the other one alone meanwhile" }
        guard error.kind == .timeout || error.kind == .refused else { return nil }
        let firewall = port.linkLayer == "InfiniBand" ? "" : "let UDP port 4791 through the firewall; "
        return "\(firewall)see whether `rping -s -a \(address)` and `rping -c -a \(address)` get through"
    }
}

extension Double {
    /// Two digits that count.
    fileprivate var short: String {
        guard isFinite, self < 1e9 else { return "?" }
        guard self < 10 else { return "\(Int(self < 100 ? rounded() : (self / 10).rounded() * 10))" }
        let scale = self < 0.1 ? 1000.0 : self < 1 ? 100 : 10
        return "\((self * scale).rounded() / scale)"
    }
}

extension String {
    fileprivate func padded(to width: Int) -> String {
        self + String(repeating: " ", count: max(0, width - count))
    }
}
