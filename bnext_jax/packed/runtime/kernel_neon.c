/* The kernels for 64-bit ARM processors. */
#include "internal.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#define TARGET
#define BLOCK 8
#define SUFFIX(name) name##_neon
#define signs_t uint8_t

typedef struct {
    float32x4_t low, high;
} vf;

#define BOTH(low, high) ((vf){low, high})

static inline vf v_load(const float *p) { return BOTH(vld1q_f32(p), vld1q_f32(p + 4)); }
static inline vf v_one(float x) { return BOTH(vdupq_n_f32(x), vdupq_n_f32(x)); }
static inline vf v_add(vf a, vf b) { return BOTH(vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)); }
static inline vf v_mul(vf a, vf b) { return BOTH(vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)); }
static inline vf v_fma(vf a, vf b, vf c) { return BOTH(vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)); }

/* These two return the number if the other one is none, as the instructions of x86 do in a PReLU. */
static inline vf v_max(vf a, vf b) { return BOTH(vmaxnmq_f32(a.low, b.low), vmaxnmq_f32(a.high, b.high)); }
static inline vf v_min(vf a, vf b) { return BOTH(vminnmq_f32(a.low, b.low), vminnmq_f32(a.high, b.high)); }

static inline void v_store(float *p, vf x)
{
    vst1q_f32(p, x.low);
    vst1q_f32(p + 4, x.high);
}

static inline vf floats(int16x8_t x)
{
    return BOTH(vcvtq_f32_s32(vmovl_s16(vget_low_s16(x))), vcvtq_f32_s32(vmovl_high_s16(x)));
}

static inline vf v_counts(const int16_t *p) { return floats(vld1q_s16(p)); }

static inline vf v_sums(const int16_t *base, const uint16_t *differing, int16_t *c)
{
    int16x8_t sum = vsubq_s16(vld1q_s16(base), vreinterpretq_s16_u16(vshlq_n_u16(vld1q_u16(differing), 1)));
    vst1q_s16(c, sum);
    return floats(sum);
}

static inline uint8_t v_signs(vf x)
{
    const uint32x4_t low = {1, 2, 4, 8}, high = {16, 32, 64, 128};
    return (uint8_t)vaddvq_u32(vorrq_u32(vandq_u32(vcgezq_f32(x.low), low), vandq_u32(vcgezq_f32(x.high), high)));
}

#include "elementwise.h"


enum { FLUSH = 7 }; /* words that counters of 8 bits can hold: 7 words have 224 bits */

INLINE void add_neon(uint16_t *to, uint8x16_t counts)
{
    vst1q_u16(to, vaddw_u8(vld1q_u16(to), vget_low_u8(counts)));
    vst1q_u16(to + 8, vaddw_high_u8(vld1q_u16(to + 8), counts));
}

/* Lanes are outputs: each of 32 lanes of 8 bits counts the bits that differ between its weights and one position's activations. */
INLINE void count_neon(const segment *in, const segment_end *end, int positions)
{
    uint16_t differing[SEGMENT * TILE];
    memset(differing, 0, (size_t)positions * TILE * sizeof *differing);
    uint8x16_t low[SEGMENT], high[SEGMENT];
    for (int p = 0; p < positions; p++) low[p] = high[p] = vdupq_n_u8(0);
    int room = FLUSH; /* words that the counters can still take */
    for (int row = 0; row < in->rows; row++) {
        const uint8_t *w = in->w + row * in->row_bytes;
        const uint8_t *x = in->x + row * in->x_row;
        for (int from = 0; from < in->run;) {
            int until = from + room < in->run ? from + room : in->run;
            for (int byte = from * 4; byte < until * 4; byte++, w += TILE) {
                uint8x16_t w0 = vld1q_u8(w), w1 = vld1q_u8(w + 16);
#pragma GCC unroll 8
                for (int p = 0; p < positions; p++) {
                    uint8x16_t one = vld1q_dup_u8(x + p * in->step + byte);
                    low[p] = vaddq_u8(low[p], vcntq_u8(veorq_u8(w0, one)));
                    high[p] = vaddq_u8(high[p], vcntq_u8(veorq_u8(w1, one)));
                }
            }
            room -= until - from;
            from = until;
            if (room > 0 && row + 1 < in->rows) continue;
            for (int p = 0; p < positions; p++) {
                add_neon(differing + p * TILE, low[p]);
                add_neon(differing + p * TILE + 16, high[p]);
                low[p] = high[p] = vdupq_n_u8(0);
            }
            room = FLUSH;
        }
    }
    end_segment_neon(end, differing, positions);
}

BINARY_OF_COUNT

KERNELS(bnext_kernels_neon, "neon", NULL, true);
#endif
