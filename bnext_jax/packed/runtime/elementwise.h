/* The elementwise passes, written once for all instruction sets. A file that includes this defines before:
 *
 *   TARGET            attributes of a function for the instruction set
 *   BLOCK             places in a vector; divides LANES
 *   vf                a vector of BLOCK float32
 *   v_load v_store v_one(float) v_add v_mul v_fma(a, b, c) = a * b + c, v_max v_min
 *   v_counts(p)       a vector from BLOCK int16
 *   v_sums(base, d, c)  stores base - 2 d, BLOCK int16, at c, and returns them as a vector
 *   v_signs(v)        BLOCK bits, 1 where a value is not negative
 *   signs_t           the unsigned integer of BLOCK bits
 *   SUFFIX            of the functions' names
 *
 * A pass goes through the channels in blocks and, inside, through the positions of one row, so that a block's parameters stay in
 * registers.
 */
#include <string.h>

#define INLINE static inline __attribute__((always_inline)) TARGET

/* Where an output goes, in variables of its own: the compiler could not keep those of `emitted` in registers, because a store to the map
 * might change them. */
typedef struct {
    vf shift[2], sum;
    float *out;
    uint8_t *bits[2];
    size_t pitch, step;
} SUFFIX(running);

INLINE SUFFIX(running) SUFFIX(start)(const emitted *to, int channel, int signs)
{
    SUFFIX(running) now = {{v_one(0), v_one(0)}, v_one(0), to->out + channel, {NULL, NULL}, (size_t)to->pitch, to->bits_step};
    for (int set = 0; set < signs; set++) {
        now.shift[set] = v_load(to->shift[set] + channel);
        now.bits[set] = to->bits[set] + channel / 8;
    }
    return now;
}

/* Writes the next position. */
INLINE void SUFFIX(emit)(SUFFIX(running) *now, vf value, int signs)
{
    v_store(now->out, value);
    now->out += now->pitch;
    now->sum = v_add(now->sum, value);
    for (int set = 0; set < signs; set++) {
        signs_t made = v_signs(v_add(value, now->shift[set]));
        memcpy(now->bits[set], &made, sizeof made);
        now->bits[set] += now->step;
    }
}

INLINE void SUFFIX(finish)(const emitted *to, const SUFFIX(running) *now, int channel)
{
    if (to->sums) v_store(to->sums + channel, v_add(v_load(to->sums + channel), now->sum));
}

INLINE vf SUFFIX(prelu)(vf value, vf slope)
{
    return v_fma(slope, v_min(value, v_one(0)), v_max(value, v_one(0)));
}

/* x: of the position, or with `halve` of the first of its 2 x 2 positions. */
INLINE vf SUFFIX(residual)(const float *x, size_t right, size_t down, bool halve, bool bends, vf slope)
{
    vf one = v_load(x);
    if (bends) one = SUFFIX(prelu)(one, slope);
    if (!halve) return one;
    const float *others[3] = {x + right, x + down, x + down + right};
    for (int i = 0; i < 3; i++) {
        vf other = v_load(others[i]);
        one = v_add(one, bends ? SUFFIX(prelu)(other, slope) : other);
    }
    return v_mul(one, v_one(0.25f));
}

INLINE void SUFFIX(unit_row_of)(const unit_row *row, const emitted *to, bool attends, bool halve, bool bends, int signs)
{
    const size_t right = (size_t)row->x_pitch, down = row->x_row, step = (halve ? 2 : 1) * right, channels = (size_t)row->channels;
    const int columns = row->columns;
    for (int channel = 0; channel < (int)channels; channel += BLOCK) {
        const vf a = v_load(row->a1 + channel), b = v_load(row->b1 + channel), slope = v_load(row->slope2 + channel);
        const vf factor = v_load(row->factor + channel), offset = v_load(row->offset + channel);
        const vf bend = bends ? v_load(row->slope1 + channel) : v_one(0);
        const int16_t *c = row->c + channel;
        const float *x = row->x + channel;
        SUFFIX(running) now = SUFFIX(start)(to, channel, signs);
        for (int position = 0; position < columns; position++, c += channels, x += step) {
            vf y = SUFFIX(prelu)(v_fma(v_counts(c), a, b), slope);
            vf r = SUFFIX(residual)(x, right, down, halve, bends, bend);
            SUFFIX(emit)(&now, attends ? v_fma(r, v_fma(y, factor, v_one(1)), offset) : v_add(v_fma(y, factor, offset), r), signs);
        }
        SUFFIX(finish)(to, &now, channel);
    }
}

