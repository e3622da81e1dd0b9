/* What the C tests share: random numbers that depend on a seed only, and the report of the first difference. */
#ifndef CHECK_H
#define CHECK_H

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t seed = 1;

static inline uint32_t random32(void)
{
    seed += 0x9E3779B97F4A7C15u; /* SplitMix64 */
    uint64_t z = seed;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (uint32_t)((z ^ z >> 31) >> 32);
}

static inline int below(int limit) { return (int)(random32() % (uint32_t)limit); }
static inline float between(float low, float high) { return low + (high - low) * (float)(random32() >> 8) / 16777216.0f; }

static inline void *some(size_t count, size_t size)
{
    void *made = calloc(count ? count : 1, size);
    if (!made) exit((fputs("too little memory for the test\n", stderr), 2));
    return made;
}

static inline float *random_floats(size_t count, float low, float high)
{
    float *made = some(count, sizeof *made);
    for (size_t i = 0; i < count; i++) made[i] = between(low, high);
    return made;
}

__attribute__((noreturn, format(printf, 1, 2))) static inline void differs(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stdout, format, arguments);
    va_end(arguments);
    putchar('\n');
    exit(1);
}

/* `scale` is the sum of the absolute values of the terms, so that a sum of many terms may differ more. */
static inline bool close_to(double found, double expected, double scale) { return fabs(found - expected) <= 2e-6 * scale + 1e-30; }

#endif
