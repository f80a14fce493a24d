// What Swift cannot import of libibverbs and librdmacm as it is: work requests with unions, and functions that are
// macros. Each of these is one call of the library; its manual page has the rest.
#pragma once

#include <errno.h>
#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>
#include <stdbool.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/// 0, or an errno value.
typedef int crdma_error;

static inline struct ibv_mr *crdma_register(struct ibv_pd *pd, void *address, size_t length, int access) {
    return ibv_reg_mr(pd, address, length, access);
}

static inline crdma_error crdma_query_port(struct ibv_context *context, uint8_t port, struct ibv_port_attr *attributes) {
    return ibv_query_port(context, port, attributes);
}

/// Makes `request` an RDMA WRITE of the pieces to `remote`; `next` is left as it is.
static inline void crdma_set_write(
    struct ibv_send_wr *request, uint64_t id, struct ibv_sge *pieces, int count, uint64_t remote, uint32_t key,
    bool signaled) {
    request->wr_id = id;
    request->sg_list = pieces;
    request->num_sge = count;
    request->opcode = IBV_WR_RDMA_WRITE;
    request->send_flags = signaled ? IBV_SEND_SIGNALED : 0;
    request->wr.rdma.remote_addr = remote;
    request->wr.rdma.rkey = key;
}

/// Posts requests that are linked by `next`. Returns 0 or an errno value; a full queue is ENOMEM.
static inline crdma_error crdma_post(struct ibv_qp *queue, struct ibv_send_wr *first) {
    struct ibv_send_wr *bad = NULL;
    return ibv_post_send(queue, first, &bad);
}

static inline crdma_error crdma_post_send(
    struct ibv_qp *queue, uint64_t id, void *address, uint32_t length, uint32_t key) {
    struct ibv_sge piece = {.addr = (uintptr_t)address, .length = length, .lkey = key};
    struct ibv_send_wr request = {
        .wr_id = id, .sg_list = &piece, .num_sge = 1, .opcode = IBV_WR_SEND, .send_flags = IBV_SEND_SIGNALED};
    return crdma_post(queue, &request);
}

/// A write of no bytes: it names no memory and changes none, but the peer's adapter must acknowledge it.
static inline crdma_error crdma_post_probe(struct ibv_qp *queue, uint64_t id) {
    struct ibv_send_wr request = {.wr_id = id, .opcode = IBV_WR_RDMA_WRITE, .send_flags = IBV_SEND_SIGNALED};
    return crdma_post(queue, &request);
}

static inline crdma_error crdma_post_receive(
    struct ibv_qp *queue, uint64_t id, void *address, uint32_t length, uint32_t key) {
    struct ibv_sge piece = {.addr = (uintptr_t)address, .length = length, .lkey = key};
    struct ibv_recv_wr request = {.wr_id = id, .sg_list = &piece, .num_sge = 1}, *bad = NULL;
    return ibv_post_recv(queue, &request, &bad);
}

/// Binds a type 2 window to a range that may then be written from afar with `key`.
static inline crdma_error crdma_post_bind(
    struct ibv_qp *queue, uint64_t id, struct ibv_mw *window, uint32_t key, struct ibv_mr *region, void *address,
    uint64_t length) {
    struct ibv_send_wr request = {
        .wr_id = id,
        .opcode = IBV_WR_BIND_MW,
        .send_flags = IBV_SEND_SIGNALED,
        .bind_mw = {
            .mw = window,
            .rkey = key,
            .bind_info = {
                .mr = region,
                .addr = (uintptr_t)address,
                .length = length,
                .mw_access_flags = IBV_ACCESS_REMOTE_WRITE}}};
    return crdma_post(queue, &request);
}

/// Ends a window. When it has completed, nothing that names this key can land any more (IBTA 10.6.7.2).
static inline crdma_error crdma_post_invalidate(struct ibv_qp *queue, uint64_t id, uint32_t key) {
    struct ibv_send_wr request = {
        .wr_id = id, .opcode = IBV_WR_LOCAL_INV, .send_flags = IBV_SEND_SIGNALED, .invalidate_rkey = key};
    return crdma_post(queue, &request);
}

/// The private data of a connection event.
static inline const void *crdma_private_data(const struct rdma_cm_event *event, uint8_t *length) {
    *length = event->param.conn.private_data_len;
    return event->param.conn.private_data;
}

/// The NUMA node that this address is on; -1 where the system does not say. Memory is placed when it is first written,
/// which this does without changing it, whoever else writes there.
static inline int crdma_numa_node(void *address) {
    __atomic_fetch_or((unsigned char *)address, 0, __ATOMIC_RELAXED);
    int node = -1;
    const int of_address = 3;  // MPOL_F_NODE | MPOL_F_ADDR
    return syscall(SYS_get_mempolicy, &node, NULL, 0UL, address, of_address) == 0 ? node : -1;
}

/// How many bytes this process may pin.
static inline uint64_t crdma_lockable_bytes(void) {
    struct rlimit limit;
    return getrlimit(RLIMIT_MEMLOCK, &limit) == 0 ? limit.rlim_cur : 0;
}
