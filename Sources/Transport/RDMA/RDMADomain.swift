import CRDMA
import Glibc
import Handoff
import Synchronization
import Threads

/// One adapter as the lanes of this process use it: a protection domain, with the slab registered in it once.
///
/// `@unchecked Sendable`: nothing but an atomic changes after `init`, and libibverbs locks its own objects.
final class RDMADomain: @unchecked Sendable {
    let context: UnsafeMutablePointer<ibv_context>
    let domain: UnsafeMutablePointer<ibv_pd>
    let slabRegion: UnsafeMutablePointer<ibv_mr>
    let slab: SlabRegion
    /// Requests that a queue pair may hold, pieces that one of them may have.
    let depthMax: Int
    let piecesMax: Int
    /// Whether a grant can be narrowed to its pages, and ended for good without ending the lane.
    let hasWindows: Bool
    private let gone = Atomic(false)
    /// librdmacm's list of devices: it keeps the context open, which it would close with the last identifier on a device
    /// that was removed.
    private let devices: UnsafeMutablePointer<UnsafeMutablePointer<ibv_context>?>?

    /// The device was removed.
    var isGone: Bool { gone.load(ordering: .acquiring) }
    func markGone() { gone.store(true, ordering: .releasing) }

    /// Whether the device is still there. Drivers that cannot take a device from its users, Soft-RoCE among them, wait for
    /// them without a word; that its entry in /sys is gone is all there is to see.
    func isPresent() -> Bool {
        let path = withUnsafeBytes(of: &context.pointee.device.pointee.dev_path) { bytes in
            String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
        }
        if access(path, F_OK) != 0 { markGone() }
        return !isGone
    }

    /// Why lanes end that used it.
    var removal: LaneCloseReason { LaneCloseReason(.system, "RDMA device \(name) was removed") }

    var name: String { RDMADomain.name(context) }

    static func name(_ context: UnsafeMutablePointer<ibv_context>) -> String {
        ibv_get_device_name(context.pointee.device).map { String(cString: $0) } ?? "?"
    }

    /// - Parameter isWritten: whether peers write to this slab; they never read it.
    init(
        context: UnsafeMutablePointer<ibv_context>, slab: SlabRegion, windows: RDMAWindows, isWritten: Bool
    ) throws(TransportError) {
        self.context = context
        self.slab = slab
        let name = RDMADomain.name(context)
        var attributes = ibv_device_attr()
        guard ibv_query_device(context, &attributes) == 0 else {
            throw TransportError(.system, "can't query RDMA device \(name)", errno: errno)
        }
        depthMax = Int(attributes.max_qp_wr)
        piecesMax = max(1, min(Int(attributes.max_sge), 16))
        let canBind = RDMADomain.hasWindows(attributes)
        guard canBind || windows != .on else {
            throw TransportError(.system, "RDMA device \(name) has no type 2 memory windows, and --rdma-windows is on")
        }
        hasWindows = canBind && windows != .off
        guard let domain = ibv_alloc_pd(context) else {
            throw TransportError(.system, "can't allocate a protection domain on RDMA device \(name)", errno: errno)
        }
        self.domain = domain
        // With windows nobody gets a key to the whole of it.
        var access = UInt32(IBV_ACCESS_LOCAL_WRITE.rawValue)
        if hasWindows {
            access |= UInt32(IBV_ACCESS_MW_BIND.rawValue)
        } else if isWritten {
            access |= UInt32(IBV_ACCESS_REMOTE_WRITE.rawValue)
        }
        guard let region = crdma_register(domain, slab.base, slab.slotCount * slab.shape.pageBytes, Int32(access))
        else {
            let code = errno
            ibv_dealloc_pd(domain)
            throw RDMADomain.registrationError(code, name, slab.slotCount * slab.shape.pageBytes)
        }
        slabRegion = region
        devices = rdma_get_devices(nil)
    }

    deinit {
        ibv_dereg_mr(slabRegion)
        ibv_dealloc_pd(domain)
        if let devices { rdma_free_devices(devices) }
    }

    /// Whether an adapter has type 2 memory windows.
    static func hasWindows(_ attributes: ibv_device_attr) -> Bool {
        let type2 = UInt32(IBV_DEVICE_MEM_WINDOW_TYPE_2A.rawValue | IBV_DEVICE_MEM_WINDOW_TYPE_2B.rawValue)
        return attributes.device_cap_flags & type2 != 0
    }

    /// Registering pins the memory, which is what systems limit.
    private static func registrationError(_ code: Int32, _ name: String, _ bytes: Int) -> TransportError {
        let limit = crdma_lockable_bytes()
        func size(_ bytes: UInt64) -> String { bytes < 1 << 20 ? "\(bytes >> 10) KiB" : "\(bytes >> 20) MiB" }
        let text = "can't register \(size(UInt64(bytes))) of KV pages with RDMA device \(name)"
        guard code == ENOMEM || code == EPERM || code == EAGAIN, limit < UInt64(bytes) else {
            return TransportError(.system, text, errno: code)
        }
        return TransportError(
            .system,
            "\(text): this process may lock \(size(limit)); raise it with `ulimit -l unlimited`, "
                + "LimitMEMLOCK=infinity in a systemd unit, or --ulimit memlock=-1 of a container")
    }
}

/// What `--rdma-windows` says.
package enum RDMAWindows: String, Sendable, CaseIterable {
    case auto, on, off
}

/// The adapters in use, each with the slab registered in it as long as there are lanes or listeners that use it.
final class RDMADomains: Sendable {
    private struct Entry: Sendable {
        weak let domain: RDMADomain?
    }

    private struct State: Sendable {
        /// By the address of the context, which librdmacm opens once per device.
        var domains: [UInt: Entry] = [:]
    }

    private let slab: SlabRegion
    private let windows: RDMAWindows
    private let isWritten: Bool
    private let state = Monitor(State())

    init(slab: SlabRegion, windows: RDMAWindows, isWritten: Bool) {
        self.slab = slab
        self.windows = windows
        self.isWritten = isWritten
    }

    func domain(of context: UnsafeMutablePointer<ibv_context>) throws(TransportError) -> RDMADomain {
        let key = UInt(bitPattern: context)
        let (slab, windows, isWritten) = (slab, windows, isWritten)
        return try state.withLock { state -> Result<RDMADomain, TransportError> in
            if let known = state.domains[key]?.domain, !known.isGone { return .success(known) }
            return Result { () throws(TransportError) in
                let domain = try RDMADomain(
                    context: UnsafeMutablePointer(bitPattern: key) ?? context, slab: slab, windows: windows,
                    isWritten: isWritten)
                state.domains[key] = Entry(domain: domain)
                return domain
            }
        }.get()
    }

    /// The device is gone: its lanes let go of it as they end.
    func forget(_ context: UnsafeMutablePointer<ibv_context>) {
        state.withLock { $0.domains[UInt(bitPattern: context)] = nil }
    }
}
