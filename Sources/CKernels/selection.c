// The greatest k of many scores, by their bits: no order of equal elements to get wrong, and no worst case.

#include <string.h>

#include "tables.h"

/// Bits that sort like the floats: greater floats have greater bits. Zeros are one value.
static uint32_t sortable(float value) {
    uint32_t bits;
    value += 0.0f;
    memcpy(&bits, &value, 4);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

enum { BINS = 2048 };

/// The bin that holds the `wanted`th greatest of the keys whose bits above `shift` + width are `prefix`; `wanted`
/// becomes its rank in that bin.
static uint32_t find_bin(
    const float *scores, int64_t begin, int64_t end, uint32_t mask, uint32_t prefix, int shift, uint32_t bins,
    int64_t *wanted) {
    int64_t counts[BINS];
    memset(counts, 0, sizeof counts);
    for (int64_t i = begin; i < end; i++) {
        uint32_t key = sortable(scores[i]);
        if ((key & mask) == prefix) counts[key >> shift & (bins - 1)]++;
    }
    uint32_t bin = bins - 1;
    for (; bin > 0 && counts[bin] < *wanted; bin--) *wanted -= counts[bin];
    return bin;
}

int64_t ck_select_greatest(const float *scores, int64_t begin, int64_t end, int64_t wanted, int32_t *indices) {
    if (end - begin <= wanted) {
        for (int64_t i = begin; i < end; i++) indices[i - begin] = (int32_t)i;
        return end > begin ? end - begin : 0;
    }
    if (wanted <= 0) return 0;
    int64_t ties = wanted;
    uint32_t key = find_bin(scores, begin, end, 0, 0, 21, BINS, &ties) << 21;
    key |= find_bin(scores, begin, end, 0xffe00000u, key, 10, BINS, &ties) << 10;
    key |= find_bin(scores, begin, end, 0xfffffc00u, key, 0, 1024, &ties);
    int64_t found = 0;
    for (int64_t i = begin; i < end && found < wanted; i++) {
        uint32_t own = sortable(scores[i]);
        if (own < key) continue;
        if (own == key && ties-- <= 0) continue;
        indices[found++] = (int32_t)i;
    }
    return found;
}
