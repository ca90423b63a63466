/* Memory that was freed goes back to the kernel while the program does nothing, and what stays in
 * use stays intact. Waits for what must come; how long that takes is not tested. */
#include "helper.h"
#include <stdatomic.h>

#define THREADS 4
#define PER_THREAD (16 * MIB)
#define KEEP 1000

struct block {
    unsigned char *start;
    size_t size;
};

static struct block survivors[THREADS][8192];
static size_t survivor_count[THREADS];
static atomic_int finished, leave;

/* Each block's pattern is that of its address. */
static unsigned seed_of(struct block b) { return (unsigned)((uintptr_t)b.start >> 4); }
static void check(struct block b) { CHECK(holds(b.start, b.size, seed_of(b))); }

/* Allocates small blocks of mixed sizes and frees all but one in a thousand, in no order. */
static void burst(size_t thread) {
    unsigned state = (unsigned)thread + 1;
    size_t most = PER_THREAD / 64, count = 0, bytes = 0;
    struct block *blocks = mmap(NULL, most * sizeof *blocks, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(blocks != MAP_FAILED);
    while (bytes < PER_THREAD && count < most) {
        size_t size = 16 + next_random(&state) % (next_random(&state) % 64 ? 1000 : 12000);
        blocks[count] = (struct block){malloc(size), size};
        CHECK(blocks[count].start);
        fill(blocks[count].start, size, seed_of(blocks[count]));
        bytes += size;
        count++;
    }
    for (size_t i = count - 1; i > 0; i--) {
        size_t j = next_random(&state) % (i + 1);
        struct block b = blocks[i];
        blocks[i] = blocks[j];
        blocks[j] = b;
    }
    survivor_count[thread] = 0;
    for (size_t i = 0; i < count; i++) {
        check(blocks[i]);
        if (i % KEEP == 0)
            survivors[thread][survivor_count[thread]++] = blocks[i];
        else
            free(blocks[i].start);
    }
    munmap(blocks, most * sizeof *blocks);
}

static void *burst_and_sleep(void *thread) {
    burst((size_t)thread);
    atomic_fetch_add(&finished, 1);
    while (!atomic_load(&leave))
        usleep(1000);
    return NULL;
}

static void start_all(pthread_t *threads) {
    atomic_store(&finished, 0);
    atomic_store(&leave, 0);
    for (size_t i = 0; i < THREADS; i++)
        CHECK(!pthread_create(&threads[i], NULL, burst_and_sleep, (void *)i));
    while (atomic_load(&finished) < THREADS)
        usleep(1000);
}

static void end_all(pthread_t *threads) {
    atomic_store(&leave, 1);
    for (size_t i = 0; i < THREADS; i++)
        CHECK(!pthread_join(threads[i], NULL));
}

static void check_survivors(void) {
    for (size_t t = 0; t < THREADS; t++)
        for (size_t i = 0; i < survivor_count[t]; i++)
            check(survivors[t][i]);
}

/* How many files a thread has open. */
static int open_files(int thread) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/fd", thread);
    DIR *files = opendir(path);
    CHECK(files);
    int count = 0;
    for (struct dirent *file; (file = readdir(files));)
        count += file->d_name[0] != '.';
    closedir(files);
    return count;
}

/* Waits until the burst's memory is gone but what its survivors may pin. */
static void wait_until_drained(size_t before) {
    WAIT_UNTIL(status_kib("VmRSS:") <= before + 20 * KIB, 3000, 10000)
}

static void drains(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_t threads[THREADS];
    size_t before = status_kib("VmRSS:");
    start_all(threads);
    wait_until_drained(before);
    check_survivors();
    /* What lies in the same slabs is given out again, and meets no survivor. */
    end_all(threads);
    static struct block kept[THREADS][8192];
    size_t counts[THREADS];
    memcpy(kept, survivors, sizeof kept);
    memcpy(counts, survivor_count, sizeof counts);
    start_all(threads);
    for (size_t t = 0; t < THREADS; t++)
        for (size_t i = 0; i < counts[t]; i++) {
            check(kept[t][i]);
            free(kept[t][i].start);
        }
    check_survivors();
    end_all(threads);
    say("done", 1);
}

