//! What an arena does, under its lock, to give free memory back: which chunks, how much of the
//! top, which magazines. The system calls on chunks are made without the lock (`crate::purge`).

use super::chunk::{self, Chunk, LAST_BIN};
use super::decay::STEPS;
use super::pages::Run;
use super::{ARENAS, Arena, Guard, Inner};
use crate::os::{self, PAGE};
use crate::page_map::{self, CHUNK_FIRST, CHUNK_RETURNED, CHUNK_ZERO, PageState};
use crate::size_class::{CLASSES, Class};
use crate::sync::block::Block;

/// Dirty free pages that all arenas together keep in any case: 256 KiB …
pub const RESERVE: usize = 64;
/// … and each of them, if they are many: 64 KiB.
const LEAST_RESERVE: usize = 16;

/// Where a search for dirty chunks goes on.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    /// Chunks that are free for at least so many epochs.
    age: u16,
    /// From this bin downwards.
    bin: usize,
    /// Chunks of that bin that the kernel refused, which lie in front.
    refused: usize,
}

impl Search {
    /// Of chunks of at least `age` epochs.
    pub fn of(age: u16) -> Self {
        Self { age, bin: LAST_BIN, refused: 0 }
    }

    /// Passes over the chunk found last, which is back in its bin.
    pub fn pass_over(&mut self) {
        self.refused += 1;
    }
}

impl Inner {
    /// Free pages that may hold memory of the machine: dirty chunks, and the touched part of the
    /// top.
    pub fn dirty_pages(&self) -> usize {
        self.bins.dirty_pages() + self.heap.spare_bytes() / PAGE
    }

    /// Bytes that could be given back, about: dirty pages, magazines, and free blocks of slabs that
    /// were not looked through.
    pub fn purgeable_bytes(&self) -> usize {
        self.dirty_pages() * PAGE + self.warm_free_bytes + self.magazine_bytes
    }

    /// Bytes of the arena that may hold memory of the machine.
    pub fn committed_bytes(&self) -> usize {
        let untouched = self.heap.end - self.heap.zero_from.max(self.heap.top);
        self.heap_bytes
            .saturating_sub(untouched + (self.bins.pages() - self.bins.dirty_pages()) * PAGE)
    }

    /// Slabs of all classes.
    pub fn slab_count(&self) -> usize {
        self.classes.0.iter().map(|class| class.slabs as usize).sum()
    }

    /// Goes on to `epoch` of the purge clock, which goes back when the decay time is set anew. The
    /// arena's own count begins with the first tick: all that it has then is of that epoch.
    pub fn advance(&mut self, epoch: u64) {
        if self.first_epoch == 0 {
            self.first_epoch = epoch;
            self.epoch = epoch;
        }
        if epoch != self.epoch {
            let epochs = epoch.checked_sub(self.epoch).unwrap_or(1);
            self.epoch = epoch;
            self.refused_top = 0;
            self.bins.epoch = epoch.wrapping_sub(self.first_epoch) as u16;
            self.stamp = self.bins.epoch as u8;
            let dirty = self.dirty_pages();
            self.decay.advance(epochs, dirty);
            self.note_fill(epochs);
        }
    }

    /// Whether the caches that wait in the arena waited for the decay time: no thread began or ended there. Called once
    /// per epoch.
    pub fn parked_are_idle(&mut self) -> bool {
        self.parked_idle.tick(self.parked_uses) >= STEPS
    }

    /// As [`Inner::give_blocks_of`], for blocks that were cached for the decay time: their slabs are as
    /// cold as if the blocks had been on their free lists.
    ///
    /// # Safety
    /// As for [`Inner::give_blocks_of`].
    pub unsafe fn give_cold_blocks(&mut self, class: Class, head: *mut Block, limit: usize) {
        self.stamp = (self.bins.epoch as u8).wrapping_sub(STEPS as u8);
        // SAFETY: the caller's contract.
        unsafe { self.give_blocks_of(class, head, limit) };
        self.stamp = self.bins.epoch as u8;
    }

    /// As [`Inner::give_cold_blocks`], for blocks that nobody had a use for in the decay time: what becomes
    /// free by them was so all the time, and does not wait for the decay time once more.
    ///
    /// # Safety
    /// As for [`Inner::give_blocks_of`].
    pub unsafe fn give_idle_blocks(&mut self, class: Class, head: *mut Block, limit: usize) {
        // SAFETY: the caller's contract.
        self.as_free_before(|this| unsafe { this.give_cold_blocks(class, head, limit) });
    }

