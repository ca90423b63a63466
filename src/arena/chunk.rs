//! Free chunks: runs of pages between blocks in use, in bins by size, coalesced with their
//! neighbours through the descriptors of their first and last pages.

use crate::check::invariant;
use crate::os::{self, PAGE};
use crate::page_map::{self, CHUNK_FIRST, CHUNK_ZERO, PageDesc, PageId, PageState};

/// One bin per page count up to here.
const EXACT: usize = 32;
/// Then four per doubling.
const BINS: usize = 128;
/// Free chunks looked at in one bin before a larger bin is taken.
const SEARCH: usize = 16;
/// Free chunks looked at in one bin for one whose pages are worth giving back.
const DIRTY_SEARCH: usize = 256;
/// The bin of the largest chunks.
pub const LAST_BIN: usize = BINS - 1;

/// Free chunks by size.
#[derive(Debug)]
struct Lists {
    /// First chunk of each bin.
    heads: [PageId; BINS],
    /// Bit n: bin n is not empty.
    filled: u128,
    /// Pages in all bins.
    pages: usize,
}

/// The bins of an arena: of dirty chunks, which may hold memory of the machine, and of clean ones
/// ([`CHUNK_ZERO`]), which hold none.
#[derive(Debug)]
pub struct Bins {
    dirty: Lists,
    clean: Lists,
    /// The epoch of the arena's purge clock, which chunks that become free are stamped with.
    pub epoch: u16,
}

