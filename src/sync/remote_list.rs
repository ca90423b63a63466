//! Blocks on their way back to the arena that owns them.
//!
//! Any thread pushes whole chains; the holder of the owner's lock takes everything at once.
//! Nothing ever pops one block, so there is no ABA.
//!
//! The word is the first block's address, with bit 0 as the `ATTACHED` flag (blocks are 16-byte
//! aligned):
//!
//! | word | meaning | a pusher then |
//! |---|---|---|
//! | list + `ATTACHED` | some thread is attached to the arena and will take the list on its slow path | is done |
//! | list | no thread is attached | must itself try to take the list |
//!
//! The flag is in the same word as the list so that one of the two always sees the other: the
//! last thread to leave clears it in the same operation in which it takes what was there, and a
//! push after that reads it. A new list is 0, so that a new arena is nothing but zeros.

use super::block::{Block, Chain};
use super::prim::AtomicUsize;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

const ATTACHED: usize = 1;

/// A list of free blocks that belong to one arena.
#[derive(Debug)]
pub struct RemoteList {
    word: AtomicUsize,
}

impl RemoteList {
    /// An empty list of an arena with no thread attached.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { word: AtomicUsize::new(0) }
    }

    /// An empty list of an arena with no thread attached.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { word: AtomicUsize::new(0) }
    }

    /// Hands a chain over. Returns whether nobody is attached to the arena, so that the caller
    /// should take the list itself if it can get the arena's lock.
    ///
    /// # Safety
    /// The chain is not empty, its links up to `tail` are valid, and its blocks belong to the
    /// caller until the call; afterwards they belong to whoever takes the list, and the caller
    /// touches none of them again.
    pub unsafe fn push(&self, chain: Chain) -> bool {
        let mut old = self.word.load(Relaxed);
        loop {
            // SAFETY: until the exchange succeeds the chain is the caller's.
            unsafe { Block::set_next(chain.tail, (old & !ATTACHED) as *mut Block) };
            let new = chain.head as usize | (old & ATTACHED);
            // Release publishes the links and contents of the blocks to `take`'s acquire.
            match self.word.compare_exchange_weak(old, new, Release, Relaxed) {
                Ok(_) => return old & ATTACHED == 0,
                Err(now) => old = now,
            }
        }
    }

    /// Whether there may be something to take.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.word.load(Relaxed) & !ATTACHED == 0
    }

    /// Takes all blocks; the first of them, linked, or null.
    pub fn take_all(&self) -> *mut Block {
        if self.is_empty() {
            return core::ptr::null_mut();
        }
        // Clears the blocks, keeps the flag. Acquire pairs with the release of every `push`
        // whose chain is on the list: read-modify-writes continue the release sequence.
        (self.word.fetch_and(ATTACHED, Acquire) & !ATTACHED) as *mut Block
    }

    /// Says that a thread is attached from now on.
    pub fn adopt(&self) {
        self.word.fetch_or(ATTACHED, Relaxed);
    }

    /// Says that no thread is attached any more, and takes what is there in the same step.
    pub fn orphan(&self) -> *mut Block {
        // Acquire as in `take_all`.
        (self.word.swap(0, AcqRel) & !ATTACHED) as *mut Block
    }
}

impl Default for RemoteList {
    fn default() -> Self {
        Self::new()
    }
}
