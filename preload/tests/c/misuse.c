/* One misuse of the allocator per mode. Each says beforehand on stdout which
 * address in which thread it is about to misuse; nothing may be said after. */
#include "check.h"

static size_t size = 100;
static size_t offset;

/* The last words before a misuse that must end the process. */
static void about_to(void *address) {
    say("address", (unsigned long)address);
    say("thread", (unsigned long)syscall(SYS_gettid));
}

/* Reached only if the allocator accepted the misuse. */
static void survived(void) {
    say("survived", 1);
    _exit(0);
}

static void bad_free(void *address) {
    about_to(address);
    free(HIDE(address));
    survived();
}

static void *in_thread(void *(*body)(void *), void *argument) {
    pthread_t thread;
    void *result;
    CHECK(!pthread_create(&thread, NULL, body, argument));
    CHECK(!pthread_join(thread, &result));
    return result;
}

static void *frees(void *block) {
    free(block);
    return NULL;
}

static void *frees_badly(void *block) {
    bad_free(block);
    return NULL;
}

static void *allocates(void *unused) {
    (void)unused;
    void *p = malloc(size);
    memset(p, 1, size);
    return p;
}

/* ---- double frees ---- */

static void at_once(int argc, char **argv) {
    (void)argc, (void)argv;
    void *p = allocates(NULL);
    free(p);
    bad_free(p);
}

static void with_another_between(int argc, char **argv) {
    (void)argc, (void)argv;
    void *p = allocates(NULL), *q = allocates(NULL);
    free(p);
    free(q);
    bad_free(p);
}

static void after_many_others(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { COUNT = 5000 };
    static void *many[COUNT];
    for (int i = 0; i < COUNT; i++)
        many[i] = allocates(NULL);
    for (int i = 0; i < COUNT; i++)
        free(many[i]);
    bad_free(many[offset]);
}

/* The memory around the block is in use, so nothing of it went back. */
static void among_live(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { COUNT = 3000 };
    static void *many[COUNT];
    for (int i = 0; i < COUNT; i++)
        many[i] = allocates(NULL);
    for (int i = 0; i < COUNT; i += 2)
        free(many[i]);
    bad_free(many[COUNT / 2]);
}

/* The blocks lie in full magazines, of 16 KiB each: in the bin and beside it, in
 * four slots of the depot, and what is between them with the arena. Magazines are full
 * when the thread has turned from frees to allocations some times. */
static void in_a_magazine(int argc, char **argv) {
    (void)argc, (void)argv;
    static void *many[10 * 16384 / 48];
    size_t magazine = 16384 / size;
    for (int round = 0; round < 4; round++) {
        for (size_t i = 0; i < 8 * magazine + magazine / 2; i++)
            many[i] = allocates(NULL);
        for (size_t i = 0; i < 8 * magazine + magazine / 2; i++)
            free(many[i]);
    }
    bad_free(many[5 * magazine]);
}

/* The block's slab is closed: most of its class was free for the decay time. So
 * the block went home instead of into the bin, which gives another one. */
static void of_a_closed_slab(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { COUNT = 48 << 20, KEPT = 10 };
    static void *many[COUNT / 48];
    for (size_t i = 0; i < COUNT / size; i++)
        many[i] = allocates(NULL);
    for (size_t i = 0; i < COUNT / size; i++)
        if (i % KEPT)
            free(many[i]);
    for (size_t i = 0; i < COUNT / size; i += KEPT) {
        /* Slow paths, which look at the purge clock. */
        static void *others[3000];
        for (int k = 0; k < 3000; k++)
            CHECK(others[k] = malloc(20));
        for (int k = 0; k < 3000; k++)
            free(others[k]);
        usleep(1000);
        free(many[i]);
        if (allocates(NULL) != many[i])
            bad_free(many[i]);
    }
    CHECK(!"a slab that is closed");
}

/* The thread keeps a large block for the next one as large, and the process a huge one. */
static void of_a_kept_block(int argc, char **argv) {
    (void)argc, (void)argv;
    void *block = NULL;
    for (int i = 0; i < 3; i++) {
        block = allocates(NULL);
        free(block);
    }
    bad_free(block);
}

/* The other thread is there before the block is: what starting it allocates
 * could get the freed block, whose second free would then be a good one. */
