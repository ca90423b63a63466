//! Threads and processes: who is there, and how they wait for each other.

use super::{KERNEL_CALLS, advise, count, errno, keeping_errno, map, page_size, unmap};
use core::ffi::c_int;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32};

/// A number that no other live thread has, never 0: the address of the thread's errno.
pub fn thread_number() -> usize {
    // SAFETY: no precondition.
    unsafe { libc::__errno_location() as usize }
}

/// Sleeps while `*word == seen`; may return early. False when it slept for `milliseconds` and
/// nobody woke it.
pub fn futex_wait(word: &AtomicU32, seen: u32, milliseconds: u32) -> bool {
    count(&KERNEL_CALLS.futex_wait);
    let mut patience: libc::timespec =
        // SAFETY: all zeros is a valid timespec.
        unsafe { core::mem::zeroed() };
    patience.tv_sec = i64::from(milliseconds / 1000) as _;
    patience.tv_nsec = libc::c_long::from(milliseconds % 1000) * 1_000_000;
    keeping_errno(|| {
        // SAFETY: the word outlives the call. A raw system call is no cancellation point.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                seen,
                &raw const patience,
            ) == 0
                || errno() != libc::ETIMEDOUT
        }
    })
}

/// Wakes one thread that sleeps on `word`.
pub fn futex_wake(word: &AtomicU32) {
    count(&KERNEL_CALLS.futex_wake);
    keeping_errno(|| {
        // SAFETY: the word is only an address to this call.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                1,
            )
        }
    });
}

/// A mark of a process, which its children of fork(2) and _Fork(3) do not inherit (`MADV_WIPEONFORK`, Linux 4.14). One of
/// vfork(2) shares all memory, and the mark. It costs a page, once it is set.
pub struct ProcessMark(AtomicPtr<AtomicU32>);

impl ProcessMark {
    /// Not set by anybody.
    pub const fn new() -> Self {
        Self(AtomicPtr::new(core::ptr::null_mut()))
    }

    fn word(&self) -> Option<&'static AtomicU32> {
        // SAFETY: not null, it is there for ever. Relaxed: the kernel made what it points at.
        unsafe { self.0.load(Relaxed).as_ref() }
    }

    /// Sets it, where the kernel knows how.
    pub fn set(&self) {
        if self.word().is_none() {
            // Of two threads at once, one loses its page.
            _ = self.0.compare_exchange(core::ptr::null_mut(), wiped_word(), Relaxed, Relaxed);
        }
        if let Some(word) = self.word() {
            word.store(1, Relaxed);
        }
    }

    /// Whether it was set in a process that this one was forked from, and not here.
    pub fn is_an_ancestors(&self) -> bool {
        self.word().is_some_and(|word| word.load(Relaxed) == 0)
    }

    /// As [`ProcessMark::is_an_ancestors`], and sets it: true for one thread only.
    pub fn take(&self) -> bool {
        self.is_an_ancestors()
            && self.word().is_some_and(|word| word.compare_exchange(0, 1, Relaxed, Relaxed).is_ok())
    }
}

/// A new word of 0, which is 0 again in each child; null where that is not to be had.
fn wiped_word() -> *mut AtomicU32 {
    let bytes = page_size();
    let page = map(bytes);
    if page.is_null() {
        return core::ptr::null_mut();
    }
    // SAFETY: the page was mapped just now.
    unsafe {
        if advise(page, bytes, libc::MADV_WIPEONFORK) {
            return page.cast();
        }
        unmap(page, bytes);
    }
    core::ptr::null_mut()
}

/// The kernel's number of the calling thread (gettid(2)).
pub fn thread_id() -> i32 {
    // SAFETY: no precondition.
    unsafe { libc::syscall(libc::SYS_gettid) as i32 }
}

/// Whether the calling thread is the process's first one.
pub fn is_main_thread() -> bool {
    // SAFETY: no precondition.
    thread_id() == unsafe { libc::getpid() }
}

