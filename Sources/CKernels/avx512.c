// AVX-512 with F, BW, DQ, VL and VNNI.

#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "tables.h"
#include "template/types.h"

#pragma clang attribute push( \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"))), apply_to = function)

INLINE v16f multiply_add(v16f a, v16f b, v16f c) { return __builtin_elementwise_fma(a, b, c); }

INLINE v16i dot(v16i sum, v32s weights, int32_t pair) {
    return (v16i)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)weights, _mm512_set1_epi32(pair));
}

INLINE v16f half_to_float(v16h half) { return (v16f)_mm512_cvtph_ps((__m256i)half); }
INLINE v16h float_to_half(v16f value) {
    return (v16h)_mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// 32 registers of 16 lanes.
#define QUANTISED_ROWS 8
#define DENSE_ROWS 8
#define ATTENTION_ROWS 8
#define ATTENTION_BLOCKS 2

#define TABLE ck_avx512
#define TABLE_NAME "avx512"
#include "template/kernels.h"

#pragma clang attribute pop

#endif