static pthread_barrier_t both;
static void *passed;

static void *frees_what_is_passed(void *unused) {
    (void)unused;
    free(HIDE(malloc(size)));
    pthread_barrier_wait(&both);
    pthread_barrier_wait(&both);
    return frees_badly(passed);
}

static void from_another_thread(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_t thread;
    pthread_barrier_init(&both, NULL, 2);
    CHECK(!pthread_create(&thread, NULL, frees_what_is_passed, NULL));
    pthread_barrier_wait(&both);
    passed = allocates(NULL);
    free(passed);
    pthread_barrier_wait(&both);
    pthread_join(thread, NULL);
}

static void of_a_gone_threads_block(int argc, char **argv) {
    (void)argc, (void)argv;
    void *p = in_thread(allocates, NULL);
    free(p);
    bad_free(p);
}

static void first_by_a_gone_thread(int argc, char **argv) {
    (void)argc, (void)argv;
    void *p = allocates(NULL);
    in_thread(frees, p);
    bad_free(p);
}

/* Threads that fight for one lock end up on arenas of their own; then each
 * frees what another one allocated, and one of the blocks twice. */
enum { FIGHTERS = 8, EACH = 400 };
static void *fought[FIGHTERS][EACH];
static pthread_barrier_t together;

static void *fighter(void *number) {
    size_t me = (size_t)number;
    unsigned random = (unsigned)me + 1;
    static __thread void *live[64];
    for (int i = 0; i < 60000; i++) {
        unsigned k = next_random(&random) % 64;
        free(live[k]);
        live[k] = malloc(next_random(&random) % 20000);
    }
    for (int k = 0; k < 64; k++)
        free(live[k]);
    for (int i = 0; i < EACH; i++)
        fought[me][i] = allocates(NULL);
    pthread_barrier_wait(&together);
    for (int i = 0; i < EACH; i++)
        free(fought[(me + 1) % FIGHTERS][i]);
    pthread_barrier_wait(&together);
    /* Owner, the thread that freed it, or a third one frees it again. */
    if (me == offset % FIGHTERS)
        bad_free(fought[1][EACH / 2]);
    pthread_barrier_wait(&together);
    return NULL;
}

static void after_a_remote_free(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_t threads[FIGHTERS];
    CHECK(!pthread_barrier_init(&together, NULL, FIGHTERS));
    for (size_t i = 0; i < FIGHTERS; i++)
        CHECK(!pthread_create(&threads[i], NULL, fighter, (void *)i));
    for (int i = 0; i < FIGHTERS; i++)
        pthread_join(threads[i], NULL);
}

/* ---- frees of what is no block ---- */

static void of_stack(int argc, char **argv) {
    (void)argc, (void)argv;
    _Alignas(64) char local[128];
    free(malloc(10));
    bad_free(local + offset);
}

static void of_static(int argc, char **argv) {
    (void)argc, (void)argv;
    _Alignas(64) static char data[128] = "initialised";
    bad_free(data + offset);
}

static void of_code(int argc, char **argv) {
    (void)argc, (void)argv;
    bad_free((void *)((uintptr_t)of_code & ~(uintptr_t)15));
}

/* Interior pointers: of a fresh block, and of one with neighbours. */
static void interior(int argc, char **argv) {
    (void)argc, (void)argv;
    char *p = malloc(size);
    bad_free(p + offset);
}

static void interior_of_many(int argc, char **argv) {
    (void)argc, (void)argv;
    char *blocks[40];
    for (int i = 0; i < 40; i++)
        blocks[i] = malloc(size);
    for (int i = 0; i < 10; i++)
        free(blocks[i]);
    bad_free(blocks[20] + offset);
}

/* Far behind a block, still in the same heap, where nothing was given out. */
static void never_allocated(int argc, char **argv) {
    (void)argc, (void)argv;
    char *p = malloc(size);
    bad_free(p + offset);
}

static void of_number(int argc, char **argv) {
    CHECK(argc > 2);
    free(malloc(10));
    bad_free((void *)strtoul(argv[2], NULL, 0));
}

