// Causal attention over paged keys and values, with exact softmax per segment of CK_SEGMENT_POSITIONS
// positions; segments are merged in ascending order as in FlashAttention (https://arxiv.org/abs/2205.14135).
//
// A tile holds a few (position, head) rows that share every load of keys and values. Rows see each other in
// nothing else: a row reads positions up to its own only, and its sums run over positions or dimensions in
// ascending order, so neither the tile, nor the call, nor the page size shows in its bits.

enum { SCORE_STRIDE = CK_SEGMENT_POSITIONS + 16 };

typedef struct {
    /// [dimension][row of the tile], scaled.
    float queries[CK_HEAD_DIM_MAX * ATTENTION_ROWS];
    /// One line per row; the stride keeps lines out of one cache set.
    float scores[ATTENTION_ROWS * SCORE_STRIDE];
    /// A segment's weighted sum of values, and the state it is merged into.
    float partial[ATTENTION_ROWS * CK_HEAD_DIM_MAX];
    float state[ATTENTION_ROWS * CK_HEAD_DIM_MAX];
    float largest[ATTENTION_ROWS], total[ATTENTION_ROWS];
    /// How many positions of the whole context, and of the segment, each row attends to.
    int64_t limits[ATTENTION_ROWS], counts[ATTENTION_ROWS];
    /// Of the segment: its first position, the smallest and the largest count.
    int64_t first, shared, longest;
} attention_tile;

INLINE const uint8_t *page_of(const ck_attention *job, int64_t position) {
    return (const uint8_t *)job->pages[position / job->page_tokens];
}

/// Scores of the segment's positions, 16 a vector; what lies behind a row's limit is overwritten later.
INLINE void attention_scores(const ck_attention *job, attention_tile *t, const int32_t type, const int R) {
    int64_t stride = job->page_tokens * element_bytes(type);
    for (int64_t j = 0; j < t->longest; j += 16 * ATTENTION_BLOCKS) {
        const uint8_t *keys[ATTENTION_BLOCKS];
        UNROLL for (int b = 0; b < ATTENTION_BLOCKS; b++) {
            // Past the last block the first one is computed again, and not stored.
            int64_t position = t->first + (j + 16 * b < t->longest ? j + 16 * b : j);
            keys[b] = page_of(job, position) + job->key_offset + position % job->page_tokens * element_bytes(type);
        }
        v16f sums[ATTENTION_ROWS][ATTENTION_BLOCKS];
        UNROLL for (int r = 0; r < R; r++) {
            UNROLL for (int b = 0; b < ATTENTION_BLOCKS; b++) sums[r][b] = splat(0);
        }
        // The next keys and these positions' values are each about as many lines as there are steps.
        int64_t following = t->first + (j + 16 * ATTENTION_BLOCKS < t->longest ? j + 16 * ATTENTION_BLOCKS : j);
        const uint8_t *ahead = page_of(job, following) + job->key_offset
            + following % job->page_tokens * element_bytes(type);
        const uint8_t *values = page_of(job, t->first + j) + job->value_offset
            + (t->first + j) % job->page_tokens * job->head_dim * element_bytes(type);
        const float *q = t->queries;
        for (int64_t d = 0; d < job->head_dim; d++) {
            v16f k[ATTENTION_BLOCKS];
            UNROLL for (int b = 0; b < ATTENTION_BLOCKS; b++) k[b] = load_as_float(type, keys[b] + d * stride);
            UNROLL for (int r = 0; r < R; r++) {
                UNROLL for (int b = 0; b < ATTENTION_BLOCKS; b++)
                    sums[r][b] = multiply_add(splat(q[r]), k[b], sums[r][b]);
            }
            if (R <= 4) {
                __builtin_prefetch(ahead + d * stride);
                __builtin_prefetch(values + d * 16 * ATTENTION_BLOCKS * element_bytes(type));
            }
            q += R;
        }
        UNROLL for (int b = 0; b < ATTENTION_BLOCKS; b++) {
            if (j + 16 * b >= t->longest) break;
            UNROLL for (int r = 0; r < R; r++) store(t->scores + r * SCORE_STRIDE + j + 16 * b, sums[r][b]);
        }
    }
}

