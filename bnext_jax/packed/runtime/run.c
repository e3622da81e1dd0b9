/* One call: takes memory, sends each image through the operations. */
#include <stdarg.h>
#include <stdio.h>
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

/* Computes operation i, or the two units that stand side by side from i on. Returns the number of the next operation. */
static int step(passage *now, int i, const float *image, float *logits)
{
    bnext_net *net = now->net;
    const operation *o = &net->operations[i];
    int units = o->kind == UNIT && o->unit.join == FIRST ? 2 : 1;
    wanted next = wanted_by(net, i + units);
    uint64_t time = 0;
    bnext_clock(net, -1, &time);
    switch (o->kind) {
    case REAL_CONV: bnext_real(now, o, image, &next); break;
    case MAX_POOL: bnext_max(now, o, &next); break;
    case UNIT: bnext_units(now, o, units, &next); break; /* it measures its own parts */
    default: bnext_head(now, o, logits); break;
    }
    if (o->kind != UNIT) bnext_clock(net, o->kind == HEAD ? TIME_HEAD : TIME_REAL, &time);
    return i + units;
}

/* Sends one image through the operations before number `end`; returns what stands where it stopped. */
static passage through(bnext_net *net, bnext_pool *pool, workspace *space, const float *image, float *logits, int end)
{
    passage now = {net, pool, space, space->height, space->width};
    for (int i = 0; i < end;) i = step(&now, i, image, logits);
    return now;
}

/* Moves a passage before operation `number` into another workspace. */
static void move(passage *now, workspace *to, int number)
{
    const workspace *from = now->space;
    wanted next = wanted_by(now->net, number);
    size_t places = (size_t)now->net->operations[number].inputs, words = (places + 31) / 32;
    size_t bits = (size_t)now->height * (now->width + 2) * words * sizeof(uint32_t);
    memcpy(to->map[0], from->map[0], (size_t)now->height * now->width * places * sizeof(float));
    memcpy(to->mean, from->mean, places * sizeof(float));
    for (int set = 0; set < next.count; set++) {
        memcpy(to->bits[set], from->bits[set], bits);
        if (to->pairs[set]) memcpy(to->pairs[set], from->pairs[set], 2 * bits);
    }
    now->space = to;
}

enum { GROUP = 8 };

/* Several images. Each thread takes whole groups of them, so nothing waits. Where maps are small and weights are large, a group's images
 * pass an operation one after the other, so that its weights come from memory once. */
typedef struct {
    bnext_net *net;
    const float *images;
    float *logits;
    int count, size, split; /* images; images of a group; the operation from which on a group stays together */
    size_t pixels;
    need early, late;
    _Atomic bool failed;
} batch;

static void one_group(void *context, int task, int worker)
{
    (void)worker;
    batch *all = context;
    bnext_net *net = all->net;
    int first = task * all->size, count = all->count - first < all->size ? all->count - first : all->size;
    workspace *early = bnext_workspace_for(net, &all->early), *late[GROUP] = {NULL};
    passage at[GROUP];
    bool whole = early != NULL;
    for (int i = 0; i < count && whole; i++) whole = (late[i] = bnext_workspace_for(net, &all->late)) != NULL;
    for (int i = 0; i < count && whole; i++) {
        at[i] = through(net, NULL, early, all->images + (size_t)(first + i) * all->pixels * 3, NULL, all->split);
        move(&at[i], late[i], all->split);
    }
    for (int number = all->split, next = number; number < net->count && whole; number = next)
        for (int i = 0; i < count; i++)
            next = step(&at[i], number, NULL, all->logits + (size_t)(first + i) * net->info.classes);
    if (!whole) atomic_store(&all->failed, true);
    for (int i = 0; i < count; i++) bnext_give_back(net, late[i]);
    bnext_give_back(net, early);
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
        return refuse(message, message_size, "an image has %d x %d pixels; this network needs multiples of %d", height, width, multiple),
               false;
    if (!bnext_sizes(net, height, width, 0, most, &where))
        return refuse(message, message_size, "an image of %d x %d pixels does not fit operation %d of the network", height, width, where),
               false;
    return true;
}

int bnext_run(bnext_net *net, const float *images, int count, int height, int width, float *logits, char *message, size_t message_size)
{
    need most;
    if (!fits(net, count, height, width, &most, message, message_size)) return -1;
    int split = bnext_late(net, height, width), threads = net->info.threads, ignored;
    size_t pixels = (size_t)height * width, classes = (size_t)net->info.classes;
    if (count > 1 && count >= threads && split) {
        int each = (count - 1) / threads + 1;
        batch all = {net, images, logits, count, each < GROUP ? each : GROUP, split, pixels, most, {0}, false};
        bnext_sizes(net, height, width, split, &all.late, &ignored);
        bnext_pool_run(net->pool, (count - 1) / all.size + 1, one_group, &all);
        return atomic_load(&all.failed) ? refuse(message, message_size, "there is too little memory for these images") : 0;
    }
    workspace *space = bnext_workspace_for(net, &most);
    if (!space) return refuse(message, message_size, "there is too little memory for this image");
    for (int i = 0; i < count; i++) through(net, net->pool, space, images + i * pixels * 3, logits + i * classes, net->count);
    bnext_give_back(net, space);
    return 0;
}

long bnext_map(bnext_net *net, const float *image, int height, int width, int number, float *map, long room, char *message,
               size_t message_size)
{
    need most;
    if (number < 0 || number >= net->count - 1 || !net->operations[number].channels)
        return refuse(message, message_size, "there is no map after operation %d", number);
    if (!fits(net, 1, height, width, &most, message, message_size)) return -1;
    workspace *space = bnext_workspace_for(net, &most);
    if (!space) return refuse(message, message_size, "there is too little memory for this image");
    const struct operation *o = &net->operations[number];
    passage now = through(net, net->pool, space, image, NULL, number + 1);
    long count = (long)now.height * now.width * o->channels;
    for (long i = 0; i < count && i < room; i++)
        map[i] = space->map[0][(size_t)(i / o->channels) * o->outputs + o->place[i % o->channels]];
    bnext_give_back(net, space);
    return count;
}
