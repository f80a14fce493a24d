// XXH3 from Debian's libxxhash-dev, compiled once per instruction set (one file each) and chosen on first use.
#include "cxxhash.h"

#include <stdatomic.h>

typedef uint64_t (*baton_hash)(const void *, size_t);

uint64_t baton_xxh3_64_base(const void *data, size_t length);
#if defined(__x86_64__)
uint64_t baton_xxh3_64_avx2(const void *data, size_t length);
uint64_t baton_xxh3_64_avx512(const void *data, size_t length);
#endif

static baton_hash choose(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) return baton_xxh3_64_avx512;
    if (__builtin_cpu_supports("avx2")) return baton_xxh3_64_avx2;
#endif
    return baton_xxh3_64_base;
}

uint64_t baton_xxh3_64(const void *data, size_t length) {
    static _Atomic(baton_hash) chosen;
    baton_hash hash = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (!hash) {
        hash = choose();
        atomic_store_explicit(&chosen, hash, memory_order_relaxed);
    }
    return hash(data, length);
}
