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

/// Scale and inverse scale of a block whose largest magnitude is `largest`. Not finite: the block's values shall be
/// NaN, never plausible numbers. Below 1e-30 it is all zeros, for its inverse could overflow.
INLINE float block_scale(float largest, float *inverse) {
    *inverse = largest >= 1e-30f && largest < INFINITY ? 448.0f / largest : 0;
    return !(largest < INFINITY) ? NAN : *inverse == 0 ? 0 : largest / 448.0f;
}

static void store_scaled(const float *source, int64_t count, uint8_t *codes, int64_t stride, void *scales) {
    for (int64_t begin = 0; begin < count; begin += CK_SCALE_BLOCK) {
        int64_t end = count - begin < CK_SCALE_BLOCK ? count : begin + CK_SCALE_BLOCK;
        float largest = 0, inverse;
        for (int64_t i = begin; i < end; i++) {
            // NaN is not below, and comes out on top.
            float size = fabsf(source[i]);
            largest = size <= largest ? largest : size;
            if (size != size) break;
        }
        float scale = block_scale(largest, &inverse);
        memcpy((uint8_t *)scales + begin / CK_SCALE_BLOCK * 4, &scale, 4);
        for (int64_t i = begin; i < end; i += 16) {
            int64_t left = end - i < 16 ? end - i : 16;
            v16f value = left == 16 ? load(source + i) : load_part(source + i, left);
            uint8_t lanes[16];
            *(v16b_unaligned *)lanes = inverse == 0 ? (v16b){0} : float_to_e4m3(value * splat(inverse));
            for (int64_t l = 0; l < left; l++) codes[(i + l) * stride] = lanes[l];
        }
    }
}

static void dequantise_row(int32_t type, const uint8_t *row, int64_t columns, float *out) {
    if (type <= CK_BF16 || type == CK_F8_E4M3) to_float(type, row, columns, out);
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

static void layer_norm(
    const float *x, const float *weight, const float *bias, int64_t count, float epsilon, float *out) {
    v16f sums = splat(0), squares = splat(0);
    int64_t whole = count / 16 * 16, left = count - whole;
    for (int64_t i = 0; i < whole; i += 16) sums += load(x + i);
    if (left) sums += load_part(x + whole, left);
    float mean = sum_lanes(sums) / (float)count;
    for (int64_t i = 0; i < count; i += 16) {
        float lanes[16] = {0};
        for (int64_t l = 0; l < 16 && i + l < count; l++) lanes[l] = x[i + l] - mean;
        squares = multiply_add(load(lanes), load(lanes), squares);
    }
    float factor = 1.0f / sqrtf(sum_lanes(squares) / (float)count + epsilon);
    for (int64_t i = 0; i < count; i++) out[i] = (x[i] - mean) * factor * weight[i] + bias[i];
}

static void add(const float *x, float *sum, int64_t count) {
    for (int64_t i = 0; i < count; i++) sum[i] += x[i];
}

static void add_scaled(const float *x, float factor, float *sum, int64_t count) {
    int64_t i = 0;
    for (; count - i >= 16; i += 16) store(sum + i, multiply_add(splat(factor), load(x + i), load(sum + i)));
    for (int64_t left = count - i; left > 0; left = 0)
        store_part(sum + i, multiply_add(splat(factor), load_part(x + i, left), load_part(sum + i, left)), left);
}

static void sigmoid(const float *x, int64_t count, float *out) {
    for (int64_t i = 0; i < count; i += 16) {
        int64_t left = count - i < 16 ? count - i : 16;
        v16f value = left == 16 ? load(x + i) : load_part(x + i, left);
        store_part(out + i, splat(1.0f) / (splat(1.0f) + exponential(-value)), left);
    }
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
