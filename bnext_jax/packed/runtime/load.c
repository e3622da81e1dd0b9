/* From the program in a packed file to operations: channels become places, and weights take the layout of the kernels. */
#include <stdlib.h>
#include <string.h>

#include "load.h"

/* The channels of a map: place[i] is where channel i lies. */
typedef struct {
    int channels, places;
    int *place;
} layout;

static void *owned(source *from, bnext_net *net, uint64_t bytes)
{
    if (from->failed) return NULL;
    if (net->owned_count == net->owned_room) {
        int room = net->owned_room ? 2 * net->owned_room : 64;
        void **more = realloc(net->owned, (size_t)room * sizeof *more);
        if (!more) return bnext_fail(from, "there is too little memory"), NULL;
        net->owned = more;
        net->owned_room = room;
    }
    bytes = (bytes + 127) / 64 * 64; /* aligned_alloc wants a multiple of the alignment */
    void *made = bytes > SIZE_MAX ? NULL : aligned_alloc(64, (size_t)bytes);
    if (!made) return bnext_fail(from, "there is too little memory for the weights"), NULL;
    memset(made, 0, (size_t)bytes);
    net->owned[net->owned_count++] = made;
    net->info.weight_bytes += (double)bytes;
    return made;
}

static layout in_order(source *from, bnext_net *net, int channels)
{
    layout made = {channels, bnext_padded(channels, LANES), owned(from, net, (uint64_t)channels * sizeof(int))};
    for (int i = 0; made.place && i < channels; i++) made.place[i] = i;
    return made;
}

static layout doubled(source *from, bnext_net *net, layout one)
{
    layout made = {2 * one.channels, 2 * one.places, owned(from, net, 2 * (uint64_t)one.channels * sizeof(int))};
    for (int i = 0; made.place && i < one.channels; i++) {
        made.place[i] = one.place[i];
        made.place[one.channels + i] = one.places + one.place[i];
    }
    return made;
}

/* A vector of one number a channel, on places; `rest` on the places without a channel. */
static float *filled(source *from, bnext_net *net, uint32_t tensor, layout of, float rest)
{
    float *given = bnext_tensor(from, tensor, F32, (uint64_t)of.channels), *made = owned(from, net, (uint64_t)of.places * 4);
    for (int i = 0; made && i < of.places; i++) made[i] = rest;
    for (int i = 0; given && made && i < of.channels; i++) made[of.place[i]] = given[i];
    free(given);
    return made;
}

static float *vector(source *from, bnext_net *net, uint32_t tensor, layout of) { return filled(from, net, tensor, of, 0); }

static float *constant(source *from, bnext_net *net, float value, layout of)
{
    float *made = owned(from, net, (uint64_t)of.places * 4);
    for (int i = 0; made && i < of.channels; i++) made[of.place[i]] = value;
    return made;
}

/* A kernel [rows, columns] as float32, from float32 or from codes; ranges: the number of ranges of codes, a divisor of rows * columns.
 * The range of element i is i % ranges. */
static float *kernel(source *from, const uint32_t *tensors, int bits, uint64_t count, uint64_t ranges)
{
    if (bits == 32) return bnext_tensor(from, tensors[0], F32, count);
    if (bits != 8 && bits != 4) return bnext_fail(from, "a layer has %d bits; this engine runs 4, 8 and 32", bits), NULL;
    uint8_t *codes = bnext_tensor(from, tensors[0], U8, bits == 8 ? count : (count + 1) / 2);
    float *low = bnext_tensor(from, tensors[1], F32, ranges), *step = bnext_tensor(from, tensors[2], F32, ranges);
    float *made = from->failed || count > SIZE_MAX / 4 ? NULL : malloc((size_t)count * 4);
    for (uint64_t i = 0; made && i < count; i++) {
        unsigned code = bits == 8 ? codes[i] : codes[i / 2] >> (i % 2 ? 4 : 0) & 15u;
        made[i] = (float)code * step[i % ranges] + low[i % ranges];
    }
    free(codes);
    free(low);
    free(step);
    if (!made) bnext_fail(from, "there is too little memory for a layer");
    return made;
}

