/* The memory of a passage: how much each network and each size of image needs, and where it comes from. */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

static void *room(uint64_t count, uint64_t size)
{
    uint64_t bytes = (count * size + 127) / 64 * 64;
    return bytes > PTRDIFF_MAX ? NULL : aligned_alloc(64, (size_t)bytes);
}

void bnext_workspace_free(workspace *space)
{
    if (!space) return;
    void *all[] = {space->map[0],    space->map[1],    space->residual,   space->counts[0],  space->counts[1],
                   space->bits[0],   space->bits[1],   space->sums[0],    space->sums[1],    space->mean,
                   space->factor[0], space->factor[1], space->vectors[0], space->vectors[1], space->vectors[2],
                   space->vectors[3], space->scratch,   space->pairs[0],   space->pairs[1]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    free(space);
}

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* The size of the map after an operation. Returns false where the map before does not fit. */
static bool after(const operation *o, uint64_t *height, uint64_t *width)
{
    if (o->kind == UNIT) {
        uint64_t stride = (uint64_t)o->unit.conv.stride;
        if (*height % stride || *width % stride) return false;
        if (o->unit.join == FIRST) return true; /* the second one reads the same map */
        *height /= stride;
        *width /= stride;
    } else if (o->kind != HEAD) {
        bool pools = o->kind == MAX_POOL;
        uint64_t size = (uint64_t)(pools ? o->size : o->conv.size), stride = (uint64_t)(pools ? o->stride : o->conv.stride);
        uint64_t border = 2 * (uint64_t)(pools ? o->pad : o->conv.pad);
        if (*height + border < size || *width + border < size) return false;
        *height = (*height + border - size) / stride + 1;
        *width = (*width + border - size) / stride + 1;
    }
    return true;
}

static void hold(need *most, uint64_t height, uint64_t width, uint64_t places)
{
    most->map = larger(most->map, height * width * places);
    most->bits = larger(most->bits, (height * (width + 2) + SEGMENT * 2 + 2) * ((places + 31) / 32));
    most->places = larger(most->places, places);
}

bool bnext_sizes(const bnext_net *net, int height, int width, int from, need *most, int *where)
{
    uint64_t h = (uint64_t)height, w = (uint64_t)width;
    *most = (need){.from = from, .image_height = height, .image_width = width};
    for (int i = 0; i < net->count; i++) {
        const operation *o = &net->operations[i];
        uint64_t in = (uint64_t)o->inputs, out = (uint64_t)o->outputs, before = w;
        *where = i;
        if (i == from) {
            most->height = (int)h;
            most->width = (int)w;
            if (i > 0) hold(most, h, w, in);
        }
        if (!after(o, &h, &w)) return false;
        if (i < from) continue;
        if (o->kind == UNIT) {
            const unit *u = &o->unit;
            if (u->flavour == ATTENTION_18) {
                most->scratch = larger(most->scratch, 2 * before * in + in);
                most->residual = larger(most->residual, h * w * u->places);
            }
            if (u->join == FIRST) out = 2 * out;
            most->counts = larger(most->counts, h * w * u->places);
            most->places = larger(most->places, (uint64_t)u->reduce.outputs);
        } else if (o->kind == HEAD) {
            most->scratch = larger(most->scratch, before * in);
            most->map = larger(most->map, (uint64_t)o->head.pitch);
        } else {
            bool pools = o->kind == MAX_POOL;
            uint64_t size = (uint64_t)(pools ? o->size : o->conv.size), pad = (uint64_t)(pools ? o->pad : o->conv.pad);
            most->scratch = larger(most->scratch, size * (before + 2 * pad) * 3 + 2 * (before + 2));
        }
        hold(most, h, w, out);
    }
    return true;
}

enum { SMALL = 1 << 18 }; /* bytes of a map; several of them fit the processor's second cache */

int bnext_late(const bnext_net *net, int height, int width)
{
    uint64_t h = (uint64_t)height, w = (uint64_t)width;
    for (int i = 0; i < net->count; i++) {
        const operation *o = &net->operations[i];
        bool begins = o->kind == UNIT && o->unit.join != SECOND;
        if (begins && h * w * (uint64_t)o->inputs * sizeof(float) <= SMALL) return i;
        if (!after(o, &h, &w)) return 0;
    }
    return 0;
}

workspace *bnext_workspace_for(bnext_net *net, const need *most)
{
    for (int i = 0; i < SPARE; i++) {
        workspace *one = atomic_exchange(&net->spare[i], NULL);
        bool same = one && one->image_height == most->image_height && one->image_width == most->image_width;
        if (same && one->from == most->from) return one;
        if (same) bnext_give_back(net, one);
        else bnext_workspace_free(one); /* images of another size come now */
    }
    workspace *made = calloc(1, sizeof *made);
    if (!made) return NULL;
    made->height = most->height;
    made->width = most->width;
    made->from = most->from;
    made->image_height = most->image_height;
    made->image_width = most->image_width;
    made->scratch_floats = (size_t)((most->scratch + 15) / 16 * 16);
    bool whole = true;
    for (int i = 0; i < 2; i++) {
        whole = (made->map[i] = room(most->map, sizeof(float))) && whole;
        whole = (made->counts[i] = room(most->counts, sizeof(int16_t))) && whole;
        whole = (made->bits[i] = room(most->bits, sizeof(uint32_t))) && whole;
        if (net->kernels->pair) whole = (made->pairs[i] = room(most->bits, 2 * sizeof(uint32_t))) && whole;
        whole = (made->sums[i] = room(most->places * CHUNKS, sizeof(float))) && whole;
        whole = (made->factor[i] = room(most->places, sizeof(float))) && whole;
    }
    for (int i = 0; i < 4; i++) whole = (made->vectors[i] = room(most->places, sizeof(float))) && whole;
    whole = (made->mean = room(most->places, sizeof(float))) && whole;
    whole = (made->residual = room(most->residual, sizeof(float))) && whole;
    whole = (made->scratch = room((most->scratch + 15) / 16 * 16 * (uint64_t)net->info.threads, sizeof(float))) && whole;
    if (whole) { /* kernels read a little beyond a row */
        for (int i = 0; i < 2; i++) memset(made->bits[i], 0, (size_t)most->bits * sizeof(uint32_t));
        for (int i = 0; i < 2 && made->pairs[i]; i++) memset(made->pairs[i], 0, 2 * (size_t)most->bits * sizeof(uint32_t));
        return made;
    }
    bnext_workspace_free(made);
    return NULL;
}

void bnext_give_back(bnext_net *net, workspace *space)
{
    for (int i = 0; i < SPARE; i++) {
        workspace *none = NULL;
        if (atomic_compare_exchange_strong(&net->spare[i], &none, space)) return;
    }
    bnext_workspace_free(space);
}

