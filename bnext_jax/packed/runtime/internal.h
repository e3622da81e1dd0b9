/* What the files of the engine share. Not for users.
 *
 * Layout of a map: [rows, columns, channels] of float32, where channels are "places": every width is padded to a multiple of LANES, so that
 * no vector loop has a rest. Padded places hold zero parameters, so their values stay 0 and their bits never differ from a weight's.
 */
#ifndef BNEXT_INTERNAL_H
#define BNEXT_INTERNAL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bnext.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the engine needs a little-endian processor"
#endif

enum {
    LANES = 16,       /* places come in groups of 16 */
    TILE = 32,        /* outputs that a kernel of a binary convolution computes at once */
    AT_ONCE = 256,    /* outputs of a dense layer in one task */
    SEGMENT = 8,      /* most positions of a row that it computes at once */
    SPARE = 64,       /* workspaces that a net keeps for its next calls */
    MOST_COUNT = 32767, /* largest sum of a binary convolution: sums are kept in int16 */
    /* Largest number of channels of a 3x3 convolution. The table of sums without a difference holds numbers larger than a sum: outside the
     * map a tap counts 2 for each 1 in its weights. The largest one is that of a map of one column: 3 taps inside, 6
     * outside, so 15 times the channels. */
    MOST_3X3 = MOST_COUNT / 15
};

enum { REAL_CONV = 1, MAX_POOL = 2, UNIT = 3, HEAD = 4 };
enum { FEED_FORWARD = 0, ATTENTION = 1, ATTENTION_18 = 2 };
enum { ALONE = 0, FIRST = 1, SECOND = 2 };
enum { TIME_REAL, TIME_BINARY, TIME_ELEMENTWISE, TIME_GATES, TIME_HEAD, TIMES };

/* y = W x + b on places. w: [inputs, pitch]. bits: 32, or 8 and 4 where the input is quantized to so many bits first. */
typedef struct {
    int inputs, outputs, pitch, bits;
    float *w, *bias, low, high;
    const int *logical; /* places of the inputs that exist; NULL = the first `inputs` */
    int logical_count;
} linear;

typedef struct {
    int size, stride, pad, inputs, outputs; /* places */
    float *w;                               /* [size, size, inputs, outputs] */
    float *a, *b;                           /* [outputs] */
} real_conv;

typedef struct {
    int size, stride, words, inputs, outputs; /* words: 32 places each, of one position */
    void *w;                                  /* the kernel's own layout, one part a tile */
    size_t tile_bytes, row_bytes;             /* of one tile, and of one row of its taps */
    int16_t *base; /* [4 classes of rows, 4 classes of columns, tiles * TILE]: the sum if no bit differs */
} binary_conv;

typedef struct {
    int flavour, join, places;  /* places of the unit's output */
    binary_conv conv;
    float *shift;               /* [input places] */
    float *a1, *b1, *slope2;    /* [places] */
    float *slope1;              /* [input places], attention */
    float *scale, *a2, *b2;     /* [places]; scale NULL = no gate; a2 is 1 and b2 is 0 where there is no second norm */
    linear reduce, expand;
    real_conv shortcut;         /* w NULL = none */
} unit;

typedef struct operation {
    int kind, size, stride, pad;
    int inputs, outputs; /* places */
    int channels;        /* of the output, and where they lie; not set for the first of two units */
    const int *place;
    real_conv conv;
    unit unit;
    linear head;
    float *slope;
} operation;

/* Output of an elementwise pass: where it writes, which bits it makes, and the sums that it adds up. */
typedef struct {
    float *out;             /* the map's first value of this unit, or NULL = not written */
    int pitch;              /* floats from one position to the next */
    int signs;              /* how many sets of bits: 0, 1 or 2 */
    const float *shift[2];  /* [channels] each */
    uint8_t *bits[2];       /* of the first position of the row */
    size_t bits_step;       /* bytes from one position to the next */
    float *sums;            /* [channels], or NULL */
} emitted;

