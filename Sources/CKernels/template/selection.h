// The greatest k of many scores. A floor, which k of them reach, sorts out most others, 64 at a time; it begins with the last
// positions, which attention likes best, and rises as scores go by. What is left is chosen by its bits, so the choice is
// exact whatever the scores are, and scores that only ever grow cost no more than choosing among 4 k for every 3 k of them.

enum { CANDIDATES_MAX = 8192, CANDIDATES_AHEAD = 64 };

typedef struct {
    const float *scores;
    /// Ascending; the last CANDIDATES_AHEAD are room for what is looked at together.
    int32_t positions[CANDIDATES_MAX + CANDIDATES_AHEAD];
    int64_t count;
} candidates;

/// Bits that sort like the floats: greater floats have greater bits. Zeros are one value.
INLINE uint32_t sortable(float value) {
    uint32_t bits;
    value += 0.0f;
    memcpy(&bits, &value, 4);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

INLINE float of_sortable(uint32_t key) {
    uint32_t bits = key & 0x80000000u ? key & 0x7fffffffu : ~key;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/// The `wanted`th greatest of the keys, a byte at a time; `wanted` becomes how many of those that are equal to it belong
/// to the greatest. Changes the keys.
static uint32_t greatest_key(uint32_t *keys, int64_t count, int64_t *wanted) {
    uint32_t key = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        // Neighbours are often alike, and a count that was just written is slow to read.
        int32_t even[256] = {0}, odd[256] = {0};
        int64_t i = 0;
        for (; count - i >= 2; i += 2) {
            even[keys[i] >> shift & 255]++;
            odd[keys[i + 1] >> shift & 255]++;
        }
        if (i < count) even[keys[i] >> shift & 255]++;
        uint32_t digit = 255;
        for (; digit > 0 && even[digit] + odd[digit] < *wanted; digit--) *wanted -= even[digit] + odd[digit];
        key |= digit << shift;
        int64_t kept = 0;
        for (i = 0; i < count; i++) {
            keys[kept] = keys[i];
            kept += (keys[i] >> shift & 255) == digit;
        }
        count = kept;
    }
    return key;
}

/// Leaves the `wanted` greatest of the candidates, of which there are more. Returns the key of the least of them.
static uint32_t keep_greatest(candidates *c, int64_t wanted) {
    uint32_t keys[CANDIDATES_MAX + CANDIDATES_AHEAD], left[CANDIDATES_MAX + CANDIDATES_AHEAD];
    for (int64_t i = 0; i < c->count; i++) keys[i] = sortable(c->scores[c->positions[i]]);
    memcpy(left, keys, (size_t)c->count * sizeof *keys);
    int64_t ties = wanted, kept = 0;
    uint32_t key = greatest_key(left, c->count, &ties);
    for (int64_t i = 0; i < c->count; i++) {
        if (keys[i] < key || (keys[i] == key && ties-- <= 0)) continue;
        c->positions[kept++] = c->positions[i];
    }
    c->count = kept;
    return key;
}

/// Whether all of 64 scores are below the floor. What is no number is not.
INLINE bool all_below(const float *scores, float floor) {
    v16i below = load(scores) < splat(floor);
    UNROLL for (int i = 16; i < 64; i += 16) below &= load(scores + i) < splat(floor);
    return __builtin_reduce_and(below) != 0;
}

INLINE void add_candidates(candidates *c, int64_t begin, int64_t end, float floor) {
    for (int64_t i = begin; i < end; i++) {
        c->positions[c->count] = (int32_t)i;
        c->count += !(c->scores[i] < floor);
    }
}

/// For `wanted` that candidates have no room for.
static int64_t select_from_all(const float *scores, int64_t begin, int64_t end, int64_t wanted, int32_t *indices) {
    uint32_t key = 0, mask = 0;
    int64_t ties = wanted, found = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        int64_t counts[256] = {0};
        for (int64_t i = begin; i < end; i++) {
            uint32_t own = sortable(scores[i]);
            if ((own & mask) == key) counts[own >> shift & 255]++;
        }
        uint32_t digit = 255;
        for (; digit > 0 && counts[digit] < ties; digit--) ties -= counts[digit];
        key |= digit << shift;
        mask |= 255u << shift;
    }
    for (int64_t i = begin; i < end; i++) {
        uint32_t own = sortable(scores[i]);
        if (own < key || (own == key && ties-- <= 0)) continue;
        indices[found++] = (int32_t)i;
    }
    return found;
}

static int64_t select_greatest(const float *scores, int64_t begin, int64_t end, int64_t wanted, int32_t *indices) {
    if (end - begin <= wanted) {
        for (int64_t i = begin; i < end; i++) indices[i - begin] = (int32_t)i;
        return end > begin ? end - begin : 0;
    }
    if (wanted <= 0) return 0;
    if (2 * wanted > CANDIDATES_MAX) return select_from_all(scores, begin, end, wanted, indices);
    // Four times as many, so that choosing among them is rare; few enough to stay in the cache.
    int64_t limit = 4 * wanted < 512 ? 512 : 4 * wanted > CANDIDATES_MAX ? CANDIDATES_MAX : 4 * wanted;
    candidates c;
    c.scores = scores;
    c.count = 0;
    float floor = -INFINITY;
    int64_t i = begin;
    if (end - begin > limit) {
        add_candidates(&c, end - limit, end, floor);
        floor = of_sortable(keep_greatest(&c, wanted));
        c.count = 0;
    }
    while (i < end) {
        while (end - i >= CANDIDATES_AHEAD && all_below(scores + i, floor)) i += CANDIDATES_AHEAD;
        int64_t stop = end - i < CANDIDATES_AHEAD ? end : i + CANDIDATES_AHEAD;
        add_candidates(&c, i, stop, floor);
        i = stop;
        // A later one that is no greater than the least of these is not among the greatest.
        if (c.count >= limit && i < end) floor = of_sortable(keep_greatest(&c, wanted) + 1);
    }
    if (c.count > wanted) keep_greatest(&c, wanted);
    memcpy(indices, c.positions, (size_t)c.count * sizeof *indices);
    return c.count;
}
