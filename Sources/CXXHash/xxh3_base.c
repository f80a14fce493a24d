// XXH3 for what every processor of the architecture has (SSE2, NEON or plain C).
#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t baton_xxh3_64_base(const void *data, size_t length);

uint64_t baton_xxh3_64_base(const void *data, size_t length) { return XXH3_64bits(data, length); }
