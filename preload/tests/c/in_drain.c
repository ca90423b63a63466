/* What happens while malloc_trim is about to empty the bins of a thread. */
#include "check.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdatomic.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t step;
static atomic_int was_handled;

/* What to do when malloc_trim asks for a barrier, once. */
static _Atomic(void (*)(void)) in_drain;

/* As libc's. */
long syscall(long number, ...) {
    long (*next)(long, ...) = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    long given[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        given[i] = va_arg(list, long);
    va_end(list);
    long result = next(number, given[0], given[1], given[2], given[3], given[4], given[5]);
    void (*what)(void) = number == SYS_membarrier ? atomic_exchange(&in_drain, NULL) : NULL;
    if (what)
        what();
    return result;
}

/* Whether malloc_trim came by here, as it does where the kernel has such a barrier. */
static int was_in_drain(void) {
    long (*next)(long, ...) = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    enum { QUERY = 0, PRIVATE_EXPEDITED = 1 << 3 };
    long known = next(SYS_membarrier, QUERY, 0, 0);
    return !atomic_exchange(&in_drain, NULL) || on_system() || known < 0 || !(known & PRIVATE_EXPEDITED);
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

static void fill_bins(void) {
    enum { COUNT = 1000 };
    void *blocks[COUNT];
    for (size_t size = 16; size <= KIB; size *= 2) {
        for (int i = 0; i < COUNT; i++)
            CHECK((blocks[i] = malloc(size)));
        for (int i = 0; i < COUNT; i++)
            free(blocks[i]);
    }
}

static void *allocates_with_mutex(void *unused) {
    fill_bins();
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

static void signals_itself(void) { pthread_kill(pthread_self(), SIGUSR1); }

/* A signal handler interrupts it and forks; fork then waits for a mutex that the thread holds while it allocates. */
static void fork_in_handler(int argc, char **argv) {
    (void)argc, (void)argv;
    pthread_t thread;
    CHECK(!pthread_atfork(lock, unlock, unlock));
    CHECK(signal(SIGUSR1, forks) != SIG_ERR);
    CHECK(!pthread_barrier_init(&step, NULL, 2));
    CHECK(!pthread_create(&thread, NULL, allocates_with_mutex, NULL));
    pthread_barrier_wait(&step);
    atomic_store(&in_drain, signals_itself);
    malloc_trim(0);
    CHECK(was_in_drain());
    atomic_store(&was_handled, 1);
    CHECK(!pthread_join(thread, NULL));
    say("done", 1);
}

static void waits(void) {
    pthread_barrier_wait(&step);
    pthread_barrier_wait(&step);
}

static void *trims(void *unused) {
    malloc_trim(0);
    int waited = !atomic_load(&in_drain);
    CHECK(was_in_drain());
    if (!waited)
        waits();
    return unused;
}

static void *trims_alone(void *unused) {
    malloc_trim(0);
    CHECK(was_in_drain());
    return unused;
}

/* The thread makes a child, by no fork of libc's that the library would hear of: there is nobody inside its gate. */
static void child_without_handlers(int argc, char **argv) {
    (void)argc, (void)argv;
    fill_bins();
    CHECK(!pthread_barrier_init(&step, NULL, 2));
    atomic_store(&in_drain, waits);
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, trims, NULL));
    pthread_barrier_wait(&step);
    long child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    CHECK(child >= 0);
    if (!child) {
        alarm(30);
        fill_bins();
        fill_bins();
        _exit(0);
    }
    int status;
    CHECK(waitpid((pid_t)child, &status, 0) == child && status == 0);
    pthread_barrier_wait(&step);
    CHECK(!pthread_join(thread, NULL));
    fill_bins();
    say("done", 1);
}

static atomic_int child_is_there, child_is_done;

static void stalls(void) {
    while (!atomic_load(&child_is_there))
        usleep(1000);
    /* For longer than a thread has patience for who is inside its gate. */
    usleep(300000);
    CHECK(!atomic_load(&child_is_done));
}

/* The child of vfork(2), which is in the same memory, waits for who drains its parent's thread. */
static void child_in_the_same_memory(int argc, char **argv) {
    (void)argc, (void)argv;
    fill_bins();
    atomic_store(&in_drain, stalls);
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, trims_alone, NULL));
    while (atomic_load(&in_drain))
        usleep(100);
    pid_t child = vfork();
    CHECK(child >= 0);
    if (!child) {
        atomic_store(&child_is_there, 1);
        fill_bins();
        atomic_store(&child_is_done, 1);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(!pthread_join(thread, NULL));
    fill_bins();
    fill_bins();
    say("done", 1);
}

int main(int argc, char **argv) {
    static const struct mode modes[] = {
        {"fork_in_handler", fork_in_handler},
        {"child_without_handlers", child_without_handlers},
        {"child_in_the_same_memory", child_in_the_same_memory},
        {NULL, NULL},
    };
    return run_mode(modes, argc, argv);
}
