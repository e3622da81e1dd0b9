/* The kernels for x86 processors with AVX-512 and its population count (Ice Lake, Zen 4 and later). */
#include "internal.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,avx2,fma")))
#define BLOCK 16
#define SUFFIX(name) name##_avx512
#define vf __m512
#define signs_t uint16_t
#define v_load(p) _mm512_loadu_ps(p)
#define v_store(p, x) _mm512_storeu_ps(p, x)
#define v_one(x) _mm512_set1_ps(x)
#define v_add(a, b) _mm512_add_ps(a, b)
#define v_mul(a, b) _mm512_mul_ps(a, b)
#define v_fma(a, b, c) _mm512_fmadd_ps(a, b, c)
#define v_max(a, b) _mm512_max_ps(a, b)
#define v_min(a, b) _mm512_min_ps(a, b)
#define v_counts(p) _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(p))))
#define v_signs(x) _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GE_OQ)

static inline __attribute__((always_inline)) TARGET __m512 v_sums(const int16_t *base, const uint16_t *differing, int16_t *c)
{
    __m256i count = _mm256_loadu_si256((const __m256i *)(const void *)differing);
    __m256i sum = _mm256_sub_epi16(_mm256_loadu_si256((const __m256i *)(const void *)base), _mm256_add_epi16(count, count));
    _mm256_storeu_si256((__m256i *)(void *)c, sum);
    return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(sum));
}

#include "elementwise.h"

INLINE __m512i counts_avx512(const int16_t *p) { return _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p)); }

/* What end_segment does, from counts that are in registers. */
INLINE void from_registers(const segment_end *end, const __m512i *differing, int lane, int positions)
{
    const __m512 a = v_load(end->a + lane), b = v_load(end->b + lane), slope = v_load(end->slope + lane);
    const __m512i first = counts_avx512(end->first + lane), last = counts_avx512(end->last + lane);
    const __m512i middle = counts_avx512(end->middle + lane);
    const size_t pitch = (size_t)end->c_pitch;
    int16_t *to = end->c + lane;
    __m512 sum = v_one(0);
#pragma GCC unroll 8
    for (int p = 0; p < positions; p++, to += pitch) {
        __m512i c = p == 0 ? first : p == positions - 1 ? last : middle;
        c = _mm512_sub_epi32(c, _mm512_add_epi32(differing[p], differing[p]));
        _mm256_storeu_si256((__m256i *)(void *)to, _mm512_cvtepi32_epi16(c));
        sum = v_add(sum, prelu_avx512(v_fma(_mm512_cvtepi32_ps(c), a, b), slope));
    }
    v_store(end->sums + lane, v_add(v_load(end->sums + lane), sum));
}

/* Lanes are outputs: each of 32 lanes of 32 bits counts the bits that differ between its weights and one position's activations. */
INLINE void count_avx512(const segment *in, const segment_end *end, int positions)
{
    __m512i low[SEGMENT], high[SEGMENT];
    for (int p = 0; p < positions; p++) low[p] = high[p] = _mm512_setzero_si512();
    for (int row = 0; row < in->rows; row++) {
        const uint32_t *w = (const uint32_t *)(const void *)(in->w + row * in->row_bytes);
        const uint32_t *bits = (const uint32_t *)(const void *)(in->x + row * in->x_row);
        for (int i = 0; i < in->run; i++, w += TILE) {
            __m512i w0 = _mm512_loadu_si512(w), w1 = _mm512_loadu_si512(w + 16);
#pragma GCC unroll 8
            for (int p = 0; p < positions; p++) {
                __m512i one = _mm512_set1_epi32((int)bits[(size_t)p * in->step / 4 + i]);
                low[p] = _mm512_add_epi32(low[p], _mm512_popcnt_epi32(_mm512_xor_si512(w0, one)));
                high[p] = _mm512_add_epi32(high[p], _mm512_popcnt_epi32(_mm512_xor_si512(w1, one)));
            }
        }
    }
    from_registers(end, low, 0, positions);
    if (end->lanes > BLOCK) from_registers(end, high, BLOCK, positions);
}

BINARY_OF_COUNT

KERNELS(bnext_kernels_avx512, "avx512", NULL, false);
#endif