#define BY_SIGNS(call) \
    switch (to->signs) { \
    case 0: call(0); break; \
    case 1: call(1); break; \
    default: call(2); break; \
    }

TARGET static void SUFFIX(unit_row)(const unit_row *row, const emitted *to)
{
    bool bends = row->slope1 != NULL;
#define FORWARD(signs) SUFFIX(unit_row_of)(row, to, false, false, false, signs)
#define FORWARD_HALVE(signs) SUFFIX(unit_row_of)(row, to, false, true, false, signs)
#define ATTENDS(signs) SUFFIX(unit_row_of)(row, to, true, false, true, signs)
#define ATTENDS_HALVE(signs) SUFFIX(unit_row_of)(row, to, true, true, true, signs)
#define ATTENDS_GIVEN(signs) SUFFIX(unit_row_of)(row, to, true, false, false, signs)
    if (!row->attends) {
        if (row->halve) { BY_SIGNS(FORWARD_HALVE) } else { BY_SIGNS(FORWARD) }
    } else if (!bends) {
        BY_SIGNS(ATTENDS_GIVEN)
    } else if (row->halve) {
        BY_SIGNS(ATTENDS_HALVE)
    } else {
        BY_SIGNS(ATTENDS)
    }
}

TARGET static void SUFFIX(prelu_row)(const float *x, int columns, int channels, const float *slope, const emitted *to)
{
    for (int channel = 0; channel < channels; channel += BLOCK) {
        vf bend = v_load(slope + channel);
        SUFFIX(running) now = SUFFIX(start)(to, channel, 0);
        for (int position = 0; position < columns; position++)
            SUFFIX(emit)(&now, SUFFIX(prelu)(v_load(x + (size_t)position * channels + channel), bend), 0);
        SUFFIX(finish)(to, &now, channel);
    }
}

/* COLUMNS positions at once: their sums stay in registers, and each weight is loaded once. */
INLINE void SUFFIX(real_columns)(const float *x, int step, size_t row, int taps, int run, const float *w, vf a, vf b, int channels,
                                 int position, int channel, int columns, SUFFIX(running) *now, int signs)
{
    vf sums[4];
    for (int i = 0; i < columns; i++) sums[i] = v_one(0);
    for (int tap = 0; tap < taps; tap++) {
        const float *from = x + tap * row + (size_t)position * step, *weights = w + (size_t)tap * run * channels + channel;
        for (int i = 0; i < run; i++) {
            vf weight = v_load(weights + (size_t)i * channels);
            for (int column = 0; column < columns; column++)
                sums[column] = v_fma(v_one(from[(size_t)column * step + i]), weight, sums[column]);
        }
    }
    for (int i = 0; i < columns; i++) SUFFIX(emit)(now, v_fma(sums[i], a, b), signs);
}

INLINE void SUFFIX(real_row_of)(const float *x, int step, size_t row, int taps, int run, int columns, const float *w, const float *a,
                                const float *b, int channels, const emitted *to, int signs)
{
    for (int channel = 0; channel < channels; channel += BLOCK) {
        vf factor = v_load(a + channel), offset = v_load(b + channel);
        SUFFIX(running) now = SUFFIX(start)(to, channel, signs);
        int position = 0;
        for (; position + 4 <= columns; position += 4)
            SUFFIX(real_columns)(x, step, row, taps, run, w, factor, offset, channels, position, channel, 4, &now, signs);
        for (; position < columns; position++)
            SUFFIX(real_columns)(x, step, row, taps, run, w, factor, offset, channels, position, channel, 1, &now, signs);
        SUFFIX(finish)(to, &now, channel);
    }
}

TARGET static void SUFFIX(real_row)(const float *x, int step, size_t row, int taps, int run, int columns, const float *w, const float *a,
                                    const float *b, int channels, const emitted *to)
{
#define REAL(signs) SUFFIX(real_row_of)(x, step, row, taps, run, columns, w, a, b, channels, to, signs)
    BY_SIGNS(REAL)
}

