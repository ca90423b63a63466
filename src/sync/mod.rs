//! The small lock-free pieces of the allocator, and the one facade between `core` and loom.
//!
//! Nothing here reaches above this folder, but for the futex of `os` outside of loom: under `cfg(loom)` only this folder
//! compiles, and the models of `loom_tests/` run these very files.
//!
//! | file | what | model |
//! |---|---|---|
//! | `lock.rs` | the arena lock | `arena_lock` |
//! | `remote_list.rs` | chains of blocks sent to their owner arena | `remote_list`, `heap_release` |
//! | `depot.rs` | whole magazines exchanged between threads | `depot` |
//! | `publish.rs` | page-map regions and entries | `page_map` |
//! | `gate.rs` | a thread's bins, which others may drain | `gate` |
//! | `attach.rs` | how many threads an arena has, and whether it is closed; the last one out | `attach`, `thread_end` |

pub mod attach;
pub mod block;
pub mod depot;
pub mod gate;
pub mod lock;
pub mod publish;
pub mod remote_list;

/// Lets the thread that has slept longest on a lock run out of patience. For models.
#[cfg(loom)]
pub fn let_time_pass() {
    prim::time_out_one();
}

/// What differs between the real build and loom.
#[cfg(not(loom))]
pub(crate) mod prim {
    pub(crate) use core::hint::spin_loop;
    pub(crate) use core::sync::atomic::{AtomicPtr, AtomicU16, AtomicU32, AtomicU64, AtomicUsize};

    /// Rounds of spinning before a waiter sleeps in the kernel.
    pub(crate) const SPINS: u32 = 100;

    /// What a waiter has patience for, in milliseconds: many time slices of the kernel.
    const PATIENCE: u32 = 50;

    /// Lets the kernel run others until `*word` may differ from `seen`. Spurious returns are
    /// allowed. False when nobody woke the caller for as long as it has patience.
    pub(crate) fn wait(word: &AtomicU32, seen: u32) -> bool {
        crate::os::futex_wait(word, seen, PATIENCE)
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

#[cfg(loom)]
#[path = "prim_loom.rs"]
pub(crate) mod prim;
