/* Makes random packed files, as docs/packed_format.md describes them. */
#include "compose.h"

#include <string.h>

#include "load.h"

#include "check.h"

typedef struct {
    uint32_t entries[1024], tensors, operations[32][OPERATION_WORDS], count;
    uint8_t *data;
    size_t size, room;
} program;

/* A new tensor with random content. Returns its number. */
static uint32_t tensor(program *p, int type, size_t count)
{
    size_t bytes = (count * (type == U8 ? 1 : 4) + 3) / 4 * 4;
    while (p->size + bytes > p->room) {
        p->room = p->room ? 2 * p->room : 1 << 12;
        p->data = realloc(p->data, p->room);
        if (!p->data) exit(2);
    }
    memset(p->data + p->size, 0, bytes);
    for (size_t i = 0; i < count; i++) {
        float number = between(-1, 1);
        uint32_t word = random32();
        memcpy(p->data + p->size + i * (type == U8 ? 1 : 4), type == F32 ? (void *)&number : (void *)&word, type == U8 ? 1 : 4);
    }
    uint32_t entry[ENTRY_WORDS] = {(uint32_t)type, (uint32_t)count, (uint32_t)p->size, 0};
    memcpy(p->entries + ENTRY_WORDS * p->tensors, entry, sizeof entry);
    p->size += bytes;
    return p->tensors++;
}

/* Writes the numbers of a kernel's tensors: kernel, low, step. */
static void kernel(program *p, uint32_t *words, int bits, size_t count, size_t ranges)
{
    words[0] = tensor(p, bits == 32 ? F32 : U8, bits == 4 ? (count + 1) / 2 : count);
    words[1] = bits == 32 ? NONE : tensor(p, F32, ranges);
    words[2] = bits == 32 ? NONE : tensor(p, F32, ranges);
}

static int some_bits(void)
{
    static const int all[] = {32, 32, 8, 4};
    return all[below(4)];
}

static uint32_t *added(program *p, int kind)
{
    uint32_t *w = p->operations[p->count++];
    w[0] = (uint32_t)kind;
    for (int i = 1; i < OPERATION_WORDS && kind == UNIT; i++) w[i] = NONE;
    return w;
}

/* A unit from `in` to `out` channels. */
static void unit_of(program *p, int in, int out, int stride, int flavour, int join)
{
    uint32_t *w = added(p, UNIT);
    int size = random32() & 1 ? 1 : 3, between_layers = 1 + below(12);
    const uint32_t first[] = {UNIT, (uint32_t)in, (uint32_t)out, (uint32_t)size, (uint32_t)stride, (uint32_t)flavour, (uint32_t)join};
    memcpy(w, first, sizeof first);
    w[7] = tensor(p, U32, (size_t)size * size * ((in + 31) / 32) * out);
    w[8] = tensor(p, F32, in);
    for (int i = 9; i <= 11; i++) w[i] = tensor(p, F32, out);
    if (flavour != FEED_FORWARD) w[12] = tensor(p, F32, in);
    if (below(4)) w[14] = tensor(p, F32, out);
    if (below(4)) w[15] = tensor(p, F32, out);
    if (below(3)) {
        int bits = some_bits();
        w[13] = tensor(p, F32, out);
        w[16] = (uint32_t)between_layers;
        w[17] = (uint32_t)bits;
        kernel(p, w + 18, bits, (size_t)out * between_layers, between_layers);
        w[21] = tensor(p, F32, between_layers);
        kernel(p, w + 22, bits, (size_t)between_layers * out, out);
        w[25] = tensor(p, F32, out);
        if (bits != 32) w[29] = tensor(p, F32, 2);
        if (bits != 32) w[30] = tensor(p, F32, 2);
    }
    if (flavour == ATTENTION_18 && stride == 2) {
        w[26] = tensor(p, F32, (size_t)in * out);
        w[27] = tensor(p, F32, out);
        w[28] = tensor(p, F32, out);
    }
}

