//! Child processes that can not outlive the patience of their parent.
//!
//! Everything here may be called in a signal handler.

use crate::fail;
use libc::pid_t;
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
