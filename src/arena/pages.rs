//! Runs of pages: where slabs and large blocks come from and go back to.

use super::chunk::{self, Chunk};
use super::top::top_bytes;
use super::{ARENAS, Arena, Guard, Inner};
use crate::check::invariant;
use crate::config;
use crate::heap;
use crate::heap::reach::REACH;
use crate::huge;
use crate::limit;
use crate::os::PAGE;
use crate::page_map::{
    self, CHUNK_FIRST, CHUNK_RETURNED, CHUNK_WAS_FREED, CHUNK_ZERO, KIND_LARGE, Owner, PageDesc,
    PageState,
};
use core::sync::atomic::Ordering::Relaxed;

/// Bytes of dirty chunks from which an arena lends of them to others that would touch fresh memory.
const BORROW_FROM: usize = 256 * 1024;

/// How often some magazines are given home for one run of pages: up to 2 MiB of them.
const MAGAZINE_PIECES: usize = 16;

/// A run of pages taken from the free ones. Its first descriptor says nothing yet.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// First byte.
    pub start: usize,
    /// Pages.
    pub pages: usize,
    /// [`CHUNK_FIRST`] if the run begins its heap; [`CHUNK_ZERO`] if all of it is zero.
    pub flags: u8,
    /// The arena whose heap it lies in.
    pub home: u16,
}

impl Run {
    /// Writes the descriptor of the run's first page.
    ///
    /// # Safety
    /// The run is the caller's, and the lock of its home arena, or of the arena that borrowed
    /// it, is held.
    pub unsafe fn describe(&self, state: PageState) {
        // SAFETY: heaps are covered.
        unsafe {
            let desc = page_map::desc(self.start);
            (*desc).flags = self.flags;
            (*desc).home_or_epoch = self.home;
            (*desc).pages = self.pages as u32;
            (*desc).next = 0;
            (*desc).prev = 0;
            page_map::set_state(self.start, state);
        }
    }
}

impl Inner {
    /// A run of pages for a slab, at a multiple of `align` bytes: it may be another arena's, to which
    /// [`Inner::give_run_home`] gives it back. `None` when there is none, or the hard limit would be crossed. (What
    /// is free and dirty counts already, but whoever meets the limit gives that back first.)
    ///
    /// # Safety
    /// The arena's lock is held.
    pub unsafe fn take_slab_run(&mut self, pages: usize, align: usize) -> Option<Run> {
        // SAFETY: the caller's contract.
        unsafe {
            if !limit::admits(pages * PAGE) {
                return None;
            }
            // Fresh memory comes last.
            let run = self
                .take_touched(pages, align)
                .or_else(|| self.borrow_run(pages, align, true))
                .or_else(|| self.take_from_magazines(pages, align))
                .or_else(|| self.take_at_hand(pages, align));
            self.decay.note(self.dirty_pages());
            run.or_else(|| self.borrow_run(pages, align, false))
                .or_else(|| self.take_fresh(pages, align))
        }
    }

    /// A run of memory that the arena has, touched or not.
    unsafe fn take_at_hand(&mut self, pages: usize, align: usize) -> Option<Run> {
        // SAFETY: the lock is held.
        unsafe {
            self.take_from_bins(pages, align, false).or_else(|| self.take_from_top(pages, align))
        }
    }

    /// A run of memory that the arena gets from the kernel.
    pub(super) unsafe fn take_fresh(&mut self, pages: usize, align: usize) -> Option<Run> {
        let bytes = pages.checked_mul(PAGE)?.checked_add(align - PAGE)?;
        // SAFETY: the lock is held.
        unsafe { if self.grow(bytes) { self.take_from_top(pages, align) } else { None } }
    }

    /// A run of this arena's pages that were touched before, or one that spares the hole of a large block.
    unsafe fn take_touched(&mut self, pages: usize, align: usize) -> Option<Run> {
        // SAFETY: the lock is held; `find` names a chunk of these bins.
        unsafe {
            let Some((chunk, at)) = self.bins.find(pages, align, true) else {
                return if self.heap.spare_bytes() >= pages * PAGE {
                    self.take_from_top(pages, align)
                } else {
                    None
                };
            };
            let beside = self.take_beside_hole(chunk, pages, align);
            Some(beside.unwrap_or_else(|| self.cut(chunk, at, pages)))
        }
    }

    /// Takes a run of pages that become free when full magazines go home, rather than fresh ones.
    #[inline]
    unsafe fn take_from_magazines(&mut self, pages: usize, align: usize) -> Option<Run> {
        if self.magazine_bytes < pages * PAGE || self.heap.spare_bytes() >= pages * PAGE {
            return None;
        }
        // SAFETY: the lock is held.
        unsafe {
            for _ in 0..MAGAZINE_PIECES {
                let run = self.take_touched(pages, align);
                if run.is_some()
                    || self.heap.spare_bytes() >= pages * PAGE
                    || !self.give_most_magazines()
                {
                    return run;
                }
            }
        }
        None
    }