static void helper_comes_and_goes(int argc, char **argv) {
    (void)argc, (void)argv;
    CHECK(!helper());
    pthread_t threads[THREADS];
    start_all(threads);
    int id;
    WAIT_UNTIL((id = helper()), 3000, 1000)
    /* It blocks every signal that can be blocked. */
    char path[64], text[4096] = "";
    snprintf(path, sizeof path, "/proc/self/task/%d/status", id);
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
    close(fd);
    char *blocked = strstr(text, "SigBlk:");
    CHECK(blocked);
    unsigned long long mask = strtoull(blocked + 7, NULL, 16);
    /* But those that only its own instructions raise. */
    unsigned long long others = 0;
    const int unblocked[] = {SIGKILL, SIGSTOP, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
    for (size_t i = 0; i < sizeof unblocked / sizeof *unblocked; i++)
        others |= 1ull << (unblocked[i] - 1);
    CHECK(((mask | others) & 0x7fffffff) == 0x7fffffff);
    /* It keeps no file open, and what it opens is not the program's. */
    WAIT_UNTIL(!open_files(id), 3000, 1000)
    /* It is there as long as there are other threads, and then no more. */
    usleep(3000000);
    CHECK(helper() == id);
    end_all(threads);
    WAIT_UNTIL(!helper(), 6000, 10000)
    check_survivors();
    /* It comes again. */
    start_all(threads);
    WAIT_UNTIL(helper(), 3000, 1000)
    end_all(threads);
    say("done", 1);
}

static void in_a_child(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_t threads[THREADS];
    size_t before = status_kib("VmRSS:");
    start_all(threads);
    wait_until_drained(before);
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) {
        alarm(100);
        CHECK(!helper());
        check_survivors();
        before = status_kib("VmRSS:");
        start_all(threads);
        wait_until_drained(before);
        check_survivors();
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && !WEXITSTATUS(status));
    end_all(threads);
    say("done", 1);
}

static pthread_barrier_t all_there;

static void *takes_some(void *nothing) {
    void *blocks[5];
    for (size_t i = 0; i < 5; i++) {
        CHECK(blocks[i] = malloc(24 + 16 * i));
        memset(blocks[i], 1, 24 + 16 * i);
    }
    free(blocks[0]);
    free(blocks[2]);
    free(blocks[4]);
    pthread_barrier_wait(&all_there);
    usleep(1000);
    free(blocks[1]);
    free(blocks[3]);
    return nothing;
}

/* glibc frees what belongs to stacks of ended threads under a lock that
 * pthread_create takes as well: no free may start a thread. */
static void many_joins(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { MANY = 2000 };
    static pthread_t threads[MANY];
    pthread_attr_t small;
    CHECK(!pthread_attr_init(&small) && !pthread_attr_setstacksize(&small, 32 * KIB));
    CHECK(!pthread_barrier_init(&all_there, NULL, MANY));
    for (size_t i = 0; i < MANY; i++)
        CHECK(!pthread_create(&threads[i], &small, takes_some, NULL));
    for (size_t i = 0; i < MANY; i++)
        CHECK(!pthread_join(threads[i], NULL));
    say("done", 1);
}

static void at_exit(void) {
    /* More than the helper's stack. */
    char much[300000];
    memset(HIDE(much), 1, sizeof much);
    char name[32] = "";
    int fd = open("/proc/thread-self/comm", O_RDONLY);
    CHECK(fd >= 0 && read(fd, name, sizeof name - 1) > 0);
    CHECK(strcmp(name, "arenite-purge\n"));
    say("done", 1);
}

static void *is_the_last(void *thread) {
    burst((size_t)thread);
    pthread_barrier_wait(&all_there);
    return NULL;
}

