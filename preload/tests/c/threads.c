/* Threads that start, end, are cancelled, have small stacks, and allocate to
 * their very end. */
#include "check.h"
#include <limits.h>
#include <stdatomic.h>

static pthread_t launch(const pthread_attr_t *attributes,
                        void *(*body)(void *), void *argument) {
    pthread_t thread;
    CHECK(!pthread_create(&thread, attributes, body, argument));
    return thread;
}

/* ---- churn ---- */

enum { BATCH = 50, BATCHES = 200, LEFT = 100 };

struct leaves {
    void *blocks[LEFT];
    size_t sizes[LEFT];
    unsigned seed;
};

/* Allocates, frees every second block, leaves the others to who joins it. */
static void *leaves_blocks(void *argument) {
    struct leaves *mine = argument;
    unsigned random = mine->seed * 7919 + 1;
    for (int i = 0; i < LEFT; i++) {
        size_t size = next_random(&random) % 2000 + 1;
        void *gone = malloc(size);
        CHECK(gone);
        memset(gone, 1, size);
        CHECK(mine->blocks[i] = malloc(size));
        mine->sizes[i] = size;
        fill(mine->blocks[i], size, (unsigned)i);
        free(gone);
    }
    return NULL;
}

static void churn(int argc, char **argv) {
    (void)argc, (void)argv;
    static struct leaves left[BATCH];
    unsigned long after_100 = 0, after_1000 = 0;
    for (unsigned batch = 0; batch < BATCHES; batch++) {
        pthread_t threads[BATCH];
        for (unsigned i = 0; i < BATCH; i++) {
            left[i].seed = batch * BATCH + i;
            threads[i] = launch(NULL, leaves_blocks, &left[i]);
        }
        for (unsigned i = 0; i < BATCH; i++)
            CHECK(!pthread_join(threads[i], NULL));
        for (unsigned i = 0; i < BATCH; i++)
            for (unsigned k = 0; k < LEFT; k++) {
                CHECK(holds(left[i].blocks[k], left[i].sizes[k], k));
                free(left[i].blocks[k]);
            }
        if ((batch + 1) * BATCH == 100)
            after_100 = status_kib("VmRSS:");
        if ((batch + 1) * BATCH == 1000)
            after_1000 = status_kib("VmRSS:");
    }
    say("rss_kib_after_100", after_100);
    say("rss_kib_after_1000", after_1000);
    say("rss_kib_after_all", status_kib("VmRSS:"));
    say("in_use_after_all", mallinfo2().uordblks);
}

/* ---- threads that end in another arena than they began in ---- */

enum { GIVEN = 4000 };
static void *given[GIVEN];

static void *frees_all(void *argument) {
    (void)argument;
    for (int i = 0; i < GIVEN; i++)
        free(given[i]);
    return NULL;
}

/* Each thread frees what the first one allocated, and so follows it to its arena. */
static void followers(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { SOME = 1000, ALL = 5000 };
    for (int threads = 1; threads <= ALL; threads++) {
        for (int i = 0; i < GIVEN; i++)
            CHECK(given[i] = malloc(64));
        CHECK(!pthread_join(launch(NULL, frees_all, NULL), NULL));
        if (threads == SOME)
            say("rss_kib_after_some", status_kib("VmRSS:"));
    }
    say("rss_kib_after_all", status_kib("VmRSS:"));
}

/* ---- blocks that travel ---- */

enum { SLOTS = 1000 };
static struct {
    _Atomic(void *) block;
} slots[SLOTS];

static void *travels(void *number) {
    unsigned random = (unsigned)(size_t)number + 1;
    for (int i = 0; i < 40000; i++) {
        size_t size = next_random(&random) % (i % 100 ? 600 : 100000) + 8;
        unsigned char *p = malloc(size);
        CHECK(p);
        /* The size and a seed in front, then the pattern. */
        unsigned seed = random;
        uint32_t head[2] = {(uint32_t)size, seed};
        memcpy(p, head, sizeof head);
        fill(p + 8, size - 8, seed);
        unsigned char *old =
            atomic_exchange(&slots[next_random(&random) % SLOTS].block, p);
        if (old) {
            memcpy(head, old, sizeof head);
            CHECK(holds(old + 8, head[0] - 8, head[1]));
            free(old);
        }
    }
    return NULL;
}