/* A dense layer from `in` to `out`. tensors: kernel, low, step, bias. */
static void dense(source *from, bnext_net *net, linear *made, layout in, layout out, int bits, const uint32_t *tensors, uint32_t limits)
{
    *made = (linear){.inputs = in.places, .outputs = out.places, .pitch = out.places, .bits = bits,
                     .logical = in.place, .logical_count = in.channels};
    if (from->failed) return;
    float *given = kernel(from, tensors, bits, (uint64_t)in.channels * out.channels, (uint64_t)out.channels);
    made->w = owned(from, net, (uint64_t)in.places * out.places * 4);
    for (int i = 0; given && made->w && i < in.channels; i++)
        for (int o = 0; o < out.channels; o++)
            made->w[(size_t)in.place[i] * out.places + out.place[o]] = given[(size_t)i * out.channels + o];
    free(given);
    made->bias = vector(from, net, tensors[3], out);
    if (bits != 32) {
        float *pair = bnext_tensor(from, limits, F32, 2);
        if (pair) made->low = pair[0], made->high = pair[1];
        free(pair);
    }
}

/* A real convolution from `in` to `out`. The image itself is not padded to places. tensors: kernel, low, step. */
static void real(source *from, bnext_net *net, real_conv *made, layout in, layout out, int places, int bits, const uint32_t *tensors,
                 uint32_t a, uint32_t b)
{
    made->inputs = places;
    made->outputs = out.places;
    uint64_t taps = (uint64_t)made->size * made->size, ranges = (uint64_t)in.channels * out.channels;
    float *given = kernel(from, tensors, bits, taps * ranges, ranges);
    made->w = owned(from, net, taps * places * out.places * 4);
    for (uint64_t tap = 0; given && made->w && tap < taps; tap++)
        for (int i = 0; i < in.channels; i++)
            for (int o = 0; o < out.channels; o++)
                made->w[(tap * places + in.place[i]) * out.places + out.place[o]] = given[tap * ranges + (size_t)i * out.channels + o];
    free(given);
    made->a = vector(from, net, a, out);
    made->b = vector(from, net, b, out);
}

static int ones(uint32_t x)
{
    int count = 0;
    for (; x; x &= x - 1) count++;
    return count;
}

void bnext_arrange(const kernels *set, const uint32_t *words, int count, void *w)
{
    uint8_t *to = w;
    if (!set->bytes) memcpy(w, words, bnext_tile_bytes(count));
    for (int word = 0; set->bytes && word < count; word++, words += TILE)
        for (int byte = 0; byte < 4; byte++)
            for (int lane = 0; lane < TILE; lane++) *to++ = (uint8_t)(words[lane] >> 8 * byte);
}

/* Bits [size, size, words of channels, outputs] of the file -> the kernel's tiles, and the table of the sums without a difference. */
static void binary(source *from, bnext_net *net, binary_conv *made, layout in, layout out, uint32_t tensor)
{
    int given_words = bnext_padded(in.channels, 32) / 32, tiles = bnext_padded(out.places, TILE) / TILE;
    int taps = made->size * made->size, lanes = tiles * TILE, run;
    made->words = bnext_padded(in.places, 32) / 32;
    made->inputs = in.places;
    made->outputs = out.places;
    run = made->size * made->words;
    if (in.channels > (made->size == 1 ? MOST_COUNT : MOST_3X3)) {
        bnext_fail(from, "a binary convolution of size %d has %d channels; this engine takes %d", made->size, in.channels,
                   made->size == 1 ? MOST_COUNT : MOST_3X3);
        return;
    }
    uint32_t *given = bnext_tensor(from, tensor, U32, (uint64_t)taps * given_words * out.channels);
    made->tile_bytes = bnext_tile_bytes(made->size * run);
    made->row_bytes = made->tile_bytes / (size_t)made->size;
    made->w = owned(from, net, (uint64_t)tiles * made->tile_bytes);
    made->base = owned(from, net, (uint64_t)16 * lanes * sizeof(int16_t));
    uint32_t *tile = from->failed ? NULL : calloc((size_t)taps * made->words, TILE * 4);
    int *source_of = from->failed ? NULL : malloc((size_t)lanes * sizeof(int)); /* the output at each place, or -1 */
    if (!tile || !source_of) bnext_fail(from, "there is too little memory for a convolution");
    for (int i = 0; source_of && i < lanes; i++) source_of[i] = -1;
    for (int i = 0; source_of && i < out.channels; i++) source_of[out.place[i]] = i;
    bool same = true; /* whether channel i lies at place i */
    for (int i = 0; i < in.channels; i++) same = same && in.place[i] == i;
    for (int t = 0; !from->failed && t < tiles; t++) {
        memset(tile, 0, (size_t)taps * made->words * TILE * 4);
        for (int lane = 0; lane < TILE; lane++) {
            int output = source_of[t * TILE + lane], pop[MOST_SIZE * MOST_SIZE] = {0};
            if (output < 0) continue;
            for (int tap = 0; tap < taps; tap++)
                for (int word = 0; word < given_words; word++) {
                    uint32_t bits = given[((size_t)tap * given_words + word) * out.channels + output];
                    int rest = in.channels - 32 * word;
                    if (rest < 32) bits &= (1u << rest) - 1; /* bits beyond the channels count nowhere */
                    pop[tap] += ones(bits);
                    uint32_t *to = tile + (size_t)tap * made->words * TILE + lane;
                    if (same) to[(size_t)word * TILE] = bits;
                    for (int bit = 0; !same && bit < 32; bit++)
                        if (bits >> bit & 1) {
                            int place = in.place[32 * word + bit];
                            to[(size_t)(place / 32) * TILE] |= 1u << place % 32;
                        }
                }
            for (int class = 0; class < 16; class++) { /* bits of a class: 1 top, 2 bottom row outside; 4 left, 8 right column outside */
                int first = class & 1, last = made->size - (class >> 1 & 1), sum = 0;
                for (int row = first; row < last; row++)
                    for (int column = 0; column < made->size; column++) {
                        int tap = row * made->size + column;
                        bool outside = (class & 4 && column == 0) || (class & 8 && column == made->size - 1);
                        sum += outside ? 2 * pop[tap] : in.channels; /* outside, the activations' bits are 0: pop[tap] of them differ */
                    }
                made->base[(size_t)class * lanes + t * TILE + lane] = (int16_t)sum;
            }
        }
        bnext_arrange(net->kernels, tile, made->size * run, (uint8_t *)made->w + (size_t)t * made->tile_bytes);
    }
    free(tile);
    free(source_of);
    free(given);
}