static void *foreign_page(void) {
    free(malloc(10));
    char *page = mmap(NULL, 64 * KIB, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    return page;
}

static void of_foreign_mapping(int argc, char **argv) {
    (void)argc, (void)argv;
    bad_free((char *)foreign_page() + offset);
}

/* Not even readable: the check must not touch it. */
static void of_closed_mapping(int argc, char **argv) {
    (void)argc, (void)argv;
    char *page = foreign_page();
    CHECK(!mprotect(page, 64 * KIB, PROT_NONE));
    bad_free(page + offset);
}

static void of_foreign_break(int argc, char **argv) {
    (void)argc, (void)argv;
    free(malloc(10));
    char *ours = sbrk(1024 * KIB);
    CHECK(ours != (void *)-1);
    free(malloc(300 * KIB));
    bad_free((char *)(((uintptr_t)ours + 512 * KIB) & ~(uintptr_t)15));
}

/* ---- other functions ---- */

static void realloc_freed(int argc, char **argv) {
    (void)argc, (void)argv;
    void *p = allocates(NULL);
    free(p);
    about_to(p);
    p = realloc(HIDE(p), size * 3);
    survived();
}

static void realloc_to_zero_of_freed(int argc, char **argv) {
    (void)argc, (void)argv;
    void *p = allocates(NULL);
    free(p);
    about_to(p);
    p = realloc(HIDE(p), HIDE((size_t)0));
    survived();
}

static void realloc_interior(int argc, char **argv) {
    (void)argc, (void)argv;
    char *p = allocates(NULL);
    about_to(p + offset);
    p = realloc(HIDE(p + offset), size * 3);
    survived();
}

static void realloc_stack(int argc, char **argv) {
    (void)argc, (void)argv;
    _Alignas(64) char local[128];
    about_to(local);
    char *p = realloc(HIDE(&local[0]), size);
    (void)p;
    survived();
}

static void realloc_number(int argc, char **argv) {
    CHECK(argc > 2);
    void *p = (void *)strtoul(argv[2], NULL, 0);
    about_to(p);
    p = realloc(HIDE(p), 100);
    survived();
}

static void usable_stack(int argc, char **argv) {
    (void)argc, (void)argv;
    _Alignas(64) char local[128];
    about_to(local);
    CHECK(malloc_usable_size(HIDE(&local[0])) != 1);
    survived();
}

/* ---- nothing of this is misuse ---- */

static void *busy(void *number) {
    enum { LIVE = 200 };
    void *live[LIVE] = {0};
    unsigned random = (unsigned)(size_t)number + 1;
    for (int i = 0; i < 50000; i++) {
        unsigned k = next_random(&random) % LIVE;
        size_t n = next_random(&random) % (i % 50 ? 2000 : 200000);
        switch (i % 4) {
        case 0: free(live[k]); live[k] = calloc(1, n); break;
        case 1: live[k] = realloc(live[k], n + 1); break;
        case 2: free(live[k]); live[k] = memalign(64, n); break;
        default: free(live[k]); live[k] = malloc(n); break;
        }
        /* Looks like any list a free block might hold. */
        if (live[k] && malloc_usable_size(live[k]) >= 32)
            memcpy(live[k], live, 32);
    }
    for (int k = 0; k < LIVE; k++)
        free(live[k]);
    return NULL;
}

static void valid(int argc, char **argv) {
    (void)argc, (void)argv;
    free(NULL);
    CHECK(malloc_usable_size(NULL) == 0);
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++)
        CHECK(!pthread_create(&threads[i], NULL, busy, (void *)i));
    for (int i = 0; i < 4; i++)
        CHECK(!pthread_join(threads[i], NULL));
}

/* What a fresh block holds by chance is copied into others and back into the
 * same one: no mark that a free left there may make a live block look free. */
static void valid_stale_bytes(int argc, char **argv) {
    (void)argc, (void)argv;
    static unsigned char stale[2048];
    for (size_t n = 1; n <= sizeof stale; n += 13) {
        for (int i = 0; i < 20; i++) {
            unsigned char *p = malloc(n), *q = malloc(n);
            CHECK(p && q);
            memcpy(stale, HIDE(p), n);
            memcpy(q, stale, n);
            free(p);
            p = malloc(n);
            memcpy(p, stale, n);
            free(q);
            q = malloc(n);
            memcpy(q, HIDE(p), n);
            free(p);
            free(q);
        }
    }
}

/* The same with what freed small blocks left in memory that then became part
 * of a larger block. */