    /// Takes pages of a free chunk, or of a dirty one if `only_dirty`.
    unsafe fn take_from_bins(
        &mut self,
        pages: usize,
        align: usize,
        only_dirty: bool,
    ) -> Option<Run> {
        // SAFETY: the lock is held; `find` names a chunk of these bins.
        unsafe {
            let (chunk, at) = self.bins.find(pages, align, only_dirty)?;
            Some(self.cut(chunk, at, pages))
        }
    }

    /// Takes `pages` pages at `at` out of the free chunk that starts at `start` and holds them.
    unsafe fn cut(&mut self, start: usize, at: usize, pages: usize) -> Run {
        // SAFETY: the lock is held; the chunk is one of these bins.
        unsafe {
            let Chunk { pages: size, flags, epoch } = self.bins.remove(start);
            let zero = flags & CHUNK_ZERO;
            let before = (at - start) / PAGE;
            let after = size - before - pages;
            if before > 0 {
                self.bins.insert(start, before, epoch, flags);
            }
            if after > 0 {
                self.bins.insert(at + pages * PAGE, after, epoch, zero);
            }
            let flags = if before == 0 { flags } else { zero };
            Run { start: at, pages, flags, home: self.id }
        }
    }

    /// Takes a run of another arena's free chunks; if `only_dirty`, of those that hold memory, where that is
    /// not little.
    unsafe fn borrow_run(&mut self, pages: usize, align: usize, only_dirty: bool) -> Option<Run> {
        let least = if only_dirty { BORROW_FROM } else { 0 };
        let run = self.lenders(least).find_map(|mut other| {
            // SAFETY: the other arena's lock is held by the guard.
            unsafe {
                let run = other
                    .take_from_bins(pages, align, only_dirty)
                    .or_else(|| other.lend(|other| other.take_from_magazines(pages, align)))?;
                let dirty = other.dirty_pages();
                other.decay.note(dirty);
                Some(run)
            }
        })?;
        // An arena may live on these for long before it has a heap.
        self.place_window(REACH.base_for(run.start));
        Some(run)
    }

