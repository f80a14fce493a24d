import CRDMA
import Glibc
import Handoff

/// The memory windows of one lane: each lets the peer write a run of neighbouring slots, from its binding to its
/// invalidation. Used by the lane's thread alone.
final class GrantWindows {
    private let connection: RDMAConnection
    /// Windows that are not bound; allocating one is a system call.
    private var idle: [UnsafeMutablePointer<ibv_mw>] = []
    private var bound: [UnsafeMutablePointer<ibv_mw>] = []
    private var bindings = 0
    private var invalidations = 0

    init(_ connection: RDMAConnection) { self.connection = connection }

    /// Gives all windows back, bound ones too. A queue pair is not destroyed while a window is bound to it.
    func release() {
        for window in idle + bound { ibv_dealloc_mw(window) }
        idle = []
        bound = []
    }

    /// Requests outstanding.
    var outstanding: Int { bindings + invalidations }
    var areAllBound: Bool { bindings == 0 }
    var areAllEnded: Bool { outstanding == 0 && bound.isEmpty }

    /// Binds a window to slots that lie side by side. There must be room for a request.
    func bind(first: UInt32, count: UInt32) throws(LaneViolation) -> GrantWindow {
        let domain = connection.domain
        guard let window = idle.popLast() ?? ibv_alloc_mw(domain.domain, IBV_MW_TYPE_2) else {
            throw LaneViolation(kind: .system, detail: "no memory window left on \(domain.name): \(errorText(errno))")
        }
        bound.append(window)
        // The low byte of the key is ours and must change, so that an old key names nothing.
        let key = ibv_inc_rkey(window.pointee.rkey)
        let start = SlotRef(index: first, generation: Generation(0))
        try connection.bind(
            window, key: key, at: domain.slab.address(of: start, offset: 0),
            bytes: Int(count) * domain.slab.shape.pageBytes)
        window.pointee.rkey = key
        bindings += 1
        return GrantWindow(first: first, count: count, key: key)
    }

    /// Begins to end one window; false when all are ended or being ended. There must be room for a request.
    func endOne() throws(LaneViolation) -> Bool {
        guard let window = bound.popLast() else { return false }
        try connection.invalidate(key: window.pointee.rkey)
        idle.append(window)
        invalidations += 1
        return true
    }

    func hasBound() { bindings -= 1 }
    func hasEnded() { invalidations -= 1 }
}
