/* Compares the elementwise passes, real convolutions and dense layers of a set of kernels with plain formulas in double precision. */
#include <string.h>

#include "internal.h"

#include "check.h"

void test_elementwise(const kernels *set);

enum { PLACES = 48, MOST_COLUMNS = 9 };

/* The output of a pass, with room around it that must keep its content. */
typedef struct {
    emitted to;
    float out[MOST_COLUMNS * PLACES], sums[PLACES], before[PLACES], shift[2][PLACES];
    uint8_t bits[2][(MOST_COLUMNS + 1) * PLACES / 8];
} output;

static void prepare(output *o, int signs)
{
    *o = (output){.to = {.out = o->out, .pitch = PLACES, .signs = signs, .bits_step = PLACES / 8, .sums = o->sums}};
    for (int set = 0; set < signs; set++) {
        o->to.shift[set] = o->shift[set];
        o->to.bits[set] = o->bits[set];
        for (int i = 0; i < PLACES; i++) o->shift[set][i] = between(-1, 1);
        memset(o->bits[set], 0xa5, sizeof o->bits[set]);
    }
    for (int i = 0; i < PLACES; i++) o->sums[i] = o->before[i] = between(-1, 1);
}

/* expected and scale: [columns, channels]. */
static void compare(const char *set, const char *what, const output *o, int columns, int channels, const double *expected,
                    const double *scale)
{
    for (int c = 0; c < channels; c++) {
        double sum = o->before[c], all = 1;
        for (int i = 0; i < columns; i++) {
            float found = o->out[i * PLACES + c];
            sum += found;
            all += fabs(found);
            if (!close_to(found, expected[i * channels + c], scale[i * channels + c]))
                differs("%s: %s of %d columns, column %d channel %d: %g, not %g", set, what, columns, i, c, found,
                        expected[i * channels + c]);
            for (int s = 0; s < o->to.signs; s++) {
                int bit = o->bits[s][i * PLACES / 8 + c / 8] >> c % 8 & 1;
                if (bit != (found + o->shift[s][c] >= 0))
                    differs("%s: %s, column %d channel %d: bit %d for %g", set, what, i, c, bit, found);
            }
        }
        if (!close_to(o->sums[c], sum, all)) differs("%s: %s, sum of channel %d: %g, not %g", set, what, c, o->sums[c], sum);
    }
    for (int s = 0; s < o->to.signs; s++)
        for (size_t i = (size_t)columns * PLACES / 8; i < sizeof o->bits[s]; i++)
            if (o->bits[s][i] != 0xa5) differs("%s: %s of %d columns writes bits beyond its row", set, what, columns);
}

static double bent(double x, double slope) { return x < 0 ? x * slope : x; }

static void units(const kernels *set, bool attends, bool bends, bool halve, int signs, int columns, int channels)
{
    float *x = random_floats(4 * MOST_COLUMNS * PLACES, -2, 2), *p = random_floats(6 * PLACES, -1, 1);
    int16_t *c = some((size_t)columns * channels, sizeof *c);
    static double expected[MOST_COLUMNS * PLACES], scale[MOST_COLUMNS * PLACES];
    static output o;
    prepare(&o, signs);
    for (int i = 0; i < columns * channels; i++) c[i] = (int16_t)(below(65535) - 32767);
    c[0] = INT16_MAX;
    c[1] = -INT16_MAX;
    unit_row row = {.columns = columns, .channels = channels, .c = c, .x = x, .x_pitch = PLACES, .x_row = 2 * MOST_COLUMNS * PLACES,
                    .attends = attends, .halve = halve, .a1 = p, .b1 = p + PLACES, .slope2 = p + 2 * PLACES,
                    .slope1 = bends ? p + 3 * PLACES : NULL, .factor = p + 4 * PLACES, .offset = p + 5 * PLACES};
    for (int i = 0; i < columns; i++)
        for (int k = 0; k < channels; k++) {
            double a = (double)row.a1[k] * c[i * channels + k], y = bent(a + row.b1[k], row.slope2[k]), residual = 0;
            for (int part = 0; part < (halve ? 4 : 1); part++) {
                float one = x[(part / 2) * row.x_row + (size_t)((halve ? 2 * i : i) + part % 2) * PLACES + k];
                residual += bent(one, bends ? row.slope1[k] : 1) / (halve ? 4 : 1);
            }
            double gated = y * row.factor[k];
            expected[i * channels + k] = (attends ? residual * (gated + 1) : gated + residual) + row.offset[k];
            scale[i * channels + k] = (fabs(a) + 3) * 6;
        }
    set->unit_row(&row, &o.to);
    compare(set->name, attends ? "attention" : "feed-forward", &o, columns, channels, expected, scale);
    free(x);
    free(p);
    free(c);
}

