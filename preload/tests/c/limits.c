/* Programs that run under limits which the test sets, or without preload. */
#include "check.h"
#include <sys/resource.h>
#include <dlfcn.h>
#include <stdatomic.h>

/* ---- at the limit ---- */

struct link {
    struct link *next;
    size_t size;
};

/* Allocates until there is no more; returns how many bytes it can use. */
static size_t fill_up(struct link **list, size_t size, int touch) {
    size_t got = 0;
    for (;;) {
        errno = 0;
        struct link *p = malloc(size);
        if (!p) {
            CHECK(errno == ENOMEM);
            return got;
        }
        if (touch)
            memset(p, 1, size);
        p->next = *list;
        p->size = size;
        *list = p;
        got += malloc_usable_size(p);
        CHECK(got < (size_t)8 << 30);
    }
}

static void release(struct link **list) {
    while (*list) {
        struct link *p = *list;
        *list = p->next;
        free(p);
    }
}

static void refuses_all_kinds(void) {
    void *out = NULL;
    errno = 0;
    CHECK(!calloc(1, 300 * MIB) && errno == ENOMEM);
    errno = 0;
    CHECK(!realloc(NULL, 300 * MIB) && errno == ENOMEM);
    errno = 0;
    CHECK(!aligned_alloc(4096, 300 * MIB) && errno == ENOMEM);
    CHECK(posix_memalign(&out, 64, 300 * MIB) == ENOMEM && !out);
    char *kept = malloc(5000);
    if (kept) {
        fill(kept, 5000, 1);
        errno = 0;
        CHECK(!realloc(kept, 300 * MIB) && errno == ENOMEM);
        CHECK(holds(kept, 5000, 1));
        free(kept);
    }
}

/* Goes to the limit in one size after another. At least `argv[2]` MiB must be
 * had each time, also after all the others were there before. */
static void until_null(int argc, char **argv) {
    CHECK(argc > 2);
    size_t least = strtoul(argv[2], NULL, 10) * MIB;
    static const size_t sizes[] = {100, 1000, 5000, 40 * KIB, 100 * KIB, MIB, 24};
    struct link *list = NULL;
    for (int round = 0; round < 2; round++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            void *shrinks = malloc(20000);
            size_t got = fill_up(&list, sizes[i], 0);
            if (got < least) {
                say("size", sizes[i]);
                say("got", got);
                CHECK(!"enough before the limit");
            }
            refuses_all_kinds();
            /* For less there need not be a new one. */
            errno = 0;
            CHECK((shrinks = realloc(shrinks, 5000)) && !errno);
            free(shrinks);
            /* One back is one more to have. */
            struct link *last = list;
            list = last->next;
            free(last);
            last = malloc(sizes[i]);
            CHECK(last);
            free(last);
            release(&list);
            malloc_trim(0);
        }
    say("done", 1);
}

static atomic_int out_of_memory;
static pthread_barrier_t all_started;

static void *fights_for_memory(void *number) {
    enum { LIVE = 400 };
    static __thread struct { void *at; size_t size; } live[LIVE];
    unsigned random = (unsigned)(size_t)number + 1;
    /* Those that begin take all memory, and the next one gets no stack. */
    pthread_barrier_wait(&all_started);
    for (unsigned i = 0; i < 20000; i++) {
        unsigned k = next_random(&random) % LIVE;
        CHECK(!live[k].at || holds(live[k].at, live[k].size, k));
        size_t size = next_random(&random) % ((size_t)64 << random % 15) + 1;
        void *p;
        if (random % 3) {
            free(live[k].at);
            live[k].at = NULL;
            p = malloc(size);
        } else if (!(p = realloc(live[k].at, size))) {
            CHECK(!live[k].at || holds(live[k].at, live[k].size, k));
            free(live[k].at);
            live[k].at = NULL;
        }
        if (!p) {
            atomic_fetch_add(&out_of_memory, 1);
            continue;
        }
        live[k].at = p;
        live[k].size = size < 3000 ? size : 3000;
        fill(p, live[k].size, k);
    }
    for (int k = 0; k < LIVE; k++)
        free(live[k].at);
    return NULL;
}

