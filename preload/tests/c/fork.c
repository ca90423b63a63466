/* fork at any moment of the other threads. A hang ends by an alarm: SIGALRM is
 * not caught, so the test sees which process it was. */
#include "check.h"
#include <spawn.h>
#include <stdatomic.h>
#include <time.h>

extern char **environ;

/* The alarms are no limit on the whole run: each child that ends sets its
 * parent's anew. */
enum { SLOTS = 512, CHILD_SECONDS = 60, PARENT_SECONDS = 120 };

static _Atomic(void *) slots[SLOTS];
static atomic_int stop;

/* Puts blocks where any thread may take and free them. */
static void *allocates(void *number) {
    unsigned random = (unsigned)(size_t)number + 1;
    while (!atomic_load(&stop)) {
        size_t scale = next_random(&random) % 16;
        size_t size = next_random(&random) % ((size_t)16 << scale) + 1;
        char *p = random % 3 ? malloc(size) : calloc(1, size);
        CHECK(p);
        p[0] = p[size - 1] = 1;
        if (random % 7 == 0)
            CHECK(p = realloc(p, size * 2));
        free(atomic_exchange(&slots[next_random(&random) % SLOTS], p));
    }
    return NULL;
}

/* Allocates while it holds a stream's lock, by its own hand and inside. */
static void *holds_streams(void *unused) {
    (void)unused;
    FILE *null = fopen("/dev/null", "w");
    CHECK(null);
    while (!atomic_load(&stop)) {
        flockfile(null);
        void *p = malloc(3000);
        fprintf(null, "%p %s\n", p, "some text");
        free(p);
        funlockfile(null);
        char *text = NULL;
        size_t length = 0;
        FILE *memory = open_memstream(&text, &length);
        CHECK(memory);
        for (int i = 0; i < 200; i++)
            fprintf(memory, "line %d of a text that grows\n", i);
        fclose(memory);
        free(text);
    }
    fclose(null);
    return NULL;
}

/* Takes the lock of the list of streams, and under it each stream's. */
static void *flushes(void *unused) {
    (void)unused;
    while (!atomic_load(&stop)) {
        fflush(NULL);
        FILE *stream = fopen("/dev/null", "w");
        CHECK(stream);
        fputs("x", stream);
        fclose(stream);
    }
    return NULL;
}

static void *short_lived(void *number) {
    void *p[20];
    for (int i = 0; i < 20; i++)
        CHECK(p[i] = malloc((size_t)number % 3000 + (size_t)i * 16));
    for (int i = 0; i < 20; i += 2)
        free(p[i]);
    for (int i = 1; i < 20; i += 2)
        free(atomic_exchange(&slots[((size_t)number + (size_t)i) % SLOTS], p[i]));
    return NULL;
}

/* Threads that start and end: fork meets them in between. */
static void *starts_threads(void *unused) {
    (void)unused;
    for (size_t i = 0; !atomic_load(&stop); i++) {
        pthread_t threads[4];
        for (int k = 0; k < 4; k++)
            CHECK(!pthread_create(&threads[k], NULL, short_lived, (void *)(i + (size_t)k)));
        for (int k = 0; k < 4; k++)
            CHECK(!pthread_join(threads[k], NULL));
    }
    return NULL;
}

/* What every child does: frees blocks of threads it does not have, allocates
 * in all sizes, and now and then has threads of its own. */
static void child_works(unsigned seed, int with_threads) {
    unsigned random = seed * 2654435761u + 1;
    void *blocks[64];
    for (int i = 0; i < 64; i++)
        free(atomic_exchange(&slots[next_random(&random) % SLOTS], NULL));
    for (unsigned i = 0; i < 64; i++) {
        size_t size = next_random(&random) % ((size_t)16 << (i % 16)) + 1;
        CHECK(blocks[i] = i % 2 ? malloc(size) : calloc(1, size));
        fill(blocks[i], size < 5000 ? size : 5000, i);
    }
    void *big = malloc(3 * MIB);
    CHECK(big);
    big = realloc(big, 5 * MIB);
    free(big);
    if (with_threads) {
        pthread_t threads[3];
        for (size_t i = 0; i < 3; i++)
            CHECK(!pthread_create(&threads[i], NULL, short_lived, (void *)i));
        for (int i = 0; i < 3; i++)
            CHECK(!pthread_join(threads[i], NULL));
    }
    for (int i = 0; i < 64; i++)
        free(blocks[i]);
    for (int i = 0; i < SLOTS; i++)
        free(atomic_exchange(&slots[i], NULL));
    for (int i = 0; i < 500; i++)
        free(malloc((size_t)i * 10));
}

