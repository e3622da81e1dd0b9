/* Damages packed files and opens them. The engine must refuse each one with a sentence, or run it without a fault.
 *
 * Usage: fuzz SECONDS SEED FILE ... It stops after so many seconds, but not before one case. Case i has the seed SEED + i, and a failed
 * case says how to repeat it. To be built with sanitizers, and with -Wl,--wrap for malloc, calloc, realloc and aligned_alloc: in some
 * cases memory runs out.
 */
#define _POSIX_C_SOURCE 200809L
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

#include "check.h"
#include "compose.h"

enum { LONGEST_CASE = 60, MOST_PIXELS = 24 * 24, MOST_LOGITS = 1 << 18 };

static char repeat[100];
static long opened, refused, runs, refused_runs;

/* The sanitizer finds these two by their names. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1:max_allocation_size_mb=256:detect_stack_use_after_return=1";
}
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void last_words(void) { if (write(2, repeat, strlen(repeat)) < 0) _exit(1); }

static void too_long(int number)
{
    (void)number;
    last_words();
    _exit(1);
}

static _Atomic long allocations = -1; /* that still succeed; -1 = all of them */
static bool runs_out(void)
{
    long left = atomic_load(&allocations);
    while (left > 0 && !atomic_compare_exchange_weak(&allocations, &left, left - 1)) {
    }
    return left == 0;
}

void *__real_malloc(size_t), *__real_calloc(size_t, size_t), *__real_realloc(void *, size_t), *__real_aligned_alloc(size_t, size_t);
void *__wrap_malloc(size_t), *__wrap_calloc(size_t, size_t), *__wrap_realloc(void *, size_t), *__wrap_aligned_alloc(size_t, size_t);
void *__wrap_malloc(size_t size) { return runs_out() ? NULL : __real_malloc(size); }
void *__wrap_calloc(size_t count, size_t size) { return runs_out() ? NULL : __real_calloc(count, size); }
void *__wrap_realloc(void *old, size_t size) { return runs_out() ? NULL : __real_realloc(old, size); }
void *__wrap_aligned_alloc(size_t to, size_t size) { return runs_out() ? NULL : __real_aligned_alloc(to, size); }

static uint32_t word_at(const packed *p, size_t place)
{
    uint32_t word = 0;
    if (place + 4 <= p->size) memcpy(&word, p->bytes + place, 4);
    return word;
}

static void put(packed *p, size_t place, uint32_t word)
{
    if (place + 4 <= p->size) memcpy(p->bytes + place, &word, 4);
}

/* A number near a limit, or near the old one. */
static uint32_t strange(uint32_t old)
{
    static const uint32_t limits[] = {0,        1,        2,        3,        4,           5,           8,           15,
                                      16,       17,       31,       32,       33,          255,         2184,        2185,
                                      32767,    32768,    65535,    65536,    65537,       1u << 20,    1u << 28,    1u << 29,
                                      1u << 30, 0x3fffffff, INT32_MAX, 1u << 31, 0xfffffffeu, 0xffffffffu};
    switch (below(8)) {
    case 0: return old + 1;
    case 1: return old - 1;
    case 2: return old * 2;
    case 3: return old ^ 1u << below(32);
    case 4: return (uint32_t)below(4);
    case 5: return (uint32_t)below(64);
    default: return limits[below(sizeof limits / sizeof *limits)];
    }
}

static void resize(packed *p, size_t size)
{
    uint8_t *made = some(size, 1);
    memcpy(made, p->bytes, size < p->size ? size : p->size);
    for (size_t i = p->size; i < size; i++) made[i] = (uint8_t)random32();
    free(p->bytes);
    *p = (packed){made, size};
}

