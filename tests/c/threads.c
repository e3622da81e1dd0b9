/* Many threads use nets at once; all logits must be those of one thread, bit for bit. For the thread sanitizer.
 *
 * Usage: threads ROUNDS FILE ... Exit code 0: all equal; 1: a difference.
 */
#include <pthread.h>
#include <string.h>

#include "bnext.h"

#include "check.h"

enum { CALLERS = 4, IMAGES = 5, MOST_CLASSES = 1000, SIZES = 2 };

typedef struct {
    bnext_net *net;
    const char *path;
    int rounds, number, classes, side[SIZES];
    const float *images;
    const float *expected[SIZES]; /* [IMAGES, classes] */
} caller;

static void compute(bnext_net *net, const float *images, int count, int side, float *logits)
{
    char message[200] = "";
    if (bnext_run(net, images, count, side, side, logits, message, sizeof message)) differs("a net refuses %d pixels: %s", side, message);
}

/* Each caller has its own order of sizes and numbers of images: one image shares the workers, several images are shared among them. */
static void *call(void *argument)
{
    const caller *c = argument;
    float logits[IMAGES * MOST_CLASSES];
    for (int round = 0; round < c->rounds; round++) {
        int size = (round + c->number) % SIZES, count = (round / 2 + c->number) % 2 ? IMAGES : 1, first = count == 1 ? round % IMAGES : 0;
        compute(c->net, c->images + (size_t)first * c->side[size] * c->side[size] * 3, count, c->side[size], logits);
        const float *expected = c->expected[size] + (size_t)first * c->classes;
        if (memcmp(logits, expected, (size_t)count * c->classes * sizeof *logits))
            differs("%s: caller %d, round %d, %d images of %d pixels: other logits than with one thread", c->path, c->number, round, count,
                    c->side[size]);
        double seconds[5];
        bnext_seconds(c->net, seconds);
    }
    return NULL;
}

static bnext_net *opened(const char *path, int threads)
{
    char message[200] = "";
    bnext_net *net = bnext_open(path, &(bnext_options){.threads = threads}, message, sizeof message);
    if (!net) differs("%s: %s", path, message);
    return net;
}

static void test(const char *path, int rounds)
{
    bnext_net *one = opened(path, 1);
    caller plan = {.path = path, .rounds = rounds, .classes = bnext_about(one).classes};
    if (plan.classes > MOST_CLASSES) differs("%s has too many classes for this test", path);
    float *expected[SIZES];
    for (int i = 0; i < SIZES; i++) plan.side[i] = bnext_about(one).multiple * (3 + i);
    float *images = random_floats((size_t)IMAGES * plan.side[SIZES - 1] * plan.side[SIZES - 1] * 3, -2, 2);
    plan.images = images;
    for (int i = 0; i < SIZES; i++) {
        plan.expected[i] = expected[i] = some((size_t)IMAGES * plan.classes, sizeof(float));
        compute(one, images, IMAGES, plan.side[i], expected[i]);
    }
    for (int threads = 1; threads <= 4; threads += threads) { /* 4 is also how many callers there are */
        plan.net = opened(path, threads);
        pthread_t callers[CALLERS];
        caller plans[CALLERS];
        for (int i = 0; i < CALLERS; i++) {
            plans[i] = plan;
            plans[i].number = i;
            if (pthread_create(&callers[i], NULL, call, &plans[i])) differs("a thread does not start");
        }
        for (int i = 0; i < CALLERS; i++) pthread_join(callers[i], NULL);
        bnext_close(plan.net);
    }
    for (int i = 0; i < rounds; i++) bnext_close(opened(path, 1 + i % 4)); /* workers that end before they have work */
    for (int i = 0; i < SIZES; i++) free(expected[i]);
    free(images);
    bnext_close(one);
}

int main(int count, char **words)
{
    if (count < 3) return 2;
    for (int i = 2; i < count; i++) test(words[i], atoi(words[1]));
    printf("threads: %d networks, %d callers at once, 1 to 4 threads: the logits are those of one thread\n", count - 2, CALLERS);
    return 0;
}
