// Vectors of 16 lanes, whatever the registers: the compiler cuts them into what the target has.
//
// Every operation below is exact or correctly rounded per lane, so all targets give the same bits.
// A file that includes the templates has defined, for its instruction set:
//   multiply_add(a, b, c)     a·b + c, rounded once
//   dot(sum, weights, pair)   per lane: sum + w[2i]·pair.low + w[2i+1]·pair.high, in 32-bit integers
//   half_to_float(h), float_to_half(f)
// and the tile sizes QUANTISED_ROWS, DENSE_ROWS, ATTENTION_ROWS, ATTENTION_BLOCKS.

#include <math.h>
#include <string.h>

INLINE v16f splat(float value) {
    return (v16f){value, value, value, value, value, value, value, value,
                  value, value, value, value, value, value, value, value};
}

INLINE v16f load(const float *source) { return *(const v16f_unaligned *)source; }
INLINE void store(float *destination, v16f value) { *(v16f_unaligned *)destination = value; }

/// The first `count` (< 16) floats, then zeros. Reads nothing behind them.
INLINE v16f load_part(const float *source, int64_t count) {
    float lanes[16] = {0};
    for (int64_t i = 0; i < count; i++) lanes[i] = source[i];
    return load(lanes);
}

INLINE void store_part(float *destination, v16f value, int64_t count) {
    float lanes[16];
    store(lanes, value);
    for (int64_t i = 0; i < count; i++) destination[i] = lanes[i];
}

INLINE v16f choose(v16i mask, v16f yes, v16f no) { return (v16f)((mask & (v16i)yes) | (~mask & (v16i)no)); }

/// The larger; `b` where they can't be compared.
INLINE v16f larger(v16f a, v16f b) { return choose(a > b, a, b); }

/// Sums the lanes in one fixed order.
INLINE float sum_lanes(v16f v) {
    float l[16];
    store(l, v);
    for (int width = 8; width > 0; width /= 2)
        for (int i = 0; i < width; i++) l[i] += l[i + width];
    return l[0];
}

INLINE float largest_lane(v16f v) {
    float l[16];
    store(l, v);
    float result = l[0];
    for (int i = 1; i < 16; i++) result = l[i] > result ? l[i] : result;
    return result;
}

INLINE v16f bfloat_to_float(v16h half) { return (v16f)(__builtin_convertvector(half, v16u) << 16); }

/// Rounds to nearest, ties to even; NaN stays NaN.
INLINE v16h float_to_bfloat(v16f value) {
    v16u bits = (v16u)value;
    v16u rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    v16i is_nan = value != value;
    v16u quiet = (bits >> 16) | 0x40;
    return __builtin_convertvector(((v16u)is_nan & quiet) | (~(v16u)is_nan & rounded), v16h);
}

/// 2^-8 of the values of 16 E4M3 floats: their bits are those of f16 with another bias. NaN becomes a number, so
/// whoever reads codes from outside looks for it.
INLINE v16f e4m3_to_float(const void *source) {
    v16h bits = __builtin_convertvector(*(const v16b_unaligned *)source, v16h);
    return half_to_float(((bits & 0x80) << 8) | ((bits & 0x7f) << 7));
}

/// Rounds to nearest, ties to even; magnitudes up to 448.
INLINE v16b float_to_e4m3(v16f value) {
    v16u bits = (v16u)value, sign = (bits >> 24) & 0x80, size = bits & 0x7fffffff;
    v16u normal = ((size + 0x7ffff + ((size >> 20) & 1)) >> 20) - (120 << 3);
    // Below 2^-6 codes count 2^-9; adding 2^14 leaves that many, rounded, in the low bits.
    v16u subnormal = (v16u)((v16f)size + splat(16384.0f)) & 0xf;
    v16u is_small = (v16u)(size < 0x3c800000u);
    return __builtin_convertvector(sign | (is_small & subnormal) | (~is_small & normal), v16b);
}

INLINE int64_t element_bytes(int32_t type) { return type == CK_F32 ? 4 : type == CK_F8_E4M3 ? 1 : 2; }

INLINE v16f load_as_float(int32_t type, const void *source) {
    if (type == CK_F32) return load(source);
    if (type == CK_F8_E4M3) return e4m3_to_float(source);
    v16h half = *(const v16h_unaligned *)source;
    return type == CK_F16 ? half_to_float(half) : bfloat_to_float(half);
}

INLINE v16f load_part_as_float(int32_t type, const void *source, int64_t count) {
    if (type == CK_F32) return load_part(source, count);
    uint16_t lanes[16] = {0};
    memcpy(lanes, source, (size_t)(count * element_bytes(type)));
    return load_as_float(type, lanes);
}

INLINE void store_from_float(int32_t type, v16f value, void *destination) {
    if (type == CK_F32) {
        store(destination, value);
    } else {
        *(v16h_unaligned *)destination = type == CK_F16 ? float_to_half(value) : float_to_bfloat(value);
    }
}

/// e^x by Cephes' expf: within 2 units in the last place; 0 below the smallest normal result.
INLINE v16f exponential(v16f x) {
    const float lowest = -87.33654f, highest = 88.37626f;
    v16i underflow = x < splat(lowest);
    x = choose(underflow, splat(lowest), x);
    x = choose(x > splat(highest), splat(highest), x);
    // Adding 1.5·2^23 rounds to an integer and leaves it in the low bits.
    const float magic = 12582912.0f;
    v16f shifted = multiply_add(x, splat(1.44269504088896341f), splat(magic));
    v16f n = shifted - splat(magic);
    v16f r = multiply_add(n, splat(-0.693359375f), x);
    r = multiply_add(n, splat(2.12194440e-4f), r);
    v16f p = splat(1.9875691500e-4f);
    p = multiply_add(p, r, splat(1.3981999507e-3f));
    p = multiply_add(p, r, splat(8.3334519073e-3f));
    p = multiply_add(p, r, splat(4.1665795894e-2f));
    p = multiply_add(p, r, splat(1.6666665459e-1f));
    p = multiply_add(p, r, splat(5.0000001201e-1f));
    p = multiply_add(p, r * r, r) + splat(1.0f);
    v16i power = ((v16i)shifted - 0x4b400000 + 127) << 23;
    return choose(underflow, splat(0), p * (v16f)power);
}
