//! fork.
//!
//! No lock is held across fork. A preloaded malloc that took its locks in a prepare handler
//! would deadlock: glibc's fork then waits for the lock of its list of streams, while a thread
//! that holds that lock waits in malloc. So the child repairs instead:
//!
//! 1. an arena whose lock another thread held at that instant may be half-changed: it is closed,
//!    and frees to it pile up on its remote list;
//! 2. all other arenas go on; what their remote lists and depots hold is theirs;
//! 3. the caches of the threads that do not exist here are emptied and parked.

use crate::arena::ARENAS;
use crate::os;
use crate::tcache::{State, Tcache};
use crate::tls;

/// Asks libc to call [`child`] in every child. Called once.
pub fn register() {
    unsafe extern "C" {
        fn pthread_atfork(
            prepare: Option<unsafe extern "C" fn()>,
            parent: Option<unsafe extern "C" fn()>,
            child: Option<unsafe extern "C" fn()>,
        ) -> core::ffi::c_int;
    }
    // SAFETY: the handler lives as long as the library.
    unsafe { pthread_atfork(None, None, Some(child)) };
}

unsafe extern "C" fn child() {
    let own = tls::get();
    let thread = os::thread_number();
    for arena in ARENAS.iter() {
        // SAFETY: this is the child, with one thread.
        unsafe { arena.after_fork(thread) };
    }
    for tcache in Tcache::all() {
        if !core::ptr::eq(tcache, own) {
            // SAFETY: as above; the cache's thread does not exist here.
            unsafe { tcache.recover() };
        }
    }
    // SAFETY: the word always points at a cache.
    let own = unsafe { &*own };
    if own.state() == State::Live {
        own.resume_after_fork();
    }
}
