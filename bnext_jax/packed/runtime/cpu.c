/* Chooses the kernels by what the processor and the operating system can do. */
#include <string.h>

#include "internal.h"

#if defined(__x86_64__)
#include <cpuid.h>

/* The registers whose content the operating system keeps between processes. Asked directly, because the compilers' own
 * __builtin_cpu_supports is wrong under some of them. */
static uint64_t kept(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

enum { NOTHING = 0, WITH_AVX2 = 1, WITH_AVX512 = 2 };

static int level(void)
{
    unsigned a, b, c, d, b7, c7;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return NOTHING;
    bool saves = c >> 27 & 1, avx = c >> 28 & 1, fma = c >> 12 & 1;
    if (!saves || !avx || !fma || (kept() & 6) != 6) return NOTHING;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d) || !(b7 >> 5 & 1)) return NOTHING;
    const unsigned needed = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    bool wide = (b7 & needed) == needed && (c7 >> 14 & 1);             /* and the population count of 32 bits */
    return wide && (kept() & 0xe6) == 0xe6 ? WITH_AVX512 : WITH_AVX2;
}
#endif

const kernels *bnext_choose_kernels(const char *name)
{
    const kernels *found[4];
    int count = 0;
#if defined(__x86_64__)
    if (level() >= WITH_AVX512) found[count++] = &bnext_kernels_avx512;
    if (level() >= WITH_AVX2) found[count++] = &bnext_kernels_avx2;
#elif defined(__aarch64__)
    found[count++] = &bnext_kernels_neon;
#endif
    found[count++] = &bnext_kernels_c;
    if (name == NULL) return found[0];
    for (int i = 0; i < count; i++)
        if (strcmp(found[i]->name, name) == 0) return found[i];
    return NULL;
}
