// What the RDMA device of a machine does for a program that does nothing else: the peer our lanes are measured beside.
//
//     gcc -O2 -o raw_verbs raw_verbs.c -libverbs -lrdmacm && ./raw_verbs 10.9.0.1
//
// One process connects a queue pair with itself and prints a line of JSON per figure: bulk writes at several sizes, with
// so many outstanding, in GB/s; the median time of one 8 byte write, until its completion and until the other side sees
// it; and that of one message, until the other side has it.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define DEPTH 64
#define REGION (64 << 20)

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static struct rdma_cm_event *expect(struct rdma_event_channel *channel, enum rdma_cm_event_type kind) {
    struct rdma_cm_event *event;
    if (rdma_get_cm_event(channel, &event)) fail("rdma_get_cm_event");
    if (event->event != kind) {
        fprintf(stderr, "%s instead of %s\n", rdma_event_str(event->event), rdma_event_str(kind));
        exit(1);
    }
    return event;
}

static struct rdma_cm_id *near_id, *far_id;
static struct ibv_pd *domain;
static struct ibv_cq *near_queue, *far_queue;
static struct ibv_mr *source, *target;

static void make_queue_pair(struct rdma_cm_id *id, struct ibv_cq *queue) {
    struct ibv_qp_init_attr attributes = {
        .send_cq = queue, .recv_cq = queue, .cap = {2 * DEPTH, 2 * DEPTH, 1, 1}, .qp_type = IBV_QPT_RC};
    if (rdma_create_qp(id, domain, &attributes)) fail("rdma_create_qp");
}

