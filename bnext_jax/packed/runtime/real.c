/* The real-valued parts: the stem, the maximum, BNext-18's shortcut, dense layers, the head. */
#include <math.h>
#include <string.h>

#include "internal.h"

typedef struct {
    const passage *now;
    const operation *o;
    const wanted *next;
    const float *x;
    float *out;
    int rows, columns;
} work;

static void convolve(void *context, int task, int worker)
{
    const work *w = context;
    const real_conv *conv = &w->o->conv;
    const passage *now = w->now;
    int inputs = conv->inputs, padded = now->width + 2 * conv->pad;
    float *rows = now->space->scratch + (size_t)worker * now->space->scratch_floats;
    float *sums = now->space->sums[0] + (size_t)task * conv->outputs;
    memset(sums, 0, (size_t)conv->outputs * sizeof(float));
    for (int row = task * bnext_chunk_rows(w->rows); row < bnext_chunk_end(w->rows, task); row++) {
        memset(rows, 0, (size_t)conv->size * padded * inputs * sizeof(float));
        for (int tap = 0; tap < conv->size; tap++) {
            int from = row * conv->stride - conv->pad + tap;
            if (from >= 0 && from < now->height)
                memcpy(rows + ((size_t)tap * padded + conv->pad) * inputs, w->x + (size_t)from * now->width * inputs,
                       (size_t)now->width * inputs * sizeof(float));
        }
        bnext_clear_bits(now, w->next, row, w->columns, conv->outputs);
        emitted to = bnext_emitted(now, w->next, w->out, row, w->columns, conv->outputs, 0, sums);
        now->net->kernels->real_row(rows, conv->stride * inputs, (size_t)padded * inputs, conv->size, conv->size * inputs, w->columns,
                                    conv->w, conv->a, conv->b, conv->outputs, &to);
        bnext_end_bits(now, w->next, row, w->columns, conv->outputs);
    }
}

static void turn(passage *now, const work *w, int places)
{
    bnext_mean(now->space->sums[0], bnext_chunks(w->rows), places, (double)w->rows * w->columns, now->space->mean);
    bnext_turn(now);
    now->height = w->rows;
    now->width = w->columns;
}

void bnext_real(passage *now, const operation *o, const float *image, const wanted *next)
{
    const real_conv *conv = &o->conv;
    work w = {.now = now, .o = o, .next = next, .x = image, .out = now->space->map[1],
              .rows = (now->height + 2 * conv->pad - conv->size) / conv->stride + 1,
              .columns = (now->width + 2 * conv->pad - conv->size) / conv->stride + 1};
    bnext_each(now, bnext_chunks(w.rows), convolve, &w);
    turn(now, &w, conv->outputs);
}

static void pool(void *context, int task, int worker)
{
    const work *w = context;
    const operation *o = w->o;
    const passage *now = w->now;
    int places = o->outputs;
    int(*columns)[2] = (int(*)[2])(void *)(now->space->scratch + (size_t)worker * now->space->scratch_floats);
    for (int i = 0; i < w->columns; i++) {
        int from = i * o->stride - o->pad, to = from + o->size;
        columns[i][0] = from < 0 ? 0 : from;
        columns[i][1] = to > now->width ? now->width : to;
    }
    float *sums = now->space->sums[0] + (size_t)task * places;
    memset(sums, 0, (size_t)places * sizeof(float));
    for (int row = task * bnext_chunk_rows(w->rows); row < bnext_chunk_end(w->rows, task); row++) {
        const float *rows[16];
        int count = 0;
        for (int from = row * o->stride - o->pad, tap = 0; tap < o->size; tap++, from++)
            if (from >= 0 && from < now->height) rows[count++] = w->x + (size_t)from * now->width * places;
        bnext_clear_bits(now, w->next, row, w->columns, places);
        emitted to = bnext_emitted(now, w->next, w->out, row, w->columns, places, 0, sums);
        now->net->kernels->max_row(rows, count, (const int(*)[2])columns, w->columns, places, &to);
        bnext_end_bits(now, w->next, row, w->columns, places);
    }
}

void bnext_max(passage *now, const operation *o, const wanted *next)
{
    work w = {.now = now, .o = o, .next = next, .x = now->space->map[0], .out = now->space->map[1],
              .rows = (now->height + 2 * o->pad - o->size) / o->stride + 1,
              .columns = (now->width + 2 * o->pad - o->size) / o->stride + 1};
    bnext_each(now, bnext_chunks(w.rows), pool, &w);
    turn(now, &w, o->outputs);
}

typedef struct {
    const passage *now;
    const unit *u;
    const float *x;
    float *out, *sums;
    int width, rows, columns;
} cut;