/// A free chunk that was taken out of its bin.
#[derive(Debug, Clone, Copy)]
pub struct Chunk {
    /// Its pages.
    pub pages: usize,
    /// Its `CHUNK_` flags.
    pub flags: u8,
    /// The epoch in which it became free.
    pub epoch: u16,
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
        const NONE: Lists = Lists { heads: [0; BINS], filled: 0, pages: 0 };
        Self { dirty: NONE, clean: NONE, epoch: 0 }
    }

    /// Pages of all free chunks.
    pub fn pages(&self) -> usize {
        self.dirty.pages + self.clean.pages
    }

    /// Pages of those that may hold memory.
    pub fn dirty_pages(&self) -> usize {
        self.dirty.pages
    }

    fn lists(&mut self, flags: u8) -> &mut Lists {
        if flags & CHUNK_ZERO == 0 { &mut self.dirty } else { &mut self.clean }
    }

    /// Makes the run a free chunk of its bin, free since `epoch`. Does not coalesce.
    ///
    /// # Safety
    /// The run lies in a heap of the arena, whose lock is held; it is in no bin, and its pages'
    /// descriptors are `Inside` except the first.
    pub unsafe fn insert(&mut self, start: usize, pages: usize, epoch: u16, flags: u8) {
        let bin = bin_of(pages);
        let lists = self.lists(flags);
        let next = lists.heads[bin];
        // SAFETY: heaps are covered.
        unsafe {
            *page_map::desc(start) = PageDesc {
                state: PageState::Free,
                flags,
                home_or_epoch: epoch,
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
            lists.heads[bin] = id;
        }
        lists.filled |= 1 << bin;
        lists.pages += pages;
    }

    /// Takes a free chunk out of its bin. All its descriptors are `Inside` afterwards.
    ///
    /// # Safety
    /// `start` is the first page of a free chunk of these bins; the arena's lock is held.
    pub unsafe fn remove(&mut self, start: usize) -> Chunk {
        // SAFETY: heaps are covered, and ids on lists are those of free chunks.
        unsafe {
            let desc = page_map::desc(start);
            invariant((*desc).state == PageState::Free, "a chunk in a bin is not free");
            let PageDesc { pages, flags, home_or_epoch: epoch, next, prev, .. } = *desc;
            let pages = pages as usize;
            let bin = bin_of(pages);
            let lists = self.lists(flags);
            if prev == 0 {
                lists.heads[bin] = next;
                if next == 0 {
                    lists.filled &= !(1 << bin);
                }
            } else {
                (*page_map::desc(page_map::page_address(prev))).next = next;
            }
            if next != 0 {
                (*page_map::desc(page_map::page_address(next))).prev = prev;
            }
            *desc = PageDesc::INSIDE;
            *page_map::desc(start + (pages - 1) * PAGE) = PageDesc::INSIDE;
            lists.pages -= pages;
            Chunk { pages, flags, epoch }
        }
    }

    /// The best of the chunks looked at, or of the dirty ones alone if `only_dirty`, that hold `pages`
    /// pages at a multiple of `align` bytes: its start and the aligned address in it. Among chunks of
    /// one size, one that holds memory wins over one that would have to be faulted in, then the
    /// lowest address, so that high ones can empty out.
    ///
    /// # Safety
    /// The arena's lock is held.
    #[inline(always)]
    pub unsafe fn find(
        &self,
        pages: usize,
        align: usize,
        only_dirty: bool,
    ) -> Option<(usize, usize)> {
        let all = self.dirty.filled | if only_dirty { 0 } else { self.clean.filled };
        let mut candidates = all & (u128::MAX << bin_of(pages));
        while candidates != 0 {
            let bin = candidates.trailing_zeros() as usize;
            // SAFETY: the lock is held.
            let dirty = unsafe { self.dirty.find(bin, pages, align) };
            let clean = match only_dirty {
                true => None,
                // SAFETY: as above.
                false => unsafe { self.clean.find(bin, pages, align) },
            };
            let best = match (dirty, clean) {
                (Some(dirty), Some(clean)) if clean.0 < dirty.0 => Some(clean),
                (dirty, clean) => dirty.or(clean),
            };
            if let Some((_, start, at)) = best {
                return Some((start, at));
            }
            candidates &= candidates - 1;
        }
        None
    }

    /// Whether the bins have another dirty chunk than the one at `start` in its bin, or one in a larger bin.
    ///
    /// # Safety
    /// A dirty chunk of these bins begins at `start`; the arena's lock is held.
    pub unsafe fn has_another(&self, start: usize) -> bool {
        // SAFETY: the caller's contract.
        let desc = unsafe { *page_map::desc(start) };
        let larger = self.dirty.filled >> bin_of(desc.pages as usize) >> 1;
        desc.next != 0 || desc.prev != 0 || larger != 0
    }

    /// Number of free chunks.
    ///
    /// # Safety
    /// The arena's lock is held.
    pub unsafe fn count(&self) -> usize {
        let lists = [&self.dirty, &self.clean];
        // SAFETY: the caller's contract.
        let count = |lists: &Lists| (0..BINS).map(|bin| unsafe { lists.chunks(bin) }.count()).sum();
        lists.map(count).iter().sum::<usize>()
    }

    /// A dirty chunk that is free for at least `age` epochs and has something that can be given
    /// back, among the first few of each bin but the first `passed` of bin `from`, the largest first, from
    /// that bin downwards: its first page, its bin, and that part of it.
    ///
    /// # Safety
    /// The arena's lock is held.
    pub unsafe fn find_dirty(
        &self,
        age: u16,
        from: usize,
        passed: usize,
    ) -> Option<(usize, usize, Part)> {
        let mut candidates = self.dirty.filled & (u128::MAX >> (LAST_BIN - from.min(LAST_BIN)));
        while candidates != 0 {
            let bin = LAST_BIN - candidates.leading_zeros() as usize;
            // SAFETY: the lock is held.
            let chunks = unsafe { self.dirty.chunks(bin) }.take(DIRTY_SEARCH);
            let mut chunks = chunks.skip(if bin == from { passed } else { 0 });
            let found = chunks.find_map(|(start, desc)| {
                if self.epoch.wrapping_sub(desc.home_or_epoch) < age {
                    return None;
                }
                // SAFETY: the chunk is free, and the lock held.
                let part = unsafe { purgeable_part(start, desc.pages as usize) }?;
                Some((start, bin, part))
            });
            if found.is_some() {
                return found;
            }
            candidates &= !(1 << bin);
        }
        None
    }
}

impl Lists {
    /// The chunks of a bin: their first pages and descriptors.
    ///
    /// # Safety
    /// The arena's lock is held while they are looked at, and the bin stays as it is.
    #[inline(always)]
    unsafe fn chunks(&self, bin: usize) -> impl Iterator<Item = (usize, PageDesc)> {
        let head = if self.filled >> bin & 1 == 0 { 0 } else { self.heads[bin % BINS] };
        let chunk = |id: PageId| {
            // SAFETY: ids on lists are those of free chunks in covered heaps.
            (id != 0).then(|| unsafe {
                let start = page_map::page_address(id);
                (start, *page_map::desc(start))
            })
        };
        core::iter::successors(chunk(head), move |(_, desc)| chunk(desc.next))
    }

    /// The best of the chunks looked at in one bin that hold `pages` pages at a multiple of
    /// `align` bytes: its pages, its start, and the aligned address in it.
    ///
    /// # Safety
    /// The arena's lock is held.
    unsafe fn find(&self, bin: usize, pages: usize, align: usize) -> Option<(usize, usize, usize)> {
        // SAFETY: the caller's contract.
        let chunks = unsafe { self.chunks(bin) }.take(SEARCH);
        let fitting = chunks.filter_map(|(start, desc)| {
            let size = desc.pages as usize;
            let at = (start + align - 1) & !(align - 1);
            (at + pages * PAGE <= start + size * PAGE).then_some((size, start, at))
        });
        fitting.min()
    }
}

