/* What tests of the helper thread share. */
#pragma once
#include "check.h"
#include <dirent.h>

/* Waits, as often and as long (in microseconds) as said, for what must come. */
#define WAIT_UNTIL(condition, most, pause)                                     \
    for (int tries = 0; !(condition); tries++) {                               \
        CHECK(tries < (most));                                                 \
        usleep(pause);                                                         \
    }

/* Thread id of the helper, or 0. */
__attribute__((unused)) static int helper(void) {
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks);
    int found = 0;
    for (struct dirent *task; (task = readdir(tasks));) {
        char path[300], name[32] = "";
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", task->d_name);
        int fd = open(path, O_RDONLY);
        if (fd >= 0 && read(fd, name, sizeof name - 1) > 0 && !strcmp(name, "arenite-purge\n")) {
            /* There is one at most. */
            CHECK(!found);
            found = atoi(task->d_name);
        }
        close(fd);
    }
    closedir(tasks);
    return found;
}
