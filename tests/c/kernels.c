/* Compares every set of kernels that this processor has with plain formulas: binary convolutions here, the rest in elementwise.c.
 *
 * Usage: kernels [NAME ...]. Without names it tests all sets that the processor has. Exit code 0: all equal; 1: a difference, which it
 * prints; 2: a named set does not run here.
 *
 * It includes two files of the engine, so that it reaches the functions that a network uses: the loader's `binary`, which makes the tiles
 * and the table of borders, and `convolve`, which cuts a map into segments. The formula multiplies +1 and -1 and skips padded pixels.
 */
#include "load.c"
#include "units.c"

#include "check.h"

void test_elementwise(const kernels *set);

enum { RANDOM, ALL_DIFFER, NONE_DIFFERS };

typedef struct {
    const kernels *set;
    int size, stride, height, width;
    layout in, out;
    int bits; /* RANDOM, or the extremes of the sums */
} shape;

static layout channels(source *from, bnext_net *net, int count, int doublings)
{
    layout made = in_order(from, net, count >> doublings);
    for (int i = 0; i < doublings; i++) made = doubled(from, net, made);
    return made;
}

/* Loads weights [size, size, inputs, outputs] of +1 and -1 as a file has them. */
static binary_conv loaded(bnext_net *net, const shape *s, const int *weights)
{
    int words = (s->in.channels + 31) / 32, taps = s->size * s->size;
    size_t count = (size_t)taps * words * s->out.channels;
    uint32_t *packed = some(count, 4), *program = some(HEAD_WORDS + ENTRY_WORDS, 4);
    bool used[1] = {false};
    program[HEAD_WORDS] = U32;
    program[HEAD_WORDS + 1] = (uint32_t)count;
    for (int tap = 0; tap < taps; tap++)
        for (int i = 0; i < s->in.channels; i++)
            for (int o = 0; o < s->out.channels; o++)
                if (weights[((size_t)tap * s->in.channels + i) * s->out.channels + o] > 0)
                    packed[((size_t)tap * words + i / 32) * s->out.channels + o] |= 1u << i % 32;
    char message[200] = "";
    source from = {.bytes = (const uint8_t *)packed, .size = count * 4, .message = message, .message_size = sizeof message,
                   .words = program, .tensors = 1, .used = used};
    binary_conv made = {.size = s->size, .stride = s->stride};
    binary(&from, net, &made, s->in, s->out, 0);
    if (from.failed) differs("the loader refuses %d channels: %s", s->in.channels, message);
    free(packed);
    free(program);
    return made;
}

/* The engine's own size of the bits, so that a sanitizer sees what lies beyond them. */
static size_t words_of_map(const shape *s)
{
    return ((size_t)s->height * (s->width + 2) + SEGMENT * 2 + 2) * (((size_t)s->in.places + 31) / 32);
}

/* Makes the bits of a random map, as the operation before would. Returns the signs [rows, columns, channels] of x + shift, +1 or -1. */
static int *signs(const passage *now, const shape *s, float *shift)
{
    int places = s->in.places;
    size_t pixels = (size_t)s->height * s->width;
    float *x = some(pixels * places, 4), *sums = some(places, 4);
    int *made = some(pixels * s->in.channels, sizeof *made);
    for (int i = 0; i < places; i++) shift[i] = -1;
    for (int i = 0; i < s->in.channels; i++) shift[s->in.place[i]] = between(-0.5, 0.5);
    for (size_t i = 0; i < pixels; i++)
        for (int c = 0; c < s->in.channels; c++) {
            int place = s->in.place[c];
            float value = s->bits == RANDOM ? between(-1, 1) : s->bits == ALL_DIFFER ? -1 : 1;
            if (s->bits == RANDOM && random32() % 16 == 0) value = -shift[place]; /* the sum is exactly 0, which counts as positive */
            x[i * places + place] = value;
            made[i * s->in.channels + c] = value + shift[place] >= 0 ? 1 : -1;
        }
    memset(now->space->bits[0], 0xff, words_of_map(s) * 4);
    if (s->set->pair) memset(now->space->pairs[0], 0xff, words_of_map(s) * 8);
    int(*columns)[2] = some(s->width, sizeof *columns);
    for (int i = 0; i < s->width; i++) columns[i][0] = i, columns[i][1] = i + 1;
    wanted next = {1, {shift, NULL}, s->stride};
    for (int row = 0; row < s->height; row++) {
        const float *from = x + (size_t)row * s->width * places;
        bnext_clear_bits(now, &next, row, s->width, places);
        emitted to = bnext_emitted(now, &next, now->space->map[0], row, s->width, places, 0, sums);
        s->set->max_row(&from, 1, (const int(*)[2])columns, s->width, places, &to);
        bnext_end_bits(now, &next, row, s->width, places);
    }
    free(columns);
    free(sums);
    free(x);
    return made;
}

