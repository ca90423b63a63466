//! The hole that a large block left, kept whole for the next one.
//!
//! A program that frees a large buffer and allocates one again, over and over, allocates small blocks in
//! between. Where no smaller chunk is free, best fit cuts their slabs off the hole that the buffer left; the next
//! buffer, as large as the last one, does not fit any more, and takes as much fresh memory again. So what is
//! little beside the hole comes from the top instead, until that has touched an eighth of what the next
//! buffer would.

use super::Inner;
use super::pages::Run;
use crate::heap::Source;
use crate::os::PAGE;
use crate::page_map;

/// Fewest pages of a block whose hole is kept: glibc's default mmap threshold, 128 KiB.
const LEAST: usize = 32;

/// What takes less than this part of the hole goes beside it. Blocks of sizes that are alike fill each other's
/// holes.
const LITTLE: usize = 32;

/// Part of the hole that may be touched beside it.
const PRICE: usize = 8;

/// The largest block that left a free chunk, until one as large is taken out of such a chunk.
#[derive(Debug, Clone, Copy)]
pub struct Hole {
    /// Its pages; 0 if none is waited for.
    pages: usize,
    /// Pages that may still be touched to keep it whole.
    budget: usize,
}

impl Hole {
    pub const NONE: Hole = Hole { pages: 0, budget: 0 };

    /// Takes note that a large block of so many pages became a free chunk, or a part of one.
    pub fn note(&mut self, pages: usize) {
        if pages >= LEAST.max(self.pages) {
            *self = Hole { pages, budget: pages / PRICE };
        }
    }
}

impl Inner {
    /// A run of the top, touched or not, for one that would else be cut off `chunk`, if that is the only one left with
    /// room for a block as large as the last.
    ///
    /// # Safety
    /// The arena's lock is held; a free chunk of its own begins at `chunk` and holds the run.
    pub(super) unsafe fn take_beside_hole(
        &mut self,
        chunk: usize,
        pages: usize,
        align: usize,
    ) -> Option<Run> {
        let hole = self.hole.pages;
        if pages >= hole {
            self.hole = Hole::NONE;
            return None;
        }
        // SAFETY: the lock is held; the chunk is free.
        unsafe {
            let size = (*page_map::desc(chunk)).pages as usize;
            let is_cut = size >= hole && size - pages < hole;
            if pages * LITTLE > hole || !is_cut || self.bins.has_another(chunk) {
                return None;
            }
            if self.heap.spare_bytes() < pages * PAGE {
                let Some(budget) = self.hole.budget.checked_sub(pages) else {
                    self.hole = Hole::NONE;
                    return None;
                };
                self.hole.budget = budget;
            }
            let at_hand = self.take_from_top(pages, align);
            // The break moves by a little; a heap that is mapped is a large step.
            match at_hand {
                None if self.heap.source == Source::Brk => self.take_fresh(pages, align),
                at_hand => at_hand,
            }
        }
    }

    /// Lets a thread of another arena `take` something: it gets nothing fresh to spare a hole of this one.
    pub(super) fn lend<T>(&mut self, take: impl FnOnce(&mut Self) -> T) -> T {
        let hole = core::mem::replace(&mut self.hole, Hole::NONE);
        let lent = take(self);
        self.hole = hole;
        lent
    }
}
