/* The functions that take an alignment. */
#include "check.h"

#define ALIGNED(p, a) ((uintptr_t)(p) % (a) == 0)

static const size_t sizes[] = {0,    1,    15,   16,       17,       100,     1000,
                               1024, 4096, 5000, 16 * KIB, 33 * KIB, 100000,  MIB};
enum { SIZES = sizeof sizes / sizeof *sizes };

static void posix(int argc, char **argv) {
    (void)argc, (void)argv;
    static const size_t wrong[] = {0, 1, 2, 4, 3, 12, 24, 48, 100, 4095, SIZE_MAX,
                                   ((size_t)1 << 63) + 8};
    char mark;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        void *out = &mark;
        errno = 4321;
        CHECK(posix_memalign(&out, HIDE(wrong[i]), 100) == EINVAL);
        CHECK(out == &mark && errno == 4321);
    }
    static const size_t huge[] = {(size_t)PTRDIFF_MAX, (size_t)PTRDIFF_MAX + 1,
                                  SIZE_MAX - 100, SIZE_MAX};
    for (size_t i = 0; i < sizeof huge / sizeof *huge; i++) {
        void *out = &mark;
        errno = 4321;
        CHECK(posix_memalign(&out, 64, HIDE(huge[i])) == ENOMEM);
        CHECK(out == &mark);
        CHECK(posix_memalign(&out, (size_t)1 << 62, HIDE(huge[i])) == ENOMEM);
        CHECK(out == &mark);
        /* glibc's own implementation writes to it. */
        CHECK(errno == 4321 || on_system());
    }
    for (size_t align = sizeof(void *); align <= 64 * MIB; align *= 2)
        for (int i = 0; i < SIZES; i++) {
            void *p = NULL, *q = NULL;
            errno = 4321;
            CHECK(posix_memalign(&p, align, sizes[i]) == 0);
            CHECK(posix_memalign(&q, align, sizes[i]) == 0);
            CHECK(errno == 4321);
            CHECK(p && q && p != q && ALIGNED(p, align) && ALIGNED(q, align));
            CHECK(malloc_usable_size(p) >= sizes[i]);
            fill(p, malloc_usable_size(p), 1);
            fill(q, malloc_usable_size(q), 2);
            CHECK(holds(p, malloc_usable_size(p), 1));
            free(p);
            CHECK(holds(q, sizes[i], 2));
            free(q);
        }
}

/* aligned_alloc of an alignment that is no power of two is an error in the
 * standard, in the manual page and in glibc since 2.38; older ones round. */
static void aligned(int argc, char **argv) {
    (void)argc, (void)argv;
    if (!on_system()) {
        static const size_t wrong[] = {0, 3, 12, 24, 100, 4097, SIZE_MAX};
        for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
            errno = 0;
            CHECK(aligned_alloc(HIDE(wrong[i]), 96) == NULL);
            CHECK(errno == EINVAL);
        }
    }
    for (size_t align = 1; align <= 64 * MIB; align *= 2)
        for (int i = 0; i < SIZES; i++) {
            char *p = aligned_alloc(align, sizes[i]);
            CHECK(p && ALIGNED(p, align) && ALIGNED(p, 16));
            fill(p, malloc_usable_size(p), 5);
            CHECK(malloc_usable_size(p) >= sizes[i]);
            CHECK(holds(p, sizes[i], 5));
            free(p);
        }
}

static void memaligned(int argc, char **argv) {
    (void)argc, (void)argv;
    static const struct { size_t asked, given; } rounding[] = {
        {0, 16},   {1, 16},    {3, 16},      {17, 32},      {24, 32},
        {33, 64},  {48, 64},   {100, 128},   {129, 256},    {1000, 1024},
        {4095, 4096}, {4097, 8192}, {5000, 8192}, {20000, 32768}, {65537, 131072},
        {3 * MIB, 4 * MIB}};
    for (size_t k = 0; k < sizeof rounding / sizeof *rounding; k++)
        for (int i = 0; i < SIZES; i++) {
            char *all[8];
            for (int j = 0; j < 8; j++) {
                CHECK(all[j] = memalign(rounding[k].asked, sizes[i]));
                CHECK(ALIGNED(all[j], rounding[k].given));
                fill(all[j], sizes[i], (unsigned)j);
            }
            for (unsigned j = 0; j < 8; j++) {
                CHECK(holds(all[j], sizes[i], j));
                free(all[j]);
            }
        }
    errno = 0;
    CHECK(memalign(HIDE(SIZE_MAX), 100) == NULL);
    CHECK(errno == EINVAL);
    errno = 0;
    CHECK(memalign(HIDE((size_t)PTRDIFF_MAX + 2), 100) == NULL);
    CHECK(errno == EINVAL);
}

