/* Runs a packed binary network (a .bnext file). C11, libc and threads; see docs/packed_format.md and docs/c.md of bnext_jax.
 *
 * An image is float32, height * width * 3, row by row, the three colours of a pixel side by side, normalized with the network's mean and
 * standard deviation (bnext_normalize does that). Several images follow each other.
 *
 * A net may be used by several threads at once. The logits do not depend on the number of threads, nor on the other calls.
 */
#ifndef BNEXT_H
#define BNEXT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define BNEXT_API __attribute__((visibility("default")))
#else
#define BNEXT_API
#endif

#define BNEXT_VERSION 1 /* of the program in a packed file */

typedef struct bnext_net bnext_net;

typedef struct {
    int threads;        /* threads that one call may use; 0 = one for each processor */
    const char *kernel; /* "avx512", "avx2", "neon" or "c"; NULL = the fastest that this processor has */
} bnext_options;

typedef struct {
    int classes;
    int multiple;         /* height and width of an image must be multiples of this number of pixels */
    int height, width;    /* of the images that the network was trained for; 0 = unknown */
    float mean[3], std[3]; /* of each colour, on the scale 0 to 1; std is 0 if they are unknown */
    int threads;
    const char *kernel;
    double weight_bytes; /* memory that the weights take */
} bnext_info;

/* Opens a packed file. Options may be NULL. Returns NULL for a bad file or too little memory; then message holds one sentence. */
BNEXT_API bnext_net *bnext_open(const char *path, const bnext_options *options, char *message, size_t message_size);

/* The same for a file that lies in memory. The bytes are not needed after the call. */
BNEXT_API bnext_net *bnext_open_memory(
    const void *bytes, size_t size, const bnext_options *options, char *message, size_t message_size);

/* Frees a net. No call may be using it. NULL is allowed. */
BNEXT_API void bnext_close(bnext_net *net);

BNEXT_API bnext_info bnext_about(const bnext_net *net);

/* Normalizes pixels: (pixel / 255 - mean) / std. count = pixels; 3 bytes and 3 floats a pixel. */
BNEXT_API void bnext_normalize(const bnext_net *net, const uint8_t *pixels, size_t count, float *image);

/* Computes logits [images * classes]. Returns 0, or -1 for a wrong size or too little memory; then message holds one sentence. */
BNEXT_API int bnext_run(
    bnext_net *net, const float *images, int count, int height, int width, float *logits, char *message, size_t message_size);

/* For tests and curious people: the map [height, width, channels] after operation `number` of the program, for one image. `map` has room
 * for `room` numbers. Returns how many there are, or -1 as bnext_run does. */
BNEXT_API long bnext_map(bnext_net *net, const float *image, int height, int width, int number, float *map, long room, char *message,
                         size_t message_size);

/* Seconds of the net's calls since it was opened, by the kind of work: real convolutions, binary convolutions, elementwise, gates, head. */
BNEXT_API void bnext_seconds(const bnext_net *net, double seconds[5]);

#ifdef __cplusplus
}
#endif
#endif
