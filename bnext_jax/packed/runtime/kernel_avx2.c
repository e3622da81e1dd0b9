/* The kernels for x86 processors with AVX2: binary convolutions by table look-ups. */
#include "internal.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma")))
#define BLOCK 8
#define SUFFIX(name) name##_avx2
#define vf __m256
#define signs_t uint8_t
#define v_load(p) _mm256_loadu_ps(p)
#define v_store(p, x) _mm256_storeu_ps(p, x)
#define v_one(x) _mm256_set1_ps(x)
#define v_add(a, b) _mm256_add_ps(a, b)
#define v_mul(a, b) _mm256_mul_ps(a, b)
#define v_fma(a, b, c) _mm256_fmadd_ps(a, b, c)
#define v_max(a, b) _mm256_max_ps(a, b)
#define v_min(a, b) _mm256_min_ps(a, b)
#define v_counts(p) _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p))))
#define v_signs(x) (uint8_t)_mm256_movemask_ps(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GE_OQ))

static inline __attribute__((always_inline)) TARGET __m256 v_sums(const int16_t *base, const uint16_t *differing, int16_t *c)
{
    __m128i count = _mm_loadu_si128((const __m128i *)(const void *)differing);
    __m128i sum = _mm_sub_epi16(_mm_loadu_si128((const __m128i *)(const void *)base), _mm_add_epi16(count, count));
    _mm_storeu_si128((__m128i *)(void *)c, sum);
    return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(sum));
}

#include "elementwise.h"


/* Row (a | b << 4) holds, for each weight nibble w, the bits in which it differs from a, and 16 times those in which it differs from b. */
#define D(x) (((x) & 1) + ((x) >> 1 & 1) + ((x) >> 2 & 1) + ((x) >> 3 & 1))
#define E(a, b, w) (D((a) ^ (w)) | D((b) ^ (w)) << 4)
#define ROW(a, b) \
    {E(a, b, 0), E(a, b, 1), E(a, b, 2), E(a, b, 3), E(a, b, 4), E(a, b, 5), E(a, b, 6), E(a, b, 7), \
     E(a, b, 8), E(a, b, 9), E(a, b, 10), E(a, b, 11), E(a, b, 12), E(a, b, 13), E(a, b, 14), E(a, b, 15)}
#define ROWS(b) \
    ROW(0, b), ROW(1, b), ROW(2, b), ROW(3, b), ROW(4, b), ROW(5, b), ROW(6, b), ROW(7, b), \
    ROW(8, b), ROW(9, b), ROW(10, b), ROW(11, b), ROW(12, b), ROW(13, b), ROW(14, b), ROW(15, b)
static const _Alignas(32) uint8_t table[256][16] = {ROWS(0), ROWS(1), ROWS(2),  ROWS(3),  ROWS(4),  ROWS(5),  ROWS(6),  ROWS(7),
                                                    ROWS(8), ROWS(9), ROWS(10), ROWS(11), ROWS(12), ROWS(13), ROWS(14), ROWS(15)};

INLINE __m256i row_avx2(unsigned index)
{
    return _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)(const void *)table[index]));
}

/* Pairs of positions, see kernels. 16 bytes of bits become 32 bytes. */
TARGET static void pair_avx2(const uint8_t *bits, int columns, int words, int step, uint8_t *pairs)
{
    int bytes = 4 * words;
    for (int column = 0; column < columns; column++, bits += bytes, pairs += 2 * bytes) {
        bool last = column + step >= columns; /* nothing reads the high halves there, nor may this function read the next row */
        const uint8_t *other = bits + (last ? 0 : (size_t)step * bytes);
        int i = 0;
        for (; i + 16 <= bytes; i += 16) {
            const __m128i half = _mm_set1_epi8(15);
            __m128i a = _mm_loadu_si128((const __m128i *)(const void *)(bits + i));
            __m128i b = _mm_loadu_si128((const __m128i *)(const void *)(other + i));
            __m128i low = _mm_or_si128(_mm_and_si128(a, half), _mm_slli_epi16(_mm_and_si128(b, half), 4));
            __m128i high = _mm_or_si128(_mm_and_si128(_mm_srli_epi16(a, 4), half), _mm_andnot_si128(half, b));
            _mm_storeu_si128((__m128i *)(void *)(pairs + 2 * i), _mm_unpacklo_epi8(low, high));
            _mm_storeu_si128((__m128i *)(void *)(pairs + 2 * i + 16), _mm_unpackhi_epi8(low, high));
        }
        for (; i < bytes; i++) {
            pairs[2 * i] = (uint8_t)((bits[i] & 15) | (other[i] & 15) << 4);
            pairs[2 * i + 1] = (uint8_t)(bits[i] >> 4 | (other[i] & 0xf0));
        }
    }
}

/* A counter of 8 bits holds the bits of 63 nibbles: those of 31 bytes, here of 30, which are 20 groups of three nibbles. */
enum { FLUSH = 30 };