static void travel(int argc, char **argv) {
    (void)argc, (void)argv;
    for (size_t round = 0; round < 3; round++) {
        pthread_t threads[8];
        for (size_t i = 0; i < 8; i++)
            threads[i] = launch(NULL, travels, (void *)(round * 8 + i));
        for (int i = 0; i < 8; i++)
            CHECK(!pthread_join(threads[i], NULL));
    }
    for (int i = 0; i < SLOTS; i++)
        free(slots[i].block);
}

/* One thread allocates, another frees: the memory must come back. */
static _Atomic(void *) ring[256];
enum { SENT = 300000 };

static void *produces(void *unused) {
    (void)unused;
    for (size_t i = 0; i < SENT; i++) {
        char *p = malloc(i % 3000 + 1);
        CHECK(p);
        p[0] = 1;
        while (atomic_load(&ring[i % 256]))
            sched_yield();
        atomic_store(&ring[i % 256], p);
    }
    return NULL;
}

static void *consumes(void *unused) {
    (void)unused;
    for (size_t i = 0; i < SENT; i++) {
        void *p;
        while (!(p = atomic_load(&ring[i % 256])))
            sched_yield();
        atomic_store(&ring[i % 256], NULL);
        free(p);
    }
    return NULL;
}

static void producer_consumer(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_t a = launch(NULL, produces, NULL), b = launch(NULL, consumes, NULL);
    CHECK(!pthread_join(a, NULL) && !pthread_join(b, NULL));
    /* 450 MB went through; what is in flight is less than one. */
    CHECK(status_kib("VmHWM:") < 40 * 1024);
}

/* ---- the end of a thread ---- */

enum { KEYS = 200 };
static pthread_key_t keys[KEYS];
static int key_count;
static atomic_int destructions;

/* Runs up to four times per key, so before and after the allocator's own end
 * of the thread, whichever key the allocator has. */
static void destructor(void *value) {
    uintptr_t *block = value;
    uintptr_t rounds = block[0], key = block[1];
    atomic_fetch_add(&destructions, 1);
    free(block);
    for (size_t size = 1; size < 300000; size = size * 3 + 1) {
        void *p = malloc(size), *q = calloc(1, size);
        CHECK(p && q && all_zero(q, size));
        memset(p, 1, size);
        free(q);
        CHECK(p = realloc(p, size * 2));
        free(p);
    }
    if (rounds > 1) {
        CHECK(block = malloc(2 * sizeof *block));
        block[0] = rounds - 1;
        block[1] = key;
        CHECK(!pthread_setspecific(keys[key], block));
    }
}

static void make_keys(int count) {
    for (int i = 0; i < count; i++, key_count++)
        CHECK(!pthread_key_create(&keys[key_count], destructor));
}

/* Sets all keys, with blocks of which the destructors free the last. */
static void *has_values(void *allocates_first) {
    if (allocates_first)
        free(malloc(100));
    for (int i = 0; i < key_count; i++) {
        uintptr_t *block = malloc(2 * sizeof *block);
        CHECK(block);
        block[0] = PTHREAD_DESTRUCTOR_ITERATIONS;
        block[1] = (uintptr_t)i;
        CHECK(!pthread_setspecific(keys[i], block));
    }
    return NULL;
}

static void end_of_thread(int argc, char **argv) {
    (void)argc, (void)argv;
    /* Keys made before main allocates, and behind them those made later. */
    make_keys(3);
    free(malloc(100));
    make_keys(7);
    for (size_t round = 0; round < 400; round++) {
        pthread_t threads[4];
        int before = atomic_load(&destructions);
        for (size_t i = 0; i < 4; i++)
            threads[i] = launch(NULL, has_values, (void *)(i % 2));
        for (int i = 0; i < 4; i++)
            CHECK(!pthread_join(threads[i], NULL));
        CHECK(atomic_load(&destructions) - before ==
              4 * key_count * PTHREAD_DESTRUCTOR_ITERATIONS);
        /* Keys above the first 32 make pthread_setspecific itself allocate. */
        if (round == 200)
            make_keys(KEYS - 10);
        if (round == 220)
            key_count = 10;
    }
    CHECK(status_kib("VmRSS:") < 60 * 1024);
}

