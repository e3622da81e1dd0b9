/* Threads that share the tasks of one call. With BNEXT_NO_THREADS the caller does all of them.
 *
 * A worker that has nothing to do looks for work for some microseconds and then sleeps: the parts of a network are shorter than the
 * time that a sleeping thread needs to wake, but a thread that never sleeps takes the processor from other programs.
 */
#if !defined(BNEXT_NO_THREADS)
#define _POSIX_C_SOURCE 200809L
#endif
#include <stdlib.h>

#include "internal.h"

#if defined(BNEXT_NO_THREADS)

struct bnext_pool {
    int threads;
};

int bnext_processors(void) { return 1; }

bnext_pool *bnext_pool_new(int threads)
{
    (void)threads;
    return calloc(1, sizeof(bnext_pool));
}

void bnext_pool_free(bnext_pool *pool) { free(pool); }

void bnext_pool_run(bnext_pool *pool, int tasks, void (*work)(void *, int, int), void *context)
{
    (void)pool;
    for (int task = 0; task < tasks; task++) work(context, task, 0);
}

#else

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

enum { PATIENCE = 20000 }; /* looks for work before a worker sleeps: some hundred microseconds */

struct bnext_pool {
    int threads, started;
    pid_t process;             /* a forked child has no workers */
    pthread_t *workers;
    pthread_mutex_t busy;      /* held by the call that uses the workers */
    pthread_mutex_t mutex;     /* for sleeping and waking */
    pthread_cond_t wake;
    _Atomic unsigned round;    /* one more for each call */
    _Atomic uint64_t ticket;   /* high half: number of tasks; low half: the next task */
    _Atomic int done;
    _Atomic bool ends;
    int sleeping, numbered;
    void (*work)(void *, int, int);
    void *context;
};

static void rest(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

int bnext_processors(void)
{
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    return count < 1 ? 1 : count > 256 ? 256 : (int)count;
}

/* A round ends when its tasks are done, not when all workers have seen it. So a worker may come late: if its ticket names no task, it
 * must not look at `work`, which may be that of another round; if it names one, the round waits for it. */
static void tasks_of(bnext_pool *pool, int worker)
{
    for (;;) {
        uint64_t ticket = atomic_fetch_add(&pool->ticket, 1);
        uint32_t task = (uint32_t)ticket;
        if (task >= ticket >> 32) return;
        pool->work(pool->context, (int)task, worker);
        atomic_fetch_add(&pool->done, 1);
    }
}

static void *live(void *argument)
{
    bnext_pool *pool = argument;
    pthread_mutex_lock(&pool->mutex);
    int worker = ++pool->numbered;
    pthread_mutex_unlock(&pool->mutex);
    for (unsigned seen = 0;;) {
        for (int look = 0; look < PATIENCE && atomic_load(&pool->round) == seen && !atomic_load(&pool->ends); look++) rest();
        if (atomic_load(&pool->round) == seen) {
            pthread_mutex_lock(&pool->mutex);
            pool->sleeping++;
            while (atomic_load(&pool->round) == seen && !atomic_load(&pool->ends)) pthread_cond_wait(&pool->wake, &pool->mutex);
            pool->sleeping--;
            pthread_mutex_unlock(&pool->mutex);
        }
        if (atomic_load(&pool->ends)) return NULL;
        seen = atomic_load(&pool->round);
        tasks_of(pool, worker);
    }
}

bnext_pool *bnext_pool_new(int threads)
{
    bnext_pool *pool = calloc(1, sizeof *pool);
    if (!pool) return NULL;
    pool->threads = threads;
    pool->process = getpid();
    pthread_mutex_init(&pool->busy, NULL);
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    if (threads > 1) pool->workers = calloc((size_t)threads - 1, sizeof *pool->workers);
    if (pool->workers)
        while (pool->started < threads - 1 && pthread_create(&pool->workers[pool->started], NULL, live, pool) == 0) pool->started++;
    return pool;
}

void bnext_pool_free(bnext_pool *pool)
{
    if (!pool) return;
    if (pool->process == getpid()) {
        pthread_mutex_lock(&pool->mutex);
        atomic_store(&pool->ends, true);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->mutex);
        for (int i = 0; i < pool->started; i++) pthread_join(pool->workers[i], NULL);
        pthread_cond_destroy(&pool->wake);
        pthread_mutex_destroy(&pool->mutex);
        pthread_mutex_destroy(&pool->busy);
    }
    free(pool->workers);
    free(pool);
}

void bnext_pool_run(bnext_pool *pool, int tasks, void (*work)(void *, int, int), void *context)
{
    bool shared = tasks > 1 && pool->started > 0 && pool->process == getpid() && pthread_mutex_trylock(&pool->busy) == 0;
    if (!shared) {
        for (int task = 0; task < tasks; task++) work(context, task, 0);
        return;
    }
    pool->work = work;
    pool->context = context;
    atomic_store(&pool->done, 0);
    atomic_store(&pool->ticket, (uint64_t)tasks << 32);
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->round, 1);
    if (pool->sleeping) pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    tasks_of(pool, 0);
    for (int look = 0; atomic_load(&pool->done) < tasks; look++)
        if (look < PATIENCE) rest();
        else sched_yield(); /* a worker with a task has no processor: it may have this one */
    pthread_mutex_unlock(&pool->busy);
}

#endif
