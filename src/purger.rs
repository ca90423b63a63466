//! Who gives memory back: a thread on a slow path, or the helper thread, which does so while the
//! program does nothing.
//!
//! There is one helper per process. A slow path of malloc starts it once the process has several
//! threads and some memory. It sleeps while nothing happens, until a slow path in a process with some memory
//! wakes it; and it ends when the program has one thread left: a process that is done with its threads has
//! one again, as setns(2), unshare(2) and Python's fork want it. It blocks all signals but those
//! that its own instructions raise, allocates nothing, and has a table of open files of its own: what it reads about its control group takes no
//! descriptor that the program counts on, and it holds no file of the program open.
//!
//! **Where it is started.** pthread_create(3) takes locks of glibc, so it must not be called by a malloc or
//! free that glibc itself calls while it holds one:
//!
//! - pthread_join(3) frees what belongs to cached stacks under the lock of these
//!   (nptl/nptl-stack.c, `__nptl_free_stacks`): so no free starts it.
//! - dlopen(3) allocates a longer list of modules with thread-local variables while the number of these
//!   is ahead of it (elf/dl-tls.c, `_dl_add_to_slotinfo`; 1008 bytes): so no request of about a KiB starts
//!   it.
//!
//! **How it ends.** The last thread of a process runs the handlers of atexit(3), which must not be this one,
//! with its small stack. So it is never detached: the last thread of the program that has a cache stops it,
//! and waits until it is gone.
//!
//! | state | meaning | who leaves it |
//! |---|---|---|
//! | `NONE` | no helper | a slow path: `STARTING` |
//! | `STARTING` | about to run | who starts it: `RUNS`, or `REFUSED` |
//! | `RUNS` | looks each epoch | the helper: `SLEEPS` or `DONE`; the last thread: `STOPPING` |
//! | `SLEEPS` | waits to be woken | a slow path: `RUNS`; the last thread: `STOPPING` |
//! | `DONE` | ended by itself, and is to be joined | a slow path: `STARTING`; the last thread: `STOPPING` |
//! | `STOPPING` | about to end | the last thread, when it is gone: `NONE` |
//! | `REFUSED` | the kernel allows none | a slow path, some seconds later: `STARTING` |

use crate::arena::{ARENAS, STEPS};
use crate::config;
use crate::huge;
use crate::limit;
use crate::os::{self, ProcessMark};
use crate::pressure;
use crate::purge;
use crate::tcache::{self, State, Tcache};
use crate::tls;
use core::ffi::{c_int, c_void};
use core::ops::RangeInclusive;
use core::ptr;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, fence};

const NONE: u32 = 0;
const STARTING: u32 = 1;
const RUNS: u32 = 2;
const SLEEPS: u32 = 3;
const DONE: u32 = 4;
const STOPPING: u32 = 5;
const REFUSED: u32 = 6;

/// The state, on which the helper sleeps, too. Acquire and release of all its changes pair with each other:
/// who joins the helper sees the handle that its starter stored.
static STATE: AtomicU32 = AtomicU32::new(NONE);

/// The helper's pthread_t, from before `RUNS` on.
static HANDLE: AtomicUsize = AtomicUsize::new(0);

/// Of the helper's process. The child of _Fork(3) inherits state and handle, and no helper. (One of vfork(2) has the mark, and
/// the helper.)
static IS_HERE: ProcessMark = ProcessMark::new();

/// A thread that had a cache ended, or a fork left it behind: where there is one cache now, the process may have one thread,
/// of which libc knows only as long as there never was another one.
static HAD_OTHERS: AtomicBool = AtomicBool::new(false);

/// The epoch in which the kernel was last asked how many threads there are.
static COUNTED_IN: AtomicU64 = AtomicU64::new(0);

/// Requests of so many bytes start no helper.
const MAY_BE_THE_LOADERS: RangeInclusive<usize> = 897..=1152;

/// Bytes of the helper's stack; a program's thread-local variables lie in it as well, …
const STACK_BYTES: [usize; 2] = [64 * 1024, 1024 * 1024];
/// … beside which it needs so many.
const STACK_NEEDED: usize = 32 * 1024;
/// Those that it has.
static STACK: AtomicUsize = AtomicUsize::new(0);
/// How many of the sizes turned out to be too small.
static SMALL_STACKS: AtomicUsize = AtomicUsize::new(0);