/* One row of out = f(c, x), see elementwise.h. */
typedef struct {
    int columns, channels;
    const int16_t *c;       /* [columns, channels] */
    const float *x;         /* the residual's row */
    int x_pitch;            /* floats from one position to the next */
    size_t x_row;           /* floats to the next row, with `halve` */
    bool attends, halve;    /* halve: the residual is the mean of 2 x 2 positions */
    const float *a1, *b1, *slope2, *slope1, *factor, *offset; /* slope1 NULL = the residual is x itself */
} unit_row;

/* One tile of a binary convolution: up to SEGMENT positions of one row. */
typedef struct {
    const uint8_t *x;       /* the activations of the first position's first tap: bits, or pairs where the kernels work on pairs */
    size_t x_row;           /* bytes to the next row of the map */
    size_t step;            /* bytes from one position to the next */
    int rows, run;          /* rows of taps, words of bits in one row of taps */
    const uint8_t *w;       /* the weights of the first of these rows */
    size_t row_bytes;       /* bytes to the weights of the next row */
    int positions;
} segment;

/* The end of a segment: sums, and the sum of y = prelu(a c + b) over the positions. */
typedef struct {
    const int16_t *first, *middle, *last; /* the sums without a difference, [lanes]: of the first position (a single one is
                                            * the first), of the last one, of the others */
    int16_t *c;                   /* of the first position */
    int c_pitch, lanes;           /* lanes: TILE, or LANES in a last half tile */
    const float *a, *b, *slope;
    float *sums;                  /* [lanes] */
} segment_end;

/* The functions of one instruction set. */
typedef struct {
    const char *name;
    /* NULL, or the kernels work on pairs of positions, which this function prepares: for each position of a row and each 4 bits, a byte
     * with these bits of the position in its low half, and in its high half those of the position `step` columns further. */
    void (*pair)(const uint8_t *bits, int columns, int words, int step, uint8_t *pairs);
    bool bytes; /* the layout of the weights: [8 channels each, TILE] bytes, or [32 channels each, TILE] words */
    void (*binary)(const segment *segment, const segment_end *end);
    void (*unit_row)(const unit_row *row, const emitted *emitted);
    void (*prelu_row)(const float *x, int columns, int channels, const float *slope, const emitted *emitted);
    void (*real_row)(const float *x, int step, size_t row, int taps, int run, int columns, const float *w, const float *a,
                     const float *b, int channels, const emitted *emitted);
    void (*max_row)(const float *const *rows, int count, const int (*columns)[2], int width, int channels, const emitted *emitted);
    void (*linear)(const float *x, const float *w, int inputs, int pitch, int from, int to, float *y);
} kernels;

extern const kernels bnext_kernels_c, bnext_kernels_avx2, bnext_kernels_avx512, bnext_kernels_neon;
/* Bytes of a tile's weights: a word for each output and each 32 input channels. */
static inline size_t bnext_tile_bytes(int words) { return (size_t)words * TILE * 4; }
void bnext_arrange(const kernels *set, const uint32_t *words, int count, void *w); /* words: [count, TILE] -> the kernels' layout */
const kernels *bnext_choose_kernels(const char *name); /* NULL name = the fastest. NULL = this processor does not have them */

typedef struct bnext_pool bnext_pool;
bnext_pool *bnext_pool_new(int threads);
void bnext_pool_free(bnext_pool *pool);
int bnext_processors(void);
/* Calls work(context, task, worker) for each task. worker < threads of the pool. A pool that is busy runs the tasks in the caller. */
void bnext_pool_run(bnext_pool *pool, int tasks, void (*work)(void *context, int task, int worker), void *context);

/* Memory of one image's passage. */
typedef struct workspace workspace;
void bnext_workspace_free(workspace *space);

struct bnext_net {
    bnext_info info;
    const kernels *kernels;
    bnext_pool *pool;
    int count;
    operation *operations;
    void **owned; /* every array of the weights */
    int owned_count, owned_room;
    _Atomic(workspace *) spare[SPARE];
    _Atomic uint64_t nanoseconds[TIMES];
};

