// Products of dense weights (f32, f16, bf16, scaled 8-bit floats) with f32 activations: one sum per output, columns in ascending
// order. Throughput comes from independent outputs and rows, never from splitting a sum.

/// Rows `row` … `row + R − 1` of a tile of n rows, times G groups of 16 outputs. R and G are constants.
INLINE void dense_rows(
    const ck_matmul *job, const int32_t type, const int R, const int G, int64_t tile, int64_t n, int64_t row,
    int64_t group) {
    int64_t stride = ck_group_bytes(type, job->columns);
    const uint8_t *weights = (const uint8_t *)job->weights + group * stride;
    const float *x = job->x->floats + tile * CK_TILE_ROWS * job->columns + row;
    v16f sums[4][CK_TILE_ROWS];
    UNROLL for (int g = 0; g < G; g++) {
        UNROLL for (int r = 0; r < R; r++) sums[g][r] = splat(0);
    }
    v16f scales[4];
    for (int64_t k = 0; k < job->columns; k++) {
        if (type == CK_F8_E4M3 && k % CK_SCALE_BLOCK == 0) {
            UNROLL for (int g = 0; g < G; g++) scales[g] = splat(*(const float *)(weights + g * stride));
            weights += CK_SCALE_LINE;
        }
        UNROLL for (int g = 0; g < G; g++) {
            v16f w = load_as_float(type, weights + g * stride);
            if (type == CK_F8_E4M3) w *= scales[g];
            UNROLL for (int r = 0; r < R; r++) sums[g][r] = multiply_add(w, splat(x[r]), sums[g][r]);
        }
        weights += CK_GROUP_ROWS * element_bytes(type);
        x += n;
    }
    UNROLL for (int g = 0; g < G; g++) {
        UNROLL for (int r = 0; r < R; r++) store_outputs(job, tile * CK_TILE_ROWS + row + r, group + g, sums[g][r]);
    }
}

/// All of a tile's rows times G groups.
INLINE void dense_groups(const ck_matmul *job, const int32_t type, const int wide, int64_t tile, int64_t group) {
    int64_t n = rows_of_tile(job->x, tile);
    int64_t row = 0;
#if DENSE_ROWS >= 8
    for (; n - row >= 8; row += 8) {
        if (wide) {
            dense_rows(job, type, 8, 2, tile, n, row, group);
            dense_rows(job, type, 8, 2, tile, n, row, group + 2);
        } else {
            dense_rows(job, type, 8, 1, tile, n, row, group);
        }
    }
#endif
#if DENSE_ROWS >= 4
    for (; n - row >= 4; row += 4) {
        for (int g = 0; g < (wide ? 4 : 1); g++) dense_rows(job, type, 4, 1, tile, n, row, group + g);
    }
    for (; n - row >= 2; row += 2) {
        for (int g = 0; g < (wide ? 4 : 1); g += 2) dense_rows(job, type, 2, wide ? 2 : 1, tile, n, row, group + g);
    }
#endif
    for (; row < n; row++) dense_rows(job, type, 1, wide ? 4 : 1, tile, n, row, group);
}

INLINE void dense_matmul(const ck_matmul *job, const int32_t type) {
    for (int64_t tile = job->tile_begin; tile < job->tile_end; tile++) {
        int64_t group = job->group_begin;
        for (; job->group_end - group >= 4; group += 4) dense_groups(job, type, 1, tile, group);
        for (; group < job->group_end; group++) dense_groups(job, type, 0, tile, group);
    }
}

static void matmul_f32(const ck_matmul *job) { dense_matmul(job, CK_F32); }
static void matmul_f16(const ck_matmul *job) { dense_matmul(job, CK_F16); }
static void matmul_bf16(const ck_matmul *job) { dense_matmul(job, CK_BF16); }
static void matmul_f8(const ck_matmul *job) { dense_matmul(job, CK_F8_E4M3); }

static void matmul(const ck_matmul *job) {
    switch (job->type) {
    case CK_F32: matmul_f32(job); break;
    case CK_F16: matmul_f16(job); break;
    case CK_BF16: matmul_bf16(job); break;
    case CK_F8_E4M3: matmul_f8(job); break;
    case CK_Q4_0: matmul_q4_0(job); break;
    case CK_Q4_1: matmul_q4_1(job); break;
    case CK_Q8_0: matmul_q8_0(job); break;
    case CK_Q4_K: matmul_q4_k(job); break;
    case CK_Q5_K: matmul_q5_k(job); break;
    case CK_Q6_K: matmul_q6_k(job); break;
    default: __builtin_trap();
    }
}

/// Codes, scale and sum of one block of 32 activations.
INLINE void encode_block(const float *source, int16_t *codes, float *scale, float *sum) {
    v16f a = load(source), b = load(source + 16);
    // As integers the magnitudes sort like the floats, and infinities and NaNs come out on top.
    v16i sizes_a = (v16i)a & 0x7fffffff, sizes_b = (v16i)b & 0x7fffffff;
    v16i above = sizes_a > sizes_b;
    v16i sizes = (sizes_a & above) | (sizes_b & ~above);
    int32_t lanes[16], largest = 0;
    memcpy(lanes, &sizes, 64);
    for (int i = 0; i < 16; i++) largest = lanes[i] > largest ? lanes[i] : largest;
    float size;
    memcpy(&size, &largest, 4);
    // Below 1e-30 a block is all zeros: its inverse could overflow, and nothing that small matters.
    float inverse = size >= 1e-30f && largest < 0x7f800000 ? 32767.0f / size : 0;
    const float magic = 12582912.0f;
    v16i code_a = (v16i)(a * splat(inverse) + splat(magic)) - 0x4b400000;
    v16i code_b = (v16i)(b * splat(inverse) + splat(magic)) - 0x4b400000;
    *(v16s_unaligned *)codes = __builtin_convertvector(code_a, v16s);
    *(v16s_unaligned *)(codes + 16) = __builtin_convertvector(code_b, v16s);
    code_a += code_b;
    memcpy(lanes, &code_a, 64);
    uint32_t total = 0;
    for (int i = 0; i < 16; i++) total += (uint32_t)lanes[i];
    // Not finite: the block's results shall be NaN, never a plausible number.
    *scale = largest >= 0x7f800000 ? NAN : inverse == 0 ? 0 : size / 32767.0f;
    *sum = *scale * (float)(int32_t)total;
}

static void encode_tile(
    const ck_activations *x, int32_t encodings, int64_t tile, const float *rows, int64_t stride) {
    int64_t n = rows_of_tile(x, tile), columns = x->columns, first = tile * CK_TILE_ROWS * columns;
    for (int64_t r = 0; r < n && (encodings & CK_ENCODING_FLOAT); r++) {
        float *out = x->floats + first + r;
        for (int64_t k = 0; k < columns; k++) out[k * n] = rows[r * stride + k];
    }
    for (int64_t r = 0; r < n && (encodings & CK_ENCODING_INT16); r++) {
        for (int64_t b = 0; b < columns / CK_BLOCK_COLUMNS; b++) {
            int64_t block = first / CK_BLOCK_COLUMNS + b * n + r;
            encode_block(
                rows + r * stride + b * CK_BLOCK_COLUMNS, x->codes + block * CK_BLOCK_COLUMNS, x->scales + block,
                x->sums + block);
        }
    }
}
