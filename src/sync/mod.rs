//! The small lock-free pieces of the allocator, and the one facade between `core` and loom.
//!
//! Nothing here reaches above this folder: under `cfg(loom)` only this folder compiles, and the
//! models of `loom_tests/` run these very files.
//!
//! | file | what | model |
//! |---|---|---|
//! | `lock.rs` | the arena lock | `arena_lock` |
//! | `remote_list.rs` | chains of blocks sent to their owner arena | `remote_list`, `heap_release` |
//! | `depot.rs` | whole magazines exchanged between threads | `depot` |
//! | `publish.rs` | page-map regions and entries | `page_map` |
//! | `attach.rs` | which arena a thread serves itself from; the last one out | `attach`, `thread_end` |

pub mod attach;
pub mod block;
pub mod depot;
pub mod lock;
pub mod publish;
pub mod remote_list;

/// What differs between the real build and loom.
#[cfg(not(loom))]
pub(crate) mod prim {
    pub(crate) use core::hint::spin_loop;
    pub(crate) use core::sync::atomic::{AtomicPtr, AtomicU16, AtomicU32, AtomicU64, AtomicUsize};

    /// Rounds of spinning before a waiter sleeps in the kernel.
    pub(crate) const SPINS: u32 = 100;

    /// Lets the kernel run others until `*word` may differ from `seen`. Spurious returns are
    /// allowed.
    pub(crate) fn wait(word: &AtomicU32, seen: u32) {
        crate::os::futex_wait(word, seen);
    }

    /// Wakes one thread that waits on `word`.
    pub(crate) fn wake_one(word: &AtomicU32) {
        crate::os::futex_wake(word);
    }

    /// An `UnsafeCell` with loom's shape of access.
    #[repr(transparent)]
    pub(crate) struct Cell<T>(core::cell::UnsafeCell<T>);

    impl<T: Copy> Cell<T> {
        /// # Safety
        /// No other thread writes the cell at the same time.
        #[inline(always)]
        pub(crate) unsafe fn get(&self) -> T {
            // SAFETY: the caller's contract.
            unsafe { *self.0.get() }
        }

        /// # Safety
        /// No other thread reads or writes the cell at the same time.
        #[inline(always)]
        pub(crate) unsafe fn set(&self, value: T) {
            // SAFETY: the caller's contract.
            unsafe { *self.0.get() = value }
        }
    }
}

/// What differs between the real build and loom.
#[cfg(loom)]
pub(crate) mod prim {
    pub(crate) use loom::hint::spin_loop;
    pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicU16, AtomicU32, AtomicU64, AtomicUsize};

    /// One round, so that models reach the sleeping path.
    pub(crate) const SPINS: u32 = 1;

    /// loom has no futex: another thread runs, and the caller looks again. loom reports a
    /// thread that nobody ever lets go on, so lost wake-ups of the state machine show as a
    /// branch that never ends.
    pub(crate) fn wait(word: &AtomicU32, seen: u32) {
        while word.load(core::sync::atomic::Ordering::Relaxed) == seen {
            loom::thread::yield_now();
        }
    }

    /// Nothing to do: see `wait`.
    pub(crate) fn wake_one(_: &AtomicU32) {}

    /// loom's cell: it reports two accesses that no ordering separates.
    pub(crate) struct Cell<T>(loom::cell::UnsafeCell<T>);

    impl<T: Copy> Cell<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::cell::UnsafeCell::new(value))
        }

        /// # Safety
        /// No other thread writes the cell at the same time.
        pub(crate) unsafe fn get(&self) -> T {
            // SAFETY: the caller's contract, which loom checks.
            self.0.with(|p| unsafe { *p })
        }

        /// # Safety
        /// No other thread reads or writes the cell at the same time.
        pub(crate) unsafe fn set(&self, value: T) {
            // SAFETY: the caller's contract, which loom checks.
            self.0.with_mut(|p| unsafe { *p = value });
        }
    }
}
