//! Start and end of a thread, and of the process's use of the allocator.

use crate::config;
use crate::fork;
use crate::os;
use crate::purger;
use crate::tcache::{self, State, Tcache};
use crate::tls;
use crate::tls::key::{KEY, MAKING, NO_KEY, NONE_LEFT};
use core::ffi::c_void;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

/// Blocks that a thread frees without a cache, before it is taken for one that goes on.
///
/// What glibc itself frees when a thread is over must open none: a detached thread frees what belongs to
/// cached stacks, its own perhaps among them, after the last destructor of keys (nptl/nptl-stack.c,
/// `__nptl_free_stacks`). Mostly that is one block for each stack that is too many.
const EARLY_FREES: usize = 256;

/// As [`start`], for a free: a thread that has not allocated yet does without a cache for its first frees.
#[cold]
#[inline(never)]
pub fn start_to_free() -> *mut Tcache {
    let now = own();
    // SAFETY: the word always points at a cache; the count is the thread's own.
    unsafe {
        if (*now).state() == State::Live {
            return now;
        }
        let frees = tls::early_frees();
        if *frees < EARLY_FREES {
            *frees += 1;
            return core::ptr::null_mut();
        }
    }
    start()
}

/// Gives the calling thread its cache, if it can have one: not after its end, and not without
/// memory. The thread's cache, or null.
#[cold]
#[inline(never)]
pub fn start() -> *mut Tcache {
    let now = own();
    // SAFETY: the word always points at a cache.
    match unsafe { (*now).state() } {
        State::Live => return now,
        State::Ended => return core::ptr::null_mut(),
        State::Empty | State::Parked | State::Vanished => {}
    }
    // A constructor of another library may be first to allocate.
    config::read_environment();
    if config::PERTURB.load(Relaxed) != 0 {
        return core::ptr::null_mut();
    }
    let tcache = Tcache::open();
    if tcache.is_null() {
        return tcache;
    }
    // The word is set before anything below may allocate: that then finds the thread started.
    // SAFETY: the cache is this thread's.
    unsafe { tls::set(tcache) };
    let key = key();
    // SAFETY: the key is valid; the cache is this thread's. A key beyond the first 32 makes glibc allocate,
    // which is fine from here on.
    unsafe {
        if key < NONE_LEFT && libc::pthread_setspecific(key, tcache.cast()) == 0 {
            // SAFETY: the word is the thread's, as long as it runs.
            (*tcache).may_be_drained(tls::address(), os::thread_id());
        } else if !os::is_main_thread() {
            // Nobody would end the cache with its thread, which does without one; where another thread is about to have
            // the key, for now.
            tls::set(if key == MAKING { tcache::empty() } else { tcache::ended() });
            Tcache::end(tcache);
            return core::ptr::null_mut();
        }
        (*tcache).leave_gate();
    }
    tcache
}

/// Makes the calling thread's cache its own again if it was drained.
pub fn come_back() {
    own();
}

/// What the thread's word leads to; the thread's own cache if somebody turned the word away from that, to
/// drain it.
fn own() -> *mut Tcache {
    let now = tls::get();
    // SAFETY: the word always points at a cache; the key's value is the thread's own one, or null.
    unsafe {
        if (*now).state() == State::Empty
            && let key = KEY.load(Acquire)
            && key < NONE_LEFT
            && let Some(own) = libc::pthread_getspecific(key).cast::<Tcache>().as_ref()
        {
            own.come_back();
            return core::ptr::from_ref(own).cast_mut();
        }
    }
    now
}

/// Takes the calling thread's cache away; its next slow path may get one again.
pub fn drop_cache() {
    let tcache = own();
    // SAFETY: the word always points at a cache; a live one is this thread's, and the word
    // leaves it before it is given up.
    unsafe {
        if (*tcache).state() == State::Live {
            (*tcache).stay_inside();
            // In this order: with the empty cache and a value of the key, a thread was drained.
            let key = KEY.load(Acquire);
            if key < NONE_LEFT {
                libc::pthread_setspecific(key, core::ptr::null());
            }
            tls::set(tcache::empty());
            Tcache::end(tcache);
        }
    }
}

fn key() -> u32 {
    let known = KEY.load(Acquire);
    if known < MAKING {
        return known;
    }
    if known != NO_KEY || KEY.compare_exchange(NO_KEY, MAKING, AcqRel, Acquire).is_err() {
        // Two threads start at once, as static constructors may: the other one is about to
        // have the key. It does not come here again meanwhile, since its word is set.
        for _ in 0..1000 {
            if KEY.load(Acquire) != MAKING {
                break;
            }
            // SAFETY: no precondition.
            unsafe { libc::sched_yield() };
        }
        return KEY.load(Acquire);
    }
    let mut key = 0;
    // SAFETY: the destructor has the right type and lives as long as the library, which is
    // never unloaded: libarenite.so is linked so, and `Arenite` says it of others.
    let made = unsafe { libc::pthread_key_create(&mut key, Some(end)) };
    fork::register();
    KEY.store(if made == 0 { key } else { NONE_LEFT }, Release);
    KEY.load(Relaxed)
}

/// The key's destructor: the thread ends. Other destructors may run after this one; what they
/// allocate and free goes to the arenas directly.
unsafe extern "C" fn end(value: *mut c_void) {
    let tcache: *mut Tcache = value.cast();
    // SAFETY: the cache is this thread's, and the word leaves it before it is given up. From when the
    // thread is inside the gate, nobody else writes the word.
    unsafe {
        (*tcache).stay_inside();
        tls::set(tcache::ended());
        Tcache::end(tcache);
    }
    purger::thread_ended();
}
