/* Opens a library of its own scope, as Python does its extensions, and runs what is in it. */
#include "check.h"
#include <dlfcn.h>

int main(int argc, char **argv) {
    CHECK(argc > 1);
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!library)
        fprintf(stderr, "%s\n", dlerror());
    CHECK(library);
    void (*run)(void) = (void (*)(void))dlsym(library, "run");
    CHECK(run);
    run();
    say("done", 1);
    return 0;
}
