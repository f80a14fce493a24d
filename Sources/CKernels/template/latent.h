// Multi-head latent attention and its indexer, over paged latents.
//
// One row of queries at a time: its bits depend on nothing but its own positions. With latents shared by all heads, a
// position costs heads × (2 · latent + rope) multiplications, beside which turning it into floats is nothing, so
// nothing is won by sharing that between rows.

/// Positions that are turned into floats together.
enum { LATENT_BLOCK = 32 };
enum { LATENT_WIDTH_MAX = CK_LATENT_MAX + CK_LATENT_ROPE_MAX };

typedef struct {
    /// [number][head], scaled.
    float queries[LATENT_WIDTH_MAX * CK_LATENT_HEADS];
    /// [position][latent, rope]; a vector may be read behind the last.
    float keys[LATENT_BLOCK * LATENT_WIDTH_MAX + 16];
    /// [position][head]
    float weights[LATENT_BLOCK * CK_LATENT_HEADS];
    /// [head][latent]
    float state[CK_LATENT_HEADS * CK_LATENT_MAX];
} latent_tile;

/// Bytes of one position's latent.
INLINE int64_t latent_bytes(const ck_latent_attention *job, const int32_t type) {
    if (type != CK_F8_E4M3) return job->latent * element_bytes(type);
    return job->latent + (job->latent + CK_SCALE_BLOCK - 1) / CK_SCALE_BLOCK * 4;
}

INLINE void elements_as_floats(const int32_t type, const uint8_t *source, int64_t count, float *out) {
    int64_t i = 0;
    for (; count - i >= 16; i += 16) store(out + i, load_as_float(type, source + i * element_bytes(type)));
    if (i < count)
        store_part(out + i, load_part_as_float(type, source + i * element_bytes(type), count - i), count - i);
}

/// As `store_scaled` wrote them, with the scales behind the codes.
INLINE void scaled_as_floats(const uint8_t *codes, int64_t count, float *out) {
    const uint8_t *scales = codes + count;
    for (int64_t i = 0; i < count; i += 16) {
        float scale;
        memcpy(&scale, scales + i / CK_SCALE_BLOCK * 4, 4);
        int64_t left = count - i < 16 ? count - i : 16;
        uint8_t lanes[16] = {0};
        memcpy(lanes, codes + i, (size_t)left);
        store_part(out + i, e4m3_to_float(lanes) * splat(scale * 256.0f), left);
    }
}

/// Keys of `n` positions from the `j`th on.
INLINE void latent_keys(const ck_latent_attention *job, latent_tile *t, const int32_t type, int64_t j, int64_t n) {
    const int32_t rope_type = type == CK_F8_E4M3 ? CK_BF16 : type;
    int64_t width = job->latent + job->rope;
    for (int64_t p = 0; p < n; p++) {
        int64_t position = job->selection ? job->selection[j + p] : job->first + j + p;
        int64_t slot = position % job->page_tokens;
        const uint8_t *page = (const uint8_t *)job->pages[position / job->page_tokens];
        const uint8_t *latent = page + job->latent_offset + slot * latent_bytes(job, type);
        float *out = t->keys + p * width;
        if (type == CK_F8_E4M3) scaled_as_floats(latent, job->latent, out);
        else elements_as_floats(type, latent, job->latent, out);
        elements_as_floats(
            rope_type, page + job->rope_offset + slot * job->rope * element_bytes(rope_type), job->rope,
            out + job->latent);
    }
}

/// Scores of P positions, a lane for each head.
INLINE void latent_scores(const latent_tile *t, int64_t width, const int P, int64_t p, v16f *scores) {
    v16f sums[8];
    UNROLL for (int i = 0; i < P; i++) sums[i] = splat(0);
    const float *keys = t->keys + p * width;
    for (int64_t d = 0; d < width; d++) {
        v16f q = load(t->queries + d * CK_LATENT_HEADS);
        UNROLL for (int i = 0; i < P; i++) sums[i] = multiply_add(q, splat(keys[i * width + d]), sums[i]);
    }
    UNROLL for (int i = 0; i < P; i++) scores[p + i] = sums[i];
}

