//! Free chunks: runs of pages between blocks in use, in bins by size, coalesced with their
//! neighbours through the descriptors of their first and last pages.

use crate::check::invariant;
use crate::os::PAGE;
use crate::page_map::{self, CHUNK_FIRST, CHUNK_ZERO, PageDesc, PageId, PageState};

/// One bin per page count up to here.
const EXACT: usize = 32;
/// Then four per doubling.
const BINS: usize = 128;
/// Free chunks looked at in one bin before a larger bin is taken.
const SEARCH: usize = 16;

/// The bins of an arena.
#[derive(Debug)]
pub struct Bins {
    /// First chunk of each bin.
    heads: [PageId; BINS],
    /// Bit n: bin n is not empty.
    filled: u128,
    /// Pages in all bins.
    pub pages: usize,
}

/// The bin of a chunk of `pages` pages.
fn bin_of(pages: usize) -> usize {
    if pages <= EXACT {
        return pages.saturating_sub(1);
    }
    let log = (usize::BITS - 1 - pages.leading_zeros()) as usize;
    let step = (pages >> (log - 2)) & 3;
    (EXACT + (log - 5) * 4 + step).min(BINS - 1)
}

impl Bins {
    /// No chunks.
    pub const fn new() -> Self {
        Self { heads: [0; BINS], filled: 0, pages: 0 }
    }

    /// Makes the run a free chunk of its bin. Does not coalesce.
    ///
    /// # Safety
    /// The run lies in a heap of the arena, whose lock is held; it is in no bin, and its pages'
    /// descriptors are `Inside` except the first.
    pub unsafe fn insert(&mut self, start: usize, pages: usize, home: u16, flags: u8) {
        let bin = bin_of(pages);
        let next = self.heads[bin];
        // SAFETY: heaps are covered.
        unsafe {
            *page_map::desc(start) = PageDesc {
                state: PageState::Free,
                flags,
                home,
                pages: pages as u32,
                next,
                prev: 0,
            };
            if pages > 1 {
                *page_map::desc(start + (pages - 1) * PAGE) =
                    PageDesc { state: PageState::FreeEnd, pages: pages as u32, ..PageDesc::INSIDE };
            }
            let id = page_map::page_id(start);
            if next != 0 {
                (*page_map::desc(page_map::page_address(next))).prev = id;
            }
            self.heads[bin] = id;
        }
        self.filled |= 1 << bin;
        self.pages += pages;
    }

    /// Takes a free chunk out of its bin; its pages and flags. All its descriptors are `Inside`
    /// afterwards.
    ///
    /// # Safety
    /// `start` is the first page of a free chunk of these bins; the arena's lock is held.
    pub unsafe fn remove(&mut self, start: usize) -> (usize, u8) {
        // SAFETY: heaps are covered, and ids on lists are those of free chunks.
        unsafe {
            let desc = page_map::desc(start);
            invariant((*desc).state == PageState::Free, "a chunk in a bin is not free");
            let PageDesc { pages, flags, next, prev, .. } = *desc;
            let pages = pages as usize;
            let bin = bin_of(pages);
            if prev == 0 {
                self.heads[bin] = next;
                if next == 0 {
                    self.filled &= !(1 << bin);
                }
            } else {
                (*page_map::desc(page_map::page_address(prev))).next = next;
            }
            if next != 0 {
                (*page_map::desc(page_map::page_address(next))).prev = prev;
            }
            *desc = PageDesc::INSIDE;
            *page_map::desc(start + (pages - 1) * PAGE) = PageDesc::INSIDE;
            self.pages -= pages;
            (pages, flags)
        }
    }

    /// The best of the chunks looked at that hold `pages` pages at a multiple of `align` bytes:
    /// its start and the aligned address in it. Among chunks of one size the lowest address
    /// wins, so that high ones can empty out.
    ///
    /// # Safety
    /// The arena's lock is held.
    pub unsafe fn find(&self, pages: usize, align: usize) -> Option<(usize, usize)> {
        let mut candidates = self.filled & (u128::MAX << bin_of(pages));
        while candidates != 0 {
            let bin = candidates.trailing_zeros() as usize;
            let mut best: Option<(usize, usize, usize)> = None;
            let mut id = self.heads[bin];
            for _ in 0..SEARCH {
                if id == 0 {
                    break;
                }
                // SAFETY: ids on lists are those of free chunks in covered heaps.
                let (start, desc) = unsafe {
                    let start = page_map::page_address(id);
                    (start, *page_map::desc(start))
                };
                let size = desc.pages as usize;
                let at = (start + align - 1) & !(align - 1);
                if at + pages * PAGE <= start + size * PAGE
                    && best.is_none_or(|(other, from, _)| (size, start) < (other, from))
                {
                    best = Some((size, start, at));
                }
                id = desc.next;
            }
            if let Some((_, start, at)) = best {
                return Some((start, at));
            }
            candidates &= candidates - 1;
        }
        None
    }

    /// The first page of every free chunk, for walks that do not change the bins.
    ///
    /// # Safety
    /// The arena's lock is held during the walk.
    pub unsafe fn for_each(&self, mut visit: impl FnMut(usize, usize, u8)) {
        for &head in &self.heads {
            let mut id = head;
            while id != 0 {
                // SAFETY: as in `find`.
                unsafe {
                    let start = page_map::page_address(id);
                    let desc = *page_map::desc(start);
                    visit(start, desc.pages as usize, desc.flags);
                    id = desc.next;
                }
            }
        }
    }

    /// Marks a free chunk as zero, after its pages were dropped.
    ///
    /// # Safety
    /// `start` is the first page of a free chunk; the arena's lock is held.
    pub unsafe fn set_zero(start: usize) {
        // SAFETY: the caller's contract.
        unsafe { (*page_map::desc(start)).flags |= CHUNK_ZERO };
    }
}

/// The free chunk that ends right before `start`, if there is one: its first page.
///
/// # Safety
/// `start` lies in a heap of the arena whose lock is held.
pub unsafe fn free_before(start: usize) -> Option<usize> {
    // SAFETY: the first page's descriptor is covered.
    let first = unsafe { (*page_map::desc(start)).flags & CHUNK_FIRST != 0 };
    // SAFETY: the caller's contract.
    if first { None } else { unsafe { free_ending_at(start) } }
}

/// The free chunk whose last byte is the one before `end`: its first page.
///
/// # Safety
/// The memory before `end`, if it is a heap's, is one of the arena whose lock is held.
pub unsafe fn free_ending_at(end: usize) -> Option<usize> {
    let last = page_map::try_desc(end - PAGE);
    if last.is_null() {
        return None;
    }
    // SAFETY: covered. A page that is not of this heap is never `Free` or `FreeEnd`: the last
    // page of an mmap'd heap is `HeapEnd`, and the break's neighbours are no heap.
    unsafe {
        match page_map::state(end - PAGE) {
            PageState::Free => Some(end - PAGE),
            PageState::FreeEnd => Some(end - (*last).pages as usize * PAGE),
            _ => None,
        }
    }
}

/// Whether a free chunk starts at `address`.
///
/// # Safety
/// As for [`free_before`].
pub unsafe fn is_free(address: usize) -> bool {
    // SAFETY: covered where the descriptor is not null.
    !page_map::try_desc(address).is_null() && unsafe { page_map::state(address) } == PageState::Free
}