/// Epochs in which nothing went back, nothing cools, and little is free or nobody touched it, after which the helper
/// sleeps, or ends: twice the decay time.
const IDLE_EPOCHS: u32 = 2 * STEPS as u32;

/// Milliseconds after which the helper looks at its control group at the latest.
const LONGEST_WAIT_MS: u32 = 500;

/// Epochs after which a slow path tries again to start a helper that the kernel refused: it may have had too many
/// threads for an instant.
const REFUSED_EPOCHS: u64 = 4 * STEPS as u64;

/// The epoch in which it was refused.
static REFUSED_IN: AtomicU64 = AtomicU64::new(0);

/// Looks at the purge clock, now and then, and at the soft limit. The end of every slow path; no
/// lock is held.
#[inline]
pub fn poll() {
    poll_or_start(false);
}

/// As [`poll`], at the end of a slow path of malloc for `bytes`: which may start the helper.
#[inline]
pub fn poll_for(bytes: usize) {
    poll_or_start(!MAY_BE_THE_LOADERS.contains(&bytes));
}

/// As [`poll_for`], in any case: after a huge block was asked for, of which one may be kept from now on.
pub fn poll_for_huge() {
    // SAFETY: as below.
    let cache = unsafe { &*tls::get() };
    if cache.state() == State::Live {
        poll_now(cache, true);
    }
}

#[inline(always)]
fn poll_or_start(may_start: bool) {
    // SAFETY: the word always points at a cache. The constant ones are not written: only a live one
    // counts.
    let cache = unsafe { &*tls::get() };
    if cache.state() == State::Live && cache.is_poll_due() {
        poll_now(cache, may_start);
    }
    look_at_soft_limit();
}

/// Gives back what is free above the soft limit, and calls the hook if that was crossed just now. No lock is held.
#[inline]
pub fn look_at_soft_limit() {
    if limit::is_at_soft() {
        keep_soft_limit();
    }
}

#[cold]
#[inline(never)]
fn keep_soft_limit() {
    if limit::came_down() {
        return;
    }
    if !limit::is_crossed() {
        return purge::trim_at_soft_limit();
    }
    purge::trim(0);
    call_hook();
}

/// Calls the hook, in the middle of a request or a free, which leave `errno` as it was. That it panics ends the process: no
/// allocator may unwind (`GlobalAlloc`).
extern "C" fn call_hook() {
    if let Some(hook) = config::limit_hook() {
        let errno = os::errno();
        hook();
        os::set_errno(errno);
    }
}

#[cold]
#[inline(never)]
fn poll_now(cache: &Tcache, may_start: bool) {
    let Some(epoch) = purge::epoch() else { return };
    cache.cool(epoch);
    forget_in_child();
    Tcache::empty_vanished();
    huge::kept::make_room_beside(purge::bytes_in_arenas());
    let is_worth_it = purge::is_worth_it();
    let may_be_worth_it = || is_worth_it || purge::may_be_worth_it();
    let helper_does_it = match STATE.load(Acquire) {
        STARTING | RUNS | STOPPING => true,
        SLEEPS => {
            // Threads that fall asleep later leave something to take, too.
            if may_be_worth_it() {
                wake();
            }
            true
        }
        REFUSED if epoch.wrapping_sub(REFUSED_IN.load(Relaxed)) < REFUSED_EPOCHS => false,
        state => {
            may_start && may_be_worth_it() && may_run(cache, epoch) && start_from(state, epoch)
        }
    };
    if !helper_does_it && may_be_worth_it() {
        purge::tick_on_slow_path(is_worth_it);
    }
}

/// Threads of the program that have a cache.
fn threads() -> u32 {
    ARENAS.iter().map(|arena| arena.attach().threads()).sum()
}

fn change(from: u32, to: u32) -> bool {
    STATE.compare_exchange(from, to, AcqRel, Relaxed).is_ok()
}

fn wake() {
    if change(SLEEPS, RUNS) {
        os::futex_wake(&STATE);
    }
}

