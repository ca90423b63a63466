//! The arena lock: a futex word with three states.
//!
//! | state | meaning | who leaves it |
//! |---|---|---|
//! | 0 `FREE` | nobody holds it | a locker: compare-and-swap 0 → 1, or swap to 2 by a waiter |
//! | 1 `HELD` | held, nobody sleeps | the holder: swap to 0; a waiter: swap to 2 |
//! | 2 `CONTENDED` | held, somebody may sleep | the holder: swap to 0, then wakes one |
//!
//! (Drepper, "Futexes are tricky", 2011, mutex 2.) The holder is recorded beside the word, so
//! that a signal handler that interrupted the holder, and a child after fork, can tell their
//! own hold from another thread's.

use super::prim::{self, AtomicU32, AtomicUsize};
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

const FREE: u32 = 0;
const HELD: u32 = 1;
const CONTENDED: u32 = 2;

/// How [`RawLock::lock`] ended.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Locked {
    /// Held now; it was free.
    AtOnce,
    /// Held now; another thread held it first, and gave it up soon.
    AfterSpin,
    /// Held now; another thread held it first, for so long that the waiter went to sleep.
    AfterWait,
    /// Not taken: this very thread holds it already (a signal handler interrupted it).
    HeldByCaller,
    /// Not taken: another thread held it all the time that a waiter has patience for.
    TimedOut,
}

/// A lock without data. Holders are told apart by a number that is unique to each thread and
/// not zero.
#[derive(Debug)]
pub struct RawLock {
    state: AtomicU32,
    /// The holder, or 0. Only ever compared with the reader's own number, which no other thread
    /// writes, so relaxed accesses suffice.
    holder: AtomicUsize,
}

impl RawLock {
    /// A free lock.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { state: AtomicU32::new(FREE), holder: AtomicUsize::new(0) }
    }

    /// A free lock.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { state: AtomicU32::new(FREE), holder: AtomicUsize::new(0) }
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_lock(&self, thread: usize) -> bool {
        // Acquire pairs with the release of `unlock`.
        let free = self.state.compare_exchange(FREE, HELD, Acquire, Relaxed).is_ok();
        if free {
            self.holder.store(thread, Relaxed);
        }
        free
    }

    /// Takes the lock, waiting for it if need be; not for ever, since the holder may never go on:
    /// a signal handler that interrupted it may wait for a lock (of libc's fork, of a stream)
    /// whose holder waits for this one.
    #[inline]
    pub fn lock(&self, thread: usize) -> Locked {
        if self.try_lock(thread) { Locked::AtOnce } else { self.lock_slow(thread) }
    }

    #[cold]
    #[inline(never)]
    fn lock_slow(&self, thread: usize) -> Locked {
        if self.is_held_by(thread) {
            return Locked::HeldByCaller;
        }
        for _ in 0..prim::SPINS {
            if self.state.load(Relaxed) == FREE && self.try_lock(thread) {
                return Locked::AfterSpin;
            }
            prim::spin_loop();
        }
        // From here on the word says "somebody may sleep": taking the lock by this swap keeps
        // that, since other sleepers may be left. Acquire pairs with `unlock`.
        while self.state.swap(CONTENDED, Acquire) != FREE {
            if !prim::wait(&self.state, CONTENDED) {
                return Locked::TimedOut;
            }
        }
        self.holder.store(thread, Relaxed);
        Locked::AfterWait
    }

    /// Gives the lock up.
    ///
    /// # Safety
    /// The calling thread holds it.
    #[inline]
    pub unsafe fn unlock(&self) {
        self.holder.store(0, Relaxed);
        // Release pairs with the acquire of the next holder.
        if self.state.swap(FREE, Release) == CONTENDED {
            prim::wake_one(&self.state);
        }
    }

    /// Whether `thread`, the caller, holds it.
    pub fn is_held_by(&self, thread: usize) -> bool {
        self.holder.load(Relaxed) == thread
    }

    /// Whether anybody holds it at this instant.
    pub fn is_held(&self) -> bool {
        self.state.load(Relaxed) != FREE
    }

    /// Makes the lock free, whoever held it: for the child after fork, where the holder and the
    /// sleepers do not exist.
    ///
    /// # Safety
    /// The process has one thread, and nobody relies on the lock being held.
    pub unsafe fn reset(&self) {
        self.holder.store(0, Relaxed);
        self.state.store(FREE, Relaxed);
    }

    /// Tells a held lock that nobody sleeps on it any more: for the child after fork, where the
    /// caller goes on holding it.
    ///
    /// # Safety
    /// The process has one thread, which holds the lock.
    pub unsafe fn forget_waiters(&self) {
        self.state.store(HELD, Relaxed);
    }
}

impl Default for RawLock {
    fn default() -> Self {
        Self::new()
    }
}
