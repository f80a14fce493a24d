import CRDMA
import Glibc

/// What a connection is made of beside its identifier. When one part cannot be had, those before it are given back.
struct RDMAParts {
    let channel: UnsafeMutablePointer<ibv_comp_channel>
    let completions: UnsafeMutablePointer<ibv_cq>
    let buffers: UnsafeMutableRawBufferPointer
    let bufferRegion: UnsafeMutablePointer<ibv_mr>
    let queue: UnsafeMutablePointer<ibv_qp>

    /// - Parameter depth: requests that may be outstanding.
    init(
        _ id: UnsafeMutablePointer<rdma_cm_id>, _ domain: RDMADomain, depth: Int
    ) throws(TransportError) {
        var undo: [() -> Void] = []
        do throws(TransportError) {
            channel = try RDMAParts.channel(domain, &undo)
            completions = try RDMAParts.completions(domain, channel, count: depth + 1 + RDMAWire.receives, &undo)
            (buffers, bufferRegion) = try RDMAParts.buffers(domain, &undo)
            queue = try RDMAParts.queue(id, domain, completions, depth: depth)
        } catch {
            for step in undo.reversed() { step() }
            throw error
        }
    }

    private static func channel(
        _ domain: RDMADomain, _ undo: inout [() -> Void]
    ) throws(TransportError) -> UnsafeMutablePointer<ibv_comp_channel> {
        guard let channel = ibv_create_comp_channel(domain.context) else {
            throw TransportError(.system, "can't create a completion channel on \(domain.name)", errno: errno)
        }
        undo.append { ibv_destroy_comp_channel(channel) }
        _ = fcntl(channel.pointee.fd, F_SETFL, O_NONBLOCK)
        return channel
    }

    private static func completions(
        _ domain: RDMADomain, _ channel: UnsafeMutablePointer<ibv_comp_channel>, count: Int,
        _ undo: inout [() -> Void]
    ) throws(TransportError) -> UnsafeMutablePointer<ibv_cq> {
        guard let queue = ibv_create_cq(domain.context, Int32(count), nil, channel, 0) else {
            throw TransportError(.system, "can't create a completion queue on \(domain.name)", errno: errno)
        }
        undo.append { ibv_destroy_cq(queue) }
        return queue
    }

    private static func buffers(
        _ domain: RDMADomain, _ undo: inout [() -> Void]
    ) throws(TransportError) -> (UnsafeMutableRawBufferPointer, UnsafeMutablePointer<ibv_mr>) {
        let count = (RDMAWire.receives + RDMAWire.sends) * RDMAWire.messageBytes
        let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 4096)
        guard let base = bytes.baseAddress,
            let region = crdma_register(domain.domain, base, count, Int32(IBV_ACCESS_LOCAL_WRITE.rawValue))
        else {
            let code = errno
            bytes.deallocate()
            throw TransportError(.system, "can't register message buffers with \(domain.name)", errno: code)
        }
        undo.append {
            ibv_dereg_mr(region)
            bytes.deallocate()
        }
        return (bytes, region)
    }

    private static func queue(
        _ id: UnsafeMutablePointer<rdma_cm_id>, _ domain: RDMADomain, _ completions: UnsafeMutablePointer<ibv_cq>,
        depth: Int
    ) throws(TransportError) -> UnsafeMutablePointer<ibv_qp> {
        var attributes = ibv_qp_init_attr()
        attributes.send_cq = completions
        attributes.recv_cq = completions
        // One more for a probe.
        attributes.cap.max_send_wr = UInt32(depth + 1)
        attributes.cap.max_recv_wr = UInt32(RDMAWire.receives)
        attributes.cap.max_send_sge = UInt32(domain.piecesMax)
        attributes.cap.max_recv_sge = 1
        attributes.qp_type = IBV_QPT_RC
        guard rdma_create_qp(id, domain.domain, &attributes) == 0, let queue = id.pointee.qp else {
            throw TransportError(.system, "can't create a queue pair on RDMA device \(domain.name)", errno: errno)
        }
        return queue
    }
}
