// Readers of the GGUF block formats, and the packing of 16 rows side by side.
//
// Formats: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h (block_q4_0 … block_q6_K).

#include <string.h>

#include "tables.h"

float ck_half_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = (half >> 10) & 0x1f, mantissa = half & 0x3ff, bits;
    if (exponent == 0x1f) {
        // A signalling NaN turns quiet, as the CPU's conversion does it.
        bits = sign | 0x7f800000u | mantissa << 13 | (mantissa ? 0x400000u : 0);
    } else if (exponent != 0) {
        bits = sign | (exponent + 112) << 23 | mantissa << 13;
    } else {
        // Subnormal: the mantissa in units of 2^-24, exactly.
        float value = (float)mantissa * 0x1p-24f;
        memcpy(&bits, &value, 4);
        bits |= sign;
    }
    float result;
    memcpy(&result, &bits, 4);
    return result;
}

uint16_t ck_float_to_half(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint32_t sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00 | ((magnitude >> 13) & 0x3ff));
    // 65520 and more round to infinity.
    if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) {
        // Subnormal result: adding 0.5 leaves the value in units of 2^-24, rounded, in the low bits.
        float absolute;
        memcpy(&absolute, &magnitude, 4);
        absolute += 0.5f;
        memcpy(&magnitude, &absolute, 4);
        return (uint16_t)(sign | (magnitude - 0x3f000000));
    }
    uint32_t odd = (magnitude >> 13) & 1;
    return (uint16_t)(sign | ((magnitude - 0x38000000 + 0xfff + odd) >> 13));
}

static uint16_t read_u16(const uint8_t *bytes) { return (uint16_t)(bytes[0] | bytes[1] << 8); }

/// 6-bit scale and minimum number `index` (0…7) of the 12 bytes that Q4_K and Q5_K keep them in.
static void read_scale_and_minimum(const uint8_t *packed, int64_t index, int32_t *scale, int32_t *minimum) {
    if (index < 4) {
        *scale = packed[index] & 63;
        *minimum = packed[index + 4] & 63;
    } else {
        *scale = (packed[index + 4] & 15) | (packed[index - 4] >> 6) << 4;
        *minimum = packed[index + 4] >> 4 | (packed[index] >> 6) << 4;
    }
}

/// Q4_0 and Q4_1: byte i holds column i below and column i + 16 above.
static void read_nibbles(const uint8_t *bytes, int32_t zero, ck_block *block) {
    for (int i = 0; i < 16; i++) {
        block->codes[i] = (int8_t)((bytes[i] & 15) - zero);
        block->codes[i + 16] = (int8_t)((bytes[i] >> 4) - zero);
    }
}

/// Q4_K and Q5_K: d, dmin, 12 bytes of scales, [32 bytes of fifth bits,] then 32 bytes for each 64 columns.
static void read_k4_k5(const uint8_t *bytes, int64_t index, bool five, ck_block *block) {
    int32_t scale, minimum;
    read_scale_and_minimum(bytes + 4, index, &scale, &minimum);
    block->scales[0] = ck_half_to_float(read_u16(bytes)) * (float)scale;
    block->offset = -(ck_half_to_float(read_u16(bytes + 2)) * (float)minimum);
    const uint8_t *high = bytes + 16;
    const uint8_t *low = bytes + (five ? 48 : 16) + index / 2 * 32;
    for (int i = 0; i < 32; i++) {
        int32_t code = index % 2 ? low[i] >> 4 : low[i] & 15;
        if (five) code |= (high[i] >> index & 1) << 4;
        block->codes[i] = (int8_t)code;
    }
}

/// Q6_K: 128 bytes of low nibbles, 64 of high pairs, 16 scales, d.
static void read_k6(const uint8_t *bytes, int64_t index, ck_block *block) {
    int64_t half = index / 4, quarter = index % 4;
    const uint8_t *low = bytes + half * 64 + quarter % 2 * 32;
    const uint8_t *high = bytes + 128 + half * 32;
    const int8_t *scales = (const int8_t *)bytes + 192 + half * 8 + quarter * 2;
    float d = ck_half_to_float(read_u16(bytes + 208));
    block->scales[0] = d * (float)scales[0];
    block->scales[1] = d * (float)scales[1];
    for (int i = 0; i < 32; i++) {
        int32_t nibble = quarter / 2 ? low[i] >> 4 : low[i] & 15;
        int32_t pair = high[i] >> (2 * quarter) & 3;
        block->codes[i] = (int8_t)((nibble | pair << 4) - 32);
    }
}

void ck_read_block(int32_t type, const uint8_t *row, int64_t index, ck_block *block) {
    block->offset = 0;
    block->half_offset = 0;
    const uint8_t *bytes;
    switch (type) {
    case CK_Q4_0:
        bytes = row + index * 18;
        read_nibbles(bytes + 2, 8, block);
        break;
    case CK_Q4_1:
        bytes = row + index * 20;
        read_nibbles(bytes + 4, 0, block);
        block->half_offset = read_u16(bytes + 2);
        block->offset = ck_half_to_float(block->half_offset);
        break;
    case CK_Q8_0:
        bytes = row + index * 34;
        memcpy(block->codes, bytes + 2, 32);
        break;
    case CK_Q4_K: read_k4_k5(row + index / 8 * 144, index % 8, false, block); return;
    case CK_Q5_K: read_k4_k5(row + index / 8 * 176, index % 8, true, block); return;
    default: read_k6(row + index / 8 * 210, index % 8, block); return;
    }
    block->half_scale = read_u16(bytes);
    block->scales[0] = ck_half_to_float(block->half_scale);
}