static void reap(pid_t child) {
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    alarm(PARENT_SECONDS);
    if (WIFSIGNALED(status)) {
        say("child_ended_by_signal", (unsigned long)WTERMSIG(status));
        _exit(3);
    }
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static pthread_t workers[16];
static int worker_count;

static void start(void *(*body)(void *), int count) {
    for (int i = 0; i < count; i++, worker_count++)
        CHECK(!pthread_create(&workers[worker_count], NULL, body,
                              (void *)(size_t)worker_count));
}

static void finish(void) {
    atomic_store(&stop, 1);
    for (int i = 0; i < worker_count; i++)
        CHECK(!pthread_join(workers[i], NULL));
    for (int i = 0; i < SLOTS; i++)
        free(atomic_exchange(&slots[i], NULL));
}

static void fork_many(int count) {
    for (int i = 0; i < count; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(CHILD_SECONDS);
            child_works((unsigned)i, i % 16 == 0);
            _exit(0);
        }
        /* The parent goes on as well while the child runs. */
        for (int k = 0; k < 50; k++)
            free(malloc((size_t)k * 50));
        reap(child);
    }
}

static void storm(int argc, char **argv) {
    (void)argc, (void)argv;
    start(allocates, 4);
    fork_many(300);
    finish();
}

static void storm_stdio(int argc, char **argv) {
    (void)argc, (void)argv;
    start(allocates, 1);
    start(holds_streams, 3);
    start(flushes, 1);
    fork_many(400);
    finish();
}

static void storm_thread_ends(int argc, char **argv) {
    (void)argc, (void)argv;
    start(starts_threads, 2);
    start(allocates, 1);
    fork_many(300);
    finish();
}

/* Every thread forks, each many times, all at once. */
static void *forks(void *number) {
    for (int i = 0; i < 60; i++) {
        free(atomic_exchange(&slots[(size_t)i % SLOTS], malloc((size_t)i * 77)));
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(CHILD_SECONDS);
            child_works((unsigned)(size_t)number, i % 16 == 0);
            _exit(0);
        }
        reap(child);
    }
    return NULL;
}

static void all_fork(int argc, char **argv) {
    (void)argc, (void)argv;
    start(allocates, 2);
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++)
        CHECK(!pthread_create(&threads[i], NULL, forks, (void *)i));
    for (int i = 0; i < 4; i++)
        CHECK(!pthread_join(threads[i], NULL));
    finish();
}

/* Each child becomes multi-threaded again and forks in turn. */
static void generation(int depth) {
    alarm(CHILD_SECONDS);
    atomic_store(&stop, 0);
    worker_count = 0;
    start(allocates, 2);
    for (int i = 0; i < 5; i++) {
        usleep(500);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(CHILD_SECONDS);
            child_works((unsigned)(depth * 10 + i), 0);
            if (depth > 0 && i == 0)
                generation(depth - 1);
            _exit(0);
        }
        reap(child);
    }
    finish();
}

static void generations(int argc, char **argv) {
    (void)argc, (void)argv;
    for (int i = 0; i < 10; i++)
        generation(6);
}

/* ---- fork in a signal handler ---- */

static __thread volatile int is_child;
static atomic_int forked, ended;

static void forks_in_handler(int signal) {
    (void)signal;
    int kept = errno;
    if (atomic_load(&forked) - atomic_load(&ended) < 8 && !is_child) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            /* The allocation that was interrupted goes on in the child. */
            alarm(CHILD_SECONDS);
            is_child = 1;
        } else {
            atomic_fetch_add(&forked, 1);
        }
    }
    errno = kept;
}

static void interrupted_loop(unsigned seed, int until) {
    enum { LIVE = 300 };
    static __thread void *live[LIVE];
    unsigned random = seed;
    while (atomic_load(&ended) < until) {
        for (int i = 0; i < 200; i++) {
            unsigned k = next_random(&random) % LIVE;
            size_t size = next_random(&random) % ((size_t)16 << random % 13);
            live[k] = random % 5 ? (free(live[k]), malloc(size))
                                 : realloc(live[k], size + 1);
            CHECK(live[k]);
        }
        if (is_child) {
            /* All of the interrupted thread's blocks are the child's. */
            for (int i = 0; i < LIVE; i++)
                free(live[i]);
            child_works(seed, 0);
            _exit(0);
        }
        int status;
        pid_t child;
        while ((child = waitpid(-1, &status, WNOHANG)) > 0) {
            if (WIFSIGNALED(status))
                say("child_ended_by_signal", (unsigned long)WTERMSIG(status));
            CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
            atomic_fetch_add(&ended, 1);
        }
    }
    for (int i = 0; i < LIVE; i++)
        free(live[i]);
}

static timer_t timer;

/* From here on no handler forks: the threads that a child would wait for do
 * not exist in it. */
static void stop_ticking(void) {
    CHECK(signal(SIGUSR1, SIG_IGN) != SIG_ERR);
    if (is_child)
        _exit(0);
    CHECK(!timer_delete(timer));
}

