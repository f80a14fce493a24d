// XXH3 compiled for AVX512; called only where the processor has it.
#if defined(__x86_64__)
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#pragma clang attribute push(__attribute__((target("avx512f,avx2"))), apply_to = function)
#define XXH_INLINE_ALL
#define XXH_VECTOR XXH_AVX512
#include <xxhash.h>

uint64_t baton_xxh3_64_avx512(const void *data, size_t length);

uint64_t baton_xxh3_64_avx512(const void *data, size_t length) { return XXH3_64bits(data, length); }
#pragma clang attribute pop
#endif
