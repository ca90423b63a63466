//! Which classes are sparse: a quarter of their slabs' blocks and more were free all the time, for the decay time.
//!
//! Those lie between blocks in use, so that few slabs come to be unused, and few of their pages go back. So slabs
//! of such a class that are less than three quarters full are *closed*: they give no blocks as long as open ones
//! with all their pages can, and their entries in the window are 0, so that a block of theirs that is freed misses the fast path, and goes home to its
//! slab instead of into the thread's bin. As the program replaces its blocks, closed slabs come to be unused, and
//! others full. A block takes the slow path for that once.

use super::Inner;
use super::decay::STEPS;
use super::slab::Slab;
use super::slab_lists::List;
use crate::page_map;
use crate::size_class::{self, CLASSES, Class};

/// Free bytes in slabs of a class below which it does not count as sparse.
const LEAST_BYTES: usize = 64 * 1024;

/// How full a class was.
#[derive(Debug, Clone, Copy)]
pub struct Fill {
    /// The most blocks that were out in this epoch.
    peak: usize,
    /// Epochs for which few were out; up to [`STEPS`].
    epochs: u8,
}

impl Fill {
    /// Not known yet.
    pub const NEW: Fill = Fill { peak: 0, epochs: 0 };

    /// Takes note that so many blocks are out.
    #[inline]
    pub fn note(&mut self, out: usize) {
        self.peak = self.peak.max(out);
    }

    /// Goes on to another epoch of a class of `size` bytes with so many blocks in its slabs, of which `out` are
    /// out, `epochs` after the last one; whether it is sparse. Once it is, it stays so until seven eighths are out.
    fn advance(&mut self, epochs: u64, blocks: usize, out: usize, size: usize) -> bool {
        let peak = core::mem::replace(&mut self.peak, out);
        let few = if self.is_sparse() { blocks / 8 * 7 } else { blocks / 4 * 3 };
        let is_empty = peak < few && (blocks - peak) * size >= LEAST_BYTES;
        let most = STEPS as u64;
        self.epochs = if is_empty { (u64::from(self.epochs) + epochs).min(most) as u8 } else { 0 };
        self.is_sparse()
    }

    /// Whether the class is sparse.
    pub fn is_sparse(&self) -> bool {
        usize::from(self.epochs) >= STEPS
    }
}

impl Inner {
    /// Looks how full the classes were in the last `epochs` epochs.
    pub(super) fn note_fill(&mut self, epochs: u64) {
        for class in 1..CLASSES {
            let state = self.class_mut(class);
            if state.slabs > 0 {
                let blocks = state.slabs as usize * size_class::slab_blocks(class);
                state.fill.advance(epochs, blocks, state.out, size_class::size(class));
            }
        }
    }

    /// Closes the slabs of sparse classes that are not nearly full, from class `first` upwards. Stops after
    /// `slabs` of them. The class to go on with, or `None` when all are done.
    ///
    /// # Safety
    /// The arena's lock is held.
    pub unsafe fn close_slabs(&mut self, first: Class, slabs: usize) -> Option<Class> {
        let mut left = slabs;
        for class in first..CLASSES {
            if !self.class(class).fill.is_sparse() {
                continue;
            }
            // The coldest first, so that they come to be the last again.
            let coldest = |this: &Self| {
                let lists = &this.class(class).lists;
                lists.last(List::OPEN).or_else(|| lists.last(List::BARE))
            };
            while let Some(coldest) = coldest(self) {
                if left == 0 {
                    return Some(class);
                }
                left -= 1;
                // SAFETY: the lock is held; ids on the lists are those of slabs.
                unsafe {
                    let start = page_map::page_address(coldest);
                    self.close(class, start, page_map::desc(start).cast::<Slab>());
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKS: usize = 1 << 20;

    /// After how many epochs with so many blocks out a class becomes sparse, if it does.
    fn sparse_after(fill: &mut Fill, out: usize, size: usize) -> Option<usize> {
        (1..=2 * STEPS).find(|_| fill.advance(1, BLOCKS, out, size))
    }

    #[test]
    fn what_is_a_quarter_empty_for_the_decay_time_is_sparse() {
        for (out, after) in [(BLOCKS / 4 * 3 - 1, Some(STEPS)), (BLOCKS / 4 * 3, None)] {
            let mut fill = Fill::NEW;
            assert_eq!(sparse_after(&mut fill, out, 64), after);
        }
    }

    #[test]
    fn little_is_not_worth_it() {
        let mut fill = Fill::NEW;
        assert!((0..2 * STEPS).all(|_| !fill.advance(1, LEAST_BYTES / 64, 1, 64)));
    }

    #[test]
    fn what_was_full_once_in_an_epoch_counts_as_full() {
        let mut fill = Fill::NEW;
        for _ in 0..2 * STEPS {
            fill.note(BLOCKS);
            assert!(!fill.advance(1, BLOCKS, 0, 64));
        }
    }

    #[test]
    fn it_stays_sparse_until_it_is_nearly_full() {
        let mut fill = Fill::NEW;
        assert!(sparse_after(&mut fill, 0, 64).is_some());
        assert!(fill.advance(1, BLOCKS, BLOCKS / 5 * 4, 64));
        assert!(fill.advance(1, BLOCKS, 0, 64));
        fill.note(BLOCKS / 8 * 7);
        assert!(!fill.advance(1, BLOCKS, 0, 64));
        assert!(!fill.advance(1, BLOCKS, 0, 64));
    }
}