/* The process ends with the last thread that the program made, which runs the
 * handlers of atexit. */
static void last_thread(int argc, char **argv) {
    (void)argc, (void)argv;
    CHECK(!atexit(at_exit));
    CHECK(!pthread_barrier_init(&all_there, NULL, 2));
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, is_the_last, (void *)1));
    CHECK(!pthread_detach(thread));
    free(malloc(100));
    WAIT_UNTIL(helper() || on_system(), 3000, 1000)
    pthread_barrier_wait(&all_there);
    pthread_exit(NULL);
}

/* Without the helper, threads that go on give memory back on their way. */
static void without_helper(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_t threads[THREADS];
    size_t before = status_kib("VmRSS:");
    start_all(threads);
    for (int tries = 0; status_kib("VmRSS:") > before + 20 * KIB; tries++) {
        CHECK(tries < 3000);
        CHECK(!helper());
        /* More than a cache holds, so that the arena is asked. */
        void *blocks[1000];
        for (int i = 0; i < 1000; i++)
            CHECK((blocks[i] = malloc(300)));
        for (int i = 0; i < 1000; i++)
            free(blocks[i]);
        usleep(10000);
    }
    check_survivors();
    end_all(threads);
    say("done", 1);
}

/* Allocates so many bytes of small blocks, and frees all but the last one, or all. */
static void rise_and_fall(size_t bytes, int keep_last) {
    void **first = NULL;
    for (size_t i = 0; i < bytes / 1000; i++) {
        void **block = malloc(1000);
        CHECK(block);
        *block = first;
        first = block;
    }
    if (keep_last)
        first = *first;
    while (first) {
        void **next = *first;
        free(first);
        first = next;
    }
}

/* What describes free memory goes back with it: 2 MiB for 512 here. */
static void trims_descriptors(int argc, char **argv) {
    (void)argc, (void)argv;
    rise_and_fall(MIB, 0);
    for (int keep_last = 0; keep_last < 2; keep_last++) {
        size_t before = status_kib("VmRSS:");
        rise_and_fall(512 * (size_t)MIB, keep_last);
        CHECK(malloc_trim(0) == 1);
        size_t after = status_kib("VmRSS:");
        say("kept", after > before ? after - before : 0);
        CHECK(after <= before + KIB);
        /* And is there again when the memory is used anew. */
        rise_and_fall(64 * (size_t)MIB, 0);
    }
    say("done", 1);
}

/* Every second of many blocks is freed, of which the program has locked the last `locked`. */
static void trims_around(int locked) {
    enum { COUNT = 2000 };
    static char *blocks[COUNT];
    for (int i = 0; i < COUNT; i++) {
        CHECK((blocks[i] = malloc(64 * KIB)));
        memset(blocks[i], i, 64 * KIB);
    }
    for (int i = COUNT - 2 * locked; i < COUNT; i += 2)
        CHECK(!mlock(blocks[i], 64 * KIB));
    for (int i = 0; i < COUNT; i += 2)
        free(blocks[i]);
    size_t before = status_kib("VmRSS:");
    CHECK(malloc_trim(0) == 1);
    CHECK(status_kib("VmRSS:") + 50 * KIB < before);
    for (int i = 1; i < COUNT; i += 2)
        for (size_t at = 0; at < 64 * KIB; at += 997)
            CHECK(blocks[i][at] == (char)i);
    CHECK(malloc_trim(0) == 0);
    say("done", 1);
}

static void trims(int argc, char **argv) {
    (void)argc, (void)argv;
    trims_around(0);
}

