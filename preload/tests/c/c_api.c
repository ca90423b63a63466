/* The C interface, one mode per group of functions. Functions that a libc's
 * headers do not declare everywhere are looked up by name. */
#include "check.h"
#include <dlfcn.h>

#define ALIGNED(p, a) ((uintptr_t)(p) % (a) == 0)
#define TOO_LARGE ((size_t)PTRDIFF_MAX + 1)

/* A function by name, or the fallback where the system has none. */
static void *find(const char *name, void *fallback) {
    void *found = dlsym(RTLD_DEFAULT, name);
    return found ? found : fallback;
}

/* Sizes around every step an allocator could have, up to `limit`. */
static size_t next_size(size_t size) {
    return size < 1100 ? size + 1 : size + size / 13 + 1;
}

static void alignment(int argc, char **argv) {
    (void)argc, (void)argv;
    for (size_t size = 0; size < 4 * MIB; size = next_size(size)) {
        void *p = malloc(size), *q = calloc(1, size), *r = realloc(NULL, size);
        CHECK(p && q && r);
        CHECK(ALIGNED(p, 16) && ALIGNED(q, 16) && ALIGNED(r, 16));
        CHECK(p != q && q != r && p != r);
        memset(p, 1, size);
        memset(q, 2, size);
        memset(r, 3, size);
        r = realloc(r, size + 100);
        CHECK(r && ALIGNED(r, 16));
        free(p);
        free(q);
        free(r);
    }
}

static void zero_size(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { COUNT = 1000 };
    static uintptr_t seen[COUNT];
    for (int i = 0; i < COUNT; i++) {
        void *p;
        switch (i % 5) {
        case 0: p = malloc(0); break;
        case 1: p = calloc(0, 8); break;
        case 2: p = calloc(8, 0); break;
        case 3: p = realloc(NULL, 0); break;
        default: CHECK(posix_memalign(&p, 64, 0) == 0); break;
        }
        CHECK(p);
        for (int j = 0; j < i; j++)
            CHECK(seen[j] != (uintptr_t)p);
        seen[i] = (uintptr_t)p;
    }
    for (int i = 0; i < COUNT; i++)
        free((void *)seen[i]);
    free(NULL);
}

#define REFUSES(call)                                                         \
    do {                                                                      \
        errno = 0;                                                            \
        void *refused_ = (call);                                              \
        CHECK(refused_ == NULL);                                              \
        CHECK(errno == ENOMEM);                                               \
    } while (0)

static void too_large(int argc, char **argv) {
    (void)argc, (void)argv;
    static const size_t sizes[] = {TOO_LARGE, TOO_LARGE + 1, SIZE_MAX / 2 + 4097,
                                   SIZE_MAX - 65536, SIZE_MAX - 4096,
                                   SIZE_MAX - 4095, SIZE_MAX - 64, SIZE_MAX - 15,
                                   SIZE_MAX - 7, SIZE_MAX};
    void *(*grow_array)(void *, size_t, size_t) =
        (void *(*)(void *, size_t, size_t))find("reallocarray", NULL);
    CHECK(grow_array);
    char *kept = malloc(100);
    fill(kept, 100, 1);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t size = HIDE(sizes[i]);
        REFUSES(malloc(size));
        REFUSES(calloc(1, size));
        REFUSES(calloc(size, 1));
        REFUSES(calloc(size, 2));
        REFUSES(realloc(NULL, size));
        REFUSES(realloc(kept, size));
        REFUSES(grow_array(kept, 1, size));
        REFUSES(aligned_alloc(64, size));
        REFUSES(memalign(64, size));
        REFUSES(memalign(16, size));
        REFUSES(memalign(MIB, size));
        REFUSES(valloc(size));
        REFUSES(pvalloc(size));
        void *out = kept;
        errno = 77;
        CHECK(posix_memalign(&out, 64, size) == ENOMEM);
        CHECK(out == kept);
    }
    /* Below the limit by name, above what any address space holds. */
    REFUSES(malloc(HIDE((size_t)PTRDIFF_MAX)));
    REFUSES(malloc(HIDE((size_t)PTRDIFF_MAX - 4096)));
    REFUSES(calloc(1, HIDE((size_t)PTRDIFF_MAX)));
    REFUSES(realloc(kept, HIDE((size_t)PTRDIFF_MAX)));
    REFUSES(memalign(64, HIDE((size_t)PTRDIFF_MAX)));
    REFUSES(aligned_alloc((size_t)1 << 62, 100));
    REFUSES(memalign((size_t)1 << 63, 100));
    REFUSES(aligned_alloc((size_t)1 << 63, 100));
    REFUSES(aligned_alloc((size_t)1 << 63, 100000));
    CHECK(holds(kept, 100, 1));
    free(kept);
    kept = malloc(100);
    CHECK(kept);
    free(kept);
}

