import CHostProcess
import Glibc

/// What every executable that serves does first.
package enum HostProcess {
    /// Descriptors that are asked for at most: each costs the kernel memory.
    private static let descriptorsWanted: UInt64 = 1 << 20

    /// Short crash reports, no signal for closed peers, and as many descriptors as the system allows.
    ///
    /// Swift's own crash handler keeps a crashed process and its ports for many seconds, and prints contents of memory. It
    /// is used where somebody asks for it with `SWIFT_BACKTRACE`.
    package static func prepare(_ name: String) -> DescriptorBudget {
        signal(SIGPIPE, SIG_IGN)
        if getenv("SWIFT_BACKTRACE") == nil { host_report_crashes(name) }
        return DescriptorBudget(limit: Int(clamping: host_raise_descriptor_limit(descriptorsWanted)))
    }
}

extension HostProcess {
    /// Whether the end of the terminal is to be ignored: whoever starts a process with `nohup` means that.
    package static var isHangupIgnored: Bool { host_ignores(SIGHUP) != 0 }
}

/// How the descriptors of a process are shared between its ports, so that none can take what another needs: a process
/// without any left can neither answer its operators nor, in places, go on. Pure.
package struct DescriptorBudget: Sendable, Equatable {
    /// The soft limit of the process.
    package let limit: Int

    /// Event loops, logs, models, probes, and what libraries open for a moment.
    private static let own = 128
    /// The least a process can serve with.
    package static let least = 256

    package init(limit: Int) { self.limit = limit }

    /// Why this process should not start; nil when it has enough.
    package var problem: String? {
        guard limit < Self.least else { return nil }
        return
            "at most \(limit) open files are allowed, \(Self.least) are needed: raise the limit (ulimit -n, LimitNOFILE=)"
    }

    private var shared: Int { max(0, limit - Self.own) }

    /// Connections of clients at once, when `wanted` were asked for: a quarter of the descriptors stays for nodes' streams,
    /// lanes and operators.
    package func clients(wanted: Int) -> Int { min(wanted, shared - shared / 4) }
}