/// Adds the weighted latents of `n` positions to the states of H heads, for V vectors of dimensions.
INLINE void latent_values(
    latent_tile *t, int64_t width, const v16f *factor, const int H, const int V, int64_t h, int64_t d, int64_t n) {
    v16f sums[4][4];
    UNROLL for (int i = 0; i < H; i++) {
        v16f before = splat((*factor)[h + i]);
        UNROLL for (int v = 0; v < V; v++)
            sums[i][v] = load(t->state + (h + i) * CK_LATENT_MAX + d + v * 16) * before;
    }
    const float *keys = t->keys + d, *weights = t->weights + h;
    for (int64_t p = 0; p < n; p++, keys += width, weights += CK_LATENT_HEADS) {
        v16f key[4];
        UNROLL for (int v = 0; v < V; v++) key[v] = load(keys + v * 16);
        UNROLL for (int i = 0; i < H; i++) {
            UNROLL for (int v = 0; v < V; v++) sums[i][v] = multiply_add(splat(weights[i]), key[v], sums[i][v]);
        }
    }
    UNROLL for (int i = 0; i < H; i++) {
        UNROLL for (int v = 0; v < V; v++) store(t->state + (h + i) * CK_LATENT_MAX + d + v * 16, sums[i][v]);
    }
}

/// All heads' states; vectors may reach behind the latent, where nobody looks.
INLINE void latent_block_values(const ck_latent_attention *job, latent_tile *t, const v16f *factor, int64_t n) {
    int64_t width = job->latent + job->rope;
    for (int64_t h = 0; h < job->heads;) {
        int64_t d = 0;
        if (ATTENTION_ROWS >= 4 && job->heads - h >= 4) {
            for (; job->latent - d >= 64 && ATTENTION_ROWS >= 8; d += 64)
                latent_values(t, width, factor, 4, 4, h, d, n);
            for (; d < job->latent; d += 16) latent_values(t, width, factor, 4, 1, h, d, n);
            h += 4;
        } else {
            for (; job->latent - d >= 64 && ATTENTION_ROWS >= 4; d += 64)
                latent_values(t, width, factor, 1, 4, h, d, n);
            for (; d < job->latent; d += 16) latent_values(t, width, factor, 1, 1, h, d, n);
            h += 1;
        }
    }
}

INLINE void attend_latent_type(const ck_latent_attention *job, const int32_t type) {
    latent_tile tile, *t = &tile;
    int64_t width = job->latent + job->rope;
    memset(t->queries, 0, (size_t)width * CK_LATENT_HEADS * 4);
    for (int64_t h = 0; h < job->heads; h++)
        for (int64_t d = 0; d < width; d++)
            t->queries[d * CK_LATENT_HEADS + h] = job->queries[h * job->query_stride + d] * job->scale;
    // Whole vectors, of which CK_LATENT_MAX is a multiple.
    size_t state_bytes = (size_t)((job->latent + 15) / 16 * 16) * 4;
    for (int64_t h = 0; h < job->heads; h++) memset(t->state + h * CK_LATENT_MAX, 0, state_bytes);
    v16f largest = splat(-INFINITY), total = splat(0);
    for (int64_t j = 0; j < job->count; j += LATENT_BLOCK) {
        int64_t n = job->count - j < LATENT_BLOCK ? job->count - j : LATENT_BLOCK;
        latent_keys(job, t, type, j, n);
        v16f scores[LATENT_BLOCK];
        int64_t p = 0;
        for (; ATTENTION_ROWS >= 8 && n - p >= 8; p += 8) latent_scores(t, width, 8, p, scores);
        for (; ATTENTION_ROWS >= 4 && n - p >= 4; p += 4) latent_scores(t, width, 4, p, scores);
        for (; p < n; p++) latent_scores(t, width, 1, p, scores);
        v16f top = largest;
        for (p = 0; p < n; p++) top = larger(scores[p], top);
        v16f factor = exponential(largest - top);
        total *= factor;
        for (p = 0; p < n; p++) {
            v16f weight = exponential(scores[p] - top);
            store(t->weights + p * CK_LATENT_HEADS, weight);
            total += weight;
        }
        largest = top;
        latent_block_values(job, t, &factor, n);
    }
    for (int64_t h = 0; h < job->heads; h++) {
        v16f whole = splat(total[h]);
        const float *state = t->state + h * CK_LATENT_MAX;
        float *out = job->out + h * job->out_stride;
        int64_t d = 0;
        for (; job->latent - d >= 16; d += 16) store(out + d, load(state + d) / whole);
        if (d < job->latent) store_part(out + d, load(state + d) / whole, job->latent - d);
    }
}

static void attend_latent_f32(const ck_latent_attention *job) { attend_latent_type(job, CK_F32); }
static void attend_latent_f16(const ck_latent_attention *job) { attend_latent_type(job, CK_F16); }
static void attend_latent_bf16(const ck_latent_attention *job) { attend_latent_type(job, CK_BF16); }
static void attend_latent_f8(const ck_latent_attention *job) { attend_latent_type(job, CK_F8_E4M3); }