static void shorten(void *context, int task, int worker)
{
    const cut *w = context;
    const unit *u = w->u;
    int inputs = u->conv.inputs, places = u->places;
    const kernels *kernel = w->now->net->kernels;
    float *sums = w->sums + (size_t)task * places, *pooled = w->now->space->scratch + (size_t)worker * w->now->space->scratch_floats;
    memset(sums, 0, (size_t)places * sizeof(float));
    for (int row = task * bnext_chunk_rows(w->rows); row < bnext_chunk_end(w->rows, task); row++) {
        emitted to = {.out = w->out + (size_t)row * w->columns * places, .pitch = places, .sums = sums};
        if (!u->shortcut.w) {
            kernel->prelu_row(w->x + (size_t)row * w->width * inputs, w->width, inputs, u->slope1, &to);
            continue;
        }
        const float *x = w->x + (size_t)2 * row * w->width * inputs;
        size_t down = (size_t)w->width * inputs;
        for (int column = 0; column < w->columns; column++)
            for (int i = 0; i < inputs; i++) {
                const float *at = x + (size_t)2 * column * inputs + i;
                float four[4] = {at[0], at[inputs], at[down], at[down + inputs]}, sum = 0;
                for (int j = 0; j < 4; j++) sum += four[j] > 0 ? four[j] : four[j] * u->slope1[i];
                pooled[(size_t)column * inputs + i] = sum / 4;
            }
        kernel->real_row(pooled, inputs, 0, 1, inputs, w->columns, u->shortcut.w, u->shortcut.a, u->shortcut.b, places, &to);
    }
}

/* The residual of BNext-18's attention: prelu_1(x), and where the shape changes its mean over 2 x 2, a 1x1 convolution and batch norm. */
void bnext_shortcut(passage *now, const unit *u, const float *x, int height, int width, float *out, float *sums)
{
    cut w = {now, u, x, out, sums, width, height / u->conv.stride, width / u->conv.stride};
    bnext_each(now, bnext_chunks(w.rows), shorten, &w);
}

/* x becomes the nearest of 2^bits levels between its least and its greatest value. */
static void quantize(const linear *layer, float *x)
{
    float lo = INFINITY, hi = -INFINITY, levels = (float)((1 << layer->bits) - 1);
    for (int i = 0; i < layer->logical_count; i++) {
        float *one = &x[layer->logical[i]];
        *one = *one > layer->low ? *one < layer->high ? *one : layer->high : layer->low;
        lo = *one < lo ? *one : lo;
        hi = *one > hi ? *one : hi;
    }
    float span = hi - lo + 1e-8f;
    for (int i = 0; i < layer->logical_count; i++) {
        float *one = &x[layer->logical[i]];
        *one = rintf((*one - lo) / span * levels) / levels * span + lo;
    }
}

typedef struct {
    const passage *now;
    const linear *layer;
    const float *x;
    float *y;
} product;

static void multiply(void *context, int task, int worker)
{
    (void)worker;
    const product *p = context;
    int from = task * AT_ONCE, to = from + AT_ONCE < p->layer->pitch ? from + AT_ONCE : p->layer->pitch;
    memcpy(p->y + from, p->layer->bias + from, (size_t)(to - from) * sizeof(float));
    p->now->net->kernels->linear(p->x, p->layer->w, p->layer->inputs, p->layer->pitch, from, to, p->y);
}

/* y = W x + b. Changes x where the layer quantizes its input. */
void bnext_dense(const passage *now, const linear *layer, float *x, float *y)
{
    product p = {now, layer, x, y};
    if (layer->bits != 32) quantize(layer, x);
    int tasks = (layer->pitch + AT_ONCE - 1) / AT_ONCE;
    if ((size_t)layer->inputs * layer->pitch < 1 << 16) /* too little work to share */
        for (int task = 0; task < tasks; task++) multiply(&p, task, 0);
    else
        bnext_each(now, tasks, multiply, &p);
}

void bnext_head(passage *now, const operation *o, float *logits)
{
    int places = o->inputs, columns = now->width;
    workspace *space = now->space;
    float *sums = space->sums[0];
    memset(sums, 0, (size_t)places * sizeof(float));
    for (int row = 0; row < now->height; row++) {
        emitted to = {.out = space->scratch, .pitch = places, .sums = sums};
        now->net->kernels->prelu_row(space->map[0] + (size_t)row * columns * places, columns, places, o->slope, &to);
    }
    bnext_mean(sums, 1, places, (double)now->height * columns, space->vectors[0]);
    bnext_dense(now, &o->head, space->vectors[0], space->map[1]);
    memcpy(logits, space->map[1], (size_t)now->net->info.classes * sizeof(float));
}
