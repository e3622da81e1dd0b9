/* The engine as a custom call of XLA, so that a packed network works inside jax.jit. Needs XLA's header, which jaxlib brings; a program
 * without JAX leaves this file out.
 *
 * A compiled program may outlive the process that made it (JAX keeps programs on disk), so it must not hold a pointer to a net. It names
 * the net by a key, the checksum of its file. The process that runs it opens the file and registers the net under this key.
 */
#if defined(BNEXT_XLA)
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "xla/ffi/api/c_api.h"

typedef struct entry {
    struct entry *next;
    char *key;
    bnext_net *net;
    int users;
    bool leaves; /* closed as soon as no call uses it */
} entry;

static entry *all;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static void drop(entry *gone)
{
    for (entry **at = &all; *at; at = &(*at)->next)
        if (*at == gone) {
            *at = gone->next;
            break;
        }
    bnext_close(gone->net);
    free(gone->key);
    free(gone);
}

/* The net now belongs to the key: bnext_xla_close closes it. Returns 0, or -1 for too little memory. */
BNEXT_API int bnext_xla_register(const char *key, bnext_net *net)
{
    entry *made = calloc(1, sizeof *made);
    size_t size = strlen(key) + 1;
    if (made) made->key = malloc(size);
    if (!made || !made->key) return free(made), -1;
    memcpy(made->key, key, size);
    made->net = net;
    pthread_mutex_lock(&mutex);
    made->next = all;
    all = made;
    pthread_mutex_unlock(&mutex);
    return 0;
}

BNEXT_API void bnext_xla_close(bnext_net *net)
{
    pthread_mutex_lock(&mutex);
    entry *found = all;
    while (found && found->net != net) found = found->next;
    if (found && found->users)
        found->leaves = true;
    else if (found)
        drop(found);
    pthread_mutex_unlock(&mutex);
}

static entry *taken(const char *key, size_t length)
{
    pthread_mutex_lock(&mutex);
    entry *found = all;
    while (found && !(strlen(found->key) == length && memcmp(found->key, key, length) == 0 && !found->leaves)) found = found->next;
    if (found) found->users++;
    pthread_mutex_unlock(&mutex);
    return found;
}

static void returned(entry *used)
{
    pthread_mutex_lock(&mutex);
    if (--used->users == 0 && used->leaves) drop(used);
    pthread_mutex_unlock(&mutex);
}

static XLA_FFI_Error *failed(const XLA_FFI_Api *api, const char *message)
{
    XLA_FFI_Error_Create_Args made = {XLA_FFI_Error_Create_Args_STRUCT_SIZE, NULL, message, XLA_FFI_Error_Code_INVALID_ARGUMENT};
    return api->XLA_FFI_Error_Create(&made);
}

/* Operand: images [N,H,W,3] float32. Result: logits [N,classes] float32. Attribute: the key. */
BNEXT_API XLA_FFI_Error *bnext_xla(XLA_FFI_CallFrame *frame)
{
    if (frame->extension_start && frame->extension_start->type == XLA_FFI_Extension_Metadata) {
        XLA_FFI_Metadata *about = ((XLA_FFI_Metadata_Extension *)(void *)frame->extension_start)->metadata;
        about->api_version = (XLA_FFI_Api_Version){XLA_FFI_Api_Version_STRUCT_SIZE, NULL, XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR};
        return NULL;
    }
    if (frame->args.size != 1 || frame->rets.size != 1 || frame->attrs.size != 1 || frame->attrs.types[0] != XLA_FFI_AttrType_STRING)
        return failed(frame->api, "a packed network takes images and its key, and returns logits");
    const XLA_FFI_Buffer *images = frame->args.args[0], *logits = frame->rets.rets[0];
    const XLA_FFI_ByteSpan *key = frame->attrs.attrs[0];
    if (images->dtype != XLA_FFI_DataType_F32 || logits->dtype != XLA_FFI_DataType_F32 || images->rank != 4 || images->dims[3] != 3)
        return failed(frame->api, "the images of a packed network are float32 [N, H, W, 3]");
    for (int i = 0; i < 4; i++)
        if (images->dims[i] > INT32_MAX) return failed(frame->api, "there are too many images");
    entry *found = taken(key->ptr, key->len);
    if (!found) return failed(frame->api, "the packed network of this program is not open in this process; load its file again");
    char message[256] = "";
    int code = logits->rank == 2 && logits->dims[0] == images->dims[0] && logits->dims[1] == bnext_about(found->net).classes ? 0 : 1;
    if (code == 0 && images->dims[0] > 0)
        code = bnext_run(found->net, images->data, (int)images->dims[0], (int)images->dims[1], (int)images->dims[2], logits->data, message,
                         sizeof message);
    returned(found);
    if (code == 0) return NULL;
    return failed(frame->api, code > 0 ? "the packed network has another number of classes" : message);
}
#else
typedef int bnext_without_xla; /* a file of C must not be empty */
#endif
