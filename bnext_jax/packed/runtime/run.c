/* One call: takes memory, sends each image through the operations. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "internal.h"

static uint64_t clock_now(void)
{
    struct timespec time;
    timespec_get(&time, TIME_UTC);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Adds the time since *since to one kind of work, unless someone turned the clock back. */
void bnext_clock(bnext_net *net, int kind, uint64_t *since)
{
    uint64_t now = clock_now();
    if (kind >= 0 && now > *since) atomic_fetch_add_explicit(&net->nanoseconds[kind], now - *since, memory_order_relaxed);
    *since = now;
}

void bnext_each(const passage *now, int tasks, void (*work)(void *, int, int), void *context)
{
    if (now->pool)
        bnext_pool_run(now->pool, tasks, work, context);
    else
        for (int task = 0; task < tasks; task++) work(context, task, 0);
}

void bnext_mean(const float *sums, int chunks, int places, double positions, float *mean)
{
    for (int i = 0; i < places; i++) {
        double sum = 0;
        for (int chunk = 0; chunk < chunks; chunk++) sum += sums[(size_t)chunk * places + i];
        mean[i] = (float)(sum / positions);
    }
}

void bnext_clear_bits(const passage *now, const wanted *next, int row, int columns, int places)
{
    size_t words = (size_t)(places + 31) / 32, row_words = (size_t)(columns + 2) * words;
    for (int set = 0; set < next->count; set++) {
        uint32_t *bits = now->space->bits[set] + row * row_words;
        if (places % 32) {
            memset(bits, 0, row_words * 4);
        } else {
            memset(bits, 0, words * 4);
            memset(bits + row_words - words, 0, words * 4);
        }
    }
}

void bnext_end_bits(const passage *now, const wanted *next, int row, int columns, int places)
{
    size_t words = (size_t)(places + 31) / 32, row_bytes = (size_t)(columns + 2) * words * 4;
    void (*pair)(const uint8_t *, int, int, int, uint8_t *) = now->net->kernels->pair;
    for (int set = 0; pair && set < next->count; set++)
        pair((const uint8_t *)now->space->bits[set] + row * row_bytes, columns + 2, (int)words, next->step,
             now->space->pairs[set] + 2 * row * row_bytes);
}

emitted bnext_emitted(const passage *now, const wanted *next, float *out, int row, int columns, int places, int from, float *sums)
{
    size_t words = (size_t)(places + 31) / 32;
    emitted to = {.out = out + (size_t)row * columns * places + from, .pitch = places, .signs = next->count, .bits_step = words * 4};
    to.sums = sums + from;
    for (int set = 0; set < next->count; set++) {
        to.shift[set] = next->shift[set] + from;
        to.bits[set] = (uint8_t *)(now->space->bits[set] + ((size_t)row * (columns + 2) + 1) * words) + from / 8;
    }
    return to;
}

static wanted wanted_by(const bnext_net *net, int number)
{
    wanted next = {0};
    for (int i = number; i < net->count && i < number + 2 && net->operations[i].kind == UNIT; i++) {
        if (i > number && net->operations[i].unit.join != SECOND) break;
        next.shift[next.count++] = net->operations[i].unit.shift;
        next.step = net->operations[i].unit.conv.stride;
    }
    return next;
}

static void *room(uint64_t count, uint64_t size)
{
    uint64_t bytes = (count * size + 127) / 64 * 64;
    return bytes > PTRDIFF_MAX ? NULL : aligned_alloc(64, (size_t)bytes);
}