static bool sane(source *from, uint32_t value, uint32_t least, uint32_t most, const char *what)
{
    return value >= least && value <= most ? true : bnext_fail(from, "the program gives %u for %s", value, what);
}

/* A unit on `in`. Returns the layout of its output. */
static layout load_unit(source *from, bnext_net *net, operation *made, const uint32_t *w, layout in)
{
    unit *u = &made->unit;
    layout out = in;
    bool fits = sane(from, w[1], (uint32_t)in.channels, (uint32_t)in.channels, "the inputs of a unit") &&
                sane(from, w[2], 1, MOST_CHANNELS, "the outputs of a unit") && sane(from, w[3], 1, 3, "the size of a unit") &&
                sane(from, w[3] % 2, 1, 1, "the size of a unit") && sane(from, w[4], 1, 2, "the stride of a unit") &&
                sane(from, w[5], FEED_FORWARD, ATTENTION_18, "the kind of a unit") && sane(from, w[6], ALONE, SECOND, "a unit's place");
    if (!fits) return out;
    if (w[2] != w[1] && w[5] != ATTENTION_18) return bnext_fail(from, "a unit has %u inputs and %u outputs", w[1], w[2]), out;
    if (w[6] != ALONE && (w[5] != FEED_FORWARD || w[4] != 1)) return bnext_fail(from, "units of this kind cannot stand side by side"), out;
    bool widens = w[5] == ATTENTION_18 && (w[26] != NONE || w[2] != w[1] || w[4] != 1);
    if (widens && (w[26] == NONE || w[4] != 2)) return bnext_fail(from, "a unit that changes the shape has no shortcut"), out;
    if (widens) out = in_order(from, net, (int)w[2]);
    u->flavour = (int)w[5];
    u->join = (int)w[6];
    u->places = out.places;
    u->conv.size = (int)w[3];
    u->conv.stride = (int)w[4];
    binary(from, net, &u->conv, in, out, w[7]);
    u->shift = filled(from, net, w[8], in, -1); /* so that the bits of places without a channel are 0, as their weights' are */
    u->a1 = vector(from, net, w[9], out);
    u->b1 = vector(from, net, w[10], out);
    u->slope2 = vector(from, net, w[11], out);
    if (u->flavour != FEED_FORWARD) u->slope1 = vector(from, net, w[12], in);
    u->a2 = w[14] == NONE ? constant(from, net, 1, out) : vector(from, net, w[14], out);
    u->b2 = w[15] == NONE ? constant(from, net, 0, out) : vector(from, net, w[15], out);
    if (w[13] != NONE && sane(from, w[16], 1, MOST_CHANNELS, "the channels of a gate")) {
        u->scale = vector(from, net, w[13], out);
        layout between = in_order(from, net, (int)w[16]);
        dense(from, net, &u->reduce, out, between, (int)w[17], w + 18, w[29]);
        dense(from, net, &u->expand, between, out, (int)w[17], w + 22, w[30]);
    }
    if (widens) {
        u->shortcut.size = u->shortcut.stride = 1;
        real(from, net, &u->shortcut, in, out, in.places, 32, w + 26, w[27], w[28]);
    }
    return out;
}