    /// What `give` makes free counts as if it had been so all the time.
    pub(super) fn as_free_before(&mut self, give: impl FnOnce(&mut Self)) {
        let before = self.dirty_pages();
        give(self);
        self.decay.were_free(self.dirty_pages().saturating_sub(before));
    }

    /// Dirty pages beyond those that the program may want again, of which `percent` stay.
    pub fn surplus(&self, percent: usize) -> usize {
        let dirty = self.dirty_pages();
        let reserve = (RESERVE / ARENAS.count().max(1)).max(LEAST_RESERVE);
        dirty.saturating_sub(self.decay.keep(dirty).max(reserve) * percent / 100)
    }

    /// Takes at most `pages` of a dirty chunk out of the bins, so that their memory can be given
    /// back without the lock.
    ///
    /// # Safety
    /// The arena's lock is held.
    pub unsafe fn take_dirty(&mut self, search: &mut Search, pages: usize) -> Option<Run> {
        // SAFETY: the lock is held; the chunk is one of these bins.
        unsafe {
            let Search { age, bin: before, refused } = *search;
            let (start, bin, (from, to)) = self.bins.find_dirty(age, before, refused)?;
            if bin != before {
                (search.bin, search.refused) = (bin, 0);
            }
            let Chunk { pages: size, flags, epoch } = self.bins.remove(start);
            // The upper part goes, so that low addresses stay warm; what shares a page of the
            // kernel with others stays dirty.
            let unit = os::page_size();
            let most = (pages * PAGE).max(unit);
            let from = from.max((to.saturating_sub(most) + unit - 1) & !(unit - 1));
            let mut run = Run {
                start: from,
                pages: (to - from) / PAGE,
                flags: CHUNK_RETURNED,
                home: self.id,
            };
            if start == from {
                run.flags |= flags & CHUNK_FIRST;
            } else {
                self.bins.insert(start, (from - start) / PAGE, epoch, flags);
            }
            let rest = (start + size * PAGE - to) / PAGE;
            if rest > 0 {
                self.bins.insert(to, rest, epoch, flags & !CHUNK_FIRST);
            }
            run.describe(PageState::Returning);
            self.decay.purged(run.pages);
            Some(run)
        }
    }

    /// Gives some magazines home of the first class from `class` on that was not refilled for the decay
    /// time; that class, or `None` when there is none.
    ///
    /// # Safety
    /// The arena's lock is held.
    pub unsafe fn give_idle_magazines(&mut self, class: Class) -> Option<Class> {
        let idle = |&class: &Class| {
            let state = self.class(class);
            state.magazines.blocks > 0 && state.idle.epochs as usize >= STEPS
        };
        let class = (class..CLASSES).find(idle)?;
        // SAFETY: the caller's contract.
        self.as_free_before(|this| _ = unsafe { this.give_magazines(class) });
        Some(class)
    }

    /// Takes a run of [`Inner::take_dirty`] back; whether its memory is gone.
    ///
    /// # Safety
    /// The run is one of this arena, whose lock is held.
    pub unsafe fn give_purged(&mut self, run: Run, gone: bool) {
        // SAFETY: the caller's contract.
        unsafe {
            let chunk = self.give_run(run.start, run.pages, gone);
            if let Some(chunk) = chunk {
                forget_around(chunk, run);
            }
            // Between a purged chunk and one that was never touched there may be a dirty rest that is less
            // than a page of the kernel, and never goes back alone.
            if os::page_size() > PAGE
                && let Some((first, pages)) = chunk.and_then(|chunk| chunk::free_heap(chunk))
            {
                self.release_free_heap(first, pages);
            }
        }
    }

    /// Unmaps a heap in which all chunks are free, of whatever kind.
    unsafe fn release_free_heap(&mut self, first: usize, pages: usize) {
        // SAFETY: the lock is held; free chunks are of these bins.
        unsafe {
            let mut next = first;
            while next < first + pages * PAGE {
                next += self.bins.remove(next).pages * PAGE;
            }
            if !self.release_heap(first, pages) {
                self.bins.insert(first, pages, self.bins.epoch, CHUNK_FIRST);
            }
        }
    }

    /// Gives at most `pages` touched pages at the end of the top back; the bytes.
    ///
    /// # Safety
    /// The arena's lock is held.
    pub unsafe fn discard_top(&mut self, pages: usize) -> usize {
        let bytes = self.heap.discard(pages * PAGE);
        self.decay.purged(bytes / PAGE);
        // SAFETY: the lock is held.
        unsafe { self.absorb_clean() };
        bytes
    }