static void overflow(int argc, char **argv) {
    (void)argc, (void)argv;
    void *(*grow_array)(void *, size_t, size_t) =
        (void *(*)(void *, size_t, size_t))find("reallocarray", NULL);
    size_t half = HIDE((size_t)1 << 32);
    REFUSES(calloc(half, half));
    REFUSES(calloc(half, half + 1));
    REFUSES(calloc(SIZE_MAX, 2));
    REFUSES(calloc(2, SIZE_MAX));
    REFUSES(calloc(SIZE_MAX, SIZE_MAX));
    REFUSES(calloc(SIZE_MAX / 16 + 2, 16));
    REFUSES(grow_array(NULL, half, half));
    REFUSES(grow_array(NULL, SIZE_MAX / 16 + 2, 16));
    char *p = grow_array(NULL, 10, 10);
    CHECK(p);
    fill(p, 100, 3);
    REFUSES(grow_array(p, half, half + 1));
    CHECK(holds(p, 100, 3));
    p = grow_array(p, 100, 100);
    CHECK(p && holds(p, 100, 3));
    memset(p, 1, 10000);
    p = grow_array(p, 1, 10);
    CHECK(p);
    free(p);
}

/* Fills blocks of many sizes with dirt, frees them, and wants zeroes back. */
static void calloc_zero(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { ROUND = 4 };
    unsigned char *blocks[ROUND];
    for (size_t size = 1; size <= 4 * MIB; size = next_size(size)) {
        for (int i = 0; i < ROUND; i++) {
            CHECK(blocks[i] = malloc(size));
            memset(blocks[i], 0xa5, malloc_usable_size(blocks[i]));
        }
        for (int i = 0; i < ROUND; i++)
            free(blocks[(i * 3) % ROUND]);
        for (int i = 0; i < ROUND; i++) {
            CHECK(blocks[i] = i % 2 ? calloc(size, 1) : calloc(1, size));
            CHECK(all_zero(blocks[i], size));
            memset(blocks[i], 0x5a, malloc_usable_size(blocks[i]));
        }
        /* Cut off tails are free memory with dirt in it. */
        for (int i = 0; i < ROUND; i++)
            CHECK(blocks[i] = realloc(blocks[i], size / 3 + 1));
        unsigned char *other = calloc(size / 2 + 1, 1);
        CHECK(other && all_zero(other, size / 2 + 1));
        memset(other, 0xff, size / 2 + 1);
        free(other);
        for (int i = 0; i < ROUND; i++)
            free(blocks[i]);
    }
    /* The same in mixed order, so that blocks lie where others were. */
    enum { LIVE = 300 };
    static struct { unsigned char *at; size_t size; } live[LIVE];
    unsigned random = 12345;
    for (int i = 0; i < 60000; i++) {
        unsigned k = next_random(&random) % LIVE;
        free(live[k].at);
        unsigned scale = next_random(&random) % 18;
        size_t size = next_random(&random) % ((size_t)16 << scale) + 1;
        if (size > 200 * KIB && i % 8)
            size %= 3000;
        live[k].size = size;
        CHECK(live[k].at = calloc(1, size));
        CHECK(all_zero(live[k].at, size));
        memset(live[k].at, 0xee, size);
    }
    for (int i = 0; i < LIVE; i++)
        free(live[i].at);
    /* And after the memory went back to the system. */
    malloc_trim(0);
    for (size_t size = 1; size <= 4 * MIB; size = size * 3 + 1) {
        CHECK(blocks[0] = calloc(1, size));
        CHECK(all_zero(blocks[0], size));
        free(blocks[0]);
    }
}

static void free_keeps_errno(int argc, char **argv) {
    (void)argc, (void)argv;
    for (size_t size = 0; size <= 64 * MIB; size = size * 2 + 1) {
        void *p = malloc(size), *q = malloc(size);
        CHECK(p && q);
        errno = 4711;
        free(p);
        CHECK(errno == 4711);
        errno = 0;
        free(q);
        CHECK(errno == 0);
    }
    errno = 12;
    free(NULL);
    CHECK(errno == 12);
    /* Success leaves it alone as well, where the manual promises nothing but
     * programs rely on it. */
    errno = 5;
    enum { COUNT = 20000 };
    static void *many[COUNT];
    for (int i = 0; i < COUNT; i++)
        many[i] = malloc((size_t)i % 2000);
    for (int i = 0; i < COUNT; i++)
        free(many[i]);
    CHECK(errno == 5);
}