static void damage(packed *p)
{
    static const float numbers[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-45f, -0.0f, 0};
    if (p->size < 8) return;
    size_t data = 8 + (size_t)word_at(p, 0), tensors = word_at(p, data + 8), count = word_at(p, data + 12);
    size_t table = data + HEAD_WORDS * 4, first = table + tensors * ENTRY_WORDS * 4, words = word_at(p, data + 56);
    if (first > p->size || tensors < 1 || count < 1 || words < 1 || words > p->size) data = table = first = 0, tensors = count = words = 1;
    size_t any = data + 4 * (random32() % words), other = data + 4 * (random32() % words), size = OPERATION_WORDS * 4;
    size_t one = first + random32() % count * size, two = first + random32() % count * size;
    size_t place = one + 4 * (size_t)below(below(4) ? 18 : OPERATION_WORDS), entry = table + 4 * (random32() % (tensors * ENTRY_WORDS));
    uint32_t old = word_at(p, any);
    switch (below(20)) {
    case 0: put(p, below(2) ? 0 : 4, strange(word_at(p, 0))); break;
    case 1: resize(p, random32() % (p->size + 1)); break;
    case 2: resize(p, p->size + (size_t)below(100)); break;
    case 3: for (int i = below(8); i >= 0; i--) p->bytes[random32() % p->size] ^= (uint8_t)(1 << below(8)); break;
    case 4: put(p, any, strange(old)); break;
    case 5: put(p, any, word_at(p, other)); break;
    case 6: put(p, any, word_at(p, other)), put(p, other, old); break;
    case 7: put(p, entry, strange(word_at(p, entry))); break;
    case 8: put(p, entry, word_at(p, table + 4 * (random32() % (tensors * ENTRY_WORDS)))); break;
    case 9: put(p, data + 4 * (size_t)below(HEAD_WORDS), strange(random32())); break;
    case 10: memcpy(p->bytes + random32() % (p->size - 4) / 4 * 4, &numbers[below(8)], 4); break;
    case 11: /* huge numbers everywhere, so that sums become infinite */
        for (size_t i = data + 4 * words; i + 4 <= p->size; i += 4) put(p, i, (word_at(p, i) & 0x80ffffffu) | 0x7e000000u);
        break;
    case 12: if (one + size <= p->size && two + size <= p->size) memmove(p->bytes + one, p->bytes + two, size); break;
    case 13: put(p, place, random32() % (uint32_t)(tensors + 1)); break;
    default: put(p, place, strange(word_at(p, place)));
    }
}

static void sentence(const char *message, const char *what)
{
    size_t length = strlen(message);
    if (length < 10 || strchr(message, '\n') || strstr(message, ". ") || message[length - 1] == '.') {
        last_words();
        differs("%s without one sentence: \"%s\"", what, message);
    }
}

/* Runs images of one size, twice. Returns whether the net accepts the size. */
static bool run(bnext_net *net, int count, int height, int width, bool short_of_memory)
{
    char message[300] = "";
    size_t logits = (size_t)count * bnext_about(net).classes, pixels = count > 0 && height > 0 && width > 0 ? (size_t)height * width : 0;
    if (pixels > 1u << 14) pixels = logits = 0; /* it must refuse these */
    if (logits > MOST_LOGITS) return false;
    float *images = random_floats(pixels * (count > 0 ? count : 0) * 3, -3, 3), *one = some(logits, 4), *two = some(logits, 4);
    if (short_of_memory) atomic_store(&allocations, below(20));
    bool done = bnext_run(net, images, count, height, width, one, message, sizeof message) == 0;
    atomic_store(&allocations, -1);
    runs++;
    if (!done) {
        refused_runs++;
        sentence(message, "refused to run");
        bnext_run(net, images, count, height, width, one, message, (size_t)below(3)); /* there may be no room for the sentence */
    } else if (bnext_run(net, images, count, height, width, two, message, sizeof message) || memcmp(one, two, logits * 4)) {
        last_words();
        differs("other logits in the second run: %s", message);
    }
    free(images);
    free(one);
    free(two);
    return done;
}

/* A map after some operation; there is room for a part of it. */
static void look(bnext_net *net, int height, int width)
{
    char message[300] = "";
    float *image = random_floats((size_t)height * width * 3, -3, 3), map[50];
    int room = below(50);
    for (int i = 0; i < 50; i++) map[i] = 7;
    if (bnext_map(net, image, height, width, below(8) - 1, map, room, message, sizeof message) < 0) sentence(message, "refused to look");
    for (int i = room; i < 50; i++)
        if (map[i] != 7) differs("a map is written beyond its room");
    free(image);
}

