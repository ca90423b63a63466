/* Others empty the bins of threads, while these sleep and while they run: what a thread has cached goes
 * home, and no block is lost or given out twice. Waits for what must come; how long that takes is not
 * tested. */
#include "check.h"

#include <stdatomic.h>

#define SLEEPERS 8
#define WORKERS 4
#define LIVE 64

static pthread_barrier_t step;
static atomic_int running;

static size_t cached(void) { return mallinfo2().fsmblks; }

/* Leaves a full bin of many sizes behind. */
static void fill_bins(void) {
    enum { EACH = 24 * 1024 };
    static __thread void *blocks[EACH / 16];
    for (size_t size = 16; size <= 2048; size += size < 256 ? 16 : size / 8) {
        size_t count = EACH / size;
        for (size_t i = 0; i < count; i++) {
            CHECK(blocks[i] = malloc(size));
            memset(blocks[i], 1, size);
        }
        for (size_t i = 0; i < count; i++)
            free(blocks[i]);
    }
}

/* Blocks of many sizes come and go, and keep what is in them. */
static void work(unsigned seed, int rounds) {
    struct {
        unsigned char *start;
        size_t size;
        unsigned seed;
    } live[LIVE] = {0};
    unsigned random = seed * 7919 + 1;
    for (int i = 0; i < rounds; i++) {
        unsigned place = next_random(&random) % LIVE;
        if (live[place].start) {
            CHECK(holds(live[place].start, live[place].size, live[place].seed));
            free(live[place].start);
        }
        live[place].size = 1 + next_random(&random) % (i % 64 ? 400 : 5000);
        live[place].seed = random;
        CHECK(live[place].start = malloc(live[place].size));
        fill(live[place].start, live[place].size, random);
    }
    for (unsigned place = 0; place < LIVE; place++) {
        CHECK(!live[place].start || holds(live[place].start, live[place].size, live[place].seed));
        free(live[place].start);
    }
}

static void *works(void *number) {
    work((unsigned)(size_t)number, 400000);
    atomic_fetch_sub(&running, 1);
    return NULL;
}

static void launch(pthread_t *threads, int count, void *(*body)(void *)) {
    for (int i = 0; i < count; i++)
        CHECK(!pthread_create(&threads[i], NULL, body, (void *)(size_t)(i + 1)));
}

static void join(pthread_t *threads, int count) {
    for (int i = 0; i < count; i++)
        CHECK(!pthread_join(threads[i], NULL));
}

/* ---- threads that sleep ---- */

/* Memory of the heap, so that the helper is started. */
enum { PARTS = 32 };
static __thread void *much[PARTS];

static void take_much(void) {
    for (int i = 0; i < PARTS; i++)
        CHECK(much[i] = malloc(64 * KIB));
}

static void free_much(void) {
    for (int i = 0; i < PARTS; i++)
        free(much[i]);
}

static void wait_until_little_is_cached(void) {
    /* A machine under load may be late; the test's own limit of time is what ends it. */
    while (cached() > SLEEPERS * 96 * KIB)
        usleep(10000);
}

static void *fills_and_sleeps(void *number) {
    take_much();
    for (int round = 0; round < 3; round++) {
        fill_bins();
        pthread_barrier_wait(&step);
        pthread_barrier_wait(&step);
        work((unsigned)(size_t)number, 20000);
    }
    free_much();
    return NULL;
}

enum { PAUSES = 6 };

static void *sleeps_often(void *unused) {
    take_much();
    for (int round = 0; round < PAUSES; round++) {
        pthread_barrier_wait(&step);
        fill_bins();
        pthread_barrier_wait(&step);
    }
    free_much();
    return unused;
}

/* Threads that sleep keep a block of each size: not 700 KiB each, as they leave behind. */
static void sleepers(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_t threads[SLEEPERS];
    CHECK(!pthread_barrier_init(&step, NULL, SLEEPERS + 1));
    launch(threads, SLEEPERS, fills_and_sleeps);
    for (int round = 0; round < 3; round++) {
        pthread_barrier_wait(&step);
        wait_until_little_is_cached();
        pthread_barrier_wait(&step);
    }
    join(threads, SLEEPERS);
    say("done", 1);
}

/* Threads sleep, and then sleep again after what would be a pause of one to two decay times of 200 ms. */
static void sleepers_again(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_t threads[SLEEPERS];
    CHECK(!pthread_barrier_init(&step, NULL, SLEEPERS + 1));
    launch(threads, SLEEPERS, sleeps_often);
    for (int round = 0; round < PAUSES; round++) {
        usleep(200000 + (useconds_t)round * 40000);
        pthread_barrier_wait(&step);
        pthread_barrier_wait(&step);
        wait_until_little_is_cached();
    }
    join(threads, SLEEPERS);
    say("done", 1);
}

/* ---- threads that run ---- */

/* malloc_trim empties the bins of threads that wait for a CPU, wherever they were, again and again. */
static void runners(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_t threads[WORKERS];
    size_t before = mallinfo2().uordblks;
    atomic_store(&running, WORKERS);
    launch(threads, WORKERS, works);
    while (atomic_load(&running))
        malloc_trim(0);
    join(threads, WORKERS);
    malloc_trim(0);
    size_t after = mallinfo2().uordblks;
    CHECK(on_system() || after < before + 64 * KIB);
    say("done", 1);
}

/* ---- threads that end ---- */

