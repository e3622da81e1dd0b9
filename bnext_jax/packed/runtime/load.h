/* Reading a packed file: shared by file.c and load.c. */
#ifndef BNEXT_LOAD_H
#define BNEXT_LOAD_H

#include <stdio.h>

#include "internal.h"

enum { F32 = 0, U32 = 1, U8 = 2 };
#define NONE 0xFFFFFFFFu /* in place of a tensor's number: there is none */
enum { HEAD_WORDS = 16, ENTRY_WORDS = 4, OPERATION_WORDS = 32 };
enum { MOST_TENSORS = 1 << 16, MOST_OPERATIONS = 1 << 12, MOST_CHANNELS = 1 << 16, MOST_SIZE = 15 };

/* A file on disk or in memory, and the place for the sentence about what is wrong. */
typedef struct {
    FILE *file;
    const uint8_t *bytes;
    uint64_t size, data; /* of the file, and where its data begin */
    char *message;
    size_t message_size;
    bool failed;
    uint32_t *words, tensors, operations; /* the program */
    bool *used;                           /* one for each tensor */
} source;

bool bnext_fail(source *from, const char *format, ...); /* writes the sentence; returns false */
bool bnext_read(source *from, uint64_t place, void *to, uint64_t count); /* place: bytes from the beginning of the file */
bool bnext_read_program(source *from);
void *bnext_tensor(source *from, uint32_t number, int type, uint64_t count); /* a new array, or NULL */
bool bnext_load(source *from, bnext_net *net);

#endif