/* Threads in which allocations fail all the time, and none is confused. */
static void threads_at_the_limit(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_attr_t attributes;
    CHECK(!pthread_attr_init(&attributes));
    CHECK(!pthread_attr_setstacksize(&attributes, 128 * KIB));
    pthread_t threads[4];
    CHECK(!pthread_barrier_init(&all_started, NULL, 4));
    for (size_t i = 0; i < 4; i++)
        CHECK(!pthread_create(&threads[i], &attributes, fights_for_memory,
                              (void *)i));
    for (int i = 0; i < 4; i++)
        CHECK(!pthread_join(threads[i], NULL));
    CHECK(atomic_load(&out_of_memory) > 100);
    struct link *list = NULL;
    CHECK(fill_up(&list, 10000, 0) > 10 * MIB);
    release(&list);
    say("done", 1);
}

/* A thread may start at the limit; it has no memory, but it runs and ends. */
static void *finds_nothing(void *unused) {
    (void)unused;
    void *p = malloc(8 * MIB);
    free(p);
    for (size_t size = 1; size < 100000; size *= 3)
        free(malloc(size));
    return p;
}

static void thread_without_memory(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_attr_t attributes;
    CHECK(!pthread_attr_init(&attributes));
    static _Alignas(4096) char stack[256 * 1024];
    CHECK(!pthread_attr_setstack(&attributes, stack, sizeof stack));
    /* The first thread makes libc allocate what it needs for any. */
    for (int round = 0; round < 5; round++) {
        struct link *list = NULL;
        if (round) {
            fill_up(&list, MIB, 0);
            fill_up(&list, 4096, 0);
            fill_up(&list, 32, 0);
        }
        pthread_t thread;
        int result = pthread_create(&thread, &attributes, finds_nothing, NULL);
        CHECK(result == 0 || (round && (result == EAGAIN || result == ENOMEM)));
        if (!result) {
            void *p;
            CHECK(!pthread_join(thread, &p));
            CHECK(!round == !!p);
        }
        release(&list);
    }
    say("done", 1);
}

/* ---- an ordinary program ---- */

static void ordinary(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { LIVE = 1000 };
    static struct { char *at; size_t size; } live[LIVE];
    unsigned random = 3;
    for (int i = 0; i < 100000; i++) {
        unsigned k = next_random(&random) % LIVE;
        CHECK(!live[k].at || holds(live[k].at, live[k].size, k));
        size_t size = next_random(&random) % (i % 100 ? 1000 : 150000);
        CHECK(live[k].at = realloc(live[k].at, size + 1));
        live[k].size = size;
        fill(live[k].at, size, k);
    }
    for (int k = 0; k < LIVE; k++)
        free(live[k].at);
    say("done", 1);
}