static void *starts_others(void *number) {
    for (int i = 0; i < 2000; i++) {
        pthread_t one;
        CHECK(!pthread_create(&one, NULL, (void *(*)(void *))(void *)malloc, (void *)(size_t)100));
        void *block;
        CHECK(!pthread_join(one, &block) && block);
        free(block);
        if (i % 16 == 0)
            work((unsigned)(size_t)number + (unsigned)i, 200);
    }
    atomic_fetch_sub(&running, 1);
    return NULL;
}

/* Threads start and end while their bins are emptied. */
static void ends(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_t threads[WORKERS];
    atomic_store(&running, WORKERS);
    launch(threads, WORKERS, starts_others);
    while (atomic_load(&running))
        malloc_trim(0);
    join(threads, WORKERS);
    say("done", 1);
}

static void *sleeps_shortly(void *unused) {
    usleep(500);
    atomic_fetch_sub(&running, 1);
    return unused;
}

static void *fills(void *unused) {
    fill_bins();
    return unused;
}

/* Threads that never allocate end without being joined. glibc lets them free what belongs to cached stacks,
 * when the destructors of keys have run, and unmap these, their own later perhaps. */
static void detached(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { AT_ONCE = 10, ROUNDS = 20 };
    pthread_attr_t attributes;
    CHECK(!pthread_attr_init(&attributes));
    CHECK(!pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED));
    for (int round = 0; round < ROUNDS; round++) {
        /* What they leave in their arenas would be the detached threads', did these take a cache. */
        pthread_t threads[2];
        launch(threads, 2, fills);
        join(threads, 2);
        atomic_store(&running, AT_ONCE);
        for (int i = 0; i < AT_ONCE; i++) {
            pthread_t one;
            CHECK(!pthread_create(&one, &attributes, sleeps_shortly, NULL));
        }
        while (atomic_load(&running))
            usleep(1000);
        usleep(3000);
        malloc_trim(0);
    }
    say("done", 1);
}

static void *fills_and_exits(void *unused) {
    fill_bins();
    syscall(SYS_exit, 0);
    return unused;
}

/* A thread ends without its destructors, and its stack is unmapped, with its thread-local variables. */
static void raw_exit(int argc, char **argv) {
    (void)argc, (void)argv;
    void *stack = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(stack != MAP_FAILED);
    pthread_attr_t attributes;
    CHECK(!pthread_attr_init(&attributes));
    CHECK(!pthread_attr_setstack(&attributes, stack, MIB));
    pthread_t thread;
    CHECK(!pthread_create(&thread, &attributes, fills_and_exits, NULL));
    join(&thread, 1);
    CHECK(!munmap(stack, MIB));
    malloc_trim(0);
    say("done", 1);
}

/* ---- signals ---- */

static atomic_int came;
static void comes(int signal) { (void)signal, atomic_store(&came, 1); }

static void *fills_and_waits(void *unused) {
    fill_bins();
    pthread_barrier_wait(&step);
    pthread_barrier_wait(&step);
    return unused;
}

/* A signal that a thread has blocked does not come while it empties the bins of another one. */
static void blocked_signal(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_t thread;
    CHECK(!pthread_barrier_init(&step, NULL, 2));
    launch(&thread, 1, fills_and_waits);
    pthread_barrier_wait(&step);
    sigset_t blocked;
    CHECK(!sigemptyset(&blocked) && !sigaddset(&blocked, SIGTRAP));
    CHECK(!pthread_sigmask(SIG_BLOCK, &blocked, NULL));
    CHECK(signal(SIGTRAP, comes) != SIG_ERR && !raise(SIGTRAP));
    malloc_trim(0);
    CHECK(!atomic_load(&came));
    CHECK(!pthread_sigmask(SIG_UNBLOCK, &blocked, NULL));
    CHECK(atomic_load(&came));
    pthread_barrier_wait(&step);
    join(&thread, 1);
    say("done", 1);
}

/* ---- fork ---- */

static void *trims(void *unused) {
    while (atomic_load(&running))
        malloc_trim(0);
    return unused;
}

/* Children are made while bins are emptied: of the thread that forks, too. */
static void forks(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_t threads[WORKERS], trimmer;
    atomic_store(&running, WORKERS);
    launch(threads, WORKERS, works);
    CHECK(!pthread_create(&trimmer, NULL, trims, NULL));
    while (atomic_load(&running)) {
        fill_bins();
        pid_t child = fork();
        CHECK(child >= 0);
        if (!child) {
            work(4711, 3000);
            malloc_trim(0);
            work(4712, 3000);
            _exit(0);
        }
        work(4713, 500);
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    join(threads, WORKERS);
    join(&trimmer, 1);
    say("done", 1);
}

/* ---- misuse ---- */

static void *frees_twice(void *unused) {
    void *first = malloc(100), *second = malloc(100);
    CHECK(first && second);
    free(first);
    free(second);
    pthread_barrier_wait(&step);
    pthread_barrier_wait(&step);
    free(HIDE(first));
    return unused;
}

/* A double free of a block that was taken out of the thread's bin meanwhile. */
static void double_free(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_t thread;
    CHECK(!pthread_barrier_init(&step, NULL, 2));
    CHECK(!pthread_create(&thread, NULL, frees_twice, NULL));
    pthread_barrier_wait(&step);
    malloc_trim(0);
    pthread_barrier_wait(&step);
    pthread_join(thread, NULL);
}

int main(int argc, char **argv) {
    static const struct mode modes[] = {
        {"sleepers", sleepers}, {"sleepers_again", sleepers_again},
        {"runners", runners},   {"ends", ends},
        {"detached", detached}, {"raw_exit", raw_exit},
        {"blocked_signal", blocked_signal},
        {"forks", forks},       {"double_free", double_free},
        {NULL, NULL},
    };
    return run_mode(modes, argc, argv);
}
