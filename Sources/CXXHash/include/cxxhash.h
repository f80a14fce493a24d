#ifndef BATON_CXXHASH_H
#define BATON_CXXHASH_H

#include <stddef.h>
#include <stdint.h>

// XXH3-64 with seed 0 of `length` bytes, by the widest vector unit this processor has. The same value everywhere.
uint64_t baton_xxh3_64(const void *_Nonnull data, size_t length);

#endif
