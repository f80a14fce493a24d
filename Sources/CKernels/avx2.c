// AVX2 with FMA and F16C.

#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "tables.h"
#include "template/types.h"

#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)

INLINE v16f multiply_add(v16f a, v16f b, v16f c) { return __builtin_elementwise_fma(a, b, c); }

typedef union {
    v16f floats;
    v16i integers;
    v32s words;
    __m256i halves[2];
    __m256 float_halves[2];
} both_halves;

INLINE v16i dot(v16i sum, v32s weights, int32_t pair) {
    both_halves s = {.integers = sum}, w = {.words = weights};
    __m256i x = _mm256_set1_epi32(pair);
    s.halves[0] = _mm256_add_epi32(s.halves[0], _mm256_madd_epi16(w.halves[0], x));
    s.halves[1] = _mm256_add_epi32(s.halves[1], _mm256_madd_epi16(w.halves[1], x));
    return s.integers;
}

INLINE v16f half_to_float(v16h half) {
    both_halves result;
    result.float_halves[0] = _mm256_cvtph_ps(_mm256_castsi256_si128((__m256i)half));
    result.float_halves[1] = _mm256_cvtph_ps(_mm256_extracti128_si256((__m256i)half, 1));
    return result.floats;
}

INLINE v16h float_to_half(v16f value) {
    both_halves v = {.floats = value};
    __m128i low = _mm256_cvtps_ph(v.float_halves[0], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m128i high = _mm256_cvtps_ph(v.float_halves[1], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return (v16h)_mm256_set_m128i(high, low);
}

// 16 registers of 8 lanes.
#define QUANTISED_ROWS 4
#define DENSE_ROWS 4
#define ATTENTION_ROWS 4
#define ATTENTION_BLOCKS 1

#define TABLE ck_avx2
#define TABLE_NAME "avx2"
#include "template/kernels.h"

#pragma clang attribute pop

#endif
