/* The kernels in plain C, for every processor. */
#include "internal.h"

#define TARGET
#define BLOCK 8
#define SUFFIX(name) name##_c
#define signs_t uint8_t

typedef struct {
    float v[BLOCK];
} vf;

#define EACH(expression) \
    vf r; \
    for (int i = 0; i < BLOCK; i++) r.v[i] = (expression); \
    return r

static inline vf v_load(const float *p) { EACH(p[i]); }
static inline vf v_one(float x) { EACH(x); }
static inline vf v_add(vf a, vf b) { EACH(a.v[i] + b.v[i]); }
static inline vf v_mul(vf a, vf b) { EACH(a.v[i] * b.v[i]); }
static inline vf v_fma(vf a, vf b, vf c) { EACH(a.v[i] * b.v[i] + c.v[i]); }
static inline vf v_max(vf a, vf b) { EACH(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
static inline vf v_min(vf a, vf b) { EACH(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
static inline vf v_counts(const int16_t *p) { EACH((float)p[i]); }

static inline void v_store(float *p, vf x)
{
    for (int i = 0; i < BLOCK; i++) p[i] = x.v[i];
}

static inline vf v_sums(const int16_t *base, const uint16_t *differing, int16_t *c)
{
    for (int i = 0; i < BLOCK; i++) c[i] = (int16_t)(base[i] - 2 * differing[i]);
    return v_counts(c);
}

static inline uint8_t v_signs(vf x)
{
    unsigned bits = 0;
    for (int i = 0; i < BLOCK; i++) bits |= (unsigned)(x.v[i] >= 0) << i;
    return (uint8_t)bits;
}

#include "elementwise.h"

static inline uint32_t ones_c(uint32_t x)
{
    x -= x >> 1 & 0x55555555u;
    x = (x & 0x33333333u) + (x >> 2 & 0x33333333u);
    return ((x + (x >> 4)) & 0x0f0f0f0fu) * 0x01010101u >> 24;
}

static void binary_c(const segment *in, const segment_end *end)
{
    uint16_t differing[SEGMENT * TILE] = {0};
    for (int row = 0; row < in->rows; row++) {
        const uint32_t *w = (const uint32_t *)(const void *)(in->w + row * in->row_bytes);
        const uint8_t *x = in->x + row * in->x_row;
        for (int i = 0; i < in->run; i++, w += TILE)
            for (int position = 0; position < in->positions; position++) {
                uint32_t bits;
                memcpy(&bits, x + (size_t)position * in->step + 4 * i, sizeof bits);
                uint16_t *to = differing + position * TILE;
                for (int lane = 0; lane < TILE; lane++) to[lane] = (uint16_t)(to[lane] + ones_c(bits ^ w[lane]));
            }
    }
    end_segment_c(end, differing, in->positions);
}

KERNELS(bnext_kernels_c, "c", NULL, false);