/* The sum over one output position, by the definition. */
static int plain(const shape *s, const int *x, const int *weights, int row, int column, int output)
{
    int sum = 0, pad = s->size / 2, inputs = s->in.channels, outputs = s->out.channels;
    for (int i = 0; i < s->size; i++)
        for (int j = 0; j < s->size; j++) {
            int y = row * s->stride + i - pad, z = column * s->stride + j - pad;
            if (y < 0 || z < 0 || y >= s->height || z >= s->width) continue;
            const int *pixel = x + ((size_t)y * s->width + z) * inputs;
            const int *tap = weights + (size_t)(i * s->size + j) * inputs * outputs + output;
            for (int c = 0; c < inputs; c++) sum += pixel[c] * tap[(size_t)c * outputs];
        }
    return sum;
}

static void compare(const shape *s, const unit *u, const workspace *space, const int *x, const int *weights, int rows, int columns)
{
    for (int o = 0; o < s->out.channels; o++) {
        int place = s->out.place[o];
        double sum = 0, scale = 0, found = 0;
        for (int row = 0; row < rows; row++)
            for (int column = 0; column < columns; column++) {
                int expected = plain(s, x, weights, row, column, o);
                int c = space->counts[0][((size_t)row * columns + column) * s->out.places + place];
                if (c != expected)
                    differs("%s: %dx%d stride %d, map %d x %d, %d to %d channels, row %d column %d output %d: sum %d, not %d",
                            s->set->name, s->size, s->size, s->stride, s->height, s->width, s->in.channels, s->out.channels, row, column,
                            o, c, expected);
                double y = (double)c * u->a1[place] + u->b1[place];
                if (y < 0) y *= u->slope2[place];
                sum += y;
                scale += fabs((double)c * u->a1[place]) + fabs(u->b1[place]);
            }
        for (int chunk = 0; chunk < bnext_chunks(rows); chunk++) found += space->sums[0][(size_t)chunk * s->out.places + place];
        if (!close_to(found, sum, scale))
            differs("%s: the mean of output %d of %d: %g, not %g", s->set->name, o, s->out.channels, found, sum);
    }
}

static long cases;