/* Few of many trims empty all caches, for a page each; one for which much is free does so at once. */
static void trims_all_the_time(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { TRIMS = 20000, BLOCKS = 16 * KIB };
    static char *blocks[BLOCKS];
    size_t gave = 0;
    for (int i = 0; i < TRIMS; i++) {
        char *block = malloc(8 * KIB);
        CHECK(block);
        memset(block, i, 8 * KIB);
        free(block);
        gave += malloc_trim(0);
    }
    say("gave", gave);
    CHECK(gave < TRIMS / 2);
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < BLOCKS; i++) {
            CHECK((blocks[i] = malloc(64)));
            memset(blocks[i], i, 64);
        }
        for (int i = 0; i < BLOCKS; i++)
            free(blocks[i]);
        CHECK(malloc_trim(0) == 1);
    }
    say("done", 1);
}

/* The kernel keeps what is locked. */
static void trims_around_locked(int argc, char **argv) {
    (void)argc, (void)argv;
    trims_around(3);
}

static pthread_barrier_t turn;
static void *others[100000];

static void *allocates(void *unused) {
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        CHECK((others[i] = malloc(600)));
        memset(others[i], 1, 600);
    }
    pthread_barrier_wait(&turn);
    pthread_barrier_wait(&turn);
    return unused;
}

/* All blocks are freed by a thread of another arena, while the helper sleeps. */
static void frees_of_others(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_t thread;
    CHECK(!pthread_barrier_init(&turn, NULL, 2));
    CHECK(!pthread_create(&thread, NULL, allocates, NULL));
    pthread_barrier_wait(&turn);
    usleep(600000);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        free(others[i]);
    while (status_kib("VmRSS:") > 20 * KIB)
        usleep(10000);
    pthread_barrier_wait(&turn);
    CHECK(!pthread_join(thread, NULL));
    say("done", 1);
}

/* After that thread the process has one again, and the helper still for a while. */
static void child_without_handlers(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_t thread;
    CHECK(!pthread_barrier_init(&turn, NULL, 2));
    CHECK(!pthread_create(&thread, NULL, allocates, NULL));
    pthread_barrier_wait(&turn);
    WAIT_UNTIL(helper(), 1000, 10000)
    pthread_barrier_wait(&turn);
    CHECK(!pthread_join(thread, NULL));
    /* As _Fork(3): no handler of pthread_atfork runs. */
    long child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    CHECK(child >= 0);
    if (!child) {
        alarm(30);
        free(malloc(100));
        pthread_exit(NULL);
    }
    int status;
    CHECK(waitpid((pid_t)child, &status, 0) == child && status == 0);
    say("done", 1);
}

/* The child of vfork(2) shares the memory of its parent, which has the helper. */
static void child_with_shared_memory(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_t threads[THREADS];
    start_all(threads);
    int id;
    WAIT_UNTIL((id = helper()), 3000, 1000)
    pid_t child = vfork();
    CHECK(child >= 0);
    if (!child) {
        burst(0);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    burst(0);
    CHECK(helper() == id);
    end_all(threads);
    say("done", 1);
}

/* A block in a page that was given back is freed again. */
static void double_free(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { COUNT = 20000 };
    static char *blocks[COUNT];
    for (int i = 0; i < COUNT; i++)
        CHECK((blocks[i] = malloc(100)));
    for (int i = 0; i < COUNT; i++)
        if (i % 1000)
            free(blocks[i]);
    CHECK(malloc_trim(0) == 1);
    free(blocks[COUNT / 2 + 1]);
    say("survived", 1);
}

static const struct mode modes[] = {
    {"drains", drains},
    {"helper_comes_and_goes", helper_comes_and_goes},
    {"in_a_child", in_a_child},
    {"many_joins", many_joins},
    {"last_thread", last_thread},
    {"without_helper", without_helper},
    {"frees_of_others", frees_of_others},
    {"child_without_handlers", child_without_handlers},
    {"child_with_shared_memory", child_with_shared_memory},
    {"trims", trims},
    {"trims_all_the_time", trims_all_the_time},
    {"trims_around_locked", trims_around_locked},
    {"trims_descriptors", trims_descriptors},
    {"double_free", double_free},
    {NULL, NULL},
};

int main(int argc, char **argv) { return run_mode(modes, argc, argv); }