    /// The other arenas that have something, and so many dirty bytes, whose lock is free at this instant. Only tried, never
    /// waited for: two arenas' locks have no order.
    fn lenders(&self, least: usize) -> impl Iterator<Item = Guard<'static>> {
        let own = self.id;
        let others = ARENAS.iter_open().filter(move |other| other.id() != own);
        let has_some =
            move |other: &&Arena| other.bytes_at_hand() > 0 && other.dirty_bytes() >= least;
        others.filter(has_some).filter_map(Arena::try_lock)
    }

    /// Bytes of slabs and large blocks.
    pub fn bytes_in_use(&self) -> usize {
        let free = self.bins.pages() * PAGE + top_bytes(&self.heap);
        self.heap_bytes.saturating_sub(free)
    }

    /// Gives a run back: coalesces it with free neighbours, into the top chunk where it touches
    /// it, and unmaps its heap if nothing else is left in it. A dirty chunk and a clean one stay
    /// apart until the dirty one is purged: together nobody would know what of them is memory. The first
    /// page of the free chunk, unless it became part of the top, or its heap is gone.
    ///
    /// # Safety
    /// The run is one that this arena gave out, with a valid descriptor on its first
    /// page and `Inside` on all others; the arena is its home, and its lock is held.
    pub unsafe fn give_run(&mut self, start: usize, pages: usize, zero: bool) -> Option<usize> {
        // SAFETY: the lock is held; neighbours that are free are chunks of these bins.
        unsafe {
            let mut flags = (*page_map::desc(start)).flags & CHUNK_FIRST;
            let kind = if zero { CHUNK_ZERO } else { 0 };
            let mut from = start;
            let mut size = pages;
            let before = chunk::free_before(start).filter(|&at| chunk::kind(at) == kind);
            *page_map::desc(start) = PageDesc { flags: CHUNK_WAS_FREED, ..PageDesc::INSIDE };
            if let Some(before) = before {
                let chunk = self.bins.remove(before);
                from = before;
                size += chunk.pages;
                flags = chunk.flags & CHUNK_FIRST;
            }
            let end = start + pages * PAGE;
            if end == self.heap.top {
                *page_map::desc(from) = PageDesc { flags: CHUNK_WAS_FREED, ..PageDesc::INSIDE };
                self.heap.lower_top(from, zero);
                self.trim_top();
                return None;
            }
            if chunk::goes_on_at(end) && chunk::kind(end) == kind {
                size += self.bins.remove(end).pages;
            }
            if flags & CHUNK_FIRST != 0 && self.release_free_heap_at(from, size, zero) {
                return None;
            }
            self.bins.insert(from, size, self.bins.epoch, flags | kind);
            Some(from)
        }
    }

    /// Unmaps a heap of which `pages` pages from its first one are free, and in no bin, if all others are in one clean
    /// chunk, and it may go.
    unsafe fn release_free_heap_at(&mut self, start: usize, pages: usize, zero: bool) -> bool {
        // SAFETY: the lock is held; a free chunk of this heap is one of these bins.
        unsafe {
            let end = start + pages * PAGE;
            // A heap that was left has a rest that was not touched.
            let has_rest = !zero && chunk::goes_on_at(end);
            let rest = if has_rest { (*page_map::desc(end)).pages as usize } else { 0 };
            if page_map::state(end + rest * PAGE) != PageState::HeapEnd
                || !(zero || self.gives_at_once(pages * PAGE))
            {
                return false;
            }
            let rest = has_rest.then(|| self.bins.remove(end));
            let is_gone = self.release_heap(start, pages + rest.map_or(0, |rest| rest.pages));
            if let Some(Chunk { pages, flags, epoch }) = rest.filter(|_| !is_gone) {
                self.bins.insert(end, pages, epoch, flags);
            }
            if is_gone && !zero {
                self.note_trimmed(pages * PAGE);
            }
            is_gone
        }
    }

    /// Makes the large run at `start` `pages` long without moving it, if it can be.
    ///
    /// # Safety
    /// `start` is the first page of a large run of this arena; its lock is held.
    pub unsafe fn resize_run(&mut self, start: usize, pages: usize) -> bool {
        // SAFETY: the lock is held; the run's descriptor is valid.
        unsafe {
            let desc = page_map::desc(start);
            let old = (*desc).pages as usize;
            if pages < old {
                (*desc).pages = pages as u32;
                self.large_bytes -= (old - pages) * PAGE;
                // The tail is a run of its own while it is given back.
                *page_map::desc(start + pages * PAGE) = PageDesc::INSIDE;
                self.give_run(start + pages * PAGE, old - pages, false);
                return true;
            }
            let more = pages - old;
            if !limit::admits(more * PAGE) {
                return false;
            }
            let end = start + old * PAGE;
            if end == self.heap.top {
                if !self.extend_top(more) {
                    return false;
                }
            } else if chunk::goes_on_at(end) && (*page_map::desc(end)).pages as usize >= more {
                let Chunk { pages: size, flags, epoch } = self.bins.remove(end);
                if size > more {
                    self.bins.insert(end + more * PAGE, size - more, epoch, flags & CHUNK_ZERO);
                }
            } else {
                return false;
            }
            (*desc).pages = pages as u32;
            (*desc).flags &= !CHUNK_ZERO;
            self.large_bytes += more * PAGE;
            self.decay.note(self.dirty_pages());
            true
        }
    }

    /// A large block, at a multiple of `align` bytes: a run of pages that were touched before, of this arena or of
    /// another one, whose block it is then; else of others that the arena has; if it `grows` for it, else of fresh
    /// ones. Its address, and whether it is zero. `None` as in [`Inner::take_slab_run`].
    ///
    /// # Safety
    /// The arena's lock is held.
    pub unsafe fn take_large(
        &mut self,
        bytes: usize,
        align: usize,
        grows: bool,
    ) -> Option<(usize, bool)> {
        let pages = bytes.div_ceil(PAGE).max(1);
        let align = align.max(PAGE);
        if !limit::admits(pages * PAGE) {
            return None;
        }
        // SAFETY: the lock is held; the other arena's by the guard.
        unsafe {
            let touched = self.take_touched_large(pages, align).or_else(|| {
                let mut lenders = self.lenders(pages * PAGE);
                lenders.find_map(|mut other| {
                    other.lend(|other| other.take_touched_large(pages, align))
                })
            });
            if touched.is_some() {
                return touched;
            }
            let at_hand = self.take_at_hand(pages, align);
            self.decay.note(self.dirty_pages());
            let run = match at_hand {
                None if grows => self.take_fresh(pages, align),
                at_hand => at_hand,
            };
            run.map(|run| self.as_large(run))
        }
    }

    unsafe fn take_touched_large(&mut self, pages: usize, align: usize) -> Option<(usize, bool)> {
        // SAFETY: the lock is held.
        unsafe {
            let run = self
                .take_touched(pages, align)
                .or_else(|| self.take_from_magazines(pages, align))?;
            self.decay.note(self.dirty_pages());
            Some(self.as_large(run))
        }
    }

    /// Makes a run of this arena's a large block; its address, and whether it is zero.
    unsafe fn as_large(&mut self, run: Run) -> (usize, bool) {
        // SAFETY: the lock is held, and the run is new.
        unsafe { run.describe(PageState::Large) };
        self.large_blocks += 1;
        self.large_bytes += run.pages * PAGE;
        (run.start, run.flags & CHUNK_ZERO != 0)
    }

    /// Takes a large block back.
    ///
    /// # Safety
    /// The block is this arena's, and the caller claimed it; the arena's lock is held.
    pub unsafe fn give_large(&mut self, address: usize) {
        // SAFETY: covered; the lock is held.
        unsafe {
            let desc = *page_map::desc(address);
            invariant(desc.state == PageState::Returning, "a large block was not claimed");
            let is_block = desc.flags & CHUNK_RETURNED == 0;
            if is_block {
                self.large_blocks -= 1;
                self.large_bytes -= desc.pages as usize * PAGE;
            }
            let chunk = self.give_run(address, desc.pages as usize, false);
            if is_block && chunk.is_some() {
                self.hole.note(desc.pages as usize);
            }
        }
    }

    /// Gives back a run that `take_slab_run` may have borrowed: to this arena's bins, or on its way
    /// to its home.
    ///
    /// # Safety
    /// As for [`Inner::give_run`], but for the home.
    pub unsafe fn give_run_home(&mut self, start: usize, pages: usize, home: u16) {
        // SAFETY: the lock is held. A borrowed run becomes a large block of its home, which
        // takes it back like any remote free.
        unsafe {
            if home == self.id {
                self.give_run(start, pages, false);
                return;
            }
            let flags = (*page_map::desc(start)).flags & CHUNK_FIRST;
            let run = Run { start, pages, flags: flags | CHUNK_RETURNED, home };
            run.describe(PageState::Returning);
            page_map::set_owner(start, pages * PAGE, Owner::new(home, KIND_LARGE));
            if let Some(home) = ARENAS.get(home) {
                home.send_returned_run(start);
            }
        }
    }
}

