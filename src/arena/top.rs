//! The top chunk: the rest of the newest heap, which grows there, and whose end goes back to the kernel.

use super::Inner;
use super::chunk::{self, Chunk};
use super::pages::Run;
use crate::config;
use crate::heap::reach::REACH;
use crate::heap::{Heap, Source, brk, mmap};
use crate::huge::unmapped;
use crate::os::{self, PAGE};
use crate::page_map::{CHUNK_FIRST, CHUNK_ZERO};
use crate::size_class::GRANULE;
use crate::window::{self, NO_WINDOW};
use core::sync::atomic::Ordering::Relaxed;

/// Most free bytes that a top keeps because the program needed them again after a trim; half of what is in use,
/// if that is more. Nobody may give them back in a process of one thread that does nothing any more.
const MOST_SLACK: usize = 256 * 1024 * 1024;

impl Inner {
    /// A run off the top; what its alignment leaves below it becomes a free chunk.
    pub(super) unsafe fn take_from_top(&mut self, pages: usize, align: usize) -> Option<Run> {
        let first = self.heap.source == Source::Mmap && self.heap.top == self.heap.base;
        let touched = self.heap.zero_from;
        let (gap, start, zero) = self.heap.take(pages * PAGE, align)?;
        if self.heap.zero_from > touched {
            self.note_touched(self.heap.zero_from - touched);
        }
        let first = if first { CHUNK_FIRST } else { 0 };
        let zero = if zero { CHUNK_ZERO } else { 0 };
        if gap < start {
            // SAFETY: the gap was top chunk until now.
            unsafe { self.insert_rest(gap, start, touched, first) };
        }
        let flags = if gap < start { zero } else { first | zero };
        Some(Run { start, pages, flags, home: self.id })
    }

    /// Makes what was top chunk, and is in none, free chunks: what was touched, and what was not, from `zero_from` on.
    /// They do not coalesce with what is free below.
    ///
    /// # Safety
    /// As for [`Bins::insert`](super::chunk::Bins::insert), of which the flags are those of the first chunk.
    unsafe fn insert_rest(&mut self, start: usize, end: usize, zero_from: usize, flags: u8) {
        let middle = zero_from.min(end).max(start);
        let parts = [(start, middle, 0), (middle, end, CHUNK_ZERO)];
        for (from, to, zero) in parts.into_iter().filter(|&(from, to, _)| from < to) {
            let first = if from == start { flags } else { 0 };
            // SAFETY: the caller's contract.
            unsafe { self.bins.insert(from, (to - from) / PAGE, self.bins.epoch, first | zero) };
        }
    }

    /// Takes `pages` off the top for the block that ends there, moving the break if need be.
    pub(super) unsafe fn extend_top(&mut self, pages: usize) -> bool {
        let end = self.heap.top;
        let bytes = pages * PAGE;
        let lacks = self.heap.end - end < bytes;
        // SAFETY: the lock is held. A heap that goes on elsewhere leaves the block where it is.
        if lacks && (self.heap.source != Source::Brk || !unsafe { self.grow(bytes) }) {
            return false;
        }
        // SAFETY: the lock is held. What begins at the top leaves no gap below.
        self.heap.top == end && unsafe { self.take_from_top(pages, PAGE) }.is_some()
    }

    /// Makes the top chunk hold `bytes` more, in this heap or a new one.
    #[cold]
    pub(super) unsafe fn grow(&mut self, bytes: usize) -> bool {
        self.ask_for_huge_pages();
        if self.id == 0 {
            let end = self.heap.end;
            let grown = brk::grow(&mut self.heap, bytes);
            // The program may have lowered the break in between.
            self.heap_bytes -= end.saturating_sub(self.heap.end);
            match grown {
                brk::Grown::Longer => {
                    self.add_heap_bytes(self.heap.end.saturating_sub(end));
                    return true;
                }
                brk::Grown::Elsewhere(heap) => {
                    self.add_heap_bytes(heap.end - heap.base);
                    self.place_window(heap.base & !(GRANULE - 1));
                    // SAFETY: the lock is held.
                    unsafe { self.replace_heap(heap) };
                    return true;
                }
                brk::Grown::No => {}
            }
        }
        let Some(heap) = mmap::new_heap(bytes, self.id) else {
            return false;
        };
        self.add_heap_bytes(heap.end - heap.base);
        self.place_window(REACH.base_for(heap.base));
        // SAFETY: the lock is held.
        unsafe { self.replace_heap(heap) };
        true
    }

