//! Child processes that can not outlive the patience of their parent.
//!
//! Everything here but [`run_in_threads`] may be called in a signal handler.

use crate::fail;
use libc::pid_t;
use std::ffi::c_void;
use std::io;
use std::ptr;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

/// The children that are waited for at this moment; 0 where there is none.
static WAITED_FOR: [AtomicI32; 256] = [const { AtomicI32::new(0) }; 256];

/// Waits for a child to end with status 0.
///
/// A child that ends otherwise is a violation, and one that does not end within `patience` is
/// killed and is a violation too: it hangs.
pub fn expect_success(pid: pid_t, patience: Duration) {
    let slot =
        WAITED_FOR.iter().find(|slot| slot.compare_exchange(0, pid, AcqRel, Relaxed).is_ok());
    let start = Instant::now();
    let mut pause = 50;
    loop {
        let mut status = 0;
        // SAFETY: the status is ours to write to; the pid is a child's.
        let ended = unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) };
        if ended == pid {
            if libc::WIFSIGNALED(status) {
                fail!("child {pid} died of signal {}", libc::WTERMSIG(status));
            } else if libc::WEXITSTATUS(status) != 0 {
                fail!("child {pid} ended with {}", libc::WEXITSTATUS(status));
            }
            break;
        }
        if start.elapsed() > patience {
            kill_all();
            fail!("child {pid} hangs, after {} s", patience.as_secs());
        }
        // SAFETY: no precondition; a signal only makes the pause shorter.
        unsafe { libc::usleep(pause) };
        pause = (pause * 2).min(2000);
    }
    if let Some(slot) = slot {
        slot.store(0, Release);
    }
}

/// Kills every child that is waited for, so that a failed run leaves no hung process behind.
pub fn kill_all() {
    for slot in &WAITED_FOR {
        let pid = slot.load(Acquire);
        if pid > 0 {
            // SAFETY: a child that was not yet reaped, so its number is not somebody else's.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
}

/// In a child just forked: forgets the parent's children.
pub fn forget_all() {
    for slot in &WAITED_FOR {
        slot.store(0, Relaxed);
    }
}

/// In a child just forked: runs each of `works` in a thread of its own, and waits for all of them.
///
/// Not in threads of `std::thread`: one that begins or ends locks the standard library's list of stacks for a
/// moment (library/std/src/sys/pal/unix/stack_overflow/thread_info.rs), in which the parent may have forked.
pub fn run_in_threads<W: FnOnce() + Send>(works: Vec<W>) {
    extern "C" fn run<W: FnOnce()>(work: *mut c_void) -> *mut c_void {
        // SAFETY: it was a box, given to this thread alone.
        let work = unsafe { Box::from_raw(work.cast::<W>()) };
        work();
        ptr::null_mut()
    }
    let start = |work: W| {
        let mut thread = 0;
        let work = Box::into_raw(Box::new(work)).cast();
        // SAFETY: the thread is joined below, before what it borrows ends.
        let error = unsafe { libc::pthread_create(&mut thread, ptr::null(), run::<W>, work) };
        if error != 0 {
            fail!("pthread_create: {}", io::Error::from_raw_os_error(error));
        }
        thread
    };
    let threads: Vec<_> = works.into_iter().map(start).collect();
    for thread in threads {
        // SAFETY: started above, and joined once.
        unsafe { libc::pthread_join(thread, ptr::null_mut()) };
    }
}