/* Operations between the stem and the head. Returns the channels after them; *multiple becomes the sides that an image needs. */
static int body(program *p, int channels, int *multiple)
{
    for (int i = below(6); i > 0; i--) {
        int stride = *multiple < 16 && below(4) == 0 ? 2 : 1, kind = below(6), out = channels;
        if (kind == 0) {
            uint32_t *w = added(p, MAX_POOL);
            int size = 1 + below(below(8) ? 3 : MOST_SIZE);
            w[1] = (uint32_t)(size | 1);
            w[2] = (uint32_t)stride;
            w[3] = w[1] / 2;
        } else if (kind == 1 && channels <= 64) {
            unit_of(p, channels, channels, 1, FEED_FORWARD, FIRST);
            unit_of(p, channels, channels, 1, FEED_FORWARD, SECOND);
            channels *= 2;
            continue;
        } else if (kind == 2) {
            out = stride == 2 ? 1 + below(100) : channels;
            unit_of(p, channels, out, stride, ATTENTION_18, ALONE);
        } else {
            unit_of(p, channels, channels, stride, kind == 3 ? FEED_FORWARD : ATTENTION, ALONE);
        }
        channels = out;
        *multiple *= stride;
    }
    return channels;
}

static packed joined(program *p, const uint32_t *head)
{
    size_t words = head[14], header = 8 * (size_t)below(9), begin = 8 + header + 4 * words;
    packed made = {some(begin + p->size, 1), begin + p->size};
    for (uint32_t i = 0; i < p->tensors; i++) p->entries[ENTRY_WORDS * i + 2] += (uint32_t)(4 * words);
    made.bytes[0] = (uint8_t)header;
    memset(made.bytes + 8, ' ', header); /* the engine does not read it */
    memcpy(made.bytes + 8 + header, head, HEAD_WORDS * 4);
    memcpy(made.bytes + 8 + header + HEAD_WORDS * 4, p->entries, (size_t)p->tensors * ENTRY_WORDS * 4);
    memcpy(made.bytes + begin - (size_t)p->count * OPERATION_WORDS * 4, p->operations, (size_t)p->count * OPERATION_WORDS * 4);
    if (p->size) memcpy(made.bytes + begin, p->data, p->size);
    return made;
}

packed compose(uint64_t from)
{
    seed = from;
    program *p = some(1, sizeof *p);
    int channels = 1 + below(below(8) ? 40 : 140), classes = 1 + below(below(4) ? 20 : 600), bits = some_bits();
    int size = (1 + below(below(8) ? 4 : MOST_SIZE)) | 1, multiple = 1 + below(below(8) ? 2 : 3);
    uint32_t *w = added(p, REAL_CONV);
    const uint32_t stem[] = {REAL_CONV, 3, (uint32_t)channels, (uint32_t)size, (uint32_t)multiple, (uint32_t)size / 2, (uint32_t)bits};
    memcpy(w, stem, sizeof stem);
    kernel(p, w + 7, bits, (size_t)size * size * 3 * channels, 3 * (size_t)channels);
    w[10] = tensor(p, F32, channels);
    w[11] = tensor(p, F32, channels);
    channels = body(p, channels, &multiple);
    bits = some_bits();
    w = added(p, HEAD);
    w[1] = (uint32_t)channels;
    w[2] = (uint32_t)classes;
    w[3] = tensor(p, F32, channels);
    w[4] = (uint32_t)bits;
    kernel(p, w + 5, bits, (size_t)channels * classes, classes);
    w[8] = tensor(p, F32, classes);
    w[9] = bits == 32 ? NONE : tensor(p, F32, 2);
    uint32_t head[HEAD_WORDS] = {0x54584E42u, BNEXT_VERSION, p->tensors, p->count, (uint32_t)classes, (uint32_t)multiple};
    head[14] = HEAD_WORDS + ENTRY_WORDS * p->tensors + OPERATION_WORDS * p->count;
    packed made = joined(p, head);
    free(p->data);
    free(p);
    return made;
}