bool bnext_load(source *from, bnext_net *net)
{
    const uint32_t *head = from->words, *w = head + HEAD_WORDS + ENTRY_WORDS * from->tensors;
    if (!sane(from, head[4], 1, 1 << 20, "the classes") || !sane(from, head[5], 1, 1 << 12, "the stride of the network") ||
        !sane(from, from->operations, 2, MOST_OPERATIONS, "the number of operations"))
        return false;
    net->info.classes = (int)head[4];
    net->info.multiple = (int)head[5];
    net->info.height = (int)(head[6] & 0xffff);
    net->info.width = (int)(head[7] & 0xffff);
    memcpy(net->info.mean, head + 8, sizeof net->info.mean);
    memcpy(net->info.std, head + 11, sizeof net->info.std);
    net->operations = calloc(from->operations, sizeof *net->operations);
    if (!net->operations) return bnext_fail(from, "there is too little memory for the program");
    layout now = in_order(from, net, 3);
    int join = ALONE;
    for (uint32_t i = 0; i < from->operations && !from->failed; i++, w += OPERATION_WORDS) {
        operation *made = &net->operations[net->count++];
        made->kind = (int)w[0];
        made->inputs = i ? now.places : 3;
        if ((i == 0) != (w[0] == REAL_CONV) || (i == from->operations - 1) != (w[0] == HEAD))
            return bnext_fail(from, "the program does not begin with a real convolution, or does not end with a head");
        if (join == FIRST && !(w[0] == UNIT && w[6] == SECOND)) return bnext_fail(from, "the second of two units is missing");
        if (w[0] == REAL_CONV) {
            bool fits = sane(from, w[1], 3, 3, "the colours of an image") &&
                        sane(from, w[2], 1, MOST_CHANNELS, "the outputs of the stem") &&
                        sane(from, w[3], 1, MOST_SIZE, "the size of the stem") && sane(from, w[4], 1, MOST_SIZE, "its stride") &&
                        sane(from, w[5], 0, w[3] / 2, "its padding");
            if (!fits) return false;
            layout out = in_order(from, net, (int)w[2]);
            made->conv = (real_conv){.size = (int)w[3], .stride = (int)w[4], .pad = (int)w[5]};
            real(from, net, &made->conv, now, out, 3, (int)w[6], w + 7, w[10], w[11]);
            now = out;
        } else if (w[0] == MAX_POOL) {
            if (!sane(from, w[1], 1, MOST_SIZE, "the size of a maximum") || !sane(from, w[2], 1, MOST_SIZE, "its stride") ||
                !sane(from, w[3], 0, w[1] / 2, "its padding"))
                return false;
            made->size = (int)w[1], made->stride = (int)w[2], made->pad = (int)w[3];
        } else if (w[0] == UNIT) {
            layout out = load_unit(from, net, made, w, now);
            if (from->failed) return false;
            if ((join == FIRST) != (made->unit.join == SECOND)) return bnext_fail(from, "the first of two units is missing");
            join = made->unit.join;
            if (join == SECOND) out = doubled(from, net, out);
            if (join != FIRST) now = out;
            if (now.channels > MOST_CHANNELS) return bnext_fail(from, "a map has %d channels", now.channels);
        } else if (w[0] == HEAD) {
            if (!sane(from, w[1], (uint32_t)now.channels, (uint32_t)now.channels, "the inputs of the head") ||
                !sane(from, w[2], head[4], head[4], "the classes of the head"))
                return false;
            made->slope = vector(from, net, w[3], now);
            layout out = in_order(from, net, (int)w[2]);
            dense(from, net, &made->head, now, out, (int)w[4], w + 5, w[9]);
        } else {
            return bnext_fail(from, "operation %u is of kind %u, which this engine does not know", i, w[0]);
        }
        made->outputs = now.places;
        made->channels = join == FIRST ? 0 : now.channels;
        made->place = now.place;
    }
    return !from->failed;
}