/// First byte and end of a part of a chunk.
pub type Part = (usize, usize);

/// The part of a free chunk that is whole pages of the kernel: its start and end. The page that
/// ends a mapped heap counts as the chunk's before it, since nothing is in it; the end is the
/// chunk's all the same.
///
/// # Safety
/// The chunk lies in a heap of the arena whose lock is held.
unsafe fn purgeable_part(start: usize, pages: usize) -> Option<Part> {
    let unit = os::page_size();
    let end = start + pages * PAGE;
    let from = os::round_up(start, unit)?;
    let whole = end & !(unit - 1);
    // SAFETY: covered where the descriptor is not null.
    let ends_heap = whole != end
        && !page_map::try_desc(end).is_null()
        && unsafe { page_map::state(end) } == PageState::HeapEnd;
    let to = if ends_heap { end } else { whole };
    (from < to).then_some((from, to))
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
    // page of a mapped heap is `HeapEnd`, and all heaps of the break are the main arena's.
    unsafe {
        match page_map::state(end - PAGE) {
            PageState::Free => Some(end - PAGE),
            PageState::FreeEnd => Some(end - (*last).pages as usize * PAGE),
            _ => None,
        }
    }
}

/// Whether a free chunk starts at `address` that lies in the heap before it: not one that begins a mapped
/// heap, since one may begin where a heap of the break ends, and be another arena's.
///
/// # Safety
/// As for [`free_before`].
pub unsafe fn goes_on_at(address: usize) -> bool {
    // SAFETY: covered where the descriptor is not null.
    !page_map::try_desc(address).is_null()
        && matches!(
            unsafe { page_map::state_and_flags(address) },
            (PageState::Free, flags) if flags & CHUNK_FIRST == 0
        )
}

/// Whether the free chunk at `start` is clean: [`CHUNK_ZERO`], or 0.
///
/// # Safety
/// A free chunk of the arena whose lock is held starts there.
pub unsafe fn kind(start: usize) -> u8 {
    // SAFETY: the caller's contract.
    unsafe { (*page_map::desc(start)).flags & CHUNK_ZERO }
}

/// The mapped heap in which all chunks are free, if `chunk` is one of them: its first page, and its pages but
/// the last.
///
/// # Safety
/// `chunk` is the first page of a free chunk of the arena whose lock is held.
pub unsafe fn free_heap(chunk: usize) -> Option<(usize, usize)> {
    // SAFETY: covered; a heap's first chunk says so, and its last page is no chunk's.
    unsafe {
        let mut first = chunk;
        while let Some(before) = free_before(first) {
            first = before;
        }
        let mut end = chunk;
        while goes_on_at(end) {
            end += (*page_map::desc(end)).pages as usize * PAGE;
        }
        let begins_heap = (*page_map::desc(first)).flags & CHUNK_FIRST != 0;
        (begins_heap && page_map::state(end) == PageState::HeapEnd)
            .then_some((first, (end - first) / PAGE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Inner;
    use crate::arena::pages::Run;

    /// Two heaps side by side; of the first, the last page is a run in use, the second is one free chunk
    /// with the flags. Whether the run went into the second heap when it grew, or when it was freed.
    fn crosses_heaps(flags: u8) -> bool {
        const PAGES: usize = 16;
        let heaps = os::map(2 * PAGES * PAGE).expose_provenance();
        let end = heaps + PAGES * PAGE;
        let run = Run { start: end - PAGE, pages: 1, flags: 0, home: 1 };
        let mut inner = Inner::new(1);
        assert!(heaps != 0 && page_map::cover(heaps, 2 * PAGES * PAGE));
        // SAFETY: covered, and this test's alone, as is the arena.
        unsafe {
            inner.bins.insert(end, PAGES, 0, flags);
            run.describe(PageState::Large);
            let grows = inner.resize_run(run.start, 2);
            if !grows {
                assert_eq!(inner.give_run(run.start, 1, false), Some(run.start));
            }
            grows || (*page_map::desc(run.start)).pages > 1
        }
    }

    #[test]
    fn a_chunk_never_goes_on_in_another_heap() {
        assert!(crosses_heaps(0), "a chunk of one heap");
        assert!(!crosses_heaps(CHUNK_FIRST));
    }
}
