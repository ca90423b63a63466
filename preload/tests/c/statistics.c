/* mallinfo, mallinfo2, mallopt, malloc_trim, malloc_stats, malloc_info. */
#include "check.h"

enum { COUNT = 20000 };
static void *blocks[COUNT];

/* Whether every byte of the heaps is either in use or free. */
static int adds_up(struct mallinfo2 info) {
    size_t sum = info.uordblks + info.fordblks;
    return info.arena >= sum && info.arena - sum <= (on_system() ? 4 * KIB : 0);
}

static void info_grows(int argc, char **argv) {
    (void)argc, (void)argv;
    struct mallinfo2 before = mallinfo2();
    for (int i = 0; i < COUNT; i++)
        memset(blocks[i] = malloc(256), 1, 256);
    struct mallinfo2 during = mallinfo2();
    size_t grown = during.uordblks - before.uordblks;
    CHECK(grown >= (size_t)COUNT * 256);
    CHECK(grown <= (size_t)COUNT * 256 * 5 / 4);
    CHECK(adds_up(before) && adds_up(during));

    void *large = malloc(32 * MIB);
    CHECK(large);
    struct mallinfo2 mapped = mallinfo2();
    CHECK(mapped.hblks == during.hblks + 1);
    CHECK(mapped.hblkhd >= during.hblkhd + 32 * MIB);
    CHECK(mapped.hblkhd <= during.hblkhd + 33 * MIB);
    free(large);

    struct mallinfo narrow = mallinfo();
    struct mallinfo2 wide = mallinfo2();
    CHECK((size_t)narrow.uordblks == wide.uordblks);
    CHECK((size_t)narrow.arena == wide.arena);
    /* What is free between blocks in use. */
    for (int i = 0; i < COUNT; i += 2)
        free(blocks[i]);
    struct mallinfo2 half = mallinfo2();
    CHECK(half.uordblks <= during.uordblks - COUNT / 2 * 256 + (on_system() ? MIB : 0));
    CHECK(adds_up(half));
    for (int i = 1; i < COUNT; i += 2)
        free(blocks[i]);
    struct mallinfo2 after = mallinfo2();
    CHECK(adds_up(after));
    /* What is left is cached at most; on glibc cached blocks are in use. */
    size_t slack = on_system() ? 4 * MIB : 4 * KIB;
    CHECK(after.uordblks <= before.uordblks + slack);
    CHECK(after.fordblks > before.fordblks || after.arena < during.arena);
}

/* A few blocks, so few that a thread's cache takes them all. */
static void info_cached(int argc, char **argv) {
    (void)argc, (void)argv;
    if (on_system())
        return;
    for (int i = 0; i < 5; i++)
        blocks[i] = malloc(1000);
    size_t during = mallinfo2().uordblks;
    for (int i = 0; i < 5; i++)
        free(blocks[i]);
    struct mallinfo2 after = mallinfo2();
    CHECK(during - after.uordblks >= 5000);
    CHECK(during - after.uordblks <= 5 * 1500);
}

static void *allocates(void *unused) {
    (void)unused;
    for (int i = 0; i < 1000; i++)
        free(malloc((size_t)i));
    for (int i = 0; i < 1000; i++)
        blocks[i] = malloc(500);
    return NULL;
}

/* Blocks of a thread that is gone are in use until somebody frees them. */
static void info_threads(int argc, char **argv) {
    (void)argc, (void)argv;
    free(malloc(1));
    size_t before = mallinfo2().uordblks;
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, allocates, NULL));
    CHECK(!pthread_join(thread, NULL));
    struct mallinfo2 info = mallinfo2();
    size_t during = info.uordblks;
    CHECK(during - before >= 500000 && during - before < 800000);
    CHECK(on_system() || adds_up(info));
    for (int i = 0; i < 1000; i++)
        free(blocks[i]);
    info = mallinfo2();
    CHECK(info.uordblks < before + 100000);
    CHECK(on_system() || adds_up(info));
}

static void options(int argc, char **argv) {
    (void)argc, (void)argv;
    CHECK(mallopt(M_MMAP_THRESHOLD, 256 * 1024) == 1);
    CHECK(mallopt(M_TOP_PAD, 64 * 1024) == 1);
    CHECK(mallopt(M_TRIM_THRESHOLD, 256 * 1024) == 1);
    CHECK(mallopt(M_ARENA_MAX, 2) == 1);
    free(malloc(300 * KIB));
    /* A threshold that the program sets stays: 200 KiB is no mapping now. */
    struct mallinfo2 before = mallinfo2();
    void *below = malloc(200 * KIB), *above = malloc(20 * MIB);
    CHECK(below && above);
    struct mallinfo2 after = mallinfo2();
    CHECK(after.hblks == before.hblks + 1);
    free(below);
    free(above);
    /* Freed patterns: M_PERTURB fills what malloc hands out with the
     * complement, and never what calloc hands out. */
    CHECK(mallopt(M_PERTURB, 0x5a) == 1);
    unsigned char *p = malloc(400);
    for (int i = 0; i < 400; i++)
        CHECK(p[i] == (0x5a ^ 0xff));
    free(p);
    p = calloc(1, 400);
    CHECK(all_zero(p, 400));
    /* What realloc adds is filled, wherever the block comes to lie. */
    for (size_t size = 400; size <= 40 * MIB; size *= 100) {
        memset(p, 7, 400);
        p = realloc(p, size);
        CHECK(p && p[0] == 7 && p[399] == 7);
        /* (glibc's fills nothing where it takes of the top.) */
        if (size > 400 && !on_system())
            CHECK(p[size / 2] == (0x5a ^ 0xff) && p[size - 1] == (0x5a ^ 0xff));
    }
    p = realloc(p, 100);
    CHECK(p && p[0] == 7 && p[99] == 7);
    free(p);
    CHECK(mallopt(M_PERTURB, 0) == 1);
}

