//! How many threads an arena serves, and whether it takes new ones.
//!
//! | word | meaning | `attach` | `detach` |
//! |---|---|---|---|
//! | 0 | no thread attached | 1 | 0; says that nobody is left |
//! | n | n threads attached | n + 1 | n − 1; says whether it was the last |
//! | n + `CLOSED` | n threads, and the arena is out of use (see `fork.rs`) | refused | n − 1 |

use super::prim::AtomicU32;
use core::sync::atomic::Ordering::{AcqRel, Relaxed};

const CLOSED: u32 = 1 << 31;

/// The attach word of an arena.
#[derive(Debug)]
pub struct Attach {
    word: AtomicU32,
}

impl Attach {
    /// No threads.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { word: AtomicU32::new(0) }
    }

    /// No threads.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { word: AtomicU32::new(0) }
    }

    /// Counts the caller in, unless the arena is closed. Callers that attach to one arena, or that detach
    /// and take its remote list with them, hold its lock, so that the count and the flag of that list
    /// agree. Who detaches without the lock may be the last one and leave the flag: the list then waits
    /// for the next tick of the purge clock.
    ///
    /// AcqRel, of all changes of the word: who is the last one sees what the others before it did.
    pub fn attach(&self) -> bool {
        let mut word = self.word.load(Relaxed);
        while word & CLOSED == 0 {
            match self.word.compare_exchange_weak(word, word + 1, AcqRel, Relaxed) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    /// Counts the caller out; whether nobody is left. A count of none stays none: in a child
    /// after fork, a thread that was interrupted on its way in was not counted again.
    pub fn detach(&self) -> bool {
        let mut word = self.word.load(Relaxed);
        while word & !CLOSED != 0 {
            match self.word.compare_exchange_weak(word, word - 1, AcqRel, Relaxed) {
                Ok(_) => return word & !CLOSED == 1,
                Err(now) => word = now,
            }
        }
        true
    }

    /// Number of threads attached at this instant.
    pub fn threads(&self) -> u32 {
        self.word.load(Relaxed) & !CLOSED
    }

    /// Takes the arena out of use.
    pub fn close(&self) {
        self.word.fetch_or(CLOSED, AcqRel);
    }

    /// Whether the arena is out of use.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.word.load(Relaxed) & CLOSED != 0
    }

    /// Sets the number of threads: for the child after fork, where the others are gone.
    ///
    /// # Safety
    /// The process has one thread.
    pub unsafe fn reset_threads(&self, threads: u32) {
        self.word.store((self.word.load(Relaxed) & CLOSED) | threads, Relaxed);
    }
}

impl Default for Attach {
    fn default() -> Self {
        Self::new()
    }
}