    /// Takes note that the top touches memory.
    fn note_touched(&mut self, bytes: usize) {
        if self.slack.is_open() || unmapped::is_open() {
            let now = os::coarse_milliseconds();
            let trimmed = self.slack.claim(bytes, now, config::decay_milliseconds());
            let again = trimmed + unmapped::claim(bytes - trimmed);
            let most = self.most_slack();
            self.slack.note_needed(again, most, now);
        }
        self.ask_for_huge_pages();
    }

    fn ask_for_huge_pages(&mut self) {
        let in_use = self.bytes_in_use();
        self.heap.ask_for_huge_pages(in_use);
    }

    fn add_heap_bytes(&mut self, bytes: usize) {
        self.heap_bytes += bytes;
        self.peak_heap_bytes = self.peak_heap_bytes.max(self.heap_bytes);
    }

    /// Makes the arena's window begin at an address, if it has none.
    pub(super) fn place_window(&self, base: usize) {
        let window = window::of(self.id);
        if window.base() == NO_WINDOW {
            REACH.begin_at(base);
            window.place(base);
        }
    }

    /// Goes on in a new heap; what is left of the old top becomes a free chunk.
    unsafe fn replace_heap(&mut self, new: Heap) {
        let old = core::mem::replace(&mut self.heap, new);
        if old.source == Source::Brk {
            self.left_brk = Heap { ..old };
        }
        if old.source == Source::None || old.top == old.end {
            return;
        }
        let first = if old.source == Source::Mmap && old.top == old.base { CHUNK_FIRST } else { 0 };
        // SAFETY: the rest of the top is in no chunk.
        unsafe { self.insert_rest(old.top, old.end, old.zero_from, first) };
    }

    /// Gives the top back to the kernel if it holds more than the arena keeps.
    pub(super) unsafe fn trim_top(&mut self) {
        let pad = config::TOP_PAD.load(Relaxed);
        let threshold = config::TRIM_THRESHOLD.load(Relaxed).saturating_add(pad);
        let spare = self.heap.spare_bytes();
        if spare < threshold {
            return;
        }
        let slack = self.slack();
        if spare < threshold.saturating_add(slack).saturating_add(self.refused_top) {
            return;
        }
        // SAFETY: the lock is held.
        if unsafe { self.leave_empty_heap() } == 0 && self.trim_heap(pad.saturating_add(slack)) == 0
        {
            // Not at each free from now on.
            self.refused_top = spare.saturating_sub(pad.saturating_add(slack));
        }
        self.note_trimmed(spare.saturating_sub(self.heap.spare_bytes()));
    }

    /// Free bytes beyond the trim threshold that are not given back at once.
    fn slack(&mut self) -> usize {
        if !config::DYNAMIC_THRESHOLDS.load(Relaxed) {
            return 0;
        }
        let most = self.most_slack();
        self.slack.bytes(os::coarse_milliseconds(), config::decay_milliseconds()).min(most)
    }

    /// A program that has become smaller breathes less.
    fn most_slack(&self) -> usize {
        MOST_SLACK.max(self.bytes_in_use() / 2)
    }

    /// Takes note of touched memory that went back at once.
    pub(super) fn note_trimmed(&mut self, bytes: usize) {
        self.slack.note_trimmed(bytes, os::coarse_milliseconds(), config::decay_milliseconds());
    }

    /// Whether a heap of so many touched bytes goes back as soon as it is free; else, as long as all that is free and
    /// touched is no more than the slack, it waits for the decay time, as its chunks do.
    pub(super) fn gives_at_once(&mut self, bytes: usize) -> bool {
        self.slack() < self.dirty_pages() * PAGE + bytes
    }

