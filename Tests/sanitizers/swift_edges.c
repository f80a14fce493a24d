// Tells ThreadSanitizer two orders that Swift's own libraries make unseen, because they are not instrumented:
//
// - a contended `Synchronization.Mutex`: its fast path is inlined into our code and seen, its slow path is not;
// - a continuation resumed before its task waits: the task goes on without having been suspended.
//
// Without this, what either protects is reported as a race, rightly or not. Preloaded, it stands between our code and the
// libraries:
//
//     clang -shared -fPIC -O1 -o swift_edges.so swift_edges.c; LD_PRELOAD=./swift_edges.so swift test --sanitize=thread
//
// Names and conventions are those of Swift's ABI: swiftlang/swift, stdlib/public/Synchronization/Mutex/LinuxImpl.swift
// (methods of `_MutexHandle`, `self` in the context register), include/swift/Runtime/Concurrency.h and, for an asynchronous
// context, include/swift/ABI/Task.h.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

// There in processes built with the sanitizer, and only there.
__attribute__((weak)) void __tsan_acquire(void *address);
__attribute__((weak)) void __tsan_release(void *address);

static void acquire(void *address) {
    if (address && __tsan_acquire) __tsan_acquire(address);
}

static void release(void *address) {
    if (address && __tsan_release) __tsan_release(address);
}

static void *next(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

#define SWIFT __attribute__((swiftcall))

// Mutex

#define SELF __attribute__((swift_context)) void *self
#define LOCK "$s15Synchronization12_MutexHandleV9_lockSlowyys6UInt32VF"
#define TRY_LOCK "$s15Synchronization12_MutexHandleV12_tryLockSlowSbyF"
#define UNLOCK "$s15Synchronization12_MutexHandleV11_unlockSlowyyF"

SWIFT void lock_slow(uint32_t thread, SELF) __asm__(LOCK);
SWIFT void lock_slow(uint32_t thread, SELF) {
    SWIFT void (*real)(uint32_t, SELF) = next(LOCK);
    real(thread, self);
    acquire(self);
}

SWIFT bool try_lock_slow(SELF) __asm__(TRY_LOCK);
SWIFT bool try_lock_slow(SELF) {
    SWIFT bool (*real)(SELF) = next(TRY_LOCK);
    bool locked = real(self);
    if (locked) acquire(self);
    return locked;
}

SWIFT void unlock_slow(SELF) __asm__(UNLOCK);
SWIFT void unlock_slow(SELF) {
    SWIFT void (*real)(SELF) = next(UNLOCK);
    release(self);
    real(self);
}

// Continuations

SWIFT void swift_continuation_resume(void *task) {
    SWIFT void (*real)(void *) = next("swift_continuation_resume");
    release(task);
    real(task);
}

SWIFT void swift_continuation_throwingResume(void *task) {
    SWIFT void (*real)(void *) = next("swift_continuation_throwingResume");
    release(task);
    real(task);
}

SWIFT void swift_continuation_throwingResumeWithError(void *task, void *error) {
    SWIFT void (*real)(void *, void *) = next("swift_continuation_throwingResumeWithError");
    release(task);
    real(task, error);
}

#define ASYNC __attribute__((swiftasynccall))

// A task whose continuation was resumed already goes on at its context's `resumeParent`, at once. Only there is it known to
// be resumed, so that is put off by one step, in which the order is told. One that is suspended goes on at a copy made
// before; the runtime tells its order itself.

typedef ASYNC void resume_function(__attribute__((swift_async_context)) void *context);

struct async_context {
    struct async_context *parent;
    resume_function *resumeParent;
};

// What tasks that wait go on with, by context; of one that was suspended until its context waits again. The lock is not the sanitizer's to see: it would order what it should not.
enum { BUCKETS = 1024 };
static struct waiting {
    struct waiting *next;
    void *context;
    resume_function *resume;
} *waiting[BUCKETS];
static char locks[BUCKETS];

static unsigned bucket_of(void *context) { return (unsigned)(((uintptr_t)context >> 4) * 2654435761u) % BUCKETS; }

static void lock(unsigned bucket) {
    while (__atomic_test_and_set(&locks[bucket], __ATOMIC_ACQUIRE)) sched_yield();
}

static void unlock(unsigned bucket) { __atomic_clear(&locks[bucket], __ATOMIC_RELEASE); }

static void put(void *context, resume_function *resume) {
    unsigned bucket = bucket_of(context);
    lock(bucket);
    struct waiting *entry = waiting[bucket];
    while (entry && entry->context != context) entry = entry->next;
    if (!entry) {
        entry = malloc(sizeof *entry);
        if (!entry) abort();
        *entry = (struct waiting){waiting[bucket], context, resume};
        waiting[bucket] = entry;
    }
    entry->resume = resume;
    unlock(bucket);
}

static resume_function *take(void *context) {
    unsigned bucket = bucket_of(context);
    lock(bucket);
    struct waiting **link = &waiting[bucket];
    while (*link && (*link)->context != context) link = &(*link)->next;
    struct waiting *entry = *link;
    if (!entry) abort();
    *link = entry->next;
    unlock(bucket);
    resume_function *resume = entry->resume;
    free(entry);
    return resume;
}

static SWIFT void *current_task(void) {
    SWIFT void *(*current)(void) = next("swift_task_getCurrent");
    return current();
}

static ASYNC void resumed(__attribute__((swift_async_context)) void *context) {
    resume_function *resume = take(context);
    acquire(current_task());
    __attribute__((musttail)) return resume(context);
}

ASYNC void swift_continuation_await(struct async_context *context) {
    ASYNC void (*real)(struct async_context *) = next("swift_continuation_await");
    put(context, context->resumeParent);
    context->resumeParent = resumed;
    __attribute__((musttail)) return real(context);
}
