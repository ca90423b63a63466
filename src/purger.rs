//! Who gives memory back: a thread on a slow path, or the helper thread, which does so while the
//! program does nothing.
//!
//! There is one helper per process. It is started by a slow path once the process has several
//! threads and much free memory, and ends when nothing was left to do for a while: a process that
//! is done with its threads has one again, as setns(2), unshare(2) and Python's fork want it. It
//! blocks all signals and allocates nothing. (pthread_create(3) does, through the process's malloc; so it is called
//! while no lock of the allocator is held.)

use crate::config;
use crate::limit;
use crate::os;
use crate::purge;
use crate::tcache::{self, State, Tcache};
use crate::tls;
use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

/// No helper.
const NONE: u32 = 0;
/// The helper runs, or is about to.
const RUNS: u32 = 1;
/// The kernel or the setting allows none.
const REFUSED: u32 = 2;

/// The word is also what the helper sleeps on.
static STATE: AtomicU32 = AtomicU32::new(NONE);

/// Bytes of the helper's stack; a program's thread-local variables lie in it as well.
const STACK_BYTES: [usize; 2] = [64 * 1024, 1024 * 1024];

/// Epochs with nothing to give back after which the helper ends: the decay time, twice.
const IDLE_EPOCHS: u32 = 32;

/// Looks at the purge clock, now and then, and at the soft limit. The end of every slow path; no
/// lock is held.
#[inline]
pub fn poll() {
    // SAFETY: the word always points at a cache. The constant ones are not written: only a live one
    // counts.
    let cache = unsafe { &*tls::get() };
    if cache.state() == State::Live && cache.is_poll_due() {
        poll_now(cache);
    }
    if limit::is_crossed() {
        purge::trim(0);
        if let Some(hook) = config::limit_hook() {
            hook();
        }
    }
}

#[cold]
#[inline(never)]
fn poll_now(cache: &Tcache) {
    let Some(epoch) = purge::epoch() else { return };
    cache.cool(epoch);
    if purge::is_worth_it() && !takes_care() {
        purge::tick_on_slow_path();
    }
}

/// Whether the helper takes care of this process. Starts it if there is much to do and it may run.
///
/// The caller holds no lock.
fn takes_care() -> bool {
    match STATE.load(Acquire) {
        RUNS => return true,
        REFUSED => return false,
        _ => {}
    }
    if os::is_single_threaded() || !config::PURGE_THREAD.load(Relaxed) {
        return false;
    }
    if STATE.compare_exchange(NONE, RUNS, AcqRel, Acquire).is_err() {
        return true;
    }
    let started = start();
    if !started {
        STATE.store(REFUSED, Release);
    }
    started
}

/// In the child after fork there is no helper, whatever there was before.
pub fn after_fork() {
    purge::after_fork();
    STATE.store(NONE, Release);
}

fn start() -> bool {
    let saved = os::errno();
    // SAFETY: all zeros are valid values of these types; they are initialised before use, and the
    // thread needs neither after its start.
    let started = unsafe {
        let mut all: libc::sigset_t = core::mem::zeroed();
        let mut before: libc::sigset_t = core::mem::zeroed();
        libc::sigfillset(&mut all);
        // A signal handler of the program must not run on so small a stack.
        if libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before) != 0 {
            return false;
        }
        let started = STACK_BYTES.iter().any(|&bytes| start_with(bytes));
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
        started
    };
    os::set_errno(saved);
    started
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
        libc::pthread_attr_setdetachstate(&mut attributes, libc::PTHREAD_CREATE_DETACHED);
        let mut thread: libc::pthread_t = core::mem::zeroed();
        let started = libc::pthread_attr_setstacksize(&mut attributes, stack) == 0
            && libc::pthread_create(&mut thread, &attributes, run, ptr::null_mut()) == 0;
        libc::pthread_attr_destroy(&mut attributes);
        started
    }
}

extern "C" fn run(_: *mut c_void) -> *mut c_void {
    // What libc allocates and frees for the thread needs no cache.
    // SAFETY: the constant cache of threads that do without.
    unsafe { tls::set(tcache::ended()) };
    // SAFETY: the name is a C string of at most 15 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"arenite-purge".as_ptr()) };
    let mut idle = 0;
    while idle < IDLE_EPOCHS {
        let (Some(milliseconds), Some(epoch)) = (purge::epoch_milliseconds(), purge::epoch())
        else {
            break;
        };
        let freed = purge::tick(epoch, usize::MAX, true);
        idle = if freed == 0 && !purge::is_worth_it() { idle + 1 } else { 0 };
        let milliseconds = u32::try_from(milliseconds).unwrap_or(u32::MAX);
        os::futex_wait(&STATE, RUNS, milliseconds);
    }
    STATE.store(NONE, Release);
    ptr::null_mut()
}
