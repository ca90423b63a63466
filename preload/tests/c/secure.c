/* A program for settings.rs that is made a set-user-ID one. */
#include "check.h"

int main(void) {
    char *p = malloc(100);
    p[0] = 1;
    free(p);
    say("has_more_rights", geteuid() == 0 && getuid() != 0);
    return 0;
}