/// Turns a row's scores into exp(score − largest); returns the sum.
INLINE float attention_weights(float *scores, int64_t count, float *largest) {
    int64_t padded = (count + 15) / 16 * 16;
    for (int64_t j = count; j < padded; j++) scores[j] = -INFINITY;
    v16f top = load(scores);
    for (int64_t j = 16; j < padded; j += 16) top = larger(load(scores + j), top);
    *largest = largest_lane(top);
    v16f sum = splat(0);
    for (int64_t j = 0; j < padded; j += 16) {
        v16f weight = exponential(load(scores + j) - splat(*largest));
        store(scores + j, weight);
        sum += weight;
    }
    return sum_lanes(sum);
}

/// partial[r][d …] = Σj weight[r][j] · value[j][d …] for `V` vectors of dimensions (the last `width` wide).
INLINE void attention_values(
    const ck_attention *job, attention_tile *t, const int32_t type, const int R, const int V, int64_t d,
    int64_t width) {
    int64_t row_bytes = job->head_dim * element_bytes(type);
    v16f sums[ATTENTION_ROWS][2];
    UNROLL for (int r = 0; r < R; r++) {
        UNROLL for (int v = 0; v < V; v++) sums[r][v] = splat(0);
    }
    for (int64_t j = 0; j < t->longest;) {
        int64_t position = t->first + j, slot = position % job->page_tokens;
        int64_t end = j + job->page_tokens - slot;
        const uint8_t *values = page_of(job, position) + job->value_offset + slot * row_bytes + d * element_bytes(type);
        if (end > t->longest) end = t->longest;
        for (; j < end; j++, values += row_bytes) {
            v16f value[2];
            UNROLL for (int v = 0; v < V; v++) {
                const uint8_t *source = values + v * 16 * element_bytes(type);
                value[v] = width == 16 ? load_as_float(type, source) : load_part_as_float(type, source, width);
            }
            const float *weights = t->scores + j;
            if (j < t->shared) {
                UNROLL for (int r = 0; r < R; r++) {
                    UNROLL for (int v = 0; v < V; v++)
                        sums[r][v] = multiply_add(splat(weights[r * SCORE_STRIDE]), value[v], sums[r][v]);
                }
            } else {
                // Not every row attends to this position, and weight 0 would not silence a NaN in its value.
                UNROLL for (int r = 0; r < R; r++) {
                    if (j >= t->counts[r]) continue;
                    UNROLL for (int v = 0; v < V; v++)
                        sums[r][v] = multiply_add(splat(weights[r * SCORE_STRIDE]), value[v], sums[r][v]);
                }
            }
        }
    }
    UNROLL for (int r = 0; r < R; r++) {
        UNROLL for (int v = 0; v < V; v++) store(t->partial + r * CK_HEAD_DIM_MAX + d + v * 16, sums[r][v]);
    }
}

