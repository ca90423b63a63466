/* How the helper thread runs: when it sleeps, and where. */
#include "helper.h"
#include <grp.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/wait.h>

static void *sleeps_for_ever(void *unused) {
    free(malloc(10));
    for (;;)
        pause();
    return unused;
}

static void start_sleeper(void) {
    pthread_t thread;
    pthread_attr_t small;
    CHECK(!pthread_attr_init(&small));
    CHECK(!pthread_attr_setstacksize(&small, 64 * KIB));
    CHECK(!pthread_create(&thread, &small, sleeps_for_ever, NULL));
}

/* Allocates and frees some MiB in small blocks; one in fifty is freed last. */
static void burst(void) {
    enum { BLOCKS = 20000 };
    static void *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++)
        CHECK(blocks[i] = memset(malloc(400 + i % 3000), 1, 400));
    for (int i = 0; i < BLOCKS; i++)
        if (i % 50)
            free(blocks[i]);
    for (int i = 0; i < BLOCKS; i += 50)
        free(blocks[i]);
}

static void wait_for_helper(void) {
    WAIT_UNTIL(helper(), 1000, (burst(), 10000))
}

/* How often the helper has waited for something. */
static unsigned long waits(void) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/status", helper());
    return proc_kib(path, "voluntary_ctxt_switches:");
}

/* Whether it sleeps: it does not look at the clock any more. */
static int is_asleep(void) {
    unsigned long before = waits();
    usleep(700000);
    return waits() == before;
}

/* All memory is locked, so that the kernel takes nothing. */
static void sleeps_beside_locked(int argc, char **argv) {
    (void)argc, (void)argv;
    start_sleeper();
    wait_for_helper();
    if (mlockall(MCL_CURRENT | MCL_FUTURE)) {
        CHECK(errno == ENOMEM || errno == EPERM);
        say("done", 1);
        return;
    }
    burst();
    WAIT_UNTIL(is_asleep(), 60, 1)
    say("done", 1);
}

/* Huge blocks that are kept go when the program's own mappings have the process hold more than ever before. */
static void kept_beside_mappings(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { HUGE = 64 * MIB, MORE = 24 * MIB };
    start_sleeper();
    wait_for_helper();
    for (int round = 0; round < 3; round++)
        free(memset(malloc(HUGE), 1, HUGE));
    unsigned long kept = status_kib("VmRSS:");
    CHECK(kept > HUGE / KIB);
    /* As much as the block holds, a piece at each look. */
    for (int piece = 0; piece < 3 && status_kib("VmRSS:") >= kept; piece++) {
        void *mapping = mmap(NULL, MORE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(mapping != MAP_FAILED);
        memset(mapping, 1, MORE);
        for (int tries = 0; tries < 200 && status_kib("VmRSS:") >= kept; tries++)
            usleep(50000);
    }
    /* The decay time is half an hour. */
    CHECK(status_kib("VmRSS:") < kept);
    say("done", 1);
}

static void *bursts_for_ever(void *unused) {
    void **blocks = malloc(20000 * sizeof *blocks);
    CHECK(blocks);
    for (;;) {
        for (int i = 0; i < 20000; i++)
            CHECK(blocks[i] = memset(malloc(900 + i % 1500), 1, 900));
        for (int i = 0; i < 20000; i++)
            free(blocks[i]);
    }
    return unused;
}

/* Forks while others hold the locks of their arenas, which are out of use in the child then. */
static void sleeps_in_children(int argc, char **argv) {
    (void)argc, (void)argv;
    enum { CHILDREN = 8 };
    for (int i = 0; i < 3; i++) {
        pthread_t thread;
        CHECK(!pthread_create(&thread, NULL, bursts_for_ever, NULL));
    }
    usleep(300000);
    pid_t children[CHILDREN];
    for (int i = 0; i < CHILDREN; i++) {
        usleep(7000 + i * 37);
        CHECK((children[i] = fork()) >= 0);
        if (!children[i]) {
            start_sleeper();
            wait_for_helper();
            WAIT_UNTIL(is_asleep(), 60, 1)
            _exit(0);
        }
    }
    for (int i = 0; i < CHILDREN; i++) {
        int status;
        CHECK(waitpid(children[i], &status, 0) == children[i] && status == 0);
    }
    say("done", 1);
    fflush(stdout);
    _exit(0);
}

/* The first CPU that the thread may use. */
static cpu_set_t first_cpu(void) {
    cpu_set_t all, first;
    CHECK(!sched_getaffinity(0, sizeof all, &all));
    int cpu = 0;
    while (!CPU_ISSET(cpu, &all))
        cpu++;
    CPU_ZERO(&first);
    CPU_SET(cpu, &first);
    return first;
}

/* Runs a thread to its end. */
static void run_thread(void *(*work)(void *)) {
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, work, NULL));
    CHECK(!pthread_join(thread, NULL));
}

/* A thread that runs otherwise than the program starts the helper. */
static void *bursts_elsewhere(void *unused) {
    cpu_set_t first = first_cpu();
    CHECK(!pthread_setaffinity_np(pthread_self(), sizeof first, &first));
    struct sched_param none = {0};
    CHECK(!pthread_setschedparam(pthread_self(), SCHED_BATCH, &none));
    wait_for_helper();
    return unused;
}

