/* The units of BNext: a binary convolution, the gate, the elementwise rest. See docs/spec.md, section 1.
 *
 * batch_norm_2 is affine, so a unit's output is y (g a2) + b2 + x', with the gate's factors g, or x' (y (g a2) + 1) + b2 in attention.
 * The gate needs only the mean of y, which the convolution adds up as it goes.
 */
#include <math.h>
#include <string.h>

#include "internal.h"

typedef struct {
    const passage *now;
    const unit *units[2];
    const wanted *next;
    int count, columns, rows, in_columns, in_rows; /* of the output, and of the input */
    const float *x;
    size_t x_pitch;
    float *out;
    int places; /* of the whole output */
} work;

/* Asks the memory for a share of a dense layer's weights. The gate follows the convolution and has nothing to do but wait for them. */
static void fetch(const linear *layer, int share, int shares)
{
    size_t bytes = (size_t)layer->inputs * layer->pitch * sizeof(float), from = bytes * share / shares, to = bytes * (share + 1) / shares;
    for (from -= from % 64; from < to; from += 64) __builtin_prefetch((const char *)layer->w + from, 0, 2);
}

/* One tile of outputs, one part of the rows. */
static void convolve(void *context, int task, int worker)
{
    (void)worker;
    const work *w = context;
    const kernels *kernel = w->now->net->kernels;
    int chunks = bnext_chunks(w->rows), tiles = (w->units[0]->places + TILE - 1) / TILE;
    int which = task / (chunks * tiles), tile = task / chunks % tiles, chunk = task % chunks;
    const unit *u = w->units[which];
    const binary_conv *conv = &u->conv;
    int places = u->places, lanes = places - tile * TILE < TILE ? places - tile * TILE : TILE, all_lanes = tiles * TILE;
    int size = conv->size, stride = conv->stride, pad = size / 2, words = conv->words;
    size_t position = (size_t)words * (kernel->pair ? 8 : 4), x_row = (size_t)(w->in_columns + 2) * position;
    const workspace *space = w->now->space;
    const uint8_t *map = kernel->pair ? space->pairs[which] : (const uint8_t *)space->bits[which];
    float *sums = w->now->space->sums[which] + (size_t)chunk * places + tile * TILE;
    memset(sums, 0, (size_t)lanes * sizeof(float));
    segment_end end = {.c_pitch = places, .lanes = lanes, .a = u->a1 + tile * TILE, .b = u->b1 + tile * TILE,
                       .slope = u->slope2 + tile * TILE, .sums = sums};
    int unit_of = kernel->pair ? 2 : 1, groups = (w->columns + unit_of - 1) / unit_of;
    int pieces = (groups * unit_of + SEGMENT - 1) / SEGMENT;
    for (int row = chunk * bnext_chunk_rows(w->rows); row < bnext_chunk_end(w->rows, chunk); row++) {
        int top = row * stride - pad, first = top < 0 ? 1 : 0, until = size - (top + size > w->in_rows ? 1 : 0);
        int class = (top < 0 ? 1 : 0) | (top + size > w->in_rows ? 2 : 0);
        const uint8_t *x = map + (size_t)(top + first) * x_row + (size_t)(1 - pad) * position;
        segment part = {.x_row = x_row, .step = (size_t)stride * position, .rows = until - first, .run = size * words,
                        .w = (const uint8_t *)conv->w + (size_t)tile * conv->tile_bytes + (size_t)first * conv->row_bytes,
                        .row_bytes = conv->row_bytes};
        const int16_t *base = conv->base + tile * TILE;
        end.middle = base + (size_t)class * all_lanes;
        for (int piece = 0; piece < pieces; piece++) {
            int from = groups * piece / pieces * unit_of, to = groups * (piece + 1) / pieces * unit_of;
            if (to > w->columns) to = w->columns;
            part.positions = to - from;
            part.x = x + (size_t)from * part.step;
            int left = from * stride - pad < 0 ? 4 : 0, right = (to - 1) * stride - pad + size > w->in_columns ? 8 : 0;
            if (part.positions == 1) left |= right;
            end.first = base + (size_t)(class | left) * all_lanes;
            end.last = base + (size_t)(class | right) * all_lanes;
            end.c = w->now->space->counts[which] + ((size_t)row * w->columns + from) * places + tile * TILE;
            kernel->binary(&part, &end);
        }
    }
    if (u->scale) {
        fetch(&u->reduce, task % (chunks * tiles), chunks * tiles);
        fetch(&u->expand, task % (chunks * tiles), chunks * tiles);
    }
}