/// Whether a request of `bytes` is one for a mapping of its own.
pub fn is_huge(bytes: usize) -> bool {
    bytes >= config::MMAP_THRESHOLD.load(Relaxed) || !fits_heap(bytes)
}

/// Whether a new block of `bytes` gets a mapping of its own: not if there are as many already as
/// there may be, and a heap can hold it.
pub fn is_mapped(bytes: usize) -> bool {
    let is_full = || huge::BLOCKS.get() >= config::MMAP_MAX.load(Relaxed);
    is_huge(bytes) && !(is_full() && fits_heap(bytes))
}

fn fits_heap(bytes: usize) -> bool {
    bytes <= heap::mmap::HEAP_BYTES / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::STEPS;
    use crate::os;
    use crate::page_map::MAX_ARENAS;
    use crate::size_class::GRANULE;
    use crate::window::{self, WINDOW_PAGES, index_of};

    #[test]
    fn an_arena_that_lives_on_borrowed_slabs_has_a_window() {
        const ID: u16 = MAX_ARENAS as u16 - 1;
        let mut poor = Inner::new(ID);
        window::of(ID).open();
        let _alone = ARENAS.main_for_test();
        // SAFETY: the locks are held; the blocks are this test's, which leaves some in use, and no other arena
        // has this number.
        let run = unsafe {
            let mut held = ARENAS.main().lock_open().expect("nobody has it");
            let mut take = |bytes| held.take_large(bytes, PAGE, true).expect("memory").0;
            let (lent, _behind) = (take(2 * BORROW_FROM), take(PAGE));
            assert!(page_map::claim_large(lent));
            held.give_large(lent);
            drop(held);
            poor.take_slab_run(GRANULE / PAGE, GRANULE).expect("a run of the main arena's")
        };
        assert_eq!(run.home, 0);
        assert!(index_of(run.start, window::of(ID).base()) < WINDOW_PAGES);
    }

    #[test]
    fn what_a_growing_block_takes_was_needed() {
        const PAGES: usize = 16;
        let start = os::map(PAGES * PAGE).expose_provenance();
        let run = Run { start, pages: 1, flags: CHUNK_FIRST, home: 1 };
        let mut inner = Inner::new(1);
        assert!(start != 0 && page_map::cover(start, PAGES * PAGE));
        // SAFETY: covered, and this test's alone, as is the arena.
        unsafe {
            run.describe(PageState::Large);
            inner.bins.insert(start + PAGE, PAGES - 1, 0, 0);
            (0..STEPS).for_each(|_| inner.decay.advance(1, PAGES - 1));
            assert_eq!(inner.decay.keep(PAGES - 1), 0);
            assert!(inner.resize_run(start, 9) && inner.resize_run(start, 1));
        }
        assert_eq!(inner.decay.keep(PAGES - 1), 8);
    }
}