/// Makes the calling thread run when and where the process's first thread may, not as the one that made it: with the
/// usual policy, if that one has a real-time or an idle one (sched(7)), and on the same CPUs.
pub fn run_as_main_thread() {
    let mut mask = [0_u64; 128];
    let bytes = size_of_val(&mask);
    keeping_errno(|| {
        // SAFETY: a mask of as many bytes as said, which the kernel fills in whole words; an all-zero parameter,
        // as SCHED_OTHER wants it (sched_setscheduler(2)).
        unsafe {
            if libc::syscall(libc::SYS_sched_getscheduler, 0)
                != libc::c_long::from(libc::SCHED_OTHER)
            {
                let parameter: libc::sched_param = core::mem::zeroed();
                libc::syscall(
                    libc::SYS_sched_setscheduler,
                    0,
                    libc::SCHED_OTHER,
                    &raw const parameter,
                );
            }
            let main = libc::getpid();
            let filled = libc::syscall(libc::SYS_sched_getaffinity, main, bytes, mask.as_mut_ptr());
            if filled > 0 {
                libc::syscall(libc::SYS_sched_setaffinity, 0, filled, mask.as_ptr());
            }
        }
    });
}

/// Whether the process has a thread with that number, as far as the kernel tells (tgkill(2)).
pub fn has_thread(id: i32) -> bool {
    keeping_errno(|| {
        // SAFETY: takes numbers only; no signal is sent.
        unsafe {
            libc::syscall(libc::SYS_tgkill, libc::getpid(), id, 0) == 0 || errno() != libc::ESRCH
        }
    })
}

/// How many threads the process has (proc_pid_status(5)); 0 where that can not be read.
pub fn count_threads() -> u64 {
    super::number_behind(super::STATUS, b"Threads:")
}

/// Signals that a thread's own instructions raise: blocked ones would end the process. (SIGSYS: a sandbox may
/// emulate system calls in its handler, see seccomp(2).)
const OWN_SIGNALS: [c_int; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS];

/// Runs `work` while no signal from elsewhere interrupts the calling thread; not at all where that can not be
/// had.
pub fn without_signals<T>(work: impl FnOnce() -> T) -> Option<T> {
    // SAFETY: all zeros are valid sets, which the calls fill. Neither call changes errno.
    unsafe {
        let mut all: libc::sigset_t = core::mem::zeroed();
        let mut before: libc::sigset_t = core::mem::zeroed();
        libc::sigfillset(&mut all);
        for signal in OWN_SIGNALS {
            libc::sigdelset(&mut all, signal);
        }
        // What the thread has blocked already stays so.
        if libc::pthread_sigmask(libc::SIG_BLOCK, &all, &mut before) != 0 {
            return None;
        }
        let result = work();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, core::ptr::null_mut());
        Some(result)
    }
}

/// Lets another thread run that waits for the CPU.
pub fn yield_now() {
    // SAFETY: no precondition.
    unsafe { libc::syscall(libc::SYS_sched_yield) };
}

/// Whether the kernel did not refuse [`barrier`] yet.
pub static HAS_BARRIER: AtomicBool = AtomicBool::new(true);

/// Lets all threads of the process pass a full memory barrier before it returns (membarrier(2), Linux 4.14);
/// whether the kernel does so.
pub fn barrier() -> bool {
    const PRIVATE_EXPEDITED: c_int = 1 << 3;
    const REGISTER_PRIVATE_EXPEDITED: c_int = 1 << 4;
    // SAFETY: the call takes numbers only.
    let call = |command: c_int| unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 };
    keeping_errno(|| {
        let done =
            call(PRIVATE_EXPEDITED) || call(REGISTER_PRIVATE_EXPEDITED) && call(PRIVATE_EXPEDITED);
        HAS_BARRIER.store(done, Relaxed);
        done
    })
}

/// Whether the process has one thread, as far as libc knows.
pub fn is_single_threaded() -> bool {
    #[cfg(target_env = "gnu")]
    {
        unsafe extern "C" {
            static __libc_single_threaded: core::ffi::c_char;
        }
        // SAFETY: glibc (2.32 and later) defines it and only ever clears it while several
        // threads run.
        unsafe { core::ptr::read_volatile(&raw const __libc_single_threaded) != 0 }
    }
    #[cfg(not(target_env = "gnu"))]
    {
        false
    }
}
