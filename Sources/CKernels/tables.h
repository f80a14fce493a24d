// Shared by the files of this target; not part of its interface.

#ifndef CKERNELS_TABLES_H
#define CKERNELS_TABLES_H

#include "include/ckernels.h"

extern const ck_table ck_portable;
extern const ck_table ck_avx2;
extern const ck_table ck_avx512;

/// How a quantised type is packed: integer codes and an affine map, w = d·code (+ m).
enum { CODES_U4, CODES_S4, CODES_U8, CODES_S8 };

typedef struct {
    int32_t codes;
    /// Scales are stored as f16 (as the file has them) or, where the file nests scales, as their product in f32.
    bool half_scales;
    bool offset;
    /// Scales per block of 32 columns.
    int32_t parts;
} ck_quantised_layout;

/// Types that are packed as codes; `type` must be one of them.
static inline ck_quantised_layout ck_layout_of(int32_t type) {
    switch (type) {
    case CK_Q4_0: return (ck_quantised_layout){CODES_S4, true, false, 1};
    case CK_Q4_1: return (ck_quantised_layout){CODES_U4, true, true, 1};
    case CK_Q8_0: return (ck_quantised_layout){CODES_S8, true, false, 1};
    case CK_Q4_K: return (ck_quantised_layout){CODES_U4, false, true, 1};
    case CK_Q5_K: return (ck_quantised_layout){CODES_U8, false, true, 1};
    default: return (ck_quantised_layout){CODES_S8, false, false, 2};
    }
}

static inline int64_t ck_code_bytes(ck_quantised_layout layout) {
    return layout.codes == CODES_U4 || layout.codes == CODES_S4 ? 256 : 512;
}

static inline int64_t ck_scale_bytes(ck_quantised_layout layout) {
    return (layout.parts + layout.offset) * CK_GROUP_ROWS * (layout.half_scales ? 2 : 4);
}

/// Bytes that the scale of a block of 8-bit floats takes among them: a cache line, so that codes stay aligned.
enum { CK_SCALE_LINE = 64 };

/// One block of 32 columns as codes and scales.
typedef struct {
    int8_t codes[CK_BLOCK_COLUMNS];
    float scales[2];
    float offset;
    /// The scale and offset as the file has them, for types with `half_scales`.
    uint16_t half_scale, half_offset;
} ck_block;

float ck_half_to_float(uint16_t half);
/// Rounds to nearest, ties to even.
uint16_t ck_float_to_half(float value);

void ck_read_block(int32_t type, const uint8_t *row, int64_t index, ck_block *block);
void ck_dequantise_row(int32_t type, const uint8_t *row, int64_t columns, float *out);

// The packing that the three tables share.
int32_t ck_encoding_of(int32_t type);
int64_t ck_group_bytes(int32_t type, int64_t columns);
void ck_pack_group(
    int32_t type, const uint8_t *rows_bytes, int64_t row_bytes, int64_t rows, int64_t columns, uint8_t *group);

#endif
