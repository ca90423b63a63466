/* Opens a library of its own scope, as Python does its extensions, or with "deep" one that looks for names there
 * first, as PHP does, and runs what is in it. */
#include "check.h"
#include <dlfcn.h>

int main(int argc, char **argv) {
    CHECK(argc > 1);
    int deep = argc > 2 && !strcmp(argv[2], "deep") ? RTLD_DEEPBIND : 0;
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL | deep);
    if (!library)
        fprintf(stderr, "%s\n", dlerror());
    CHECK(library);
    void (*run)(void) = (void (*)(void))dlsym(library, "run");
    CHECK(run);
    CHECK(!dlopen("no such library", RTLD_NOW | deep) && strstr(dlerror(), "no such library"));
    run();
    say("done", 1);
    return 0;
}