void bnext_workspace_free(workspace *space)
{
    if (!space) return;
    void *all[] = {space->map[0],    space->map[1],    space->residual,   space->counts[0],  space->counts[1],
                   space->bits[0],   space->bits[1],   space->sums[0],    space->sums[1],    space->mean,
                   space->factor[0], space->factor[1], space->vectors[0], space->vectors[1], space->vectors[2],
                   space->vectors[3], space->scratch,   space->pairs[0],   space->pairs[1]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    free(space);
}

/* Numbers of elements. They have 64 bits, so that they are right even where memory is addressed with 32 bits. */
typedef struct {
    uint64_t map, residual, counts, bits, places, scratch;
} need;

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* Follows the sizes of the maps through the operations. Returns false, and the operation, where a size does not fit. */
static bool sizes(const bnext_net *net, int height, int width, need *most, int *where)
{
    uint64_t h = (uint64_t)height, w = (uint64_t)width;
    *most = (need){0};
    for (int i = 0; i < net->count; i++) {
        const operation *o = &net->operations[i];
        *where = i;
        uint64_t in = (uint64_t)o->inputs;
        if (o->kind == REAL_CONV || o->kind == MAX_POOL) {
            int size = o->kind == MAX_POOL ? o->size : o->conv.size, stride = o->kind == MAX_POOL ? o->stride : o->conv.stride;
            int pad = o->kind == MAX_POOL ? o->pad : o->conv.pad;
            if (h + 2 * pad < (uint64_t)size || w + 2 * pad < (uint64_t)size) return false;
            most->scratch = larger(most->scratch, (uint64_t)size * (w + 2 * pad) * 3 + 2 * (w + 2));
            h = (h + 2 * pad - size) / stride + 1;
            w = (w + 2 * pad - size) / stride + 1;
        } else if (o->kind == UNIT) {
            const unit *u = &o->unit;
            if (u->conv.stride == 2 && (h % 2 || w % 2)) return false;
            if (u->flavour == ATTENTION_18) most->scratch = larger(most->scratch, 2 * w * in + in);
            h /= (uint64_t)u->conv.stride;
            w /= (uint64_t)u->conv.stride;
            most->counts = larger(most->counts, h * w * u->places);
            if (u->flavour == ATTENTION_18) most->residual = larger(most->residual, h * w * u->places);
            most->places = larger(most->places, u->reduce.outputs);
        } else {
            most->scratch = larger(most->scratch, w * in);
            most->map = larger(most->map, (uint64_t)o->head.pitch);
        }
        uint64_t out = (uint64_t)o->outputs;
        if (o->kind == UNIT && o->unit.join == FIRST) out = 2 * out;
        most->map = larger(most->map, h * w * out);
        most->bits = larger(most->bits, (h * (w + 2) + SEGMENT * 2 + 2) * ((out + 31) / 32));
        most->places = larger(most->places, out);
    }
    return true;
}

static workspace *workspace_for(bnext_net *net, int height, int width, const need *most)
{
    for (int i = 0; i < SPARE; i++) {
        workspace *one = atomic_exchange(&net->spare[i], NULL);
        if (one && one->height == height && one->width == width) return one;
        bnext_workspace_free(one);
    }
    workspace *made = calloc(1, sizeof *made);
    if (!made) return NULL;
    made->height = height;
    made->width = width;
    made->scratch_floats = (size_t)((most->scratch + 15) / 16 * 16);
    bool whole = true;
    for (int i = 0; i < 2; i++) {
        whole = (made->map[i] = room(most->map, sizeof(float))) && whole;
        whole = (made->counts[i] = room(most->counts, sizeof(int16_t))) && whole;
        whole = (made->bits[i] = room(most->bits, sizeof(uint32_t))) && whole;
        if (net->kernels->pair) whole = (made->pairs[i] = room(most->bits, 2 * sizeof(uint32_t))) && whole;
        whole = (made->sums[i] = room(most->places * CHUNKS, sizeof(float))) && whole;
        whole = (made->factor[i] = room(most->places, sizeof(float))) && whole;
    }
    for (int i = 0; i < 4; i++) whole = (made->vectors[i] = room(most->places, sizeof(float))) && whole;
    whole = (made->mean = room(most->places, sizeof(float))) && whole;
    whole = (made->residual = room(most->residual, sizeof(float))) && whole;
    whole = (made->scratch = room((most->scratch + 15) / 16 * 16 * (uint64_t)net->info.threads, sizeof(float))) && whole;
    if (whole) { /* kernels read a little beyond a row */
        for (int i = 0; i < 2; i++) memset(made->bits[i], 0, (size_t)most->bits * sizeof(uint32_t));
        for (int i = 0; i < 2 && made->pairs[i]; i++) memset(made->pairs[i], 0, 2 * (size_t)most->bits * sizeof(uint32_t));
        return made;
    }
    bnext_workspace_free(made);
    return NULL;
}

static void give_back(bnext_net *net, workspace *space)
{
    for (int i = 0; i < SPARE; i++) {
        workspace *none = NULL;
        if (atomic_compare_exchange_strong(&net->spare[i], &none, space)) return;
    }
    bnext_workspace_free(space);
}

/* Sends one image through the operations before number `end`; returns what stands where it stopped. */
static passage through(bnext_net *net, bnext_pool *pool, workspace *space, const float *image, float *logits, int end)
{
    passage now = {net, pool, space, space->height, space->width};
    uint64_t time = 0;
    bnext_clock(net, -1, &time);
    for (int i = 0; i < end; i++) {
        const operation *o = &net->operations[i];
        int units = o->kind == UNIT && o->unit.join == FIRST ? 2 : 1;
        wanted next = wanted_by(net, i + units);
        switch (o->kind) {
        case REAL_CONV: bnext_real(&now, o, image, &next); break;
        case MAX_POOL: bnext_max(&now, o, &next); break;
        case UNIT: bnext_units(&now, o, units, &next); break;
        default: bnext_head(&now, o, logits); break;
        }
        if (o->kind == HEAD) bnext_clock(net, TIME_HEAD, &time);
        else if (o->kind != UNIT) bnext_clock(net, TIME_REAL, &time);
        else bnext_clock(net, -1, &time);
        i += units - 1;
    }
    return now;
}

typedef struct {
    bnext_net *net;
    const float *images;
    float *logits;
    int height, width;
    const need *most;
    _Atomic bool failed;
} batch;

static void one_image(void *context, int task, int worker)
{
    (void)worker;
    batch *all = context;
    workspace *space = workspace_for(all->net, all->height, all->width, all->most);
    if (!space) {
        atomic_store(&all->failed, true);
        return;
    }
    size_t pixels = (size_t)all->height * all->width;
    through(all->net, NULL, space, all->images + task * pixels * 3, all->logits + (size_t)task * all->net->info.classes,
            all->net->count);
    give_back(all->net, space);
}

static int refuse(char *message, size_t message_size, const char *format, ...)
{
    if (message && message_size) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(message, message_size, format, arguments);
        va_end(arguments);
    }
    return -1;
}

