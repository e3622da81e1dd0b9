/* A packed file: its header, its program, its tensors. Nothing that the file says is used before it has been checked. */
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"

bool bnext_fail(source *from, const char *format, ...)
{
    if (!from->failed && from->message && from->message_size) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(from->message, from->message_size, format, arguments);
        va_end(arguments);
    }
    from->failed = true;
    return false;
}

bool bnext_read(source *from, uint64_t place, void *to, uint64_t count)
{
    if (place > from->size || count > from->size - place)
        return bnext_fail(from, "the file is too short: it ends before byte %llu", (unsigned long long)(place + count));
    if (from->bytes) {
        if (count) memcpy(to, from->bytes + place, (size_t)count);
        return true;
    }
    if (place > LONG_MAX || fseek(from->file, (long)place, SEEK_SET) || fread(to, 1, (size_t)count, from->file) != count)
        return bnext_fail(from, "the file cannot be read at byte %llu", (unsigned long long)place);
    return true;
}

bool bnext_read_program(source *from)
{
    uint8_t length[8];
    if (!bnext_read(from, 0, length, 8)) return false;
    uint64_t header = 0;
    for (int i = 7; i >= 0; i--) header = header << 8 | length[i];
    if (header > from->size - 8) return bnext_fail(from, "the file is no packed network, or it is cut off");
    from->data = 8 + header;
    uint32_t head[HEAD_WORDS];
    if (from->size - from->data < sizeof head || !bnext_read(from, from->data, head, sizeof head) || head[0] != 0x54584E42u)
        return bnext_fail(from, "the file holds no program for this engine; it is no packed network, or one that runs only in JAX");
    if (head[1] != BNEXT_VERSION)
        return bnext_fail(from, "the file has a program of version %u; this engine runs version %d", head[1], BNEXT_VERSION);
    float colours[6];
    memcpy(colours, head + 8, sizeof colours);
    for (int i = 0; i < 6; i++)
        if (!isfinite(colours[i])) return bnext_fail(from, "the mean or the deviation of a colour is not finite");
    from->tensors = head[2];
    from->operations = head[3];
    if (from->tensors > MOST_TENSORS || from->operations > MOST_OPERATIONS ||
        head[14] != HEAD_WORDS + ENTRY_WORDS * from->tensors + OPERATION_WORDS * from->operations)
        return bnext_fail(from, "the program has a wrong length");
    from->words = malloc((size_t)head[14] * 4);
    from->used = calloc((size_t)from->tensors + 1, sizeof *from->used);
    if (!from->words || !from->used) return bnext_fail(from, "there is too little memory for the program");
    if (!bnext_read(from, from->data, from->words, (uint64_t)head[14] * 4)) return false;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < from->tensors; i++) {
        const uint32_t *entry = from->words + HEAD_WORDS + ENTRY_WORDS * i;
        uint64_t bytes = (uint64_t)entry[1] * (entry[0] == U8 ? 1 : 4), place = (uint64_t)entry[3] << 32 | entry[2];
        uint64_t room = from->size - from->data;
        if (entry[0] > U8 || place > room || bytes > room - place) return bnext_fail(from, "tensor %u lies outside the file", i);
        if ((sum += bytes) > room) return bnext_fail(from, "the tensors overlap");
    }
    return true;
}

/* Every tensor is used at most once, so a small file cannot ask for much memory. */
void *bnext_tensor(source *from, uint32_t number, int type, uint64_t count)
{
    if (from->failed) return NULL;
    if (number >= from->tensors) {
        bnext_fail(from, "the program names tensor %u of %u", number, from->tensors);
        return NULL;
    }
    const uint32_t *entry = from->words + HEAD_WORDS + ENTRY_WORDS * number;
    if (from->used[number] || entry[0] != (uint32_t)type || entry[1] != count) {
        bnext_fail(from, "tensor %u has another type or size than its operation needs, or is used twice", number);
        return NULL;
    }
    from->used[number] = true;
    uint64_t bytes = count * (type == U8 ? 1 : 4);
    void *made = malloc(bytes ? (size_t)bytes : 1);
    if (!made) bnext_fail(from, "there is too little memory for tensor %u", number);
    if (!made || !bnext_read(from, from->data + ((uint64_t)entry[3] << 32 | entry[2]), made, bytes)) {
        free(made);
        return NULL;
    }
    if (type == F32)
        for (uint64_t i = 0; i < count; i++)
            if (!isfinite(((float *)made)[i])) {
                bnext_fail(from, "tensor %u has numbers that are not finite", number);
                free(made);
                return NULL;
            }
    return made;
}

static bnext_net *opened(source *from, const bnext_options *options)
{
    const char *name = options ? options->kernel : NULL;
    int threads = options && options->threads > 0 ? options->threads : bnext_processors();
#if defined(BNEXT_NO_THREADS)
    threads = 1;
#endif
    bnext_net *net = calloc(1, sizeof *net);
    if (!net) {
        bnext_fail(from, "there is too little memory");
        return NULL;
    }
    net->kernels = bnext_choose_kernels(name);
    if (!net->kernels) bnext_fail(from, "this processor cannot run the kernels \"%s\"", name);
    if (net->kernels && bnext_read_program(from) && bnext_load(from, net)) {
        net->pool = bnext_pool_new(threads > 256 ? 256 : threads);
        if (!net->pool) bnext_fail(from, "there is too little memory");
        net->info.threads = threads > 256 ? 256 : threads;
        net->info.kernel = net->kernels->name;
    }
    free(from->words);
    free(from->used);
    if (!from->failed) return net;
    bnext_close(net);
    return NULL;
}

bnext_net *bnext_open_memory(const void *bytes, size_t size, const bnext_options *options, char *message, size_t message_size)
{
    source from = {.bytes = bytes, .size = size, .message = message, .message_size = message_size};
    return opened(&from, options);
}

bnext_net *bnext_open(const char *path, const bnext_options *options, char *message, size_t message_size)
{
    source from = {.message = message, .message_size = message_size};
    from.file = fopen(path, "rb");
    long size = -1;
    if (from.file && fseek(from.file, 0, SEEK_END) == 0) size = ftell(from.file);
    bnext_net *net = NULL;
    if (size < 0)
        bnext_fail(&from, "the file cannot be opened");
    else {
        from.size = (uint64_t)size;
        net = opened(&from, options);
    }
    if (from.file) fclose(from.file);
    return net;
}

void bnext_close(bnext_net *net)
{
    if (!net) return;
    bnext_pool_free(net->pool);
    for (int i = 0; i < SPARE; i++) bnext_workspace_free(atomic_load(&net->spare[i]));
    for (int i = 0; i < net->owned_count; i++) free(net->owned[i]);
    free(net->owned);
    free(net->operations);
    free(net);
}

bnext_info bnext_about(const bnext_net *net) { return net->info; }

void bnext_normalize(const bnext_net *net, const uint8_t *pixels, size_t count, float *image)
{
    float factor[3], offset[3];
    for (int i = 0; i < 3; i++) {
        float std = net->info.std[i] > 0 ? net->info.std[i] : 1;
        factor[i] = 1 / (255 * std);
        offset[i] = net->info.mean[i] / std;
    }
    for (size_t i = 0; i < 3 * count; i++) image[i] = pixels[i] * factor[i % 3] - offset[i % 3];
}

void bnext_seconds(const bnext_net *net, double seconds[TIMES])
{
    for (int i = 0; i < TIMES; i++) seconds[i] = (double)atomic_load(&net->nanoseconds[i]) * 1e-9;
}
