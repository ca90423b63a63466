/* What the test programs share. Nothing here allocates. */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define KIB ((size_t)1024)
#define MIB (KIB * KIB)

/* Says what is wrong without stdio and ends with status 1. */
#define CHECK(condition)                                                      \
    do {                                                                      \
        if (!(condition))                                                     \
            check_failed(__FILE__, __LINE__, #condition);                     \
    } while (0)

__attribute__((noreturn, unused)) static void check_failed(const char *file,
                                                           int line,
                                                           const char *what) {
    char text[400];
    int length = snprintf(text, sizeof text, "%s:%d: not true: %s (errno %d)\n",
                          file, line, what, errno);
    if (write(2, text, (size_t)length) < 0)
        _exit(2);
    _exit(1);
}

/* Writes `name number` for the test to read. */
__attribute__((unused)) static void say(const char *name,
                                        unsigned long number) {
    char text[100];
    int length = snprintf(text, sizeof text, "%s %lu\n", name, number);
    CHECK(write(1, text, (size_t)length) == length);
}

/* True if the program runs on the system's malloc, to check the program. */
__attribute__((unused)) static int on_system(void) {
    const char *value = getenv("ARENITE_TEST_SYSTEM");
    return value && !strcmp(value, "1");
}

/* A pointer the compiler knows nothing about. */
#define HIDE(pointer)                                                         \
    ({                                                                        \
        __typeof__((pointer) + 0) hidden_ = (pointer);                         \
        __asm__ volatile("" : "+r"(hidden_) : : "memory");                    \
        hidden_;                                                              \
    })

/* A pattern that depends on the block's seed and each byte's place. */
static inline unsigned char pattern(unsigned seed, size_t i) {
    return (unsigned char)(seed * 31u + i * 7u + (i >> 8) + 1u);
}

__attribute__((unused)) static void fill(void *block, size_t size,
                                         unsigned seed) {
    unsigned char *bytes = (unsigned char *)block;
    for (size_t i = 0; i < size; i++)
        bytes[i] = pattern(seed, i);
}

__attribute__((unused)) static int holds(const void *block, size_t size,
                                         unsigned seed) {
    const unsigned char *bytes = (const unsigned char *)block;
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != pattern(seed, i))
            return 0;
    return 1;
}

__attribute__((unused)) static int all_zero(const void *block, size_t size) {
    const unsigned char *bytes = (const unsigned char *)block;
    for (size_t i = 0; i < size; i++)
        if (bytes[i])
            return 0;
    return 1;
}

/* xorshift: the same sequence on every run. */
static inline unsigned next_random(unsigned *state) {
    unsigned x = *state;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return *state = x;
}

/* A number in KiB out of a file of /proc/self, read without allocating. */
__attribute__((unused)) static unsigned long proc_kib(const char *file, const char *field) {
    static char text[8192];
    int fd = open(file, O_RDONLY);
    CHECK(fd >= 0);
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    CHECK(length > 0);
    text[length] = 0;
    const char *line = strstr(text, field);
    CHECK(line);
    return strtoul(line + strlen(field), NULL, 10);
}

__attribute__((unused)) static unsigned long status_kib(const char *field) {
    return proc_kib("/proc/self/status", field);
}

/* A table of named modes; main runs the one that argv[1] names. */
struct mode {
    const char *name;
    void (*run)(int argc, char **argv);
};

__attribute__((unused)) static int run_mode(const struct mode *modes, int argc,
                                            char **argv) {
    CHECK(argc > 1);
    for (; modes->name; modes++)
        if (!strcmp(modes->name, argv[1])) {
            modes->run(argc, argv);
            return 0;
        }
    fprintf(stderr, "no mode %s\n", argv[1]);
    return 2;
}

#endif