    /// Makes clean chunks that end at a clean top part of it.
    ///
    /// # Safety
    /// The arena's lock is held.
    pub unsafe fn absorb_clean(&mut self) {
        // SAFETY: the lock is held; what lies between the heap's base and its top is the heap's.
        unsafe {
            while self.heap.spare_bytes() == 0
                && self.heap.top > self.heap.base
                && let Some(start) = chunk::free_ending_at(self.heap.top)
                && chunk::kind(start) == CHUNK_ZERO
            {
                self.bins.remove(start);
                self.heap.lower_top(start, true);
            }
        }
    }
}

/// Gives back what describes the pages around a run that became part of a larger chunk: alone it did not fill the
/// pages of descriptors at its ends.
///
/// # Safety
/// The run lies in the free chunk that begins at `chunk`, of the arena whose lock is held.
unsafe fn forget_around(chunk: usize, run: Run) {
    let near = page_map::described_by(os::page_size());
    // SAFETY: the caller's contract: descriptors between the chunk's first and last one say `Inside`.
    unsafe {
        let pages = (*page_map::desc(chunk)).pages as usize;
        let (first, last) = (chunk + PAGE, chunk + (pages - 1) * PAGE);
        let from = first.max(run.start.saturating_sub(near));
        let to = last.min(run.start + run.pages * PAGE + near);
        if pages > run.pages && from < to {
            page_map::forget(from, to - from);
        }
    }
}

impl Arena {
    /// Gives magazines of the depot back to the slabs whose class was not refilled for the decay
    /// time, one per class; those of such classes that lie beside the depot are [`Inner::give_idle_magazines`]'s.
    /// Called once per epoch. Whether there are any magazines, or were.
    ///
    /// Exchanges in the depot alone do not count as use: a class that lives by them gets its
    /// magazines anew from the slabs once per decay time.
    pub fn cool_depot(&self, held: &mut Guard<'_>) -> bool {
        let mut has_magazines = false;
        for class in 1..CLASSES {
            let state = held.class_mut(class);
            if state.magazines.blocks == 0 && self.depot_count(class) == 0 {
                continue;
            }
            has_magazines = true;
            if state.idle.tick(state.refilled as u32) >= STEPS {
                self.give_depot_magazine(held, class);
            }
        }
        has_magazines
    }

    /// Gives a magazine of the depot back to its slabs; false when it has none of `class`.
    pub fn give_depot_magazine(&self, held: &mut Guard<'_>, class: Class) -> bool {
        let Some(magazine) = self.depot_take(class) else { return false };
        // SAFETY: a depot magazine is a list of `count` blocks of this arena.
        unsafe { held.give_idle_blocks(class, magazine.head, magazine.count) };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size_class;

    #[test]
    fn what_was_freed_before_the_first_tick_is_not_old_then() {
        let mut inner = Inner::new(1);
        let before = (inner.bins.epoch, inner.stamp);
        inner.advance(1_000_000);
        assert_eq!((inner.bins.epoch, inner.stamp), before);
        inner.advance(1_000_003);
        assert_eq!((inner.bins.epoch, inner.stamp), (before.0 + 3, before.1 + 3));
    }

    #[test]
    fn what_idle_blocks_make_free_does_not_wait_for_the_decay_time_again() {
        const BYTES: usize = 4 << 20;
        const SIZE: usize = 1024;
        let class = size_class::of(SIZE);
        let _alone = ARENAS.main_for_test();
        let mut held = ARENAS.main().lock_open().expect("no other test uses this arena");
        let mut surplus_after = |give: unsafe fn(&mut Inner, Class, *mut Block, usize)| {
            let mut head: *mut Block = core::ptr::null_mut();
            let mut count = 0;
            // SAFETY: the lock is held; the blocks are this test's until it gives them back.
            unsafe {
                while count < BYTES / SIZE {
                    let got = held.take_blocks(class, 64);
                    Block::set_next(Block::last(got.head), head);
                    head = got.head;
                    count += got.count;
                }
                give(&mut held, class, head, count);
            }
            held.surplus(100) * PAGE
        };
        assert_eq!(surplus_after(Inner::give_blocks_of), 0);
        assert!(surplus_after(Inner::give_idle_blocks) > BYTES / 2);
    }
}
