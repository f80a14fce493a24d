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
// (methods of `_MutexHandle`, `self` in the context register) and include/swift/Runtime/Concurrency.h.
#define _GNU_SOURCE
#include <dlfcn.h>
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

ASYNC void swift_continuation_await(void *context) {
    ASYNC void (*real)(void *) = next("swift_continuation_await");
    SWIFT void *(*current)(void) = next("swift_task_getCurrent");
    acquire(current());
    __attribute__((musttail)) return real(context);
}