static void valid_stale_marks(int argc, char **argv) {
    (void)argc, (void)argv;
    static void *small[20000];
    for (size_t n = 16; n <= 1024; n *= 2) {
        size_t count = sizeof small / sizeof *small / (n / 16);
        for (size_t i = 0; i < count; i++)
            CHECK(small[i] = malloc(n));
        for (size_t i = 0; i < count; i++)
            free(small[i]);
        for (size_t large = 96 * KIB; large > 1000; large = large * 2 / 3) {
            char *p = malloc(large);
            CHECK(p);
            for (size_t at = 0; at + 16 <= large; at += 8) {
                char *q = malloc(16), *r = malloc(40);
                memcpy(q, HIDE(p + at), 16);
                memcpy(r, HIDE(p + at), 16);
                free(q);
                free(r);
            }
            free(p);
        }
    }
}

/* A live block that looks as a free one does: a program may copy bytes that it
 * never wrote, such as the padding of a struct on its stack, where a call of
 * the allocator left what it likes (seen in rustc). */
static void *frees_looking_free(void *blocks) {
    for (void **p = blocks; *p; p++)
        free(*p);
    return NULL;
}

static void valid_looking_free(int argc, char **argv) {
    (void)argc, (void)argv;
    for (size_t n = 16; n <= 20000; n += n / 3) {
        /* Several rounds: blocks of bins, of slabs, of the depot. */
        for (int round = 0; round < 6; round++) {
            static void *p[1001];
            void *first = malloc(n);
            uintptr_t words[2];
            free(first);
            memcpy(words, HIDE(first), sizeof words);
            for (int i = 0; i < 1000; i++) {
                CHECK(p[i] = malloc(n));
                memcpy(p[i], words, sizeof words);
            }
            CHECK(malloc_usable_size(p[7]) >= n);
            CHECK(p[8] = realloc(p[8], n + 1));
            memcpy(p[8], words, sizeof words);
            if (round % 2) {
                frees_looking_free(p);
            } else {
                pthread_t thread;
                CHECK(!pthread_create(&thread, NULL, frees_looking_free, p));
                CHECK(!pthread_join(thread, NULL));
            }
        }
    }
    /* Nothing was given out twice for it. */
    static unsigned char *q[4000];
    for (int i = 0; i < 4000; i++) {
        CHECK(q[i] = malloc(64));
        memset(q[i], i & 0xff, 64);
    }
    for (int i = 0; i < 4000; i++)
        for (int k = 0; k < 64; k++)
            CHECK(q[i][k] == (i & 0xff));
}

static const struct mode modes[] = {
    {"at_once", at_once},
    {"with_another_between", with_another_between},
    {"after_many_others", after_many_others},
    {"among_live", among_live},
    {"in_a_magazine", in_a_magazine},
    {"of_a_closed_slab", of_a_closed_slab},
    {"of_a_kept_block", of_a_kept_block},
    {"from_another_thread", from_another_thread},
    {"of_a_gone_threads_block", of_a_gone_threads_block},
    {"first_by_a_gone_thread", first_by_a_gone_thread},
    {"after_a_remote_free", after_a_remote_free},
    {"of_stack", of_stack},
    {"of_static", of_static},
    {"of_code", of_code},
    {"interior", interior},
    {"interior_of_many", interior_of_many},
    {"never_allocated", never_allocated},
    {"of_number", of_number},
    {"of_foreign_mapping", of_foreign_mapping},
    {"of_closed_mapping", of_closed_mapping},
    {"of_foreign_break", of_foreign_break},
    {"realloc_freed", realloc_freed},
    {"realloc_to_zero_of_freed", realloc_to_zero_of_freed},
    {"realloc_interior", realloc_interior},
    {"realloc_stack", realloc_stack},
    {"realloc_number", realloc_number},
    {"usable_stack", usable_stack},
    {"valid", valid},
    {"valid_stale_bytes", valid_stale_bytes},
    {"valid_stale_marks", valid_stale_marks},
    {"valid_looking_free", valid_looking_free},
    {NULL, NULL},
};

int main(int argc, char **argv) {
    if (argc > 2)
        size = strtoul(argv[2], NULL, 0);
    if (argc > 3)
        offset = strtoul(argv[3], NULL, 0);
    return run_mode(modes, argc, argv);
}