TARGET static void SUFFIX(max_row)(const float *const *rows, int count, const int (*columns)[2], int width, int channels,
                                   const emitted *to)
{
    for (int channel = 0; channel < channels; channel += BLOCK) {
        for (int signs = to->signs, once = 1; once; once = 0) {
            SUFFIX(running) now = SUFFIX(start)(to, channel, signs);
            for (int position = 0; position < width; position++) {
                vf most = v_load(rows[0] + (size_t)columns[position][0] * channels + channel);
                for (int row = 0; row < count; row++)
                    for (int column = columns[position][0]; column < columns[position][1]; column++)
                        most = v_max(most, v_load(rows[row] + (size_t)column * channels + channel));
                SUFFIX(emit)(&now, most, signs);
            }
            SUFFIX(finish)(to, &now, channel);
        }
    }
}

/* y += x W for the outputs from `from` to `to`, at most AT_ONCE. Sums of 64 inputs are added up first: long sums lose digits. */
TARGET static void SUFFIX(linear)(const float *x, const float *w, int inputs, int pitch, int from, int to, float *y)
{
    float part[AT_ONCE];
    for (int start = 0; start < inputs; start += 64) {
        int end = start + 64 < inputs ? start + 64 : inputs, i = start;
        memset(part, 0, sizeof part);
        for (; i + 4 <= end; i += 4) { /* four inputs at once, so that the sums are loaded and stored less often */
            const float *w0 = w + (size_t)i * pitch + from, *w1 = w0 + pitch, *w2 = w1 + pitch, *w3 = w2 + pitch;
            vf x0 = v_one(x[i]), x1 = v_one(x[i + 1]), x2 = v_one(x[i + 2]), x3 = v_one(x[i + 3]);
            for (int output = 0; output < to - from; output += BLOCK) {
                vf low = v_fma(x1, v_load(w1 + output), v_mul(x0, v_load(w0 + output)));
                vf high = v_fma(x3, v_load(w3 + output), v_mul(x2, v_load(w2 + output)));
                v_store(part + output, v_add(v_load(part + output), v_add(low, high)));
            }
        }
        for (; i < end; i++)
            for (int output = 0; output < to - from; output += BLOCK)
                v_store(part + output, v_fma(v_one(x[i]), v_load(w + (size_t)i * pitch + from + output), v_load(part + output)));
        for (int output = 0; output < to - from; output += BLOCK)
            v_store(y + from + output, v_add(v_load(y + from + output), v_load(part + output)));
    }
}

/* From the differing bits of a segment, [positions, TILE], to its sums c = base - 2 differing, and to the sums of y. */
INLINE void SUFFIX(end_segment)(const segment_end *end, const uint16_t *differing, int positions)
{
    const size_t pitch = (size_t)end->c_pitch;
    const int lanes = end->lanes;
    for (int lane = 0; lane < lanes; lane += BLOCK) {
        const vf a = v_load(end->a + lane), b = v_load(end->b + lane), slope = v_load(end->slope + lane);
        const int16_t *const first = end->first + lane, *const middle = end->middle + lane, *const last = end->last + lane;
        int16_t *to = end->c + lane;
        vf sum = v_one(0);
        for (int position = 0; position < positions; position++, to += pitch) {
            const int16_t *base = position == 0 ? first : position == positions - 1 ? last : middle;
            sum = v_add(sum, SUFFIX(prelu)(v_fma(v_sums(base, differing + position * TILE + lane, to), a, b), slope));
        }
        v_store(end->sums + lane, v_add(v_load(end->sums + lane), sum));
    }
}

/* `binary` for kernels that count one position at a time: `count` is compiled once for each number of positions. */
#define BINARY_OF_COUNT \
    TARGET static void SUFFIX(binary)(const segment *in, const segment_end *end) \
    { \
        switch (in->positions) { \
        case 1: SUFFIX(count)(in, end, 1); break; \
        case 2: SUFFIX(count)(in, end, 2); break; \
        case 3: SUFFIX(count)(in, end, 3); break; \
        case 4: SUFFIX(count)(in, end, 4); break; \
        case 5: SUFFIX(count)(in, end, 5); break; \
        case 6: SUFFIX(count)(in, end, 6); break; \
        case 7: SUFFIX(count)(in, end, 7); break; \
        default: SUFFIX(count)(in, end, 8); break; \
        } \
    }

#define KERNELS(name, label, pair, bytes) \
    const kernels name = {label, pair, bytes, SUFFIX(binary), SUFFIX(unit_row), SUFFIX(prelu_row), \
                          SUFFIX(real_row), SUFFIX(max_row), SUFFIX(linear)}
