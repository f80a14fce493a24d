// Which tables this machine can run.

#include "tables.h"

#if defined(__x86_64__)

#include <cpuid.h>

static uint64_t enabled_state(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static int32_t best_isa(void) {
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return CK_ISA_PORTABLE;
    bool saves_state = c & bit_OSXSAVE;
    bool fma = c & bit_FMA, f16c = c & bit_F16C, avx = c & bit_AVX;
    if (!saves_state || !fma || !f16c || !avx) return CK_ISA_PORTABLE;
    // A CPU may have registers that its operating system does not save: bits 1, 2 are SSE and AVX state;
    // 5, 6, 7 the mask registers and the two halves of AVX-512 state.
    uint64_t state = enabled_state();
    if ((state & 0x6) != 0x6) return CK_ISA_PORTABLE;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX2)) return CK_ISA_PORTABLE;
    uint32_t wide = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    if ((state & 0xe6) == 0xe6 && (b & wide) == wide && (c & bit_AVX512VNNI)) return CK_ISA_AVX512;
    return CK_ISA_AVX2;
}

const ck_table *ck_table_for(int32_t isa) {
    if (isa > best_isa()) return NULL;
    switch (isa) {
    case CK_ISA_PORTABLE: return &ck_portable;
    case CK_ISA_AVX2: return &ck_avx2;
    case CK_ISA_AVX512: return &ck_avx512;
    default: return NULL;
    }
}

#else

const ck_table *ck_table_for(int32_t isa) { return isa == CK_ISA_PORTABLE ? &ck_portable : NULL; }

#endif
