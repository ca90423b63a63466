/* Looks for names in libc before it looks in what is preloaded, when it is opened with RTLD_DEEPBIND. */
#include "check.h"

void run(void) {
    /* libc's own call goes to the process's malloc. */
    char *text = strdup("a text of some length");
    CHECK(text);
    text = realloc(text, 100000);
    CHECK(text && !strcmp(text, "a text of some length"));
    free(text);
}
