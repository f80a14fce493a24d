// Norms, activations, rotations, conversions, and reductions over the vocabulary.

static void to_float(int32_t type, const void *source, int64_t count, float *out) {
    const uint8_t *bytes = source;
    int64_t i = 0;
    for (; count - i >= 16; i += 16) store(out + i, load_as_float(type, bytes + i * element_bytes(type)));
    if (i < count)
        store_part(out + i, load_part_as_float(type, bytes + i * element_bytes(type), count - i), count - i);
}

static void from_float(int32_t type, const float *source, int64_t count, void *out) {
    uint8_t *bytes = out;
    int64_t i = 0;
    for (; count - i >= 16; i += 16) store_from_float(type, load(source + i), bytes + i * element_bytes(type));
    if (i < count) {
        uint8_t lanes[64];
        store_from_float(type, load_part(source + i, count - i), lanes);
        memcpy(bytes + i * element_bytes(type), lanes, (size_t)((count - i) * element_bytes(type)));
    }
}

static void store_keys(int32_t type, const float *keys, int64_t head_dim, int64_t page_tokens, void *column) {
    int64_t size = element_bytes(type), stride = page_tokens * size;
    uint8_t *out = column, lanes[64];
    for (int64_t d = 0; d < head_dim; d += 16) {
        int64_t count = head_dim - d < 16 ? head_dim - d : 16;
        store_from_float(type, count == 16 ? load(keys + d) : load_part(keys + d, count), lanes);
        for (int64_t i = 0; i < count; i++, out += stride) {
            if (size == 2) memcpy(out, lanes + i * 2, 2);
            else memcpy(out, lanes + i * 4, 4);
        }
    }
}

static void dequantise_row(int32_t type, const uint8_t *row, int64_t columns, float *out) {
    if (type <= CK_BF16) to_float(type, row, columns, out);
    else ck_dequantise_row(type, row, columns, out);
}

static void rms_norm(const float *x, const float *weight, int64_t count, float epsilon, float *out) {
    v16f squares = splat(0);
    int64_t i = 0;
    for (; count - i >= 16; i += 16) {
        v16f v = load(x + i);
        squares = multiply_add(v, v, squares);
    }
    if (i < count) {
        v16f v = load_part(x + i, count - i);
        squares = multiply_add(v, v, squares);
    }
    float factor = 1.0f / sqrtf(sum_lanes(squares) / (float)count + epsilon);
    for (i = 0; i < count; i++) out[i] = x[i] * factor * weight[i];
}

static void add(const float *x, float *sum, int64_t count) {
    for (int64_t i = 0; i < count; i++) sum[i] += x[i];
}

static void scale(float *x, int64_t count, float factor) {
    for (int64_t i = 0; i < count; i++) x[i] *= factor;
}

INLINE v16f silu(v16f x) { return x / (splat(1.0f) + exponential(-x)); }

static void silu_multiply(const float *gate, const float *up, int64_t count, float *out) {
    int64_t i = 0;
    for (; count - i >= 16; i += 16) store(out + i, silu(load(gate + i)) * load(up + i));
    if (i < count) {
        int64_t left = count - i;
        store_part(out + i, silu(load_part(gate + i, left)) * load_part(up + i, left), left);
    }
}

static void rope(
    float *x, int64_t heads, int64_t head_dim, int64_t rotary_dim, bool interleaved, const float *cosines,
    const float *sines) {
    int64_t half = rotary_dim / 2;
    for (int64_t h = 0; h < heads; h++, x += head_dim) {
        if (interleaved) {
            for (int64_t i = 0; i < half; i++) {
                float a = x[2 * i], b = x[2 * i + 1];
                x[2 * i] = a * cosines[i] - b * sines[i];
                x[2 * i + 1] = a * sines[i] + b * cosines[i];
            }
        } else {
            for (int64_t i = 0; i < half; i++) {
                float a = x[i], b = x[i + half];
                x[i] = a * cosines[i] - b * sines[i];
                x[i + half] = a * sines[i] + b * cosines[i];
            }
        }
    }
}

static float maximum(const float *x, int64_t count) {
    v16f top = splat(-INFINITY);
    int64_t i = 0;
    for (; count - i >= 16; i += 16) top = larger(load(x + i), top);
    float result = largest_lane(top);
    for (; i < count; i++) result = x[i] > result ? x[i] : result;
    return result;
}

static int64_t argmax(const float *x, int64_t count) {
    float top = maximum(x, count);
    for (int64_t i = 0; i < count; i++)
        if (x[i] == top) return i;
    return 0;
}

static float exp_sum(const float *x, int64_t count, float largest, float factor, float *out) {
    v16f sum = splat(0);
    int64_t i = 0;
    for (; count - i >= 16; i += 16) {
        v16f term = exponential((load(x + i) - splat(largest)) * splat(factor));
        if (out) store(out + i, term);
        sum += term;
    }
    if (i < count) {
        float lanes[16];
        for (int64_t j = 0; j < 16; j++) lanes[j] = i + j < count ? x[i + j] : -INFINITY;
        v16f term = exponential((load(lanes) - splat(largest)) * splat(factor));
        if (out) store_part(out + i, term, count - i);
        sum += term;
    }
    return sum_lanes(sum);
}
