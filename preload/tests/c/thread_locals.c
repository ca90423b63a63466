/* Thread-local variables that leave little of a small stack. */
#include "helper.h"

/* With those of the libraries some KiB less than 64. */
static __thread char much[58500];

static void *works(void *unused) {
    HIDE(&much[0])[0] = 1;
    enum { COUNT = 8000 };
    static __thread void *blocks[8];
    void **all = malloc(COUNT * sizeof *all);
    CHECK(all && !blocks[0]);
    for (size_t size = 16; size <= KIB; size *= 2) {
        for (int i = 0; i < COUNT; i++) {
            CHECK((all[i] = malloc(size)));
            memset(all[i], 1, size);
        }
        for (int i = 0; i < COUNT; i++)
            free(all[i]);
    }
    free(all);
    /* The helper is at work meanwhile, the second one: the first had too small a stack. */
    usleep(500000);
    if (!on_system())
        WAIT_UNTIL(helper(), 1000, (free(malloc(100000)), 10000))
    return unused;
}

static void needs_a_stack(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        CHECK(!pthread_create(&threads[i], NULL, works, NULL));
    for (int i = 0; i < 2; i++)
        CHECK(!pthread_join(threads[i], NULL));
    say("done", 1);
}

int main(int argc, char **argv) {
    static const struct mode modes[] = {{"needs_a_stack", needs_a_stack}, {NULL, NULL}};
    return run_mode(modes, argc, argv);
}