/* The break can not move: someone else's mapping lies right behind it. */
static void blocked_break(int argc, char **argv) {
    (void)argc, (void)argv;
    free(malloc(1));
    uintptr_t end = ((uintptr_t)sbrk(0) + 4095) & ~(uintptr_t)4095;
    void *wall = mmap((void *)end, 4096, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    CHECK(wall == (void *)end);
    memset(wall, 7, 4096);
    static char *blocks[50000];
    for (unsigned i = 0; i < 50000; i++) {
        CHECK(blocks[i] = malloc(1500));
        fill(blocks[i], 1500, i);
    }
    for (unsigned i = 0; i < 50000; i++) {
        CHECK(holds(blocks[i], 1500, i));
        free(blocks[i]);
    }
    for (int i = 0; i < 4096; i++)
        CHECK(((char *)wall)[i] == 7);
    /* The wall is gone, and the break may move on. */
    CHECK(!munmap(wall, 4096));
    ordinary(0, NULL);
}

/* The break can not move for a while, then goes on where it was; all of it is freed, and it grows
 * again. */
static void unblocked_break(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { BLOCKS = 1200, SIZE = 60 * 1024, SMALL = 24 };
    static char *blocks[2 * BLOCKS], *small[SMALL];
    CHECK(mallopt(M_MMAP_THRESHOLD, 32 * MIB));
    char *low = malloc(64 * 1024);
    CHECK(low);
    char *first_end = sbrk(0);
    void *wall = mmap(first_end, 4096, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    CHECK(wall == first_end);
    /* What is left before the wall is touched as well, so that it coalesces with what follows. */
    for (int i = 0; i < SMALL; i++)
        memset(small[i] = malloc(2100 + 30 * i), 1, 2100);
    for (int i = 0; i < 2 * BLOCKS; i++) {
        if (i == BLOCKS)
            CHECK(!munmap(wall, 4096));
        CHECK(blocks[i] = malloc(SIZE));
        fill(blocks[i], SIZE, i);
    }
    CHECK((char *)sbrk(0) > first_end);
    for (int i = 2 * BLOCKS - 1; i >= 0; i--) {
        CHECK(holds(blocks[i], SIZE, i));
        free(blocks[i]);
    }
    for (int i = 0; i < SMALL; i++)
        free(small[i]);
    free(low);
    malloc_trim(0);
    char *trimmed = sbrk(0);
    CHECK(trimmed < first_end);
    for (int i = 0; i < BLOCKS; i++)
        CHECK(blocks[i] = malloc(SIZE));
    CHECK((char *)sbrk(0) > trimmed + BLOCKS * SIZE / 2);
}

/* The same, and meanwhile the program lowers the break below what the heap there has: nothing is to lie in both. */
static void lowered_break(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { BLOCKS = 700, SIZE = 127 * 1024, MORE = 20 };
    static char *blocks[BLOCKS];
    memset(malloc(20000), 1, 20000);
    char *end = sbrk(0);
    void *wall = mmap(end, 4096, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    CHECK(wall == end);
    CHECK(malloc(SIZE));
    CHECK(sbrk(-10 * 4096) == end && !munmap(wall, 4096));
    for (int i = 0; i < BLOCKS; i++) {
        CHECK(blocks[i] = malloc(SIZE));
        fill(blocks[i], SIZE, i);
    }
    for (int i = 0; i < MORE; i++) {
        size_t size = 40000 + i * 4096;
        char *more = malloc(size);
        CHECK(more);
        for (int k = 0; k < BLOCKS; k++)
            CHECK(more + size <= blocks[k] || blocks[k] + SIZE <= more);
    }
    for (int i = 0; i < BLOCKS; i++)
        CHECK(holds(blocks[i], SIZE, i));
}

/* The program lowers the break into what was not touched, and raises it again, while there is no memory. */
static void break_without_memory(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { PAGES = 6, BACK = 3, BLOCKS = 40, SIZE = 33000 };
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    memset(malloc(30000), 1, 30000);
    CHECK(sbrk(-(intptr_t)(PAGES * page)) != (void *)-1);
    struct rlimit before, none;
    CHECK(!getrlimit(RLIMIT_AS, &before));
    none = before;
    none.rlim_cur = proc_kib("/proc/self/status", "VmSize:") * KIB + 64 * KIB;
    CHECK(!setrlimit(RLIMIT_AS, &none));
    /* There is none, or just enough after a trim. */
    free(malloc(120 * KIB));
    char *theirs = sbrk(BACK * page);
    CHECK(theirs != (void *)-1 && !setrlimit(RLIMIT_AS, &before));
    fill(theirs, BACK * page, 1);
    static char *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        CHECK(blocks[i] = malloc(SIZE));
        fill(blocks[i], SIZE, i);
        CHECK(blocks[i] + SIZE <= theirs || theirs + BACK * page <= blocks[i]);
    }
    CHECK(holds(theirs, BACK * page, 1));
}

/* ---- what the kernel is asked for ---- */

/* The first number in a file, read without an allocation. */
static unsigned long number_in(const char *path) {
    char text[32] = "";
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0 && read(fd, text, sizeof text - 1) > 0 && !close(fd));
    return strtoul(text, NULL, 10);
}

/* What the machine could never fill is refused, where the kernel says so. */
static void more_than_the_machine(int argc, char **argv) {
    (void)argc, (void)argv;
    size_t machine = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    if (number_in("/proc/sys/vm/overcommit_memory") != 1) {
        /* Swap counts as well. */
        size_t much = 64 * machine;
        char *block = malloc(MIB);
        CHECK(block);
        fill(block, MIB, 1);
        errno = 0;
        CHECK(!malloc(much) && errno == ENOMEM);
        CHECK(!calloc(much / MIB, MIB) && !aligned_alloc(2 * MIB, much));
        CHECK(!realloc(block, much));
        CHECK(holds(block, MIB, 1));
        free(block);
    }
    say("done", 1);
}

static pthread_barrier_t all_have_some;

static void *takes_a_little(void *nothing) {
    for (size_t i = 0; i < 100; i++) {
        char *block = malloc(100 + 10 * i);
        CHECK(block);
        fill(block, 100 + 10 * i, 3);
    }
    pthread_barrier_wait(&all_have_some);
    pthread_barrier_wait(&all_have_some);
    return nothing;
}

/* A program that locks its memory, also what it maps later, does not get all
 * the addresses filled that an arena has. */
static void locked(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { THREADS = 8 };
    if (mlockall(MCL_CURRENT | MCL_FUTURE)) {
        CHECK(errno == ENOMEM || errno == EPERM);
        say("done", 1);
        return;
    }
    size_t before = status_kib("VmRSS:");
    pthread_attr_t small;
    CHECK(!pthread_attr_init(&small) && !pthread_attr_setstacksize(&small, 64 * KIB));
    CHECK(!pthread_barrier_init(&all_have_some, NULL, THREADS + 1));
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++)
        CHECK(!pthread_create(&threads[i], &small, takes_a_little, NULL));
    pthread_barrier_wait(&all_have_some);
    size_t grown = status_kib("VmRSS:") - before;
    if (grown > 8 * KIB) {
        say("grown_kib", grown);
        CHECK(!"little memory for little blocks");
    }
    pthread_barrier_wait(&all_have_some);
    for (size_t i = 0; i < THREADS; i++)
        CHECK(!pthread_join(threads[i], NULL));
    /* Nor that of the break all that it is moved ahead. */
    enum { MUCH = 64 * 1024 };
    static void *blocks[MUCH];
    size_t most = 0;
    before = status_kib("VmRSS:");
    for (size_t i = 0; i < MUCH; i++) {
        if (!(blocks[i] = malloc(1000))) {
            /* More than may be locked. */
            CHECK(errno == ENOMEM);
            break;
        }
        size_t now = i % 256 ? 0 : status_kib("VmRSS:") - before;
        size_t asked = i * 1100 / KIB;
        if (now > asked + most)
            most = now - asked;
    }
    if (most > 4 * KIB) {
        say("ahead_kib", most);
        CHECK(!"little memory ahead of what is asked for");
    }
    for (size_t i = 0; i < MUCH; i++)
        free(blocks[i]);
    say("done", 1);
}