INLINE __m256i look_avx2(unsigned index, __m256i weights) { return _mm256_shuffle_epi8(row_avx2(index), weights); }

/* Two positions at once share one look-up: the counts of the first are in the low halves of the bytes, those of the second in the high
 * halves. A half holds the sum of three nibbles. `all` adds whole bytes, modulo 256, and `high` the high halves; so the sum of the low
 * halves is all - 16 high, modulo 256. */
INLINE void add_avx2(__m256i sum, __m256i *all, __m256i *high)
{
    *all = _mm256_add_epi8(*all, sum);
    *high = _mm256_add_epi8(*high, _mm256_and_si256(_mm256_srli_epi16(sum, 4), _mm256_set1_epi8(15)));
}

INLINE void count_avx2(const segment *in, const segment_end *end, int pairs)
{
    _Alignas(32) uint16_t differing[SEGMENT * TILE];
    memset(differing, 0, (size_t)pairs * 2 * TILE * sizeof *differing);
    const __m256i half = _mm256_set1_epi8(15);
    const size_t step = 2 * in->step;
    for (int row = 0; row < in->rows; row++) {
        const __m256i *w = (const __m256i *)(const void *)(in->w + row * in->row_bytes);
        const uint8_t *x = in->x + row * in->x_row;
        for (int from = 0, bytes = 4 * in->run; from < bytes; from += FLUSH) {
            int byte = from, until = from + FLUSH < bytes ? from + FLUSH : bytes;
            __m256i all[SEGMENT / 2], high[SEGMENT / 2];
            for (int p = 0; p < pairs; p++) all[p] = high[p] = _mm256_setzero_si256();
            for (; byte + 3 <= until; byte += 3, w += 3) { /* six nibbles, in two groups */
                __m256i b0 = _mm256_load_si256(w), b1 = _mm256_load_si256(w + 1), b2 = _mm256_load_si256(w + 2);
                __m256i w0 = _mm256_and_si256(b0, half), w1 = _mm256_and_si256(_mm256_srli_epi16(b0, 4), half);
                __m256i w2 = _mm256_and_si256(b1, half);
#pragma GCC unroll 4
                for (int p = 0; p < pairs; p++) {
                    const uint8_t *at = x + p * step + 2 * byte;
                    add_avx2(_mm256_add_epi8(_mm256_add_epi8(look_avx2(at[0], w0), look_avx2(at[1], w1)), look_avx2(at[2], w2)), &all[p],
                             &high[p]);
                }
                __m256i w3 = _mm256_and_si256(_mm256_srli_epi16(b1, 4), half), w4 = _mm256_and_si256(b2, half);
                __m256i w5 = _mm256_and_si256(_mm256_srli_epi16(b2, 4), half);
#pragma GCC unroll 4
                for (int p = 0; p < pairs; p++) {
                    const uint8_t *at = x + p * step + 2 * byte;
                    add_avx2(_mm256_add_epi8(_mm256_add_epi8(look_avx2(at[3], w3), look_avx2(at[4], w4)), look_avx2(at[5], w5)), &all[p],
                             &high[p]);
                }
            }
            for (; byte < until; byte++, w++) {
                __m256i both = _mm256_load_si256(w);
                __m256i w0 = _mm256_and_si256(both, half), w1 = _mm256_and_si256(_mm256_srli_epi16(both, 4), half);
#pragma GCC unroll 4
                for (int p = 0; p < pairs; p++) {
                    const uint8_t *at = x + p * step + 2 * byte;
                    add_avx2(_mm256_add_epi8(look_avx2(at[0], w0), look_avx2(at[1], w1)), &all[p], &high[p]);
                }
            }
            for (int p = 0; p < pairs; p++) {
                __m256i low = _mm256_sub_epi8(all[p], _mm256_slli_epi16(_mm256_and_si256(high[p], half), 4));
                __m256i two[2] = {low, high[p]};
                for (int which = 0; which < 2; which++) {
                    __m256i *to = (__m256i *)(void *)(differing + (2 * p + which) * TILE);
                    to[0] = _mm256_add_epi16(to[0], _mm256_cvtepu8_epi16(_mm256_castsi256_si128(two[which])));
                    to[1] = _mm256_add_epi16(to[1], _mm256_cvtepu8_epi16(_mm256_extracti128_si256(two[which], 1)));
                }
            }
        }
    }
    end_segment_avx2(end, differing, in->positions);
}

/* With an odd number of positions nothing uses the second half of the last pair. */
TARGET static void binary_avx2(const segment *in, const segment_end *end)
{
    switch ((in->positions + 1) / 2) {
    case 1: count_avx2(in, end, 1); break;
    case 2: count_avx2(in, end, 2); break;
    case 3: count_avx2(in, end, 3); break;
    default: count_avx2(in, end, 4); break;
    }
}

KERNELS(bnext_kernels_avx2, "avx2", pair_avx2, true);
#endif
