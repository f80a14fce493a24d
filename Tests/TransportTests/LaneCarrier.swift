import Glibc
import Testing

@testable import Transport

/// What carries the lanes of a test: TCP everywhere, RDMA where this machine has a device for it (docs/testing.md).
struct LaneCarrier: CustomTestStringConvertible, Sendable {
    let transport: LaneTransport
    let windows: RDMAWindows

    static let tcp = LaneCarrier(transport: .tcp, windows: .off)
    /// Where somebody says that there is a device, tests are not to be left out for want of it.
    static let hasRDMA: Bool = {
        let ports = (try? RDMAPort.usable(.auto)) ?? []
        let wanted = getenv("BATON_RDMA_CABLE") != nil ? 2 : getenv("BATON_RDMA_HOST") != nil ? 1 : 0
        if ports.count < wanted { fatalError("\(ports.count) RDMA ports to use instead of \(wanted)") }
        return !ports.isEmpty
    }()
    static let rdma = hasRDMA ? [RDMAWindows.off, .on].map { LaneCarrier(transport: .rdma, windows: $0) } : []
    /// Whether the machine is there for the tests alone: its ports may be taken down, or its device removed.
    static let isDisposable = hasRDMA && getenv("BATON_RDMA_DISPOSABLE") != nil
    static let mayRemove = hasRDMA && getenv("BATON_RDMA_REMOVE") != nil
    /// Two adapters at the ends of a cable, in a guest of Tests/rdma with two of them.
    static let hasCable = isDisposable && getenv("BATON_RDMA_CABLE") != nil
    static let all = [tcp] + rdma

    var testDescription: String {
        switch transport {
        case .tcp: "TCP"
        case .rdma: windows == .on ? "RDMA with windows" : "RDMA without windows"
        }
    }
}
