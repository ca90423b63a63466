/* Programs whose system calls and memory map the tests look at. They use no
 * stdio between the marks, which would allocate its buffers. */
#include "check.h"

/* A write that the trace shows: `mark NAME`. */
static void mark(const char *name) {
    char text[64];
    int length = snprintf(text, sizeof text, "mark %s\n", name);
    CHECK(write(1, text, (size_t)length) == length);
}

/* 1 if the line of /proc/self/maps for the address ends in [heap]. */
static int in_heap(const void *address) {
    static char text[1 << 18];
    size_t length = 0;
    int fd = open("/proc/self/maps", O_RDONLY);
    CHECK(fd >= 0);
    for (;;) {
        ssize_t got = read(fd, text + length, sizeof text - 1 - length);
        CHECK(got >= 0);
        if (!got)
            break;
        length += (size_t)got;
    }
    close(fd);
    text[length] = 0;
    for (char *line = text; line && *line;) {
        char *end = strchr(line, '\n');
        if (end)
            *end = 0;
        char *rest;
        uintptr_t from = strtoul(line, &rest, 16);
        uintptr_t to = strtoul(rest + 1, &rest, 16);
        if (from <= (uintptr_t)address && (uintptr_t)address < to)
            return strstr(rest, "[heap]") != NULL;
        line = end ? end + 1 : NULL;
    }
    check_failed(__FILE__, __LINE__, "the address is not mapped at all");
}

/* One block. */
static void small(int argc, char **argv) {
    (void)argc, (void)argv;
    mark("begin");
    char *a = malloc(1000);
    mark("first");
    char *b = malloc(1000);
    char *c = malloc(1000);
    mark("end");
    memset(a, 1, 1000);
    memset(b, 2, 1000);
    memset(c, 3, 1000);
    CHECK(in_heap(a) && in_heap(b) && in_heap(c));
    CHECK(in_heap(a + 999) && in_heap(b + 999) && in_heap(c + 999));
    free(a);
    free(b);
    free(c);
    mark("freed");
}

static void nothing(int argc, char **argv) {
    (void)argc, (void)argv;
    mark("begin");
    mark("end");
}

static void large(int argc, char **argv) {
    (void)argc, (void)argv;
    char *small_one = malloc(1000);
    mark("begin");
    char *p = malloc(1 << 20);
    mark("mapped");
    CHECK(p && !in_heap(p));
    memset(p, 1, 1 << 20);
    say("at", (unsigned long)p);
    mark("before_free");
    free(p);
    mark("after_free");
    char *q = malloc(1 << 20);
    mark("again");
    CHECK(q);
    memset(q, 2, 1 << 20);
    free(q);
    free(small_one);
    mark("end");
}

/* A large program that needs a third of its memory again and again, at the top. */
static void breathing(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { LIVE = 16, MORE = 6, ROUNDS = 30, SETTLED = 20 };
    const size_t size = 16 << 20;
    static void *live[LIVE], *more[MORE];
    /* From here on blocks of this size come from the heap. */
    free(malloc(size));
    for (int i = 0; i < LIVE; i++)
        CHECK((live[i] = malloc(size)) && in_heap(live[i]));
    for (int round = 0; round < ROUNDS; round++) {
        if (round == SETTLED)
            mark("settled");
        for (int i = 0; i < MORE; i++)
            CHECK(more[i] = malloc(size));
        for (int i = MORE; i-- > 0;)
            free(more[i]);
    }
    mark("end");
    for (int i = LIVE; i-- > 0;)
        free(live[i]);
    /* What it needed again stays, and no more. */
    CHECK((char *)sbrk(0) - (char *)live[0] < (MORE + 1) * (ptrdiff_t)size);
}

/* A program without much else that allocates and frees as many large blocks again and again; after some rounds it
 * needs nothing from the kernel any more. */
static void breathe(int settled) {
    enum { BLOCKS = 12, ROUNDS = 12 };
    for (int round = 0; round < ROUNDS; round++) {
        void *blocks[BLOCKS];
        if (round == settled)
            mark("settled");
        for (int i = 0; i < BLOCKS; i++)
            CHECK(blocks[i] = malloc(16 << 20));
        for (int i = 0; i < BLOCKS; i++)
            free(blocks[i]);
    }
    mark("end");
}

static void breathing_alone(int argc, char **argv) {
    (void)argc, (void)argv;
    /* From here on blocks of this size come from the heap. */
    free(malloc(16 << 20));
    breathe(4);
}

/* In the first round all blocks are mappings, in the second all are touched anew in the heap. */
static void breathing_mapped(int argc, char **argv) {
    (void)argc, (void)argv;
    breathe(2);
}

/* Someone else moves the break as well. The bytes
 * that sbrk returned are filled and must stay what they are, and no block may
 * lie on them. */
