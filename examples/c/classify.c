/* Names the five most probable classes of a picture.
 *
 * Usage: classify NETWORK.bnext PICTURE.ppm [THREADS]
 *
 * The picture is a binary PPM (P6) with 8 bits a colour, already cut and scaled to a size that the network takes, for example with
 * ImageMagick: convert photo.jpg -resize 256x256^ -gravity center -extent 224x224 photo.ppm
 * The names of the classes are in the header of the packed file, which is JSON; this program prints their numbers, from 0 on.
 */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bnext.h"

_Noreturn static void stop(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(2);
}

/* The next number of a PPM's head, at most 16384. Comments go from # to the end of the line. */
static int number(FILE *file, const char *path)
{
    int c = getc(file), value = 0;
    while (c == '#' || c == ' ' || (c >= '\t' && c <= '\r')) {
        if (c == '#')
            while (c != '\n' && c != EOF) c = getc(file);
        c = getc(file);
    }
    if (c < '0' || c > '9') stop("%s is no binary PPM: a number is missing in its head", path);
    for (; c >= '0' && c <= '9' && value <= 16384; c = getc(file)) value = 10 * value + c - '0';
    if (value > 16384) stop("%s is too large: its sides have at most 16384 pixels", path);
    return value; /* one character after the number is read, as the format wants it */
}

static uint8_t *picture(const char *path, int *height, int *width)
{
    FILE *file = fopen(path, "rb");
    if (!file) stop("%s cannot be opened: %s", path, strerror(errno));
    if (getc(file) != 'P' || getc(file) != '6') stop("%s is no binary PPM: it does not begin with P6", path);
    *width = number(file, path);
    *height = number(file, path);
    if (number(file, path) != 255) stop("%s does not have 8 bits a colour", path);
    size_t size = (size_t)*height * *width * 3;
    uint8_t *pixels = malloc(size + 1);
    if (!pixels) stop("there is too little memory for %s", path);
    if (fread(pixels, 1, size, file) != size) stop("%s is cut off", path);
    fclose(file);
    return pixels;
}

int main(int count, char **words)
{
    char message[256];
    if (count != 3 && count != 4) stop("usage: classify NETWORK.bnext PICTURE.ppm [THREADS]");
    bnext_options options = {count == 4 ? atoi(words[3]) : 0, NULL};
    bnext_net *net = bnext_open(words[1], &options, message, sizeof message);
    if (!net) stop("%s: %s", words[1], message);
    bnext_info info = bnext_about(net);
    int height, width;
    char advice[80] = "";
    if (info.height) snprintf(advice, sizeof advice, ", and was trained with %d x %d", info.width, info.height);
    uint8_t *pixels = picture(words[2], &height, &width);
    if (!height || !width || height % info.multiple || width % info.multiple)
        stop("%s has %d x %d pixels; this network takes sides that are multiples of %d%s", words[2], width, height, info.multiple, advice);
    float *image = malloc((size_t)height * width * 3 * sizeof *image), *logits = malloc((size_t)info.classes * sizeof *logits);
    if (!image || !logits) stop("there is too little memory for %s", words[2]);
    bnext_normalize(net, pixels, (size_t)height * width, image);
    if (bnext_run(net, image, 1, height, width, logits, message, sizeof message)) stop("%s: %s", words[2], message);

    float largest = logits[0];
    for (int i = 1; i < info.classes; i++) largest = logits[i] > largest ? logits[i] : largest;
    double sum = 0;
    for (int i = 0; i < info.classes; i++) sum += exp(logits[i] - largest);
    for (int place = 0; place < 5 && place < info.classes; place++) {
        int best = 0;
        for (int i = 1; i < info.classes; i++)
            if (logits[i] > logits[best]) best = i;
        printf("%5.1f %%  class %d\n", 100 * exp(logits[best] - largest) / sum, best);
        logits[best] = -INFINITY;
    }
    free(image);
    free(logits);
    free(pixels);
    bnext_close(net);
    return 0;
}
