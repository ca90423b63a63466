//! fork.
//!
//! No lock is held across fork. A preloaded malloc that took its locks in a prepare handler
//! would deadlock: glibc's fork then waits for the lock of its list of streams, while a thread
//! that holds that lock waits in malloc. So the child repairs instead:
//!
//! 1. an arena whose lock another thread held at that instant may be half-changed: it is closed,
//!    and frees to it pile up on its remote list;
//! 2. all other arenas go on; what their remote lists and depots hold is theirs;
//! 3. the caches of the threads that do not exist here are marked, and emptied later (`tcache/vanished.rs`):
//!    most children end or call exec(3) soon, and each page that is written is copied first.
//!
//! A signal handler may fork while its thread is inside the allocator. In the child the thread
//! goes on from there when the handler returns: locks that it holds stay its own, its cache is
//! not touched, and where it was about to lock an arena that is closed now, it finds so.

use crate::arena::ARENAS;
use crate::heap;
use crate::os;
use crate::purger;
use crate::tcache::Tcache;
use crate::tls;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;

static REGISTERED: AtomicBool = AtomicBool::new(false);

/// At the program's start, before its own code: pthread_atfork(3) allocates while it holds the
/// lock of the list of handlers, and a program's own call of it may be the first to allocate.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = {
    extern "C" fn at_start() {
        register();
    }
    at_start
};

/// Asks libc to call [`child`] in every child, once.
pub fn register() {
    if REGISTERED.swap(true, Relaxed) {
        return;
    }
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
    purger::after_fork();
    tls::key::after_fork();
    let thread = os::thread_number();
    for arena in ARENAS.iter() {
        // SAFETY: this is the child, with one thread.
        unsafe { arena.after_fork(thread) };
    }
    if !os::is_single_threaded() {
        heap::brk::after_fork();
    }
    // SAFETY: as above.
    unsafe { Tcache::after_fork(thread) };
}
