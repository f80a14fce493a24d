// Plain C for any CPU: the same templates, with the special instructions spelt out. It is here to be right.

#include <math.h>
#include <string.h>

#include "tables.h"

// One row at a time and loops left as loops: small code, for all that runs here is scalar anyway.
#define UNROLL
#include "template/types.h"

INLINE v16f multiply_add(v16f a, v16f b, v16f c) {
    v16f result;
    for (int i = 0; i < 16; i++) result[i] = fmaf(a[i], b[i], c[i]);
    return result;
}

INLINE v16i dot(v16i sum, v32s weights, int32_t pair) {
    v16i words = (v16i)weights;
    return sum + ((words << 16) >> 16) * (int32_t)(int16_t)pair + (words >> 16) * (pair >> 16);
}

INLINE v16f half_to_float(v16h half) {
    v16f result;
    for (int i = 0; i < 16; i++) result[i] = ck_half_to_float(half[i]);
    return result;
}

INLINE v16h float_to_half(v16f value) {
    v16h result;
    for (int i = 0; i < 16; i++) result[i] = ck_float_to_half(value[i]);
    return result;
}

#define QUANTISED_ROWS 1
#define DENSE_ROWS 1
#define ATTENTION_ROWS 1
#define ATTENTION_BLOCKS 1

#define TABLE ck_portable
#define TABLE_NAME "portable"
#include "template/kernels.h"
