// Products of quantised weights with int16 activations.
//
// A block of 32 columns is an exact integer dot product (|Σ| < 2^31 for codes of 8 bits and activations of
// 16); blocks are then added up in f32, in ascending order, one rounding each:
//   out += d·s · Σ w·x,   out += m · (s · Σ x).

/// How far ahead the weights are fetched where few rows leave the CPU waiting for memory. All of a matrix is
/// one stream, and a task reads its part of it from end to end.
enum { PREFETCH_BYTES = 4096 };

/// Vector `i` of those that share the words `w`, as 32 signed words.
INLINE v32s unpack_codes(int32_t codes, v32u w, int i) {
    switch (codes) {
    case CODES_U4: return (v32s)(i == 3 ? w >> 12 : (w >> (4 * i)) & 15);
    case CODES_S4: return (v32s)(w << (12 - 4 * i)) >> 12;
    case CODES_U8: return (v32s)(i == 1 ? w >> 8 : w & 255);
    default: return i == 1 ? (v32s)w >> 8 : (v32s)(w << 8) >> 8;
    }
}

INLINE void store_outputs(const ck_matmul *job, int64_t row, int64_t group, v16f sum) {
    int64_t first = group * CK_GROUP_ROWS, count = job->outputs - first;
    float *out = job->out + row * job->out_stride + first;
    if (count >= CK_GROUP_ROWS) {
        if (job->bias) sum += load(job->bias + first);
        if (job->adding) sum += load(out);
        store(out, sum);
        return;
    }
    if (job->bias) sum += load_part(job->bias + first, count);
    if (job->adding) sum += load_part(out, count);
    store_part(out, sum, count);
}

INLINE v16f load_scales(ck_quantised_layout layout, const uint8_t *scales, int index) {
    int64_t offset = index * CK_GROUP_ROWS;
    return layout.half_scales ? load_as_float(CK_F16, scales + offset * 2) : load((const float *)scales + offset);
}

/// Rows `row` … `row + R − 1` of a tile of n rows, times one group of 16 outputs. `R` is a constant.
INLINE void quantised_rows(
    const ck_matmul *job, const int32_t type, const int R, int64_t tile, int64_t n, int64_t row, int64_t group) {
    const ck_quantised_layout layout = ck_layout_of(type);
    const int per_word = layout.codes == CODES_U4 || layout.codes == CODES_S4 ? 4 : 2;
    const int vectors = 16 / per_word / layout.parts;
    // Few rows: several integer sums for each, to hide the latency; they are exact, so their order is free.
    const int chains = R >= 4 ? 1 : R >= 2 ? 2 : 4;
    int64_t blocks = job->columns / CK_BLOCK_COLUMNS;
    const uint8_t *weights = (const uint8_t *)job->weights + group * ck_group_bytes(type, job->columns);
    int64_t first = tile * CK_TILE_ROWS * blocks;
    const int16_t *x = job->x->codes + first * CK_BLOCK_COLUMNS + row * CK_BLOCK_COLUMNS;
    const float *x_scales = job->x->scales + first + row;
    const float *x_sums = job->x->sums + first + row;
    v16f sums[CK_TILE_ROWS];
    UNROLL for (int r = 0; r < R; r++) sums[r] = splat(0);
    for (int64_t b = 0; b < blocks; b++) {
        const uint8_t *scales = weights + ck_code_bytes(layout);
        UNROLL for (int part = 0; part < layout.parts; part++) {
            v16i dots[CK_TILE_ROWS][4];
            UNROLL for (int r = 0; r < R; r++) {
                UNROLL for (int c = 0; c < chains; c++) dots[r][c] = (v16i){0};
            }
            UNROLL for (int v = 0; v < vectors; v++) {
                const uint8_t *source = weights + (part * vectors + v) * 64;
                v32u words = *(const v32u_unaligned *)source;
                if (R < 4) __builtin_prefetch(source + PREFETCH_BYTES);
                UNROLL for (int i = 0; i < per_word; i++) {
                    v32s w = unpack_codes(layout.codes, words, i);
                    int pair = (part * vectors + v) * per_word + i;
                    UNROLL for (int r = 0; r < R; r++) {
                        int32_t both = *(const pair_of_words *)(x + r * CK_BLOCK_COLUMNS + pair * 2);
                        dots[r][pair % chains] = dot(dots[r][pair % chains], w, both);
                    }
                }
            }
            v16f d = load_scales(layout, scales, part);
            UNROLL for (int r = 0; r < R; r++) {
                v16i sum = dots[r][0];
                UNROLL for (int c = 1; c < chains; c++) sum += dots[r][c];
                sums[r] = multiply_add(__builtin_convertvector(sum, v16f), d * splat(x_scales[r]), sums[r]);
            }
        }
        if (R < 4) __builtin_prefetch(scales + PREFETCH_BYTES);
        if (layout.offset) {
            v16f m = load_scales(layout, scales, layout.parts);
            UNROLL for (int r = 0; r < R; r++) sums[r] = multiply_add(m, splat(x_sums[r]), sums[r]);
        }
        weights = scales + ck_scale_bytes(layout);
        x += n * CK_BLOCK_COLUMNS;
        x_scales += n;
        x_sums += n;
    }
    UNROLL for (int r = 0; r < R; r++) store_outputs(job, tile * CK_TILE_ROWS + row + r, group, sums[r]);
}

INLINE int64_t rows_of_tile(const ck_activations *x, int64_t tile) {
    int64_t rows = x->rows - tile * CK_TILE_ROWS;
    return rows < CK_TILE_ROWS ? rows : CK_TILE_ROWS;
}

/// All of a tile's rows times one group.
INLINE void quantised_group(const ck_matmul *job, const int32_t type, int64_t tile, int64_t group) {
    int64_t n = rows_of_tile(job->x, tile), row = 0;
    // Few sizes, to bound the code: 5 rows are 4 + 1, 6 are 4 + 2, 7 are 4 + 3.
#if QUANTISED_ROWS >= 8
    for (; n - row >= 8; row += 8) quantised_rows(job, type, 8, tile, n, row, group);
#endif
#if QUANTISED_ROWS >= 4
    for (; n - row >= 4; row += 4) quantised_rows(job, type, 4, tile, n, row, group);
    switch (n - row) {
    case 3: quantised_rows(job, type, 3, tile, n, row, group); break;
    case 2: quantised_rows(job, type, 2, tile, n, row, group); break;
    case 1: quantised_rows(job, type, 1, tile, n, row, group); break;
    default: break;
    }
#else
    for (; row < n; row++) quantised_rows(job, type, 1, tile, n, row, group);
#endif
}

INLINE void quantised_matmul(const ck_matmul *job, const int32_t type) {
    for (int64_t tile = job->tile_begin; tile < job->tile_end; tile++)
        for (int64_t group = job->group_begin; group < job->group_end; group++) quantised_group(job, type, tile, group);
}

// One function a type: the compiler sees the type as a constant in each.
static void matmul_q4_0(const ck_matmul *job) { quantised_matmul(job, CK_Q4_0); }
static void matmul_q4_1(const ck_matmul *job) { quantised_matmul(job, CK_Q4_1); }
static void matmul_q8_0(const ck_matmul *job) { quantised_matmul(job, CK_Q8_0); }
static void matmul_q4_k(const ck_matmul *job) { quantised_matmul(job, CK_Q4_K); }
static void matmul_q5_k(const ck_matmul *job) { quantised_matmul(job, CK_Q5_K); }
static void matmul_q6_k(const ck_matmul *job) { quantised_matmul(job, CK_Q6_K); }
