#if defined(__linux__)
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <pthread.h>
#endif
#include <time.h>

#include "include/ckernels_threads.h"

#if defined(__linux__)

void ck_wait(const uint32_t *word, uint32_t expected) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

void ck_wake(const uint32_t *word, int32_t count) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

int32_t ck_allowed_cpus(int32_t *ids, int32_t capacity) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 0;
    int32_t count = 0;
    for (int32_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &set)) continue;
        if (count < capacity) ids[count] = cpu;
        count++;
    }
    return count;
}

int32_t ck_pin(int32_t cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (cpu < 0 || cpu >= CPU_SETSIZE) return EINVAL;
    CPU_SET(cpu, &set);
    return sched_setaffinity(0, sizeof set, &set) == 0 ? 0 : errno;
}

void ck_name_thread(const char *name) { pthread_setname_np(pthread_self(), name); }

#else

// Without futexes a sleeper polls: correct, if not free.
void ck_wait(const uint32_t *word, uint32_t expected) {
    struct timespec pause = {0, 100 * 1000};
    if (__atomic_load_n(word, __ATOMIC_SEQ_CST) == expected) nanosleep(&pause, 0);
}

void ck_wake(const uint32_t *word, int32_t count) {
    (void)word;
    (void)count;
}

int32_t ck_allowed_cpus(int32_t *ids, int32_t capacity) {
    (void)ids;
    (void)capacity;
    return 0;
}

int32_t ck_pin(int32_t cpu) {
    (void)cpu;
    return 0;
}

void ck_name_thread(const char *name) { pthread_setname_np(name); }

#endif

void ck_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

uint64_t ck_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