void ck_dequantise_row(int32_t type, const uint8_t *row, int64_t columns, float *out) {
    int parts = ck_layout_of(type).parts;
    for (int64_t b = 0; b < columns / CK_BLOCK_COLUMNS; b++) {
        ck_block block;
        ck_read_block(type, row, b, &block);
        for (int i = 0; i < CK_BLOCK_COLUMNS; i++) {
            float scaled = block.scales[parts == 2 ? i / 16 : 0] * (float)block.codes[i];
            out[b * CK_BLOCK_COLUMNS + i] = scaled + block.offset;
        }
    }
}

int32_t ck_encoding_of(int32_t type) {
    if (type < 0 || type >= CK_TYPE_COUNT) return 0;
    return type <= CK_BF16 || type == CK_F8_E4M3 ? CK_ENCODING_FLOAT : CK_ENCODING_INT16;
}

static int64_t dense_bytes(int32_t type) { return type == CK_F32 ? 4 : 2; }

int64_t ck_group_bytes(int32_t type, int64_t columns) {
    int64_t bytes;
    if (type <= CK_BF16) {
        bytes = columns * CK_GROUP_ROWS * dense_bytes(type);
    } else if (type == CK_F8_E4M3) {
        bytes = columns * CK_GROUP_ROWS + (columns + CK_SCALE_BLOCK - 1) / CK_SCALE_BLOCK * CK_SCALE_LINE;
    } else {
        ck_quantised_layout layout = ck_layout_of(type);
        bytes = columns / CK_BLOCK_COLUMNS * (ck_code_bytes(layout) + ck_scale_bytes(layout));
    }
    return (bytes + 63) / 64 * 64;
}

/// Dense rows: [column][16].
static void pack_dense(
    int64_t element, const uint8_t *source, int64_t row_bytes, int64_t rows, int64_t columns, uint8_t *group) {
    for (int64_t k = 0; k < columns; k++)
        for (int64_t r = 0; r < rows; r++)
            memcpy(group + (k * CK_GROUP_ROWS + r) * element, source + r * row_bytes + k * element, (size_t)element);
}

/// Places the codes of row `r`. Column pair p = (2p, 2p + 1) of the 16 rows makes up one vector of 32 words;
/// a word in memory holds the codes of 4 (4-bit) or 2 (8-bit) consecutive pairs, lowest bits first, so that
/// shifts and masks of whole vectors unpack them.
static void pack_codes(ck_quantised_layout layout, const int8_t *codes, int64_t r, uint8_t *destination) {
    bool narrow = layout.codes == CODES_U4 || layout.codes == CODES_S4;
    int per_word = narrow ? 4 : 2, bits = narrow ? 4 : 8;
    for (int vector = 0; vector < 16 / per_word; vector++) {
        for (int odd = 0; odd < 2; odd++) {
            uint32_t word = 0;
            for (int i = 0; i < per_word; i++) {
                uint32_t code = (uint8_t)codes[2 * (vector * per_word + i) + odd];
                word |= (code & ((1u << bits) - 1)) << (bits * i);
            }
            uint8_t *place = destination + vector * 64 + (r * 2 + odd) * 2;
            place[0] = (uint8_t)word;
            place[1] = (uint8_t)(word >> 8);
        }
    }
}

static void pack_scales(ck_quantised_layout layout, const ck_block *block, int64_t r, uint8_t *destination) {
    if (layout.half_scales) {
        memcpy(destination + r * 2, &block->half_scale, 2);
        if (layout.offset) memcpy(destination + (CK_GROUP_ROWS + r) * 2, &block->half_offset, 2);
        return;
    }
    for (int part = 0; part < layout.parts; part++)
        memcpy(destination + (part * CK_GROUP_ROWS + r) * 4, &block->scales[part], 4);
    if (layout.offset) memcpy(destination + (layout.parts * CK_GROUP_ROWS + r) * 4, &block->offset, 4);
}

/// Each block of columns: its scale in a line of its own, then [column][16] codes.
void ck_pack_scaled_group(
    const uint8_t *source, int64_t row_bytes, int64_t rows, int64_t columns, const float *scales, uint8_t *group) {
    memset(group, 0, (size_t)ck_group_bytes(CK_F8_E4M3, columns));
    for (int64_t k = 0; k < columns; k++) {
        if (k % CK_SCALE_BLOCK == 0) {
            // `e4m3_to_float` gives 2^-8 of the value, which costs nothing to make good here.
            float scale = scales[k / CK_SCALE_BLOCK] * 256.0f;
            memcpy(group, &scale, 4);
            group += CK_SCALE_LINE;
        }
        for (int64_t r = 0; r < rows; r++) group[r] = source[r * row_bytes + k];
        group += CK_GROUP_ROWS;
    }
}

void ck_pack_group(
    int32_t type, const uint8_t *source, int64_t row_bytes, int64_t rows, int64_t columns, uint8_t *group) {
    memset(group, 0, (size_t)ck_group_bytes(type, columns));
    if (type <= CK_BF16) {
        pack_dense(dense_bytes(type), source, row_bytes, rows, columns, group);
        return;
    }
    // Each block's codes with its scales behind them: products read one stream from end to end.
    ck_quantised_layout layout = ck_layout_of(type);
    int64_t stride = ck_code_bytes(layout) + ck_scale_bytes(layout);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t b = 0; b < columns / CK_BLOCK_COLUMNS; b++) {
            ck_block block;
            ck_read_block(type, source + r * row_bytes, b, &block);
            pack_codes(layout, block.codes, r, group + b * stride);
            pack_scales(layout, &block, r, group + b * stride + ck_code_bytes(layout));
        }
    }
}
