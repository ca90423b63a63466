/* What requests that are refused leave behind: nothing. */
#include "check.h"
#include <sys/resource.h>

/* A region of the page map covers so much; a block of more is in one of its own. */
#define REGION (64 * MIB)
#define BLOCK (REGION + MIB)

/* Uses up the regions that the allocator has at hand. */
static char *take_first_regions(void) {
    char *last = NULL;
    for (int i = 0; i < 10; i++)
        CHECK(last = malloc(BLOCK));
    return last;
}

/* Lets the process have so much more address space than it has now. */
static void leave(size_t bytes) {
    struct rlimit limit;
    status_kib("VmSize:");
    CHECK(!getrlimit(RLIMIT_AS, &limit));
    limit.rlim_cur = status_kib("VmSize:") * KIB + bytes;
    CHECK(!setrlimit(RLIMIT_AS, &limit));
}

static void lift(void) {
    struct rlimit limit;
    CHECK(!getrlimit(RLIMIT_AS, &limit));
    limit.rlim_cur = limit.rlim_max;
    CHECK(!setrlimit(RLIMIT_AS, &limit));
}

/* There is room for the larger block, but not for all that it takes to move
 * there. The block is what it was, or has moved. */
static void realloc_is_refused(int argc, char **argv) {
    (void)argc, (void)argv;
    const size_t more = 100 * MIB;
    char *block = take_first_regions();
    fill(block, MIB, 1);
    fill(block + BLOCK - MIB, MIB, 2);
    int refused = 0;
    for (size_t slack = 0; slack < MIB; slack += 64 * KIB) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (!child) {
            leave(more - BLOCK + slack);
            errno = 0;
            char *moved = realloc(block, more);
            CHECK(moved || errno == ENOMEM);
            char *now = moved ? moved : block;
            CHECK(holds(now, MIB, 1) && holds(now + BLOCK - MIB, MIB, 2));
            free(now);
            _exit(moved ? 0 : 7);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
        CHECK(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 7);
        refused += WEXITSTATUS(status) == 7;
    }
    say("refused", (unsigned long)refused);
    say("done", 1);
}

/* Blocks of a MiB that can be had; they stay. */
static size_t mebibytes(void) {
    size_t got = 0;
    while (malloc(MIB))
        CHECK(++got < 100000);
    return got;
}

/* What a request took that could not be served after all can be had by others. */
static void refused_growth_is_free(int argc, char **argv) {
    (void)argc, (void)argv;
    take_first_regions();
    leave(BLOCK + 100 * KIB);
    if (malloc(BLOCK))
        CHECK(on_system());
    else
        CHECK(mebibytes() >= 48);
    say("done", 1);
}

/* Many refusals, then the limit is lifted: all is as before. */
static void refused_often(int argc, char **argv) {
    (void)argc, (void)argv;
    take_first_regions();
    for (int i = 0; i < 5; i++) {
        /* What was missing for the last one may be there now. */
        leave(BLOCK + 100 * KIB);
        CHECK(!malloc(BLOCK) || i < 4 || on_system());
    }
    if (on_system())
        leave(100 * KIB);
    for (int i = 0; i < 20000; i++)
        CHECK(!malloc(BLOCK));
    mebibytes();
    size_t small = 0;
    while (malloc(64))
        CHECK(++small < 100000000);
    for (int i = 0; i < 1000; i++)
        CHECK(!malloc(64));
    lift();
    for (int i = 0; i < 4; i++)
        CHECK(malloc(BLOCK) && malloc(64) && malloc(100000));
    say("done", 1);
}

/* After a large request that is refused where the kernel grants nothing any more, small ones are served. */
static void small_ones_go_on(int argc, char **argv) {
    (void)argc, (void)argv;
    for (int i = 0; i < 100; i++)
        CHECK(malloc(60000));
    struct rlimit limit = {MIB, MIB};
    CHECK(!setrlimit(RLIMIT_AS, &limit));
    CHECK(!malloc(2 * MIB));
    for (int i = 0; i < 200; i++)
        CHECK(malloc(100));
    /* For the report at the end. */
    say("done", 1);
}

/* Blocks that come and go at the end of a heap that is locked: large enough for a trim. */
static void *at_the_top(void *unused) {
    enum { BELOW = 64, KEPT = 8, PAIRS = 20000 };
    static void *below[BELOW];
    unsigned random = 1;
    for (int i = 0; i < BELOW; i++)
        CHECK(below[i] = memset(malloc(40000 + i * 500), 1, 40000));
    for (int i = BELOW; i-- > KEPT;)
        free(below[i]);
    for (int i = 0; i < PAIRS; i++) {
        size_t size = 34000 + next_random(&random) % 80000;
        void *one = malloc(size), *other = malloc(size + 5000);
        CHECK(one && other);
        free(other);
        free(one);
    }
    return unused;
}

/* What the program locked can not be given back, which the kernel is not asked at each free. */
static void locked_top(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_t thread;
    CHECK(!mlockall(MCL_CURRENT | MCL_FUTURE) || errno == ENOMEM || errno == EPERM);
    CHECK(!pthread_create(&thread, NULL, at_the_top, NULL));
    CHECK(!pthread_join(thread, NULL));
    say("done", 1);
}

static const struct mode modes[] = {
    {"realloc_is_refused", realloc_is_refused},
    {"refused_growth_is_free", refused_growth_is_free},
    {"refused_often", refused_often},
    {"small_ones_go_on", small_ones_go_on},
    {"locked_top", locked_top},
    {NULL, NULL},
};

int main(int argc, char **argv) { return run_mode(modes, argc, argv); }