static void trim(int argc, char **argv) {
    (void)argc, (void)argv;
    for (int i = 0; i < COUNT; i++)
        memset(blocks[i] = malloc(2000), 1, 2000);
    unsigned long full = status_kib("VmRSS:");
    /* All but the last: the top can not shrink by itself. */
    for (int i = 0; i < COUNT - 1; i++)
        free(blocks[i]);
    malloc_trim(0);
    unsigned long left = status_kib("VmRSS:");
    CHECK(full > 39000);
    CHECK(left < full / 4);
    CHECK(*(char *)blocks[COUNT - 1] == 1);
    free(blocks[COUNT - 1]);
    malloc_trim(0);
    /* Nothing was touched since: nothing is left to give back. */
    CHECK(malloc_trim(0) == 0);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < COUNT; i++)
            memset(blocks[i] = malloc(2000), 1, 2000);
        for (int i = 1; i < COUNT; i++)
            free(blocks[i]);
        unsigned long before = status_kib("VmRSS:");
        int gave = malloc_trim(0);
        unsigned long after = status_kib("VmRSS:");
        /* 1 if it released something. A background or threshold purge may
         * have been first, then nothing may be left for this call. */
        CHECK(gave == 0 || gave == 1);
        if (before > after + 1024)
            CHECK(gave == 1);
        if (gave == 0)
            CHECK(before < after + 1024);
        free(blocks[0]);
    }
    /* What is live survives a trim. */
    for (unsigned i = 0; i < 1000; i++) {
        blocks[i] = malloc(i * 3);
        fill(blocks[i], i * 3, i);
    }
    for (unsigned i = 0; i < 1000; i += 2)
        free(blocks[i]);
    malloc_trim(0);
    malloc_trim(64 * KIB);
    for (unsigned i = 1; i < 1000; i += 2) {
        CHECK(holds(blocks[i], i * 3, i));
        free(blocks[i]);
    }
}

static void stats(int argc, char **argv) {
    (void)argc, (void)argv;
    void *p = malloc(100000);
    malloc_stats();
    free(p);
}

static void info_xml(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, allocates, NULL));
    CHECK(!pthread_join(thread, NULL));
    void *p = malloc(MIB);
    errno = 0;
    int wrong = malloc_info(1, stdout);
    CHECK(wrong == EINVAL || (wrong == -1 && errno == EINVAL));
    size_t in_use = mallinfo2().uordblks;
    CHECK(malloc_info(0, stdout) == 0);
    fprintf(stderr, "in_use %zu\n", in_use);
    fflush(stdout);
    free(p);
}

/* A stream whose buffer is memory: its growth reallocates while it writes. */
static void info_memstream(int argc, char **argv) {
    (void)argc, (void)argv;
    for (int i = 0; i < 100; i++) {
        char *text = NULL;
        size_t length = 0;
        FILE *stream = open_memstream(&text, &length);
        CHECK(stream);
        CHECK(malloc_info(0, stream) == 0);
        CHECK(fclose(stream) == 0);
        CHECK(length > 50 && !strncmp(text, "<malloc version=\"1\">", 20));
        CHECK(!strcmp(text + length - 10, "</malloc>\n"));
        free(text);
    }
}

static void *asks_and_exits(void *stream) {
    CHECK(malloc_info(0, stream) == 0);
    malloc_stats();
    mallinfo2();
    malloc_trim(0);
    say("done", 1);
    /* The report is written by this thread. */
    exit(0);
}

/* A thread with the smallest stack that there is. */
static void small_stack(int argc, char **argv) {
    (void)argc, (void)argv;
    FILE *stream = fopen("/dev/null", "w");
    CHECK(stream && fputs("", stream) >= 0);
    pthread_t thread;
    pthread_attr_t small;
    CHECK(!pthread_attr_init(&small));
    CHECK(!pthread_attr_setstacksize(&small, (size_t)sysconf(_SC_THREAD_STACK_MIN)));
    CHECK(!pthread_create(&thread, &small, asks_and_exits, stream));
    pthread_join(thread, NULL);
}

static const struct mode modes[] = {
    {"small_stack", small_stack},
    {"info_grows", info_grows},     {"info_cached", info_cached},
    {"info_threads", info_threads}, {"options", options},
    {"trim", trim},                 {"stats", stats},
    {"info_xml", info_xml},         {"info_memstream", info_memstream},
    {NULL, NULL},
};

int main(int argc, char **argv) { return run_mode(modes, argc, argv); }