/* ---- dlopen ---- */

static void *(*their_malloc)(size_t);
static void *(*their_calloc)(size_t, size_t);
static void *(*their_realloc)(void *, size_t);
static void (*their_free)(void *);
static atomic_int opened;

/* Uses both allocators side by side; neither may harm the other. */
static void *uses_both(void *number) {
    enum { LIVE = 500 };
    static __thread struct { char *at; size_t size; int theirs; } live[LIVE];
    unsigned random = (unsigned)(size_t)number + 1;
    while (!atomic_load(&opened))
        free(malloc(next_random(&random) % 1000));
    for (int i = 0; i < 40000; i++) {
        unsigned k = next_random(&random) % LIVE;
        if (live[k].at) {
            CHECK(holds(live[k].at, live[k].size, k));
            if (i % 5 == 0) {
                live[k].at = (live[k].theirs ? their_realloc : realloc)(
                    live[k].at, live[k].size * 2);
                CHECK(holds(live[k].at, live[k].size, k));
            }
            (live[k].theirs ? their_free : free)(live[k].at);
        }
        live[k].size = next_random(&random) % (i % 90 ? 1500 : 180000) + 1;
        live[k].theirs = (int)(next_random(&random) % 2);
        if (i % 3)
            live[k].at = (live[k].theirs ? their_malloc : malloc)(live[k].size);
        else
            live[k].at = (live[k].theirs ? their_calloc : calloc)(1, live[k].size);
        CHECK(live[k].at);
        CHECK(i % 3 || all_zero(live[k].at, live[k].size));
        fill(live[k].at, live[k].size, k);
    }
    for (unsigned k = 0; k < LIVE; k++)
        if (live[k].at) {
            CHECK(holds(live[k].at, live[k].size, k));
            (live[k].theirs ? their_free : free)(live[k].at);
        }
    return NULL;
}