/* One passage: what the parts of a pass need. pool NULL = the caller does all of it. */
typedef struct {
    bnext_net *net;
    bnext_pool *pool;
    workspace *space;
    int height, width; /* of the map */
} passage;

enum { CHUNKS = 16 }; /* a map's rows are shared out in at most so many parts. The number is fixed: sums must not depend on the threads */

/* What the next operation needs of a map: its bits, once for each of one or two shifts. */
typedef struct {
    int count;
    const float *shift[2];
    int step; /* the stride of the binary convolutions that read the bits */
} wanted;

struct workspace {
    int height, width, from; /* made for a map of this size and for the operations from number `from` on; 0 = all, from the image on */
    int image_height, image_width;
    float *map[2], *residual;
    int16_t *counts[2];     /* sums of one or two binary convolutions */
    uint32_t *bits[2];
    uint8_t *pairs[2];      /* of the bits, see kernels; NULL where the kernels do not work on pairs */
    float *sums[2];         /* [CHUNKS, places] */
    float *mean, *factor[2], *vectors[4];
    float *scratch;         /* for each thread */
    size_t scratch_floats;
};

/* What a passage from operation `from` on needs, in numbers of elements. They have 64 bits, so that they are right even where memory is
 * addressed with 32 bits. */
typedef struct {
    uint64_t map, residual, counts, bits, places, scratch;
    int height, width, from, image_height, image_width;
} need;

/* Follows the sizes of the maps through the operations. Returns false, and the operation, where an image does not fit. */
bool bnext_sizes(const bnext_net *net, int height, int width, int from, need *most, int *where);
/* The first operation whose map is small, 0 if there is none. From there on the weights are larger than the maps. */
int bnext_late(const bnext_net *net, int height, int width);
workspace *bnext_workspace_for(bnext_net *net, const need *most); /* NULL = too little memory */
void bnext_give_back(bnext_net *net, workspace *space);

static inline int bnext_chunk_rows(int height) { return (height + CHUNKS - 1) / CHUNKS; }
static inline int bnext_chunks(int height) { return (height + bnext_chunk_rows(height) - 1) / bnext_chunk_rows(height); }

void bnext_clock(bnext_net *net, int kind, uint64_t *since);
/* The row after the last one of a chunk. */
static inline int bnext_chunk_end(int height, int chunk)
{
    int end = (chunk + 1) * bnext_chunk_rows(height);
    return end < height ? end : height;
}

/* The map that was written becomes the present one. */
static inline void bnext_turn(passage *now)
{
    float *other = now->space->map[0];
    now->space->map[0] = now->space->map[1];
    now->space->map[1] = other;
}

void bnext_each(const passage *now, int tasks, void (*work)(void *, int, int), void *context);
void bnext_mean(const float *sums, int chunks, int places, double positions, float *mean);
/* Prepares the bits of a row of the output: columns + 2 positions, of which the first and the last are the border. */
void bnext_clear_bits(const passage *now, const wanted *next, int row, int columns, int places);
/* Ends such a row, when all its bits are written. */
void bnext_end_bits(const passage *now, const wanted *next, int row, int columns, int places);
emitted bnext_emitted(const passage *now, const wanted *next, float *out, int row, int columns, int places, int from, float *sums);

void bnext_real(passage *now, const operation *o, const float *image, const wanted *next);
void bnext_max(passage *now, const operation *o, const wanted *next);
void bnext_units(passage *now, const operation *first, int count, const wanted *next);
void bnext_head(passage *now, const operation *o, float *logits);
void bnext_dense(const passage *now, const linear *layer, float *x, float *y);
void bnext_shortcut(passage *now, const unit *u, const float *x, int height, int width, float *out, float *sums);

static inline int bnext_padded(int channels, int to) { return (channels + to - 1) / to * to; }

#endif