static void attend_latent(const ck_latent_attention *job) {
    if (job->type == CK_F32) attend_latent_f32(job);
    else if (job->type == CK_F16) attend_latent_f16(job);
    else if (job->type == CK_BF16) attend_latent_bf16(job);
    else attend_latent_f8(job);
}

/// 16 · ATTENTION_BLOCKS positions: where their keys begin, and their scales where keys have some.
typedef struct {
    const uint8_t *keys[ATTENTION_BLOCKS];
    const float *scales[ATTENTION_BLOCKS];
    v16f totals[ATTENTION_BLOCKS];
} index_tile;

/// Adds what H heads from `h` on make of the positions to their totals; `queries` is [dimension][head].
INLINE void index_heads(
    const ck_index_scores *job, const int32_t type, const float *queries, const int H, int64_t h, index_tile *t) {
    int64_t stride = job->page_tokens * element_bytes(type);
    v16f sums[8][ATTENTION_BLOCKS];
    UNROLL for (int i = 0; i < H; i++) {
        UNROLL for (int b = 0; b < ATTENTION_BLOCKS; b++) sums[i][b] = splat(0);
    }
    const float *q = queries + h;
    for (int64_t d = 0; d < job->dimension; d++, q += job->heads) {
        v16f k[ATTENTION_BLOCKS];
        UNROLL for (int b = 0; b < ATTENTION_BLOCKS; b++) k[b] = load_as_float(type, t->keys[b] + d * stride);
        UNROLL for (int i = 0; i < H; i++) {
            UNROLL for (int b = 0; b < ATTENTION_BLOCKS; b++) sums[i][b] = multiply_add(splat(q[i]), k[b], sums[i][b]);
        }
    }
    UNROLL for (int b = 0; b < ATTENTION_BLOCKS; b++) {
        v16f scale = splat(job->scale);
        // `e4m3_to_float` gives 2^-8 of a value.
        if (type == CK_F8_E4M3) scale *= load(t->scales[b]) * splat(256.0f);
        UNROLL for (int i = 0; i < H; i++) {
            v16f score = sums[i][b] * scale;
            score = choose(score > splat(0), score, splat(0));
            t->totals[b] = multiply_add(splat(job->weights[h + i]), score, t->totals[b]);
        }
    }
}

INLINE void index_scores_type(const ck_index_scores *job, const int32_t type) {
    float queries[CK_INDEX_MAX];
    for (int64_t h = 0; h < job->heads; h++)
        for (int64_t d = 0; d < job->dimension; d++) queries[d * job->heads + h] = job->queries[h * job->dimension + d];
    for (int64_t j = 0; j < job->count; j += 16 * ATTENTION_BLOCKS) {
        index_tile tile;
        for (int b = 0; b < ATTENTION_BLOCKS; b++) {
            // Past the last block the first one is computed again, and not stored.
            int64_t position = job->first + (j + 16 * b < job->count ? j + 16 * b : j);
            int64_t slot = position % job->page_tokens;
            const uint8_t *plane = (const uint8_t *)job->pages[position / job->page_tokens] + job->key_offset;
            tile.keys[b] = plane + slot * element_bytes(type);
            tile.scales[b] = (const float *)(plane + job->dimension * job->page_tokens) + slot;
            tile.totals[b] = splat(0);
        }
        int64_t h = 0;
        for (; ATTENTION_ROWS >= 8 && job->heads - h >= 8; h += 8) index_heads(job, type, queries, 8, h, &tile);
        for (; ATTENTION_ROWS >= 4 && job->heads - h >= 4; h += 4) index_heads(job, type, queries, 4, h, &tile);
        for (; h < job->heads; h++) index_heads(job, type, queries, 1, h, &tile);
        for (int b = 0; b < ATTENTION_BLOCKS; b++)
            if (j + 16 * b < job->count) store(job->scores + j + 16 * b, tile.totals[b]);
    }
}

static void index_scores_f32(const ck_index_scores *job) { index_scores_type(job, CK_F32); }
static void index_scores_f16(const ck_index_scores *job) { index_scores_type(job, CK_F16); }
static void index_scores_bf16(const ck_index_scores *job) { index_scores_type(job, CK_BF16); }
static void index_scores_f8(const ck_index_scores *job) { index_scores_type(job, CK_F8_E4M3); }

static void index_scores(const ck_index_scores *job) {
    if (job->type == CK_F32) index_scores_f32(job);
    else if (job->type == CK_F16) index_scores_f16(job);
    else if (job->type == CK_BF16) index_scores_bf16(job);
    else index_scores_f8(job);
}