/* All keys taken: the allocator can have none, and works without. */
static void no_key_left(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_key_t key;
    while (!pthread_key_create(&key, NULL)) {
    }
    static struct leaves left[BATCH];
    for (int round = 0; round < 10; round++) {
        pthread_t threads[BATCH];
        for (unsigned i = 0; i < BATCH; i++)
            threads[i] = launch(NULL, leaves_blocks, &left[i]);
        for (unsigned i = 0; i < BATCH; i++) {
            CHECK(!pthread_join(threads[i], NULL));
            for (unsigned k = 0; k < LEFT; k++)
                free(left[i].blocks[k]);
        }
    }
    /* And the threads' caches are not lost with them. */
    CHECK(status_kib("VmRSS:") < 24 * 1024);
}

static void *detached_body(void *unused) {
    atomic_int *left = unused;
    free(atomic_exchange(&slots[0].block, malloc(500)));
    atomic_fetch_sub(left, 1);
    return NULL;
}

static void detached(int argc, char **argv) {
    (void)argc, (void)argv;
    static atomic_int left;
    pthread_attr_t attributes;
    CHECK(!pthread_attr_init(&attributes));
    CHECK(!pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED));
    for (int i = 0; i < 3000; i++) {
        while (atomic_load(&left) > 40)
            sched_yield();
        atomic_fetch_add(&left, 1);
        launch(&attributes, detached_body, &left);
    }
    while (atomic_load(&left))
        sched_yield();
}

/* ---- many at once, small stacks ---- */

static void *all_sizes(void *unused) {
    (void)unused;
    void *p[8];
    for (size_t size = 0; size < 2 * MIB; size = size * 2 + 1) {
        for (int i = 0; i < 8; i++) {
            CHECK(p[i] = i % 2 ? malloc(size) : memalign(256, size));
            memset(p[i], i, size < 5000 ? size : 5000);
        }
        for (int i = 0; i < 8; i++) {
            CHECK(p[i] = realloc(p[i], size + 600));
            free(p[i]);
        }
    }
    free(mallinfo2().arena ? malloc(1) : NULL);
    return NULL;
}

static void small_stacks(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_attr_t attributes;
    CHECK(!pthread_attr_init(&attributes));
    CHECK(!pthread_attr_setstacksize(&attributes, (size_t)PTHREAD_STACK_MIN));
    for (int round = 0; round < 20; round++) {
        pthread_t threads[16];
        for (int i = 0; i < 16; i++)
            threads[i] = launch(&attributes, all_sizes, NULL);
        for (int i = 0; i < 16; i++)
            CHECK(!pthread_join(threads[i], NULL));
    }
}

static pthread_barrier_t together;

static void *alive_together(void *argument) {
    leaves_blocks(argument);
    pthread_barrier_wait(&together);
    return NULL;
}

static void many_at_once(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { MANY = 600 };
    static struct leaves left[MANY];
    static pthread_t threads[MANY];
    pthread_attr_t attributes;
    CHECK(!pthread_attr_init(&attributes));
    CHECK(!pthread_attr_setstacksize(&attributes, 64 * KIB));
    CHECK(!pthread_barrier_init(&together, NULL, MANY + 1));
    for (unsigned i = 0; i < MANY; i++) {
        left[i].seed = i;
        threads[i] = launch(&attributes, alive_together, &left[i]);
    }
    pthread_barrier_wait(&together);
    for (unsigned i = 0; i < MANY; i++) {
        CHECK(!pthread_join(threads[i], NULL));
        for (unsigned k = 0; k < LEFT; k++) {
            CHECK(holds(left[i].blocks[k], left[i].sizes[k], k));
            free(left[i].blocks[k]);
        }
    }
}