static void runs_as_the_program(int argc, char **argv) {
    (void)argc, (void)argv;
    run_thread(bursts_elsewhere);
    start_sleeper();
    wait_for_helper();
    int of = helper();
    cpu_set_t own, its;
    CHECK(!sched_getaffinity(0, sizeof own, &own));
    WAIT_UNTIL(sched_getscheduler(of) == SCHED_OTHER, 1000, 1000)
    WAIT_UNTIL(!sched_getaffinity(of, sizeof its, &its) && CPU_EQUAL(&own, &its), 1000, 1000)
    say("done", 1);
}

/* The user may have no more threads for a while. */
static void starts_later(int argc, char **argv) {
    (void)argc, (void)argv;
    start_sleeper();
    if (!geteuid()) {
        /* No such limit holds for root. */
        CHECK(!setgroups(0, NULL) && !setgid(65534) && !setuid(65534));
    }
    struct rlimit before, none;
    CHECK(!getrlimit(RLIMIT_NPROC, &before));
    none = before;
    none.rlim_cur = 0;
    CHECK(!setrlimit(RLIMIT_NPROC, &none));
    for (int i = 0; i < 20; i++)
        burst();
    CHECK(!helper());
    CHECK(!setrlimit(RLIMIT_NPROC, &before));
    wait_for_helper();
    say("done", 1);
}

static void *bursts_once(void *unused) {
    burst();
    return unused;
}

/* The first thread beside the program's own has one CPU only. */
static void counts_cpus_before_pins(int argc, char **argv) {
    (void)argc, (void)argv;
    cpu_set_t all, one = first_cpu();
    CHECK(!sched_getaffinity(0, sizeof all, &all));
    pthread_t thread;
    pthread_attr_t pinned;
    CHECK(!pthread_attr_init(&pinned));
    CHECK(!pthread_attr_setaffinity_np(&pinned, sizeof one, &one));
    free(malloc(100));
    CHECK(!pthread_create(&thread, &pinned, bursts_once, NULL));
    CHECK(!pthread_join(thread, NULL));
    malloc_stats();
}

/* Waits for a child that ends well. */
static void wait_for(pid_t child) {
    int status;
    CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
}

static void bursts_without_helper(void) {
    for (int i = 0; i < 20; i++) {
        burst();
        usleep(1000);
        CHECK(!helper());
    }
}

/* A process whose other threads are gone is one without: unshare(2) of the user namespace works there. */
static void none_for_the_last_thread(int argc, char **argv) {
    (void)argc, (void)argv;
    void *held[500];
    for (int i = 0; i < 500; i++)
        CHECK(held[i] = memset(malloc(20000), 1, 20000));
    start_sleeper();
    wait_for_helper();
    pid_t child = fork();
    if (!child) {
        bursts_without_helper();
        _exit(0);
    }
    wait_for(child);
    child = fork();
    if (!child) {
        run_thread(bursts_once);
        WAIT_UNTIL(!helper(), 1000, 10000)
        bursts_without_helper();
        _exit(0);
    }
    wait_for(child);
    for (int i = 0; i < 500; i++)
        free(held[i]);
    say("done", 1);
}

static void *never_allocates(void *unused) {
    for (;;)
        pause();
    return unused;
}

/* Of the threads that are left, one has a cache. */
static void starts_beside_threads_without_blocks(int argc, char **argv) {
    (void)argc, (void)argv;
    run_thread(bursts_once);
    WAIT_UNTIL(!helper(), 1000, 10000)
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, never_allocates, NULL));
    wait_for_helper();
    say("done", 1);
}

/* The child of vfork(2) is in the memory of its parent, whose helper it can not start: that would end with it. */
static void starts_after_a_vfork(int argc, char **argv) {
    (void)argc, (void)argv;
    burst();
    start_sleeper();
    pid_t child = vfork();
    if (!child) {
        burst();
        _exit(0);
    }
    wait_for(child);
    wait_for_helper();
    say("done", 1);
}

static volatile pid_t forked = -1;
static atomic_int raise_when_blocked;

/* The library's calls come here, too. */
int pthread_sigmask(int how, const sigset_t *set, sigset_t *before) {
    int signal = how == SIG_BLOCK ? atomic_exchange(&raise_when_blocked, 0) : 0;
    if (signal)
        raise(signal);
    return sigprocmask(how, set, before) ? errno : 0;
}

static void forks(int signal) {
    (void)signal;
    forked = fork();
}

/* Forks in a handler when the helper is about to be started, for which signals are blocked. */
static void starts_one_where_a_handler_forks(int argc, char **argv) {
    (void)argc, (void)argv;
    signal(SIGUSR1, forks);
    start_sleeper();
    raise_when_blocked = SIGUSR1;
    WAIT_UNTIL(forked >= 0, 1000, (burst(), 1000))
    if (!forked) {
        start_sleeper();
        wait_for_helper();
        for (int i = 0; i < 5; i++) {
            burst();
            usleep(50000);
        }
        CHECK(helper());
        _exit(0);
    }
    wait_for(forked);
    say("done", 1);
}

static const struct mode modes[] = {
    {"none_for_the_last_thread", none_for_the_last_thread},
    {"starts_beside_threads_without_blocks", starts_beside_threads_without_blocks},
    {"starts_after_a_vfork", starts_after_a_vfork},
    {"starts_one_where_a_handler_forks", starts_one_where_a_handler_forks},
    {"sleeps_beside_locked", sleeps_beside_locked},
    {"kept_beside_mappings", kept_beside_mappings},
    {"sleeps_in_children", sleeps_in_children},
    {"runs_as_the_program", runs_as_the_program},
    {"starts_later", starts_later},
    {"counts_cpus_before_pins", counts_cpus_before_pins},
    {NULL, NULL},
};

int main(int argc, char **argv) { return run_mode(modes, argc, argv); }
