//! The caches of threads that a fork left behind, in the child.
//!
//! There they are marked, which copies one page of each. They are emptied when the child turns out to go on:
//! at a slow path of its own, before it needs a new cache, and before a trim or a report. Until then their
//! blocks are as free as before, but nobody's to take.

use super::remote::Sent;
use super::{Pending, State, Tcache};
use core::ptr;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::{AcqRel, Relaxed};

/// Whether there may be such caches. Who takes it back empties them.
static HAS_VANISHED: AtomicBool = AtomicBool::new(false);

impl Tcache {
    /// In the child after fork, after the arenas are repaired: counts the calling thread in again, and marks
    /// the caches of all others.
    ///
    /// The thread's own cache is told by its number, not by the thread's word: a signal handler may have forked
    /// while the thread was about to set that.
    ///
    /// # Safety
    /// Called in the child, by its only thread, which has that number.
    pub unsafe fn after_fork(thread: usize) {
        for cache in Self::all() {
            match cache.state() {
                // SAFETY: the caller's contract.
                State::Live if cache.thread.get() == thread => unsafe { cache.resume() },
                State::Live | State::Vanished => {
                    cache.state.set(State::Vanished);
                    HAS_VANISHED.store(true, Relaxed);
                }
                State::Empty | State::Ended | State::Parked => cache.forget_who_drains(),
            }
        }
    }

    /// Counts the thread in again. Nothing in the cache is touched: a signal handler may have forked between
    /// any two instructions of the thread, which goes on from there. A closed arena is left by the next
    /// refill.
    ///
    /// # Safety
    /// Called in the child, where the calling thread is the only one; the cache is its own.
    unsafe fn resume(&self) {
        self.recover_own_drained();
        // SAFETY: the caller's contract.
        unsafe { self.arena().join_again() };
    }

    /// Takes back what threads had cached that do not exist any more. The caller is inside no gate and holds no
    /// lock.
    #[inline]
    pub fn empty_vanished() {
        if HAS_VANISHED.load(Relaxed) {
            Self::empty_all_vanished();
        }
    }

    #[cold]
    #[inline(never)]
    fn empty_all_vanished() {
        // A fork of another thread meanwhile finds the rest of them as they are. AcqRel pairs with itself: one
        // thread empties each.
        if HAS_VANISHED.swap(false, AcqRel) {
            Self::all().filter(|cache| cache.state() == State::Vanished).for_each(Self::recover);
        }
    }

    /// Empties the cache of a thread that does not exist, which is the caller's to empty.
    fn recover(&self) {
        self.recover_drained();
        let moving = self.in_transit.replace(ptr::null_mut());
        let mut found = moving.is_null();
        let arena = self.arena();
        self.flush(|_, head, _| {
            found |= head == moving;
            // SAFETY: a list of blocks of the arena that no thread can reach any more.
            unsafe { arena.give(head) };
        });
        if !found {
            // SAFETY: as above: the magazine was between two places.
            unsafe { arena.give(moving) };
        }
        self.give_large_home();
        self.pending.iter().filter_map(Pending::take).for_each(Sent::give_back);
        Self::let_loose(ptr::from_ref(self).cast_mut());
    }
}