static void convolution(const kernels *set, int size, int stride, int height, int width, int inputs, int outputs, int doublings, int bits)
{
    bnext_net net = {.kernels = set};
    source memory = {.message = NULL};
    shape s = {set, size, stride, height, width, channels(&memory, &net, inputs, doublings), channels(&memory, &net, outputs, 0), bits};
    size_t count = (size_t)size * size * inputs * outputs;
    int rows = height / stride, columns = width / stride, *weights = some(count, sizeof *weights);
    for (size_t i = 0; i < count; i++) weights[i] = bits != RANDOM || random32() & 1 ? 1 : -1;
    workspace space = {.map = {some((size_t)height * width * s.in.places, 4)},
                       .counts = {some((size_t)rows * columns * s.out.places, 2)},
                       .bits = {some(words_of_map(&s), 4)}, .pairs = {set->pair ? some(words_of_map(&s), 8) : NULL},
                       .sums = {some((size_t)CHUNKS * s.out.places, 4)}};
    passage now = {&net, NULL, &space, height, width};
    float *shift = some(s.in.places, 4);
    int *x = signs(&now, &s, shift);
    unit u = {.places = s.out.places, .conv = loaded(&net, &s, weights), .shift = shift, .a1 = some(s.out.places, 4),
              .b1 = some(s.out.places, 4), .slope2 = some(s.out.places, 4)};
    for (int o = 0; o < outputs; o++) {
        int place = s.out.place[o];
        u.a1[place] = between(-1, 1);
        u.b1[place] = between(-1, 1);
        u.slope2[place] = between(-0.5, 0.5);
    }
    work w = {.now = &now, .units = {&u, &u}, .count = 1, .columns = columns, .rows = rows, .in_columns = width, .in_rows = height};
    int tasks = bnext_chunks(rows) * ((s.out.places + TILE - 1) / TILE);
    for (int task = 0; task < tasks; task++) convolve(&w, task, 0);
    compare(&s, &u, &space, x, weights, rows, columns);
    void *all[] = {weights, space.map[0], space.counts[0], space.bits[0], space.pairs[0], space.sums[0], shift, x, u.a1, u.b1, u.slope2};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    for (int i = 0; i < net.owned_count; i++) free(net.owned[i]);
    free(net.owned);
    cases++;
}

static void convolutions(const kernels *set)
{
    for (int size = 1; size <= 3; size += 2)
        for (int stride = 1; stride <= 2; stride++) {
            for (int width = stride; width <= 33; width += stride) { /* all lengths of segments, all classes of borders */
                convolution(set, size, stride, stride * (1 + width % 3), width, 16, 24, 0, RANDOM);
                convolution(set, size, stride, width, stride * (1 + width % 2), 8, 33, 0, RANDOM);
            }
            static const int counts[] = {1,  2,  7,  8,  15,  16,  17,  24,  31,  32,  33,  48,
                                         63, 64, 65, 96, 100, 128, 224, 225, 256, 257, 512, 2048};
            for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
                convolution(set, size, stride, 2, 4, counts[i], 17, 0, RANDOM);
                convolution(set, size, stride, 4, 2, 40, counts[i], 0, RANDOM);
            }
            for (int bits = ALL_DIFFER; bits <= NONE_DIFFERS; bits++) {
                convolution(set, size, stride, 2 * stride, 10 * stride, 2048, 32, 0, bits);
                convolution(set, size, stride, stride, stride, 2048, 48, 0, bits);
                convolution(set, size, stride, stride, 2 * stride, size == 1 ? MOST_COUNT : MOST_3X3, 16, 0, bits);
            }
            for (int doublings = 1; doublings <= 3; doublings++) /* channels with gaps between them, as two units side by side leave them */
                for (int one = 1; one <= 40; one += 13)
                    convolution(set, size, stride, 4, 6, one << doublings, one << doublings, doublings, RANDOM);
        }
    for (int bits = ALL_DIFFER; bits <= NONE_DIFFERS; bits++) /* in a map of one column the table holds its largest number */
        convolution(set, 3, 1, 4, 1, MOST_3X3, 16, 0, bits), convolution(set, 3, 1, 4, 5, MOST_3X3, 16, 0, bits);
    convolution(set, 3, 1, 40, 33, 48, 48, 0, RANDOM);
    convolution(set, 3, 2, 66, 34, 24, 16, 0, RANDOM);
}

int main(int count, char **names)
{
    static const char *const all[] = {"c", "avx2", "avx512", "neon"};
    for (int i = 0; i < (count > 1 ? count - 1 : 4); i++) {
        const kernels *set = bnext_choose_kernels(count > 1 ? names[i + 1] : all[i]);
        if (!set && count > 1) {
            printf("the kernels %s do not run on this processor\n", names[i + 1]);
            return 2;
        }
        if (!set) continue;
        seed = 1;
        cases = 0;
        convolutions(set);
        test_elementwise(set);
        printf("kernels %s: %ld binary convolutions and the elementwise passes agree with the formulas\n", set->name, cases);
    }
    return 0;
}