/* ---- cancellation ---- */

static atomic_int ready, cancelled, finished;

/* Once the cancellation is pending, the first cancellation point takes it. No
 * function of the allocator may be one, not when it meets a lock that is held,
 * starts an arena, grows or trims. */
static void *is_cancelled(void *number) {
    enum { LIVE = 200 };
    void *live[LIVE] = {0};
    unsigned random = (unsigned)(size_t)number + 1;
    atomic_fetch_add(&ready, 1);
    while (!atomic_load(&cancelled)) {
    }
    for (int i = 0; i < 60000; i++) {
        unsigned k = next_random(&random) % LIVE;
        size_t size = next_random(&random) % (i % 64 ? 3000 : 400000);
        free(atomic_exchange(&slots[k].block, live[k]));
        live[k] = random % 3 ? malloc(size) : calloc(1, size);
        if (random % 5 == 0)
            CHECK(live[k] = realloc(live[k], size + 1000));
        if (i % 20000 == 0) {
            malloc_trim(0);
            /* Of huge blocks the second one is kept. */
            for (int huge = 0; huge < 3; huge++) {
                void *volatile block = malloc(40 * MIB);
                free(block);
            }
        }
        if (i % 5000 == 0)
            CHECK(mallinfo2().arena + mallinfo2().hblkhd > 0);
    }
    for (int k = 0; k < LIVE; k++)
        free(live[k]);
    atomic_fetch_add(&finished, 1);
    pthread_testcancel();
    return NULL;
}

static void cancellation(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { COUNT = 8 };
    pthread_t threads[COUNT];
    for (size_t i = 0; i < COUNT; i++)
        threads[i] = launch(NULL, is_cancelled, (void *)i);
    while (atomic_load(&ready) < COUNT)
        sched_yield();
    for (int i = 0; i < COUNT; i++)
        CHECK(!pthread_cancel(threads[i]));
    atomic_store(&cancelled, 1);
    for (int i = 0; i < COUNT; i++) {
        void *result;
        CHECK(!pthread_join(threads[i], &result));
        CHECK(result == PTHREAD_CANCELED);
    }
    CHECK(atomic_load(&finished) == COUNT);
}

/* ---- the end of the process ---- */

static void *never_ends(void *number) {
    for (size_t i = (size_t)number;; i++)
        free(atomic_exchange(&slots[i % SLOTS].block, malloc(i % 5000)));
}

static void at_exit(void) {
    for (int i = 0; i < 1000; i++)
        free(malloc((size_t)i * 10));
}

/* main returns while other threads are in malloc. */
static void exit_under_load(int argc, char **argv) {
    (void)argc, (void)argv;
    atexit(at_exit);
    for (size_t i = 0; i < 4; i++)
        launch(NULL, never_ends, (void *)(i * 100));
    usleep(5000);
}

static void *outlives_main(void *main_thread) {
    CHECK(!pthread_join(*(pthread_t *)main_thread, NULL));
    all_sizes(NULL);
    say("outlived", 1);
    exit(0);
}

/* The main thread ends as a thread does, and the others go on. */
static void main_ends_first(int argc, char **argv) {
    (void)argc, (void)argv;
    static pthread_t self;
    self = pthread_self();
    make_keys(2);
    has_values(&self);
    launch(NULL, outlives_main, &self);
    pthread_exit(NULL);
}

static const struct mode modes[] = {
    {"churn", churn},
    {"followers", followers},
    {"travel", travel},
    {"producer_consumer", producer_consumer},
    {"end_of_thread", end_of_thread},
    {"no_key_left", no_key_left},
    {"detached", detached},
    {"small_stacks", small_stacks},
    {"many_at_once", many_at_once},
    {"cancellation", cancellation},
    {"exit_under_load", exit_under_load},
    {"main_ends_first", main_ends_first},
    {NULL, NULL},
};

int main(int argc, char **argv) { return run_mode(modes, argc, argv); }