/// Whether there is a helper, which looks after the huge blocks that are kept.
pub fn watches() -> bool {
    forget_in_child();
    // Pairs with that of the helper: it sees the blocks, or this sees that it sleeps or ended.
    fence(SeqCst);
    wake();
    STATE.load(Relaxed) == RUNS
}

/// The decay time is another one from now on: the helper may wait for the old one.
pub fn decay_time_changed() {
    if STATE.load(Relaxed) == RUNS {
        os::futex_wake(&STATE);
    }
}

/// A thread of the program ended, and has no cache any more.
pub fn thread_ended() {
    HAD_OTHERS.store(true, Relaxed);
    forget_in_child();
    if STATE.load(Relaxed) == NONE {
        return;
    }
    match threads() {
        0 => stop(),
        // The helper finds that it is not needed.
        1 => wake(),
        _ => {}
    }
}

/// Stops the helper, and waits until it is gone.
#[cold]
fn stop() {
    loop {
        let state = STATE.load(Relaxed);
        if !matches!(state, RUNS | SLEEPS | DONE) {
            return;
        }
        if change(state, STOPPING) {
            break;
        }
    }
    os::futex_wake(&STATE);
    join();
    STATE.store(NONE, Release);
}

/// Waits for the end of the helper, which was told to end, or has done so.
fn join() {
    let saved = os::errno();
    unsafe extern "C" {
        fn pthread_setcancelstate(state: c_int, before: *mut c_int) -> c_int;
    }
    const PTHREAD_CANCEL_DISABLE: c_int = 1;
    let mut before = 0;
    // SAFETY: whoever moved the state here is the one that joins the thread. pthread_join is a cancellation
    // point, which malloc and the end of a thread must not be.
    unsafe {
        pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &mut before);
        libc::pthread_join(HANDLE.load(Relaxed) as libc::pthread_t, ptr::null_mut());
        pthread_setcancelstate(before, ptr::null_mut());
    }
    os::set_errno(saved);
}

/// Whether the thread of the cache may start the helper.
fn may_run(cache: &Tcache, epoch: u64) -> bool {
    if os::is_single_threaded() || !config::PURGE_THREAD.load(Relaxed) {
        return false;
    }
    // Not every libc tells how many threads there are; and of those that have no cache only the kernel knows.
    let may_be_alone = HAD_OTHERS.load(Relaxed) || cfg!(not(target_env = "gnu"));
    if may_be_alone && threads() <= 1 {
        let was_counted = COUNTED_IN.swap(epoch, Relaxed) == epoch;
        if was_counted || os::count_threads() <= 1 {
            return false;
        }
    }
    // The child of vfork(2) goes on with the cache of its parent's thread: what it starts would end with it. (A first
    // thread without a key has no number.)
    [0, os::thread_id()].contains(&cache.thread_id())
}

/// Starts the helper; whether there is one now. The caller holds no lock. A handler that forks in the middle would
/// leave its child there, and one of the program must not run on the helper's small stack: so all signals are blocked.
fn start_from(state: u32, epoch: u64) -> bool {
    let saved = os::errno();
    let is_there = os::without_signals(|| {
        // Before the state: else others take this for a child that inherited it.
        IS_HERE.set();
        if !change(state, STARTING) {
            return true;
        }
        if state == DONE {
            join();
        }
        let sizes = STACK_BYTES.iter().skip(SMALL_STACKS.load(Relaxed));
        let is_there = sizes.copied().any(start_with);
        REFUSED_IN.store(epoch, Relaxed);
        change(STARTING, if is_there { RUNS } else { REFUSED });
        is_there
    });
    os::set_errno(saved);
    is_there == Some(true)
}

/// In the child after fork there is no helper, whatever there was before.
pub fn after_fork() {
    HAD_OTHERS.store(true, Relaxed);
    purge::after_fork();
    STATE.store(NONE, Release);
}

/// As [`after_fork`], in a child whose parent's atfork handlers did not run.
fn forget_in_child() {
    // Acquire pairs with the change to `STARTING`, before which the mark was set. Of two threads in the child only one
    // forgets: the other one may have started a helper by then.
    if STATE.load(Acquire) != NONE && IS_HERE.take() {
        after_fork();
    }
}