/* One part of the rows of the output. */
static void finish(void *context, int task, int worker)
{
    (void)worker;
    const work *w = context;
    float *sums = w->now->space->sums[0] + (size_t)task * w->places;
    memset(sums, 0, (size_t)w->places * sizeof(float));
    for (int row = task * bnext_chunk_rows(w->rows); row < bnext_chunk_end(w->rows, task); row++) {
        bnext_clear_bits(w->now, w->next, row, w->columns, w->places);
        for (int i = 0; i < w->count; i++) {
            const unit *u = w->units[i];
            bool given = u->flavour == ATTENTION_18, halve = !given && u->conv.stride == 2;
            size_t x_row = (size_t)(given ? w->columns : w->in_columns) * w->x_pitch;
            unit_row one = {.columns = w->columns, .channels = u->places,
                            .c = w->now->space->counts[i] + (size_t)row * w->columns * u->places,
                            .x = w->x + (size_t)row * (halve ? 2 : 1) * x_row, .x_pitch = (int)w->x_pitch, .x_row = x_row,
                            .attends = u->flavour != FEED_FORWARD, .halve = halve, .a1 = u->a1, .b1 = u->b1, .slope2 = u->slope2,
                            .slope1 = u->flavour == ATTENTION ? u->slope1 : NULL, .factor = w->now->space->factor[i], .offset = u->b2};
            emitted to = bnext_emitted(w->now, w->next, w->out, row, w->columns, w->places, i * u->places, sums);
            w->now->net->kernels->unit_row(&one, &to);
        }
        bnext_end_bits(w->now, w->next, row, w->columns, w->places);
    }
}

/* The factors g a2 of unit number i. mixed: the channel means of the map that the gate mixes with y. */
static void gate(const passage *now, const unit *u, int i, int chunks, double positions, const float *mixed)
{
    workspace *space = now->space;
    float *factor = space->factor[i], *mean = space->vectors[0], *between = space->vectors[1];
    if (!u->scale) {
        memcpy(factor, u->a2, (size_t)u->places * sizeof(float));
        return;
    }
    bnext_mean(space->sums[i], chunks, u->places, positions, mean);
    for (int c = 0; c < u->places; c++) mean[c] = u->scale[c] * mixed[c] + (1 - u->scale[c]) * mean[c];
    bnext_dense(now, &u->reduce, mean, between);
    for (int c = 0; c < u->reduce.outputs; c++) between[c] = between[c] > 0 ? between[c] : 0;
    bnext_dense(now, &u->expand, between, factor);
    for (int c = 0; c < u->places; c++) factor[c] = u->a2[c] / (1 + expf(-factor[c]));
}

/* One unit, or two side by side. */
void bnext_units(passage *now, const operation *first, int count, const wanted *next)
{
    const unit *u = &first->unit;
    workspace *space = now->space;
    int stride = u->conv.stride;
    work w = {.now = now, .units = {u, &first[count - 1].unit}, .next = next, .count = count, .columns = now->width / stride,
              .rows = now->height / stride, .in_columns = now->width, .in_rows = now->height, .x = space->map[0],
              .x_pitch = (size_t)first->inputs, .places = count * u->places};
    /* A single unit that keeps the shape writes over its input: each value is read before its place is written. */
    bool over = count == 1 && stride == 1 && first->inputs == u->places;
    w.out = space->map[over ? 0 : 1];
    int chunks = bnext_chunks(w.rows), tiles = (u->places + TILE - 1) / TILE;
    double positions = (double)w.rows * w.columns;
    const float *mixed = space->mean;
    uint64_t time = 0;
    bnext_clock(now->net, -1, &time);
    if (u->flavour == ATTENTION_18) {
        bnext_shortcut(now, u, space->map[0], now->height, now->width, space->residual, space->sums[0]);
        bnext_mean(space->sums[0], chunks, u->places, positions, space->vectors[2]);
        mixed = space->vectors[2];
        w.x = space->residual;
        w.x_pitch = (size_t)u->places;
        bnext_clock(now->net, TIME_REAL, &time);
    }
    bnext_each(now, count * tiles * chunks, convolve, &w);
    bnext_clock(now->net, TIME_BINARY, &time);
    for (int i = 0; i < count; i++) gate(now, w.units[i], i, chunks, positions, mixed);
    bnext_clock(now->net, TIME_GATES, &time);
    bnext_each(now, chunks, finish, &w);
    bnext_mean(space->sums[0], chunks, w.places, positions, space->mean);
    if (!over) bnext_turn(now);
    now->height = w.rows;
    now->width = w.columns;
    bnext_clock(now->net, TIME_ELEMENTWISE, &time);
}