static void realloc_edges(int argc, char **argv) {
    (void)argc, (void)argv;
    for (size_t size = 1; size < 8 * MIB; size = size * 5 / 2 + 1) {
        char *p = realloc(NULL, size);
        CHECK(p);
        memset(p, 1, size);
        CHECK(realloc(p, HIDE((size_t)0)) == NULL);
    }
    /* It really freed: otherwise this takes 64 GiB. */
    for (int i = 0; i < 65536; i++) {
        char *p = malloc(MIB);
        CHECK(p);
        p[0] = 1;
        CHECK(realloc(p, HIDE((size_t)0)) == NULL);
    }
    CHECK(status_kib("VmSize:") < 4 * MIB);
    /* The same size, and one that fits in place, keep the block. */
    for (size_t size = 1; size < 2 * MIB; size = size * 2 + 1) {
        char *p = malloc(size);
        char *q = realloc(p, size);
        CHECK(q == p);
        q = realloc(p, malloc_usable_size(p));
        CHECK(q == p);
        free(p);
    }
}

static const size_t steps[] = {1,        8,         16,        17,       24,
                               100,      128,       500,       1000,     1024,
                               2048,     2049,      5000,      16 * KIB, 20000,
                               32 * KIB, 32769,     40 * KIB,  64 * KIB, 100000,
                               128 * KIB, 131073,   200000,    256 * KIB, 512 * KIB,
                               1000000,  MIB,       3 * MIB,   4 * MIB};
enum { STEPS = sizeof steps / sizeof *steps };

/* From every size to every size, with neighbours that must stay whole. */
static void realloc_content(int argc, char **argv) {
    (void)argc, (void)argv;
    for (int from = 0; from < STEPS; from++)
        for (int to = 0; to < STEPS; to++) {
            size_t kept = steps[from] < steps[to] ? steps[from] : steps[to];
            char *before = malloc(steps[from]);
            char *p = malloc(steps[from]);
            char *after = malloc(steps[from]);
            CHECK(before && p && after);
            fill(before, steps[from], 1);
            fill(p, steps[from], 2);
            fill(after, steps[from], 3);
            CHECK(p = realloc(p, steps[to]));
            CHECK(malloc_usable_size(p) >= steps[to]);
            CHECK(holds(p, kept, 2));
            fill(p, malloc_usable_size(p), 4);
            CHECK(holds(before, steps[from], 1));
            CHECK(holds(after, steps[from], 3));
            CHECK(p = realloc(p, steps[from]));
            CHECK(holds(p, kept, 4));
            free(before);
            free(p);
            free(after);
        }
    /* Blocks with a larger alignment keep their bytes, if not their place. */
    for (size_t align = 32; align <= 256 * KIB; align *= 4)
        for (int to = 0; to < STEPS; to++) {
            char *p = aligned_alloc(align, 3000);
            CHECK(p && ALIGNED(p, align));
            fill(p, 3000, 9);
            CHECK(p = realloc(p, steps[to]));
            CHECK(holds(p, steps[to] < 3000 ? steps[to] : 3000, 9));
            free(p);
        }
}

/* A random walk of many blocks through all sizes. */
static void realloc_walk(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { LIVE = 64 };
    static struct { char *at; size_t size; } live[LIVE];
    unsigned random = 99;
    for (unsigned i = 0; i < 30000; i++) {
        unsigned k = next_random(&random) % LIVE;
        size_t size = steps[next_random(&random) % STEPS];
        if (size > 300 * KIB && i % 16)
            size /= 64;
        size += next_random(&random) % 40;
        size_t kept = live[k].size < size ? live[k].size : size;
        char *p = realloc(live[k].at, size);
        CHECK(p && ALIGNED(p, 16));
        CHECK(holds(p, kept, k));
        fill(p, size, k);
        live[k].at = p;
        live[k].size = size;
    }
    for (unsigned k = 0; k < LIVE; k++) {
        CHECK(!live[k].at || holds(live[k].at, live[k].size, k));
        free(live[k].at);
    }
}

static void usable_size(int argc, char **argv) {
    (void)argc, (void)argv;
    CHECK(malloc_usable_size(NULL) == 0);
    for (size_t size = 0; size < 4 * MIB; size = next_size(size)) {
        char *blocks[4] = {malloc(size), calloc(1, size), memalign(128, size),
                           malloc(size)};
        for (unsigned i = 0; i < 4; i++) {
            CHECK(blocks[i]);
            CHECK(malloc_usable_size(blocks[i]) >= size);
            fill(blocks[i], malloc_usable_size(blocks[i]), i);
        }
        for (unsigned i = 0; i < 4; i++) {
            CHECK(holds(blocks[i], malloc_usable_size(blocks[i]), i));
            free(blocks[i]);
        }
    }
}

