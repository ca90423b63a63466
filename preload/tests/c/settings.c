/* Settings: what is in force, and what it does. */
#include "check.h"
#include <dlfcn.h>

/* Writes the library's settings to standard output. */
static void print(int argc, char **argv) {
    (void)argc, (void)argv;
    void (*settings)(int) = (void (*)(int))dlsym(RTLD_DEFAULT, "arenite_write_settings");
    CHECK(settings);
    settings(1);
}

/* mallopt of each PARAMETER VALUE in turn, and what it returned; then the settings. */
static void options(int argc, char **argv) {
    for (int i = 2; i + 1 < argc; i += 2)
        say("returned", (unsigned long)mallopt(atoi(argv[i]), atoi(argv[i + 1])));
    print(argc, argv);
}

/* Filled blocks, from the first one on. */
static void perturbed(int argc, char **argv) {
    unsigned char byte = (unsigned char)(argc > 2 ? strtoul(argv[2], NULL, 0) : 0);
    for (size_t size = 1; size < 100000; size = size * 3 + 1) {
        unsigned char *block = malloc(size);
        CHECK(block[0] == (byte ^ 0xff) && block[size - 1] == (byte ^ 0xff));
        free(block);
    }
}

enum { COUNT = 20 };

/* How many of 20 blocks of SIZE MiB got a mapping of their own. */
static void mapped(int argc, char **argv) {
    CHECK(argc > 2);
    size_t size = strtoul(argv[2], NULL, 10) * MIB;
    void *blocks[COUNT];
    size_t before = mallinfo2().hblks;
    for (unsigned i = 0; i < COUNT; i++) {
        CHECK((blocks[i] = malloc(size)));
        fill(blocks[i], 1000, i);
    }
    say("mapped", mallinfo2().hblks - before);
    for (unsigned i = 0; i < COUNT; i++) {
        CHECK(holds(blocks[i], 1000, i));
        CHECK((blocks[i] = realloc(blocks[i], size + size / 2)));
        CHECK(holds(blocks[i], 1000, i));
    }
    say("mapped_after_growth", mallinfo2().hblks - before);
    for (unsigned i = 0; i < COUNT; i++)
        free(blocks[i]);
    say("mapped_at_the_end", mallinfo2().hblks - before);
}

static const struct mode modes[] = {
    {"print", print},
    {"options", options},
    {"perturbed", perturbed},
    {"mapped", mapped},
    {NULL, NULL},
};

int main(int argc, char **argv) { return run_mode(modes, argc, argv); }
