/* A signal handler interrupts malloc_trim where it empties the bins of another thread, and forks; fork then
 * waits for a mutex that this thread holds while it allocates. */
#include "check.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdatomic.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t step;
static atomic_int is_armed, was_handled;

/* As libc's. The signal comes when malloc_trim asks for a barrier. */
long syscall(long number, ...) {
    long (*next)(long, ...) = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    long given[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        given[i] = va_arg(list, long);
    va_end(list);
    long result = next(number, given[0], given[1], given[2], given[3], given[4], given[5]);
    if (number == SYS_membarrier && atomic_exchange(&is_armed, 0))
        pthread_kill(pthread_self(), SIGUSR1);
    return result;
}

static void lock(void) { pthread_mutex_lock(&mutex); }
static void unlock(void) { pthread_mutex_unlock(&mutex); }

static void forks(int signal) {
    (void)signal;
    atomic_store(&was_handled, 1);
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child)
        _exit(0);
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void *allocates_with_mutex(void *unused) {
    enum { COUNT = 1000 };
    void *blocks[COUNT];
    for (size_t size = 16; size <= KIB; size *= 2) {
        for (int i = 0; i < COUNT; i++)
            CHECK((blocks[i] = malloc(size)));
        for (int i = 0; i < COUNT; i++)
            free(blocks[i]);
    }
    lock();
    pthread_barrier_wait(&step);
    while (!atomic_load(&was_handled))
        usleep(100);
    usleep(20000);
    void *block = malloc(100);
    CHECK(block);
    unlock();
    free(block);
    return unused;
}

static void trim(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_t thread;
    CHECK(!pthread_atfork(lock, unlock, unlock));
    CHECK(signal(SIGUSR1, forks) != SIG_ERR);
    CHECK(!pthread_barrier_init(&step, NULL, 2));
    CHECK(!pthread_create(&thread, NULL, allocates_with_mutex, NULL));
    pthread_barrier_wait(&step);
    atomic_store(&is_armed, 1);
    malloc_trim(0);
    /* Where the kernel has no such barrier. */
    atomic_store(&was_handled, 1);
    CHECK(!pthread_join(thread, NULL));
    say("done", 1);
}

int main(int argc, char **argv) {
    static const struct mode modes[] = {{"trim", trim}, {NULL, NULL}};
    return run_mode(modes, argc, argv);
}