static void tick(int microseconds) {
    struct sigaction action = {.sa_handler = forks_in_handler,
                               .sa_flags = SA_RESTART};
    CHECK(!sigaction(SIGUSR1, &action, NULL));
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    CHECK(!timer_create(CLOCK_MONOTONIC, &event, &timer));
    struct itimerspec times = {.it_interval = {0, microseconds * 1000L},
                               .it_value = {0, microseconds * 1000L}};
    CHECK(!timer_settime(timer, 0, &times, NULL));
}

static void in_handler(int argc, char **argv) {
    (void)argc, (void)argv;
    tick(700);
    interrupted_loop(1, 1000);
}

static void *interrupted_thread(void *number) {
    interrupted_loop((unsigned)(size_t)number + 1, 600);
    return NULL;
}

/* The signal comes to any of the threads, each in the middle of a loop. */
static void in_handler_threads(int argc, char **argv) {
    (void)argc, (void)argv;
    /* glibc's fork waits for the arena lock that the thread itself holds. */
    if (on_system())
        return;
    pthread_t threads[3];
    for (size_t i = 0; i < 3; i++)
        CHECK(!pthread_create(&threads[i], NULL, interrupted_thread, (void *)i));
    tick(1500);
    interrupted_loop(99, 600);
    stop_ticking();
    for (int i = 0; i < 3; i++)
        CHECK(!pthread_join(threads[i], NULL));
}

/* ---- around fork ---- */

static void *kept_over_fork;

static void handler_allocates(void) {
    free(kept_over_fork);
    CHECK(kept_over_fork = malloc(1234));
    void *large = malloc(200 * KIB);
    CHECK(large);
    free(large);
}

static void atfork_handlers(int argc, char **argv) {
    (void)argc, (void)argv;
    for (int i = 0; i < 60; i++)
        CHECK(!pthread_atfork(handler_allocates, handler_allocates,
                              handler_allocates));
    start(allocates, 3);
    fork_many(300);
    finish();
}

static void spawns(int argc, char **argv) {
    (void)argc, (void)argv;
    start(allocates, 3);
    char *arguments[] = {"true", NULL};
    for (int i = 0; i < 60; i++) {
        pid_t child;
        CHECK(!posix_spawnp(&child, "true", NULL, NULL, arguments, environ));
        reap(child);
    }
    for (int i = 0; i < 30; i++) {
        CHECK(system("true") == 0);
        FILE *pipe = popen("echo x", "r");
        CHECK(pipe && fgetc(pipe) == 'x');
        CHECK(pclose(pipe) == 0);
    }
    finish();
}

static pthread_barrier_t together;

static void *caches_and_waits(void *unused) {
    (void)unused;
    void *blocks[4000];
    for (int i = 0; i < 4000; i++)
        CHECK(blocks[i] = malloc((size_t)i % 900));
    for (int i = 0; i < 4000; i++)
        free(blocks[i]);
    pthread_barrier_wait(&together);
    pthread_barrier_wait(&together);
    return NULL;
}

/* What the vanished threads had cached is no loss: child after child, each
 * the child of the last, with threads that cache and vanish. */
static void caches_come_back(int argc, char **argv) {
    (void)argc, (void)argv;
    size_t in_use = 0, resident = 0;
    for (int depth = 0; depth < 30; depth++) {
        alarm(CHILD_SECONDS);
        pthread_t threads[4];
        CHECK(!pthread_barrier_init(&together, NULL, 5));
        for (int i = 0; i < 4; i++)
            CHECK(!pthread_create(&threads[i], NULL, caches_and_waits, NULL));
        pthread_barrier_wait(&together);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child != 0) {
            reap(child);
            _exit(0);
        }
        /* By then the arenas are open that so many threads open. */
        if (depth == 14) {
            in_use = mallinfo2().uordblks;
            resident = status_kib("VmRSS:");
        }
    }
    if (on_system())
        return; /* glibc loses them */
    CHECK(mallinfo2().uordblks <= in_use + 64 * KIB);
    /* The caches of a generation hold two megabytes. Addresses may become more: of an arena that is
     * opened, or closed. */
    CHECK(status_kib("VmRSS:") <= resident + resident / 2 + KIB);
}

static const struct mode modes[] = {
    {"storm", storm},
    {"storm_stdio", storm_stdio},
    {"storm_thread_ends", storm_thread_ends},
    {"all_fork", all_fork},
    {"generations", generations},
    {"in_handler", in_handler},
    {"in_handler_threads", in_handler_threads},
    {"atfork_handlers", atfork_handlers},
    {"spawns", spawns},
    {"caches_come_back", caches_come_back},
    {NULL, NULL},
};

int main(int argc, char **argv) {
    alarm(PARENT_SECONDS);
    return run_mode(modes, argc, argv);
}
