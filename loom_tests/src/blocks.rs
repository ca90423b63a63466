//! Blocks with known contents.

use arenite::sync::block::{Block, Chain};

/// Blocks of one model, told apart by their places. All threads share them by pointers; loom
/// reports accesses to a block that no ordering separates.
pub struct Blocks {
    blocks: Vec<*mut Block>,
}

// SAFETY: the pointers are only copied; who may use the blocks is what the models are about.
unsafe impl Send for Blocks {}
// SAFETY: as above.
unsafe impl Sync for Blocks {}

impl Blocks {
    /// `count` blocks on no list.
    pub fn new(count: usize) -> Self {
        Self { blocks: (0..count).map(|_| Box::into_raw(Box::new(Block::new()))).collect() }
    }

    /// The block at `place`.
    pub fn at(&self, place: usize) -> *mut Block {
        self.blocks[place]
    }

    /// Writes the blocks at `places`, as who frees them does, and links them, the first of them
    /// in front.
    ///
    /// # Safety
    /// The blocks are the caller's.
    pub unsafe fn chain(&self, places: &[usize]) -> Chain {
        let mut chain = Chain::EMPTY;
        for &place in places.iter().rev() {
            // SAFETY: the caller's contract.
            unsafe {
                Block::set_mark(self.at(place), mark_of(place));
                chain.push(self.at(place));
            }
        }
        chain
    }

    /// The places of the blocks on a list that ends in null, in order. Checks that each is where
    /// its contents say.
    ///
    /// # Safety
    /// The list is the caller's.
    pub unsafe fn places(&self, head: *mut Block) -> Vec<usize> {
        let mut places = Vec::new();
        let mut block = head;
        while !block.is_null() {
            let place = self.place(block);
            assert!(places.len() < self.blocks.len(), "the list runs in a circle");
            // SAFETY: the caller's contract.
            unsafe {
                assert_eq!(Block::mark(block), mark_of(place), "the block's contents are not seen");
                block = Block::next(block);
            }
            places.push(place);
        }
        places
    }

    /// The places of the `count` blocks of a magazine.
    ///
    /// # Safety
    /// The magazine is the caller's.
    pub unsafe fn magazine(&self, (head, count): (*mut Block, usize)) -> Vec<usize> {
        // SAFETY: the caller's contract.
        let places = unsafe { self.places(head) };
        assert_eq!(places.len(), count, "the magazine's count is wrong");
        places
    }

    /// The place of a block.
    pub fn place(&self, block: *mut Block) -> usize {
        match self.blocks.iter().position(|&known| known == block) {
            Some(place) => place,
            None => panic!("a link leads to no block"),
        }
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        for &block in &self.blocks {
            // SAFETY: made by `new`, and nobody else is left to use them.
            drop(unsafe { Box::from_raw(block) });
        }
    }
}

fn mark_of(place: usize) -> usize {
    0x4d00 + place
}

/// Checks that `found` holds each of the places up to `count` exactly once.
pub fn assert_each_once(mut found: Vec<usize>, count: usize) {
    found.sort_unstable();
    assert!(found.iter().copied().eq(0..count), "lost, or seen twice: {found:?} of {count}");
}