static void prelu(const kernels *set, int columns, int channels)
{
    float *x = random_floats(MOST_COLUMNS * PLACES, -2, 2), *slope = random_floats(PLACES, -1, 1);
    static double expected[MOST_COLUMNS * PLACES], scale[MOST_COLUMNS * PLACES];
    static output o;
    prepare(&o, 0);
    x[0] = -0.0f;
    for (int i = 0; i < columns * channels; i++) {
        expected[i] = bent(x[i], slope[i % channels]);
        scale[i] = 2;
    }
    set->prelu_row(x, columns, channels, slope, &o.to);
    compare(set->name, "PReLU", &o, columns, channels, expected, scale);
    free(x);
    free(slope);
}

static void real_convolution(const kernels *set, int columns, int channels, int size, int stride, int inputs, int signs)
{
    int width = (columns - 1) * stride + size, run = size * inputs;
    float *x = random_floats((size_t)size * width * inputs, -2, 2), *w = random_floats((size_t)size * run * channels, -1, 1);
    float *a = random_floats(PLACES, -1, 1), *b = random_floats(PLACES, -1, 1);
    static double expected[MOST_COLUMNS * PLACES], scale[MOST_COLUMNS * PLACES];
    static output o;
    prepare(&o, signs);
    for (int i = 0; i < columns; i++)
        for (int c = 0; c < channels; c++) {
            double sum = 0, all = 0;
            for (int tap = 0; tap < size; tap++)
                for (int k = 0; k < run; k++) {
                    double factor = x[((size_t)tap * width + (size_t)i * stride) * inputs + k];
                    double term = factor * w[((size_t)tap * run + k) * channels + c];
                    sum += term;
                    all += fabs(term);
                }
            expected[i * channels + c] = sum * a[c] + b[c];
            scale[i * channels + c] = all + 1;
        }
    set->real_row(x, stride * inputs, (size_t)width * inputs, size, run, columns, w, a, b, channels, &o.to);
    compare(set->name, "real convolution", &o, columns, channels, expected, scale);
    free(x);
    free(w);
    free(a);
    free(b);
}

static void maximum(const kernels *set, int columns, int channels, int signs)
{
    float *x = random_floats(3 * MOST_COLUMNS * PLACES, -2, 2);
    const float *rows[3] = {x, x + MOST_COLUMNS * PLACES, x + 2 * MOST_COLUMNS * PLACES};
    static double expected[MOST_COLUMNS * PLACES], scale[MOST_COLUMNS * PLACES];
    static output o;
    int windows[MOST_COLUMNS][2], count = 1 + below(3);
    prepare(&o, signs);
    for (int i = 0; i < columns; i++) {
        windows[i][0] = below(columns);
        windows[i][1] = windows[i][0] + 1 + below(columns - windows[i][0]);
        for (int c = 0; c < channels; c++) {
            double most = -INFINITY;
            for (int row = 0; row < count; row++)
                for (int k = windows[i][0]; k < windows[i][1]; k++) most = fmax(most, rows[row][k * channels + c]);
            expected[i * channels + c] = most;
            scale[i * channels + c] = 0;
        }
    }
    set->max_row(rows, count, (const int(*)[2])windows, columns, channels, &o.to);
    compare(set->name, "maximum", &o, columns, channels, expected, scale);
    free(x);
}

static void dense(const kernels *set, int inputs, int outputs)
{
    float *x = random_floats(inputs, -2, 2), *w = random_floats((size_t)inputs * outputs, -1, 1), *y = random_floats(outputs, -1, 1);
    float *before = some(outputs, sizeof *before);
    memcpy(before, y, (size_t)outputs * sizeof *y);
    for (int from = 0; from < outputs; from += AT_ONCE)
        set->linear(x, w, inputs, outputs, from, from + AT_ONCE < outputs ? from + AT_ONCE : outputs, y);
    for (int o = 0; o < outputs; o++) {
        double sum = before[o], all = fabs(sum);
        for (int i = 0; i < inputs; i++) {
            double term = (double)x[i] * w[(size_t)i * outputs + o];
            sum += term;
            all += fabs(term);
        }
        if (!close_to(y[o], sum, all))
            differs("%s: dense layer of %d inputs, output %d of %d: %g, not %g", set->name, inputs, o, outputs, y[o], sum);
    }
    free(x);
    free(w);
    free(y);
    free(before);
}

void test_elementwise(const kernels *set)
{
    for (int columns = 1; columns <= MOST_COLUMNS; columns++)
        for (int channels = LANES; channels <= PLACES; channels += LANES) {
            for (int signs = 0; signs <= 2; signs++) {
                units(set, false, false, false, signs, columns, channels);
                units(set, false, false, true, signs, columns, channels);
                units(set, true, true, false, signs, columns, channels);
                units(set, true, true, true, signs, columns, channels);
                units(set, true, false, false, signs, columns, channels);
                maximum(set, columns, channels, signs);
                for (int size = 1; size <= 3; size++) {
                    real_convolution(set, columns, channels, size, 1 + below(3), 3, signs);
                    real_convolution(set, columns, channels, size, 1, 16, signs);
                }
            }
            prelu(set, columns, channels);
        }
    for (int inputs = 1; inputs <= 200; inputs += 1 + inputs / 3)
        for (int outputs = LANES; outputs <= 600; outputs += 9 * LANES) dense(set, inputs, outputs);
}
