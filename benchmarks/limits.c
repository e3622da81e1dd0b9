/* What this processor can do at best, beside what the engine needs. benchmarks/packed.py builds and runs it.
 *
 * Prints JSON: binary multiply-accumulates a second (in G) of each kernel set on weights and activations that lie in the first cache; of a
 * loop over registers alone, which has the instructions that a kernel cannot do without; bytes a second read from memory of three sizes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "internal.h"

static double now(void)
{
    struct timespec time;
    timespec_get(&time, TIME_UTC);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* The best of several repetitions: units of work a second. */
#define BEST(work, units) \
    double best = 0; \
    for (int repeat = 0; repeat < 15; repeat++) { \
        double start = now(); \
        for (int i = 0; i < TIMES_EACH; i++) work; \
        double speed = (double)TIMES_EACH * (units) / (now() - start); \
        if (speed > best) best = speed; \
    } \
    return best

enum { TIMES_EACH = 4000, RUN = 48, ROWS = 3 };

/* Eight positions of a 3x3 convolution on 512 channels. */
static double kernel_speed(const kernels *set)
{
    size_t position = set->pair ? 128 : 64;
    uint8_t *w = aligned_alloc(64, bnext_tile_bytes(ROWS * RUN)), *x = aligned_alloc(64, 64 * position * ROWS);
    uint32_t *words = calloc((size_t)ROWS * RUN * TILE, 4);
    for (int i = 0; i < ROWS * RUN * TILE; i++) words[i] = (uint32_t)rand() * 2654435761u;
    for (size_t i = 0; i < 64 * position * ROWS; i++) x[i] = (uint8_t)rand();
    bnext_arrange(set, words, ROWS * RUN, w);
    static int16_t base[TILE], c[SEGMENT * TILE];
    static float zeros[TILE], sums[TILE];
    segment part = {x, 16 * position, position, ROWS, RUN, w, bnext_tile_bytes(RUN), SEGMENT};
    segment_end end = {base, base, base, c, TILE, TILE, zeros, zeros, zeros, sums};
    BEST(set->binary(&part, &end), 1e-9 * SEGMENT * TILE * ROWS * RUN * 32);
}

#if defined(__x86_64__)
#include <immintrin.h>

/* xor, population count, add: three instructions for 512 bits. */
__attribute__((target("avx512f,avx512vpopcntdq"))) static double registers_avx512(void)
{
    __m512i sum[12], one = _mm512_set1_epi32(rand());
    for (int j = 0; j < 12; j++) sum[j] = _mm512_set1_epi32(rand());
    volatile int sink = 0;
    for (int j = 0; j < 12; j++) __asm__ volatile("" : "+v"(sum[j]));
    double best = 0;
    for (int repeat = 0; repeat < 15; repeat++) {
        double start = now();
        for (int i = 0; i < 200000; i++) {
#pragma GCC unroll 12
            for (int j = 0; j < 12; j++) {
                __m512i bits = _mm512_xor_si512(one, sum[j]);
                sum[j] = _mm512_add_epi32(sum[j], _mm512_popcnt_epi32(bits));
            }
        }
        double speed = 1e-9 * 200000 * 12 * 512 / (now() - start);
        if (speed > best) best = speed;
        for (int j = 0; j < 12; j++) sink += _mm512_reduce_add_epi32(sum[j]);
    }
    return best;
}
#endif

static double reading(size_t bytes)
{
    uint64_t *data = aligned_alloc(64, bytes), sum[8] = {0};
    memset(data, 1, bytes);
    double best = 0;
    for (int repeat = 0; repeat < 20; repeat++) {
        double start = now();
        size_t times = ((size_t)1 << 28) / bytes + 1;
        for (size_t i = 0; i < times; i++) {
            for (size_t j = 0; j < bytes / 8; j += 8)
                for (int k = 0; k < 8; k++) sum[k] += data[j + k];
            __asm__ volatile("" : : "r"(sum) : "memory");
        }
        double speed = 1e-9 * (double)times * (double)bytes / (now() - start);
        if (speed > best) best = speed;
    }
    free(data);
    return best;
}

int main(void)
{
    static const char *const names[] = {"avx512", "avx2", "neon", "c"};
    printf("{\"kernels, G/s\": {");
    for (size_t i = 0, count = 0; i < sizeof names / sizeof *names; i++) {
        const kernels *set = bnext_choose_kernels(names[i]);
        if (set) printf("%s\"%s\": %.0f", count++ ? ", " : "", names[i], kernel_speed(set));
    }
    printf("}");
#if defined(__x86_64__)
    const kernels *first = bnext_choose_kernels(NULL);
    if (strcmp(first->name, "avx512") == 0) printf(", \"registers alone, G/s\": %.0f", registers_avx512());
#endif
    printf(", \"reading, GB/s\": {\"256 KiB\": %.0f, \"8 MiB\": %.0f, ", reading(1 << 18), reading(1 << 23));
    printf("\"256 MiB\": %.0f}}\n", reading(1 << 28));
    return 0;
}