static void use(bnext_net *net, bool whole)
{
    bnext_info info = bnext_about(net);
    int side = info.multiple * (1 + below(3)), other = info.multiple * (1 + below(6));
    uint8_t pixels[30] = {0, 255, 17};
    float image[30];
    bnext_normalize(net, pixels, 10, image);
    bool small = (double)side * other <= MOST_PIXELS && info.classes * 6 <= MOST_LOGITS;
    if (small) run(net, 1 + below(6), side, other, !whole && below(3) == 0);
    if (small) look(net, side, other);
    bool fits = small && 3.0 * info.multiple * 17 * info.multiple <= 1 << 14;
    if (fits && whole && !run(net, 1, 3 * info.multiple, 17 * info.multiple, false)) {
        last_words();
        differs("a valid network refuses an image");
    }
    run(net, 1, 1 + below(20), 1 + below(20), false);
    static const int bad[] = {0, -1, INT32_MAX, INT32_MIN, 16385};
    if (run(net, 1, bad[below(5)], side, false) || run(net, 1, side, bad[below(5)], false) || run(net, -below(2), side, side, false))
        differs("a size that is no size is accepted");
    double seconds[5];
    bnext_seconds(net, seconds);
}

static void one_case(uint64_t number, int files, char **paths, const char *scratch)
{
    static const char *const sets[] = {NULL, "c", "avx2", "avx512", "neon"};
    packed file = {0};
    bool composed = number % 3 != 0, whole = composed && number % 10 == 1;
    if (composed) file = compose(number);
    seed = number * 7919;
    if (!composed) {
        FILE *from = fopen(paths[below(files)], "rb");
        file = (packed){some(1 << 20, 1), 1 << 20};
        if (!from) differs("a file of the command line does not open");
        size_t size = fread(file.bytes, 1, file.size, from);
        fclose(from);
        resize(&file, size);
    }
    if (!whole)
        for (int i = 1 + below(below(4) ? 2 : 8); i > 0; i--) damage(&file);
    const char *set = sets[below(5)];
    bnext_options options = {below(6) ? 1 : below(4), set && bnext_choose_kernels(set) ? set : NULL};
    char message[300] = "";
    bool short_of_memory = !whole && below(8) == 0, from_disk = below(32) == 0;
    if (from_disk) {
        FILE *to = fopen(scratch, "wb");
        if (!to || fwrite(file.bytes, 1, file.size, to) != file.size || fclose(to)) differs("%s cannot be written", scratch);
    }
    if (short_of_memory) atomic_store(&allocations, below(120));
    bnext_net *net = from_disk ? bnext_open(scratch, &options, message, sizeof message)
                               : bnext_open_memory(file.bytes, file.size, &options, message, sizeof message);
    atomic_store(&allocations, -1);
    free(file.bytes); /* the net must not need it any more */
    if (net) {
        opened++;
        use(net, whole);
        bnext_close(net);
    } else {
        refused++;
        sentence(message, "refused");
        if (whole) last_words(), differs("a valid file is refused: %s", message);
    }
}

int main(int count, char **words)
{
    if (count < 4) return 2;
    char scratch[] = "/tmp/fuzz-XXXXXX";
    int made = mkstemp(scratch);
    if (made < 0 || close(made)) return 2;
    if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(last_words);
    signal(SIGALRM, too_long);
    uint64_t first = strtoull(words[2], NULL, 10), number = first;
    time_t end = time(NULL) + atoi(words[1]);
    do {
        snprintf(repeat, sizeof repeat, "\nto repeat the case: fuzz 0 %llu FILE ...\n", (unsigned long long)number);
        alarm(LONGEST_CASE);
        one_case(number++, count - 3, words + 3, scratch);
    } while (time(NULL) < end);
    alarm(0);
    unlink(scratch);
    printf("fuzz: %llu cases from seed %llu: %ld opened, %ld refused; %ld runs, %ld of them refused\n",
           (unsigned long long)(number - first), (unsigned long long)first, opened, refused, runs, refused_runs);
    return 0;
}