static void connect_with_self(const char *host) {
    struct rdma_event_channel *near = rdma_create_event_channel(), *far = rdma_create_event_channel();
    if (!near || !far) fail("rdma_create_event_channel");
    struct rdma_cm_id *listener;
    struct sockaddr_in address = {.sin_family = AF_INET};
    inet_pton(AF_INET, host, &address.sin_addr);
    if (rdma_create_id(far, &listener, NULL, RDMA_PS_TCP) || rdma_bind_addr(listener, (void *)&address) ||
        rdma_listen(listener, 1))
        fail("listening");
    address.sin_port = rdma_get_src_port(listener);
    if (rdma_create_id(near, &near_id, NULL, RDMA_PS_TCP) || rdma_resolve_addr(near_id, NULL, (void *)&address, 2000))
        fail("rdma_resolve_addr");
    rdma_ack_cm_event(expect(near, RDMA_CM_EVENT_ADDR_RESOLVED));
    if (rdma_resolve_route(near_id, 2000)) fail("rdma_resolve_route");
    rdma_ack_cm_event(expect(near, RDMA_CM_EVENT_ROUTE_RESOLVED));
    domain = ibv_alloc_pd(near_id->verbs);
    near_queue = ibv_create_cq(near_id->verbs, 4 * DEPTH, NULL, NULL, 0);
    far_queue = ibv_create_cq(near_id->verbs, 4 * DEPTH, NULL, NULL, 0);
    if (!domain || !near_queue || !far_queue) fail("ibv_create_cq");
    make_queue_pair(near_id, near_queue);
    struct rdma_conn_param parameters = {.retry_count = 7, .rnr_retry_count = 7};
    if (rdma_connect(near_id, &parameters)) fail("rdma_connect");
    struct rdma_cm_event *request = expect(far, RDMA_CM_EVENT_CONNECT_REQUEST);
    far_id = request->id;
    rdma_ack_cm_event(request);
    make_queue_pair(far_id, far_queue);
    if (rdma_accept(far_id, &parameters)) fail("rdma_accept");
    rdma_ack_cm_event(expect(near, RDMA_CM_EVENT_ESTABLISHED));
    rdma_ack_cm_event(expect(far, RDMA_CM_EVENT_ESTABLISHED));

    void *memory[2];
    for (int i = 0; i < 2; i++) {
        if (posix_memalign(&memory[i], 4096, REGION)) fail("posix_memalign");
        memset(memory[i], 0, REGION);
    }
    source = ibv_reg_mr(domain, memory[0], REGION, IBV_ACCESS_LOCAL_WRITE);
    target = ibv_reg_mr(domain, memory[1], REGION, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
    if (!source || !target) fail("ibv_reg_mr");
}

static void post(enum ibv_wr_opcode operation, size_t offset, uint32_t bytes) {
    struct ibv_sge piece = {(uintptr_t)source->addr + offset, bytes, source->lkey};
    struct ibv_send_wr request = {
        .sg_list = &piece, .num_sge = 1, .opcode = operation, .send_flags = IBV_SEND_SIGNALED}, *bad;
    request.wr.rdma.remote_addr = (uintptr_t)target->addr + offset;
    request.wr.rdma.rkey = target->rkey;
    if (ibv_post_send(near_id->qp, &request, &bad)) fail("ibv_post_send");
}

static void take(struct ibv_cq *queue) {
    struct ibv_wc completion;
    int count;
    while (!(count = ibv_poll_cq(queue, 1, &completion))) sched_yield();
    if (count < 0 || completion.status) {
        fprintf(stderr, "completion: %s\n", ibv_wc_status_str(completion.status));
        exit(1);
    }
}

static void bulk(size_t bytes, size_t total) {
    int count = total / bytes, posted = 0, done = 0, places = REGION / bytes;
    double start = now();
    while (done < count) {
        while (posted < count && posted - done < DEPTH) post(IBV_WR_RDMA_WRITE, posted++ % places * bytes, bytes);
        take(near_queue);
        done++;
    }
    double seconds = now() - start;
    printf("{\"what\": \"write\", \"bytes\": %zu, \"gb_per_s\": %.4f, \"messages_per_s\": %.0f}\n", bytes,
           count * (double)bytes / seconds / 1e9, count / seconds);
    fflush(stdout);
}

static int ascending(const void *a, const void *b) {
    double x = *(double *)a, y = *(double *)b;
    return (x > y) - (x < y);
}

enum what { COMPLETED, SEEN, MESSAGE };

static void latency(const char *name, enum what what, uint32_t bytes, int rounds) {
    double *times = calloc(rounds, sizeof *times);
    volatile char *last = (volatile char *)target->addr + bytes - 1;
    for (int round = 0; round < rounds; round++) {
        char mark = round % 100 + 1;
        ((char *)source->addr)[bytes - 1] = mark;
        if (what == MESSAGE) {
            struct ibv_sge piece = {(uintptr_t)target->addr, bytes, target->lkey};
            struct ibv_recv_wr receive = {.sg_list = &piece, .num_sge = 1}, *bad;
            if (ibv_post_recv(far_id->qp, &receive, &bad)) fail("ibv_post_recv");
        }
        double start = now();
        post(what == MESSAGE ? IBV_WR_SEND : IBV_WR_RDMA_WRITE, 0, bytes);
        if (what == COMPLETED) take(near_queue);
        if (what == SEEN)
            while (*last != mark) sched_yield();
        if (what == MESSAGE) take(far_queue);
        times[round] = now() - start;
        if (what != COMPLETED) take(near_queue);
    }
    qsort(times, rounds, sizeof *times, ascending);
    printf("{\"what\": \"%s\", \"bytes\": %u, \"median_us\": %.1f, \"p99_us\": %.1f}\n", name, bytes,
           times[rounds / 2] * 1e6, times[rounds * 99 / 100] * 1e6);
    fflush(stdout);
    free(times);
}

int main(int count, char **words) {
    if (count < 2) {
        fprintf(stderr, "usage: raw_verbs ADDRESS [SIZE...]\n");
        return 2;
    }
    connect_with_self(words[1]);
    if (count == 2) {
        bulk(4 << 10, 32 << 20);
        bulk(64 << 10, 256 << 20);
        bulk(1 << 20, 512 << 20);
    }
    for (int i = 2; i < count; i++) {
        size_t bytes = strtoul(words[i], NULL, 10);
        // Seconds of each, where a message takes a tenth of a millisecond.
        bulk(bytes, bytes < 32 << 10 ? 32 << 20 : 256 << 20);
    }
    latency("write completed", COMPLETED, 8, 1000);
    latency("write seen", SEEN, 8, 1000);
    latency("message received", MESSAGE, 64, 1000);
    return 0;
}