/// Starts the helper with a stack of so many bytes; false when that is too little, or no thread is
/// to be had.
fn start_with(stack: usize) -> bool {
    // SAFETY: the attributes are initialised before use, and destroyed once.
    unsafe {
        let mut attributes: libc::pthread_attr_t = core::mem::zeroed();
        if libc::pthread_attr_init(&mut attributes) != 0 {
            return false;
        }
        let mut thread: libc::pthread_t = core::mem::zeroed();
        STACK.store(stack, Relaxed);
        let started = libc::pthread_attr_setstacksize(&mut attributes, stack) == 0
            && libc::pthread_create(&mut thread, &attributes, run, ptr::null_mut()) == 0;
        libc::pthread_attr_destroy(&mut attributes);
        HANDLE.store(thread as usize, Relaxed);
        started
    }
}

extern "C" fn run(_: *mut c_void) -> *mut c_void {
    // What libc allocates and frees for the thread needs no cache.
    // SAFETY: the constant cache of threads that do without.
    unsafe { tls::set(tcache::ended()) };
    // SAFETY: the name is a C string of at most 15 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"arenite-purge".as_ptr()) };
    // The handle must be known before this may end.
    while STATE.load(Acquire) == STARTING {
        os::yield_now();
    }
    if !has_room() {
        // The next slow path tries a larger stack.
        SMALL_STACKS.fetch_add(1, Relaxed);
        change(RUNS, DONE);
        return ptr::null_mut();
    }
    let has_own_files = os::leave_open_files();
    os::run_as_main_thread();
    let (mut idle, mut ticked_in, mut free) = (0, None, 0);
    while let (Some(milliseconds), Some(epoch)) = (purge::epoch_milliseconds(), purge::epoch()) {
        let is_urgent = has_own_files && pressure::look() > 0;
        if has_own_files {
            purge::peak::look();
        }
        if ticked_in.replace(epoch) != Some(epoch) || is_urgent {
            let did_something = purge::tick(epoch, usize::MAX, true);
            // What nobody touches, and does not go either, the kernel does not take.
            let before = core::mem::replace(&mut free, purge::purgeable_bytes());
            let may_go = purge::is_worth_it() && free != before;
            idle = if did_something || may_go { 0 } else { idle + 1 };
        }
        if idle >= IDLE_EPOCHS {
            if threads() <= 1 {
                break;
            }
            sleep();
            idle = 0;
        } else {
            let milliseconds = u32::try_from(milliseconds).unwrap_or(u32::MAX);
            os::futex_wait(&STATE, RUNS, milliseconds.min(LONGEST_WAIT_MS));
        }
        if STATE.load(Acquire) != RUNS {
            return ptr::null_mut();
        }
    }
    // Not if it was told to end meanwhile; then it is joined by who said so.
    change(RUNS, DONE);
    fence(SeqCst);
    huge::kept::release(0);
    ptr::null_mut()
}

/// Whether the program's thread-local variables have left enough of the stack: on x86_64 glibc puts them
/// between the thread's descriptor, at the upper end, and the first frame. (glibc refuses stacks that
/// have less than some 2 KiB beside them.)
fn has_room() -> bool {
    let here = 0_u8;
    // SAFETY: no precondition.
    let end = unsafe { libc::pthread_self() } as usize;
    let used = end.wrapping_sub((&raw const here).addr());
    used.saturating_add(STACK_NEEDED) <= STACK.load(Relaxed)
}

/// Sleeps until somebody sees something to do.
fn sleep() {
    // What is free now the kernel does not take: memory that the program locked.
    let refused = purge::purgeable_bytes();
    // Who sees more first wakes nobody: so it is looked at again.
    let has_more = || {
        fence(SeqCst);
        purge::is_worth_it_beyond(refused) || huge::kept::bytes() > 0
    };
    if !change(RUNS, SLEEPS) || (has_more() && change(SLEEPS, RUNS)) {
        return;
    }
    while STATE.load(Acquire) == SLEEPS {
        os::futex_wait(&STATE, SLEEPS, u32::MAX);
    }
}