static void pages(int argc, char **argv) {
    (void)argc, (void)argv;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < SIZES; i++) {
        char *p = valloc(sizes[i]), *q = pvalloc(sizes[i]);
        CHECK(p && q && ALIGNED(p, page) && ALIGNED(q, page));
        CHECK(malloc_usable_size(p) >= sizes[i]);
        size_t whole = (sizes[i] + page - 1) / page * page;
        CHECK(malloc_usable_size(q) >= whole);
        fill(p, sizes[i], 1);
        fill(q, whole, 2);
        CHECK(holds(p, sizes[i], 1));
        free(p);
        CHECK(holds(q, whole, 2));
        free(q);
    }
    for (size_t less = 0; less < page; less += 256) {
        errno = 0;
        CHECK(pvalloc(HIDE(SIZE_MAX - less)) == NULL);
        CHECK(errno == ENOMEM);
        errno = 0;
        CHECK(valloc(HIDE(SIZE_MAX - less)) == NULL);
        CHECK(errno == ENOMEM);
    }
}

/* Many aligned blocks at once: none overlaps another. */
static void crowd(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { LIVE = 400 };
    static struct { char *at; size_t size; } live[LIVE];
    unsigned random = 7;
    for (int i = 0; i < 40000; i++) {
        unsigned k = next_random(&random) % LIVE;
        CHECK(!live[k].at || holds(live[k].at, live[k].size, k));
        free(live[k].at);
        size_t align = (size_t)8 << next_random(&random) % 14;
        size_t size = next_random(&random) % ((size_t)8 << next_random(&random) % 13);
        void *p;
        CHECK(posix_memalign(&p, align, size) == 0);
        CHECK(ALIGNED(p, align));
        live[k].at = p;
        live[k].size = size;
        fill(p, size, k);
    }
    for (unsigned k = 0; k < LIVE; k++) {
        CHECK(!live[k].at || holds(live[k].at, live[k].size, k));
        free(live[k].at);
    }
}

/* How many mappings the process has. */
static int mappings(void) {
    FILE *maps = fopen("/proc/self/maps", "r");
    CHECK(maps);
    int lines = 0;
    for (int byte; (byte = fgetc(maps)) != EOF;)
        lines += byte == '\n';
    fclose(maps);
    return lines;
}

/* To the kernel, aligned blocks with mappings of their own lie beside each other: it lets a process have 65,530
 * mappings. */
static void side_by_side(int argc, char **argv) {
    (void)argc, (void)argv;
    static const size_t shapes[][2] = {{8 * KIB, 200000}, {64 * KIB, 140000}, {2 * MIB, 2 * MIB}};
    enum { EACH = 1000 };
    static void *blocks[3][EACH];
    int before = mappings();
    for (int shape = 0; shape < 3; shape++)
        for (int i = 0; i < EACH; i++) {
            void *block = memalign(shapes[shape][0], shapes[shape][1]);
            CHECK(ALIGNED(block, shapes[shape][0]));
            blocks[shape][i] = memset(block, i, 16);
        }
    int more = mappings() - before;
    if (more >= EACH) {
        say("more", (unsigned long)more);
        CHECK(!"few mappings");
    }
    for (int shape = 0; shape < 3; shape++)
        for (int i = 0; i < EACH; i++)
            free(blocks[shape][i]);
}

static const struct mode modes[] = {
    {"posix_memalign", posix}, {"aligned_alloc", aligned}, {"memalign", memaligned},
    {"pages", pages},          {"crowd", crowd},           {"side_by_side", side_by_side},
    {NULL, NULL},
};

int main(int argc, char **argv) { return run_mode(modes, argc, argv); }
