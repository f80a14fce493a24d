// The vector types; included before a file sets its target, and by each file once.

#include <stdint.h>

#define INLINE static inline __attribute__((always_inline, unused))
// A file may define it empty.
#ifndef UNROLL
#define UNROLL _Pragma("clang loop unroll(full)")
#endif

// Every function that takes or returns vectors is inlined, so there is no calling convention to disagree about.
#pragma clang diagnostic ignored "-Wpsabi"

typedef float v16f __attribute__((vector_size(64)));
typedef int32_t v16i __attribute__((vector_size(64)));
typedef uint32_t v16u __attribute__((vector_size(64)));
typedef int16_t v32s __attribute__((vector_size(64)));
typedef uint16_t v32u __attribute__((vector_size(64)));
typedef uint16_t v16h __attribute__((vector_size(32)));
typedef int16_t v16s __attribute__((vector_size(32)));

typedef uint8_t v16b __attribute__((vector_size(16)));

typedef uint8_t v16b_unaligned __attribute__((vector_size(16), aligned(1), may_alias));
typedef float v16f_unaligned __attribute__((vector_size(64), aligned(1), may_alias));
typedef uint16_t v32u_unaligned __attribute__((vector_size(64), aligned(1), may_alias));
typedef uint16_t v16h_unaligned __attribute__((vector_size(32), aligned(1), may_alias));
typedef int16_t v16s_unaligned __attribute__((vector_size(32), aligned(1), may_alias));
typedef int32_t pair_of_words __attribute__((aligned(1), may_alias));