static void free_forms(int argc, char **argv) {
    (void)argc, (void)argv;
    void (*c_free)(void *) = (void (*)(void *))find("cfree", (void *)free);
    void (*sized)(void *, size_t) =
        (void (*)(void *, size_t))find("free_sized", (void *)free);
    void (*aligned)(void *, size_t, size_t) =
        (void (*)(void *, size_t, size_t))find("free_aligned_sized", (void *)free);
    c_free(NULL);
    sized(NULL, 100);
    aligned(NULL, 64, 128);
    for (size_t size = 0; size < 2 * MIB; size = next_size(size)) {
        size_t align = (size_t)16 << (size % 12);
        size_t whole = (size + align - 1) / align * align;
        void *p = malloc(size), *q = calloc(1, size), *r = realloc(malloc(7), size + 1);
        void *s = aligned_alloc(align, whole);
        CHECK(p && q && r && s && ALIGNED(s, align));
        errno = 31;
        c_free(p);
        sized(q, size);
        sized(r, size + 1);
        aligned(s, align, whole);
        CHECK(errno == 31);
    }
    /* They really free: otherwise this takes 60 GB. */
    for (int i = 0; i < 20000; i++) {
        char *p = malloc(MIB), *q = malloc(MIB), *r = aligned_alloc(4096, MIB);
        CHECK(p && q && r);
        c_free(p);
        sized(q, MIB);
        aligned(r, 4096, MIB);
    }
    CHECK(status_kib("VmSize:") < 4 * MIB);
}

/* The other names of the same functions. */
static void aliases(int argc, char **argv) {
    (void)argc, (void)argv;
    void *(*a_malloc)(size_t) =
        (void *(*)(size_t))find("__libc_malloc", (void *)malloc);
    void *(*a_calloc)(size_t, size_t) =
        (void *(*)(size_t, size_t))find("__libc_calloc", (void *)calloc);
    void *(*a_realloc)(void *, size_t) =
        (void *(*)(void *, size_t))find("__libc_realloc", (void *)realloc);
    void (*a_free)(void *) = (void (*)(void *))find("__libc_free", (void *)free);
    void *(*a_memalign)(size_t, size_t) =
        (void *(*)(size_t, size_t))find("__libc_memalign", (void *)memalign);
    void *(*a_valloc)(size_t) =
        (void *(*)(size_t))find("__libc_valloc", (void *)valloc);
    void *(*a_pvalloc)(size_t) =
        (void *(*)(size_t))find("__libc_pvalloc", (void *)pvalloc);
    int (*a_posix)(void **, size_t, size_t) =
        (int (*)(void **, size_t, size_t))find("__posix_memalign",
                                               (void *)posix_memalign);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    /* Allocated under one name and freed under another, both ways round. */
    for (size_t size = 1; size < 2 * MIB; size = size * 2 + 1) {
        void *posix = NULL;
        CHECK(a_posix(&posix, 256, size) == 0 && ALIGNED(posix, 256));
        void *blocks[] = {a_malloc(size),        a_calloc(1, size),
                          a_realloc(NULL, size), a_memalign(512, size),
                          a_valloc(size),        a_pvalloc(size),
                          posix,                 malloc(size)};
        CHECK(ALIGNED(blocks[3], 512));
        CHECK(ALIGNED(blocks[4], page) && ALIGNED(blocks[5], page));
        CHECK(all_zero(blocks[1], size));
        for (unsigned i = 0; i < 8; i++) {
            CHECK(blocks[i]);
            CHECK(malloc_usable_size(blocks[i]) >= size);
            fill(blocks[i], size, i);
        }
        for (unsigned i = 0; i < 8; i++) {
            CHECK(holds(blocks[i], size, i));
            CHECK(blocks[i] = a_realloc(blocks[i], size + 50));
            CHECK(holds(blocks[i], size, i));
            if (i % 2)
                free(blocks[i]);
            else
                a_free(blocks[i]);
        }
    }
    CHECK(a_realloc(a_malloc(10), HIDE((size_t)0)) == NULL);
    REFUSES(a_malloc(HIDE(TOO_LARGE)));
}

/* Every interposed function must come out of the library, not out of libc. */
static void origin(int argc, char **argv) {
    for (int i = 3; i < argc; i++) {
        Dl_info info;
        void *at = dlsym(RTLD_DEFAULT, argv[i]);
        if (!at || !dladdr(at, &info) || !strstr(info.dli_fname, argv[2])) {
            fprintf(stderr, "%s is not out of %s\n", argv[i], argv[2]);
            exit(1);
        }
    }
}

static const struct mode modes[] = {
    {"alignment", alignment},
    {"zero_size", zero_size},
    {"too_large", too_large},
    {"overflow", overflow},
    {"calloc_zero", calloc_zero},
    {"free_keeps_errno", free_keeps_errno},
    {"realloc_edges", realloc_edges},
    {"realloc_content", realloc_content},
    {"realloc_walk", realloc_walk},
    {"usable_size", usable_size},
    {"free_forms", free_forms},
    {"aliases", aliases},
    {"origin", origin},
    {NULL, NULL},
};

int main(int argc, char **argv) { return run_mode(modes, argc, argv); }
