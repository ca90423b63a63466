//! Where a thread's blocks come from.

use crate::books::Books;
use fastrand::Rng;
use std::alloc::Layout;
use std::ops::RangeInclusive;
use stress::run::checked;
use stress::{Block, Target, fail};

/// One thread's random numbers and the ids of its blocks.
pub struct Source {
    /// The thread's random numbers.
    pub rng: Rng,
    target: Target,
    next_id: u64,
}

impl Source {
    /// The source of thread `number`; its random numbers follow from the seed and the number.
    pub fn new(target: Target, seed: u64, number: usize) -> Self {
        let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number as u64);
        // Ids of different threads never meet.
        Self { rng: Rng::with_seed(seed), target, next_id: (number as u64) << 40 }
    }

    /// A filled block of `size` bytes, which is not 0. No memory ends the process.
    pub fn allocate(&mut self, size: usize) -> Block {
        self.try_allocate(size).unwrap_or_else(|| fail!("no memory for {size} bytes"))
    }

    /// A filled block of a random size.
    pub fn allocate_any(&mut self, sizes: &RangeInclusive<usize>) -> Block {
        let size = self.rng.usize(sizes.clone());
        self.allocate(size)
    }

    /// A filled block if there is memory.
    pub fn try_allocate(&mut self, size: usize) -> Option<Block> {
        self.next_id += 1;
        let layout = Layout::from_size_align(size, alignment(size)).expect("a layout");
        checked(Block::allocate(self.target, layout, self.next_id))
    }

    /// Adds blocks of random sizes until they make up at least `bytes`.
    pub fn fill(&mut self, blocks: &mut Books<Block>, bytes: usize, sizes: &RangeInclusive<usize>) {
        let mut sum = 0;
        while sum < bytes {
            let block = self.allocate_any(sizes);
            sum += block.size();
            blocks.push(block);
        }
    }

    /// Replaces one block of the table by another of a random size: first the free, then the request, so that what is
    /// live never grows.
    pub fn replace(
        &mut self,
        blocks: &mut Books<Block>,
        place: usize,
        sizes: &RangeInclusive<usize>,
    ) {
        let last = blocks.len() - 1;
        blocks.swap(place, last);
        if let Some(old) = blocks.pop() {
            self.free(old);
        }
        blocks.push(self.allocate_any(sizes));
        blocks.swap(place, last);
    }

    /// Frees all blocks of the table, the last one first.
    pub fn free_all(&self, blocks: &mut Books<Block>) {
        while let Some(block) = blocks.pop() {
            self.free(block);
        }
    }

    /// Checks every byte of a block and frees it. A block that changed ends the process.
    pub fn free(&self, block: Block) {
        checked(block.free(self.target));
    }
}

/// The alignment that C's malloc owes a block of `size` bytes: that of the largest object of a
/// basic type that fits. Several allocators give 8 bytes no more than that.
fn alignment(size: usize) -> usize {
    1 << size.max(1).ilog2().min(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignments_fit_into_the_block() {
        let alignments = [1, 2, 3, 7, 8, 15, 16, 17, 1000].map(alignment);
        assert_eq!(alignments, [1, 2, 2, 4, 8, 8, 16, 16, 16]);
    }
}