/* Whether the network takes images of this size; if not, the sentence. */
static bool fits(const bnext_net *net, int count, int height, int width, need *most, char *message, size_t message_size)
{
    int multiple = net->info.multiple, where = 0;
    if (count < 1 || height < 1 || width < 1 || height > 1 << 14 || width > 1 << 14)
        return refuse(message, message_size, "%d images of %d x %d pixels cannot be computed", count, height, width), false;
    if (height % multiple || width % multiple)
        return refuse(message, message_size, "an image has %d x %d pixels; this network needs multiples of %d", height, width, multiple), false;
    if (!sizes(net, height, width, most, &where))
        return refuse(message, message_size, "an image of %d x %d pixels does not fit operation %d of the network", height, width, where),
               false;
    return true;
}

int bnext_run(bnext_net *net, const float *images, int count, int height, int width, float *logits, char *message, size_t message_size)
{
    need most;
    if (!fits(net, count, height, width, &most, message, message_size)) return -1;
    if (count > 1 && count >= net->info.threads) { /* each thread takes whole images: then nothing waits */
        batch all = {net, images, logits, height, width, &most, false};
        bnext_pool_run(net->pool, count, one_image, &all);
        return atomic_load(&all.failed) ? refuse(message, message_size, "there is too little memory for these images") : 0;
    }
    for (int i = 0; i < count; i++) {
        workspace *space = workspace_for(net, height, width, &most);
        if (!space) return refuse(message, message_size, "there is too little memory for this image");
        through(net, net->pool, space, images + (size_t)i * height * width * 3, logits + (size_t)i * net->info.classes,
                net->count);
        give_back(net, space);
    }
    return 0;
}

long bnext_map(bnext_net *net, const float *image, int height, int width, int number, float *map, long room, char *message,
               size_t message_size)
{
    need most;
    if (number < 0 || number >= net->count - 1 || !net->operations[number].channels)
        return refuse(message, message_size, "there is no map after operation %d", number);
    if (!fits(net, 1, height, width, &most, message, message_size)) return -1;
    workspace *space = workspace_for(net, height, width, &most);
    if (!space) return refuse(message, message_size, "there is too little memory for this image");
    const struct operation *o = &net->operations[number];
    passage now = through(net, net->pool, space, image, NULL, number + 1);
    long count = (long)now.height * now.width * o->channels;
    for (long i = 0; i < count && i < room; i++)
        map[i] = space->map[0][(size_t)(i / o->channels) * o->outputs + o->place[i % o->channels]];
    give_back(net, space);
    return count;
}
