//! The depot: slots in which threads of one arena exchange whole magazines.
//!
//! A slot's word holds the magazine's first block (48 bits) and its count (16 bits):
//!
//! | word | meaning | who changes it |
//! |---|---|---|
//! | 0 | empty | `put`: compare-and-swap to a magazine |
//! | else | a magazine that belongs to the slot | `take`: swap to 0 |
//!
//! A taker takes everything and a putter only replaces nothing, so there is no ABA.

use super::block::{Block, Chain};
use super::prim::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

const COUNT_SHIFT: u32 = 48;

/// One slot.
#[derive(Debug)]
pub struct DepotSlot {
    word: AtomicU64,
}

impl DepotSlot {
    /// An empty slot.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }

    /// An empty slot.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { word: AtomicU64::new(0) }
    }

    /// Puts a magazine in, or gives it back when the slot is taken or the magazine can not be
    /// packed (more than 65,535 blocks, or addresses above 2^48).
    ///
    /// # Safety
    /// The magazine is a list that ends in null, of exactly `count` blocks, which belong to the
    /// caller; on success they belong to whoever takes them.
    pub unsafe fn put(&self, magazine: Chain) -> Result<(), Chain> {
        if self.word.load(Relaxed) != 0
            || magazine.count > 0xffff
            || magazine.head as u64 >> COUNT_SHIFT != 0
        {
            return Err(magazine);
        }
        let word = magazine.head as u64 | (magazine.count as u64) << COUNT_SHIFT;
        // Release publishes the blocks' links to `take`'s acquire.
        match self.word.compare_exchange(0, word, Release, Relaxed) {
            Ok(_) => Ok(()),
            Err(_) => Err(magazine),
        }
    }

    /// Takes the magazine out; its tail is not known.
    pub fn take(&self) -> Option<Chain> {
        if self.word.load(Relaxed) == 0 {
            return None;
        }
        // Acquire pairs with the release of `put`.
        let word = self.word.swap(0, Acquire);
        let head = (word & ((1 << COUNT_SHIFT) - 1)) as *mut Block;
        let count = (word >> COUNT_SHIFT) as usize;
        (word != 0).then_some(Chain { head, tail: core::ptr::null_mut(), count })
    }

    /// The first block of the magazine in the slot at this instant, or null, without taking it.
    pub fn peek(&self) -> *mut Block {
        (self.word.load(Relaxed) & ((1 << COUNT_SHIFT) - 1)) as *mut Block
    }

    /// Number of blocks in the slot at this instant.
    pub fn count(&self) -> usize {
        (self.word.load(Relaxed) >> COUNT_SHIFT) as usize
    }
}

impl Default for DepotSlot {
    fn default() -> Self {
        Self::new()
    }
}
