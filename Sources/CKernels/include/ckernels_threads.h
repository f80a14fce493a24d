// What a pool of compute threads needs of the system and Swift can't import.

#ifndef CKERNELS_THREADS_H
#define CKERNELS_THREADS_H

#include <stdint.h>

/// Sleeps while `*word` is `expected`; may return early.
void ck_wait(const uint32_t *word, uint32_t expected);
/// Wakes up to `count` threads that sleep on `word`.
void ck_wake(const uint32_t *word, int32_t count);
/// Tells the CPU that the caller spins.
void ck_relax(void);
/// Monotonic time in nanoseconds.
uint64_t ck_nanoseconds(void);
/// The CPUs this thread may run on: writes up to `capacity` ids, returns how many there are (0 if unknown).
int32_t ck_allowed_cpus(int32_t *ids, int32_t capacity);
/// Binds the calling thread to one CPU. 0, or an errno.
int32_t ck_pin(int32_t cpu);
/// Names the calling thread (at most 15 bytes).
void ck_name_thread(const char *name);

#endif
