/* Makes random packed files that the engine must accept. */
#ifndef COMPOSE_H
#define COMPOSE_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint8_t *bytes;
    size_t size;
} packed;

/* A valid file for a random network: all kinds of operations and units, gates of all bits. Free its bytes. */
packed compose(uint64_t seed);

#endif