static void foreign_break(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { ROUNDS = 200, EACH = 20 };
    static char *theirs[ROUNDS];
    static struct { char *at; size_t size; } blocks[ROUNDS][EACH];
    unsigned random = 5;
    mark("begin");
    for (unsigned round = 0; round < ROUNDS; round++) {
        theirs[round] = sbrk(1000);
        CHECK(theirs[round] != (void *)-1);
        fill(theirs[round], 1000, round);
        for (unsigned i = 0; i < EACH; i++) {
            size_t size = i == 0 ? 1000 : next_random(&random) % 9000;
            blocks[round][i].size = size;
            CHECK(blocks[round][i].at = malloc(size));
            fill(blocks[round][i].at, size, i);
        }
        for (unsigned r = 0; r <= round; r++)
            for (unsigned i = 0; i < EACH; i++) {
                char *at = blocks[r][i].at;
                if (at)
                    CHECK(at + blocks[r][i].size <= theirs[round] ||
                          theirs[round] + 1000 <= at);
            }
        /* Some go back, so that the top is free and might be trimmed. */
        for (unsigned i = round % 7; i < EACH; i += 3) {
            free(blocks[round][i].at);
            blocks[round][i].at = NULL;
        }
        if (round % 50 == 49)
            malloc_trim(0);
    }
    mark("end");
    for (unsigned round = 0; round < ROUNDS; round++) {
        CHECK(holds(theirs[round], 1000, round));
        for (unsigned i = 0; i < EACH; i++) {
            char *at = blocks[round][i].at;
            for (unsigned r = 0; at && r < ROUNDS; r++)
                CHECK(at + blocks[round][i].size <= theirs[r] ||
                      theirs[r] + 1000 <= at);
            CHECK(!at || holds(at, blocks[round][i].size, i));
            free(at);
        }
    }
    for (unsigned round = 0; round < ROUNDS; round++)
        CHECK(holds(theirs[round], 1000, round));
}

/* For the trace: malloc, sbrk, malloc, sbrk. */
static void break_between(int argc, char **argv) {
    (void)argc, (void)argv;
    mark("begin");
    char *a = malloc(1000);
    mark("first");
    char *x = sbrk(1000);
    char *b = malloc(1000);
    char *y = sbrk(1000);
    char *c = malloc(1000);
    mark("end");
    CHECK(y == x + 1000);
    memset(x, 9, 2000);
    fill(a, 1000, 1);
    fill(b, 1000, 2);
    fill(c, 1000, 3);
    for (int i = 0; i < 2000; i++)
        CHECK(x[i] == 9);
    CHECK(holds(a, 1000, 1) && holds(b, 1000, 2) && holds(c, 1000, 3));
    free(a);
    free(b);
    free(c);
    malloc_trim(0);
    for (int i = 0; i < 2000; i++)
        CHECK(x[i] == 9);
}

/* Somebody lowers the break back to where it was before its own growth. */
static void lowered_break(int argc, char **argv) {
    (void)argc, (void)argv;
    static char *blocks[3000];
    for (unsigned i = 0; i < 3000; i++) {
        if (i % 100 == 50) {
            char *theirs = sbrk(50000);
            CHECK(theirs != (void *)-1);
            memset(theirs, 1, 50000);
            CHECK(sbrk(-50000) == theirs + 50000);
        }
        CHECK(blocks[i] = malloc(700));
        fill(blocks[i], 700, i);
    }
    for (unsigned i = 0; i < 3000; i++) {
        CHECK(holds(blocks[i], 700, i));
        free(blocks[i]);
    }
}

/* Free memory below a break that somebody else has moved on goes back as well. */
static void break_below_others(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { BLOCKS = 1000 };
    const size_t size = 40000;
    static void *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++)
        CHECK(blocks[i] = memset(malloc(size), 1, size));
    char *theirs = sbrk(100);
    CHECK(theirs != (void *)-1);
    memset(theirs, 7, 100);
    unsigned long before = status_kib("VmRSS:");
    for (int i = BLOCKS; i-- > 0;)
        free(blocks[i]);
    unsigned long after = status_kib("VmRSS:");
    CHECK(after + BLOCKS * size / 2048 < before || on_system());
    for (int i = 0; i < 100; i++)
        CHECK(theirs[i] == 7);
    for (int i = 0; i < BLOCKS; i++)
        CHECK(all_zero(blocks[i] = calloc(1, size), size));
}

/* What a buffer of its own mapping was that grows by copies is no measure of what the program needs at once. */
static void grows_by_copies(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { BLOCKS = 3000 };
    const size_t size = 64 * KIB;
    static void *blocks[BLOCKS];
    char *buffer = malloc(MIB);
    for (size_t bytes = MIB; bytes <= 30 * MIB; bytes += MIB / 2) {
        char *larger = malloc(bytes);
        CHECK(larger);
        *larger = 1;
        free(buffer);
        buffer = larger;
    }
    free(buffer);
    for (int i = 0; i < BLOCKS; i++)
        CHECK(blocks[i] = memset(malloc(size), 1, size));
    unsigned long before = status_kib("VmRSS:");
    for (int i = BLOCKS; i-- > 0;)
        free(blocks[i]);
    CHECK(status_kib("VmRSS:") + BLOCKS / 2 * size / KIB < before);
}

/* Of many blocks with mappings of their own little is left. */
static void many_mappings(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { MANY = 1000 };
    static char *blocks[MANY];
    unsigned long before = status_kib("VmRSS:");
    for (int i = 0; i < MANY; i++) {
        CHECK(blocks[i] = malloc(MIB));
        *blocks[i] = 1;
    }
    for (int i = 0; i < MANY; i++)
        free(blocks[i]);
    /* A page of descriptions for each would be 4 MiB. */
    CHECK(status_kib("VmRSS:") < before + 2 * KIB);
}

static const struct mode modes[] = {
    {"small", small},
    {"nothing", nothing},
    {"large", large},
    {"breathing", breathing},
    {"breathing_alone", breathing_alone},
    {"breathing_mapped", breathing_mapped},
    {"foreign_break", foreign_break},
    {"break_between", break_between},
    {"lowered_break", lowered_break},
    {"break_below_others", break_below_others},
    {"grows_by_copies", grows_by_copies},
    {"many_mappings", many_mappings},
    {NULL, NULL},
};

int main(int argc, char **argv) { return run_mode(modes, argc, argv); }