    /// Gives the top back down to `pad` bytes, and an empty newest heap whole. Returns the bytes
    /// given back.
    ///
    /// # Safety
    /// The arena's lock is held.
    pub unsafe fn trim_top_to(&mut self, pad: usize) -> usize {
        // SAFETY: the lock is held.
        let left = unsafe {
            self.absorb_clean();
            self.leave_empty_heap()
        };
        left + self.trim_heap(pad)
    }

    /// Gives what the top holds beyond `pad` back; the bytes.
    fn trim_heap(&mut self, pad: usize) -> usize {
        let end = self.heap.end;
        let bytes = self.heap.trim(pad);
        self.heap_bytes -= end - self.heap.end;
        bytes
    }

    /// Unmaps the newest heap if it is a mapped one of which nothing is in use. The main arena
    /// goes back to the break. Returns the bytes given back.
    unsafe fn leave_empty_heap(&mut self) -> usize {
        let Heap { source, base, top, end, .. } = self.heap;
        // SAFETY: the lock is held; the heap's only chunk is its top. A free chunk that ends at
        // the break's heap's end is one of these bins.
        unsafe {
            if source != Source::Mmap
                || top != base
                || !self.release_heap(base, (end - base) / PAGE)
            {
                return 0;
            }
            self.heap = core::mem::replace(&mut self.left_brk, Heap::NONE);
            if self.heap.source == Source::Brk {
                self.heap.top = self.heap.end;
                self.heap.zero_from = self.heap.end;
                if let Some(start) = chunk::free_ending_at(self.heap.end) {
                    let Chunk { flags, .. } = self.bins.remove(start);
                    self.heap.top = start;
                    if flags & CHUNK_ZERO != 0 {
                        self.heap.zero_from = start;
                    }
                }
            }
        }
        end - base + PAGE
    }

    /// Unmaps a heap of `pages` pages and the one that ends it; whether the kernel did so.
    ///
    /// # Safety
    /// As for [`mmap::release`].
    pub(super) unsafe fn release_heap(&mut self, base: usize, pages: usize) -> bool {
        // SAFETY: the caller's contract.
        let is_gone = unsafe { mmap::release(base, pages, self.id) };
        if is_gone {
            self.heap_bytes -= pages * PAGE;
        }
        is_gone
    }
}

/// Free bytes that a top chunk may keep, for reports.
pub fn top_bytes(heap: &Heap) -> usize {
    heap.end - heap.top
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page_map;

    /// An arena whose heap has 16 pages, at a multiple of 8, of which two are in use, and two more were touched.
    fn with_heap() -> Inner {
        let mapping = os::map(24 * PAGE).expose_provenance();
        let base = mapping.next_multiple_of(8 * PAGE);
        assert!(mapping != 0 && page_map::cover(base, 16 * PAGE));
        let mut inner = Inner::new(1);
        inner.heap = Heap {
            source: Source::Mmap,
            base,
            top: base + 2 * PAGE,
            end: base + 16 * PAGE,
            zero_from: base + 4 * PAGE,
            huge_to: 0,
        };
        inner
    }

    #[test]
    fn what_a_heap_leaves_is_clean_where_nothing_was_touched() {
        let mut inner = with_heap();
        // SAFETY: the arena is this test's alone.
        unsafe { inner.replace_heap(Heap::NONE) };
        assert_eq!((inner.bins.dirty_pages(), inner.bins.pages()), (2, 14));
    }

    #[test]
    fn a_gap_is_clean_where_nothing_was_touched() {
        let mut inner = with_heap();
        // SAFETY: as above.
        let run = unsafe { inner.take_from_top(1, 8 * PAGE) };
        assert_eq!(run.map_or(0, |run| run.flags & CHUNK_ZERO), CHUNK_ZERO);
        assert_eq!((inner.bins.dirty_pages(), inner.bins.pages()), (2, 6));
    }
}