INLINE void attention_segment(const ck_attention *job, attention_tile *t, const int32_t type, const int R) {
    t->shared = CK_SEGMENT_POSITIONS;
    t->longest = 0;
    for (int r = 0; r < R; r++) {
        int64_t count = t->limits[r] - t->first;
        count = count < 0 ? 0 : count > CK_SEGMENT_POSITIONS ? CK_SEGMENT_POSITIONS : count;
        t->counts[r] = count;
        t->shared = count < t->shared ? count : t->shared;
        t->longest = count > t->longest ? count : t->longest;
    }
    attention_scores(job, t, type, R);
    float largest[ATTENTION_ROWS] = {0}, total[ATTENTION_ROWS] = {0};
    for (int r = 0; r < R; r++)
        if (t->counts[r] > 0) total[r] = attention_weights(t->scores + r * SCORE_STRIDE, t->counts[r], &largest[r]);
    int64_t d = 0;
    for (; ATTENTION_BLOCKS == 2 && job->head_dim - d >= 32; d += 32) attention_values(job, t, type, R, 2, d, 16);
    for (; job->head_dim - d >= 16; d += 16) attention_values(job, t, type, R, 1, d, 16);
    if (d < job->head_dim) attention_values(job, t, type, R, 1, d, job->head_dim - d);
    for (int r = 0; r < R; r++) {
        if (t->counts[r] == 0) continue;
        float *state = t->state + r * CK_HEAD_DIM_MAX, *partial = t->partial + r * CK_HEAD_DIM_MAX;
        if (t->first == 0) {
            t->largest[r] = largest[r];
            t->total[r] = total[r];
            memcpy(state, partial, (size_t)job->head_dim * 4);
            continue;
        }
        float top = largest[r] > t->largest[r] ? largest[r] : t->largest[r];
        v16f before = exponential(splat(t->largest[r] - top)), now = exponential(splat(largest[r] - top));
        t->largest[r] = top;
        t->total[r] = t->total[r] * before[0] + total[r] * now[0];
        for (d = 0; d < job->head_dim; d += 16) store(state + d, load(state + d) * before + load(partial + d) * now);
    }
}

/// Rows are numbered position by position, heads inside; computes R of them from `row` on.
INLINE void attention_rows(const ck_attention *job, attention_tile *t, const int32_t type, const int R, int64_t row) {
    int64_t limit = 0;
    for (int r = 0; r < R; r++) {
        int64_t index = (row + r) / job->group, head = (row + r) % job->group;
        const float *query = job->queries + index * job->query_stride + head * job->head_dim;
        for (int64_t d = 0; d < job->head_dim; d++) t->queries[d * R + r] = query[d] * job->scale;
        t->limits[r] = job->first_position + index + 1;
        limit = t->limits[r] > limit ? t->limits[r] : limit;
    }
    for (t->first = 0; t->first < limit; t->first += CK_SEGMENT_POSITIONS) attention_segment(job, t, type, R);
    for (int r = 0; r < R; r++) {
        int64_t index = (row + r) / job->group, head = (row + r) % job->group;
        float *out = job->out + index * job->out_stride + head * job->head_dim;
        v16f total = splat(t->total[r]);
        const float *state = t->state + r * CK_HEAD_DIM_MAX;
        int64_t d = 0;
        for (; job->head_dim - d >= 16; d += 16) store(out + d, load(state + d) / total);
        if (d < job->head_dim) store_part(out + d, load(state + d) / total, job->head_dim - d);
    }
}

INLINE void attend_type(const ck_attention *job, const int32_t type) {
    attention_tile tile;
    int64_t row = job->row_begin * job->group, end = job->row_end * job->group;
    while (row < end) {
#if ATTENTION_ROWS >= 8
        if (end - row >= 8) {
            attention_rows(job, &tile, type, 8, row);
            row += 8;
            continue;
        }
#endif
#if ATTENTION_ROWS >= 4
        switch (end - row) {
        case 1: attention_rows(job, &tile, type, 1, row); row += 1; break;
        case 2: attention_rows(job, &tile, type, 2, row); row += 2; break;
        case 3: attention_rows(job, &tile, type, 3, row); row += 3; break;
        default: attention_rows(job, &tile, type, 4, row); row += 4; break;
        }
#else
        attention_rows(job, &tile, type, 1, row);
        row += 1;
#endif
    }
}

static void attend_f32(const ck_attention *job) { attend_type(job, CK_F32); }
static void attend_f16(const ck_attention *job) { attend_type(job, CK_F16); }
static void attend_bf16(const ck_attention *job) { attend_type(job, CK_BF16); }

static void attend(const ck_attention *job) {
    if (job->type == CK_F32) attend_f32(job);
    else if (job->type == CK_F16) attend_f16(job);
    else attend_bf16(job);
}