static atomic_int used, closed;

static void *uses_and_waits(void *nothing) {
    (void)nothing;
    uses_both((void *)9);
    atomic_store(&used, 1);
    while (!atomic_load(&closed))
        usleep(1000);
    return NULL;
}

/* Opens the library when the program has allocated and has threads already;
 * "-" stands for the program itself. Then perhaps closes it again. */
static void opens(int argc, char **argv) {
    CHECK(argc > 3);
    int with_threads = !strcmp(argv[3], "threads");
    pthread_t threads[3];
    for (size_t i = 0; with_threads && i < 2; i++)
        CHECK(!pthread_create(&threads[i], NULL, uses_both, (void *)i));
    for (int i = 0; i < 1000; i++)
        free(malloc((size_t)i * 20));
    void *library = dlopen(!strcmp(argv[2], "-") ? NULL : argv[2],
                           RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    *(void **)&their_malloc = dlsym(library, "malloc");
    *(void **)&their_calloc = dlsym(library, "calloc");
    *(void **)&their_realloc = dlsym(library, "realloc");
    *(void **)&their_free = dlsym(library, "free");
    CHECK(their_malloc && their_calloc && their_realloc && their_free);
    if (!on_system())
        CHECK(their_malloc != malloc);
    atomic_store(&opened, 1);
    uses_both((void *)7);
    if (with_threads) {
        CHECK(!pthread_create(&threads[2], NULL, uses_both, (void *)2));
        for (int i = 0; i < 3; i++)
            CHECK(!pthread_join(threads[i], NULL));
    }
    if (argc > 4) {
        /* A thread that used it ends after it was closed. */
        pthread_t late;
        CHECK(!pthread_create(&late, NULL, uses_and_waits, NULL));
        while (!atomic_load(&used))
            usleep(1000);
        CHECK(!dlclose(library));
        atomic_store(&closed, 1);
        CHECK(!pthread_join(late, NULL));
    }
    say("done", 1);
}

/* ---- footprint ---- */

static void say_footprint(void) {
    say("peak_kib", status_kib("VmHWM:"));
    say("anonymous_kib", proc_kib("/proc/self/smaps_rollup", "Anonymous:"));
}

static void tiny(int argc, char **argv) {
    (void)argc, (void)argv;
    char *p = malloc(100), *q = malloc(1000);
    p[0] = q[0] = 1;
    free(p);
    free(q);
    say_footprint();
}

static void tiny_idle(int argc, char **argv) {
    (void)argc, (void)argv;
    say_footprint();
}

static const struct mode modes[] = {
    {"until_null", until_null},
    {"threads_at_the_limit", threads_at_the_limit},
    {"thread_without_memory", thread_without_memory},
    {"ordinary", ordinary},
    {"blocked_break", blocked_break},
    {"unblocked_break", unblocked_break},
    {"lowered_break", lowered_break},
    {"break_without_memory", break_without_memory},
    {"more_than_the_machine", more_than_the_machine},
    {"locked", locked},
    {"opens", opens},
    {"tiny", tiny},
    {"tiny_idle", tiny_idle},
    {NULL, NULL},
};

int main(int argc, char **argv) { return run_mode(modes, argc, argv); }
