// The yardstick for KV handoff: scattered blocks from one process to another over one loopback TCP connection, with as
// little around it as C allows. A handoff is every block written in place at the receiver, and the receiver knowing it.
//
//     cc -O2 -o plain_socket plain_socket.c && ./plain_socket BLOCK_BYTES TOTAL_BYTES ITERATIONS
//
// Prints one line of JSON: GB/s (min, median, max over the iterations) and CPU seconds of both processes per GB.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BLOCKS_PER_CALL = 64, WARM_UP = 2, TIME_LIMIT_S = 120 };

// What both processes share: when the receiver had the last handoff, and its CPU time over the measured ones.
struct shared {
    double received_at;
    double receiver_cpu;
};

static size_t block_bytes, block_count;

static void check(int ok, const char *what) {
    if (ok) return;
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double cpu_seconds(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return r.ru_utime.tv_sec + r.ru_stime.tv_sec + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) * 1e-6;
}

// block_count different places out of twice as many, in random order: KV pages lie anywhere in a slab.
static uint32_t *scattered_places(unsigned seed) {
    size_t places = 2 * block_count;
    uint32_t *place = malloc(places * sizeof *place);
    check(place != NULL, "malloc");
    srand(seed);
    for (size_t i = 0; i < places; i++) place[i] = i;
    for (size_t i = 0; i < block_count; i++) {
        size_t j = i + rand() % (places - i);
        uint32_t other = place[i];
        place[i] = place[j];
        place[j] = other;
    }
    return place;
}

static char *touched_memory(int value) {
    char *memory =
        mmap(NULL, 2 * block_count * block_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(memory != MAP_FAILED, "mmap");
    memset(memory, value, 2 * block_count * block_bytes);
    return memory;
}

// Sends or receives all blocks, BLOCKS_PER_CALL with one call to the system.
static void move_blocks(int fd, char *memory, const uint32_t *place, int sending) {
    struct iovec vectors[BLOCKS_PER_CALL];
    for (size_t next = 0; next < block_count;) {
        int count = 0;
        size_t left = 0;
        for (; count < BLOCKS_PER_CALL && next < block_count; count++, next++) {
            vectors[count] = (struct iovec){memory + (size_t)place[next] * block_bytes, block_bytes};
            left += block_bytes;
        }
        struct iovec *first = vectors;
        while (left > 0) {
            struct msghdr message = {.msg_iov = first, .msg_iovlen = count};
            ssize_t moved = sending ? sendmsg(fd, &message, 0) : recvmsg(fd, &message, 0);
            check(moved > 0, sending ? "sendmsg" : "recvmsg");
            left -= moved;
            while (moved > 0) {
                size_t step = (size_t)moved < first->iov_len ? (size_t)moved : first->iov_len;
                first->iov_base = (char *)first->iov_base + step;
                first->iov_len -= step;
                moved -= step;
                if (first->iov_len == 0) first++, count--;
            }
        }
    }
}

static void receive_all(int listener, int to_sender, int iterations, struct shared *shared) {
    char *memory = touched_memory(2), byte = 0;
    uint32_t *place = scattered_places(2);
    int fd = accept(listener, NULL, NULL), one = 1;
    check(fd >= 0, "accept");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    check(write(to_sender, &byte, 1) == 1, "write");
    double cpu = 0;
    for (int i = -WARM_UP; i < iterations; i++) {
        if (i == 0) cpu = cpu_seconds();
        move_blocks(fd, memory, place, 0);
        check(recv(fd, &byte, 1, MSG_WAITALL) == 1, "recv");
        shared->received_at = now();
        if (i == iterations - 1) shared->receiver_cpu = cpu_seconds() - cpu;
        check(write(to_sender, &byte, 1) == 1, "write");
    }
    _exit(0);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: %s BLOCK_BYTES TOTAL_BYTES ITERATIONS\n", argv[0]);
        return 2;
    }
    alarm(TIME_LIMIT_S);
    block_bytes = atol(argv[1]);
    block_count = atol(argv[2]) / block_bytes;
    int iterations = atoi(argv[3]), one = 1, from_receiver[2];
    struct shared *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    check(shared != MAP_FAILED && pipe(from_receiver) == 0, "set-up");

    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    check(bind(listener, (void *)&address, length) == 0 && listen(listener, 1) == 0, "listen");
    getsockname(listener, (void *)&address, &length);
    pid_t receiver = fork();
    check(receiver >= 0, "fork");
    if (receiver == 0) {
        alarm(TIME_LIMIT_S);
        receive_all(listener, from_receiver[1], iterations, shared);
    }

    char *memory = touched_memory(1), byte;
    uint32_t *place = scattered_places(1);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    check(connect(fd, (void *)&address, length) == 0, "connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    check(read(from_receiver[0], &byte, 1) == 1, "read");
    double seconds[iterations], cpu = 0;
    for (int i = -WARM_UP; i < iterations; i++) {
        if (i == 0) cpu = cpu_seconds();
        double start = now();
        move_blocks(fd, memory, place, 1);
        check(send(fd, "d", 1, 0) == 1 && read(from_receiver[0], &byte, 1) == 1, "handoff");
        if (i >= 0) seconds[i] = shared->received_at - start;
    }
    cpu = cpu_seconds() - cpu + shared->receiver_cpu;
    waitpid(receiver, NULL, 0);

    double gigabytes = block_bytes * (double)block_count / 1e9;
    qsort(seconds, iterations, sizeof *seconds, ascending);
    printf("{\"backend\": \"plain-socket\", \"block\": %zu, \"iterations\": %d, "
           "\"gb_per_second\": {\"min\": %.3f, \"median\": %.3f, \"max\": %.3f}, \"cpu_seconds_per_gb\": %.3f}\n",
           block_bytes, iterations, gigabytes / seconds[iterations - 1], gigabytes / seconds[iterations / 2],
           gigabytes / seconds[0], cpu / (gigabytes * iterations));
    return 0;
}
