//! mmap'd heaps: 64 MiB, aligned to 64 MiB, so that a heap needs one region of the page map.
//!
//! Where the address space is limited (`ulimit -v`), smaller ones.

use super::reach::REACH;
use super::{Heap, MAPPED, Source, adopt};
use crate::os::{self, Commit, PAGE};
use crate::page_map::{self, Owner, PageDesc, PageState};
use crate::size_class::GRANULE;

/// Size and alignment of a heap in bytes.
pub const HEAP_BYTES: usize = 64 * 1024 * 1024;

/// Sizes to try, with their alignments, in bytes.
const SHAPES: [(usize, usize); 4] = [
    (HEAP_BYTES, HEAP_BYTES),
    (16 * 1024 * 1024, GRANULE),
    (4 * 1024 * 1024, GRANULE),
    (1024 * 1024, GRANULE),
];

/// Maps a heap with room for at least `bytes` for `arena`, whose lock the caller holds.
pub fn new_heap(bytes: usize, arena: u16) -> Option<Heap> {
    let need = bytes.checked_add(GRANULE.max(os::page_size()))?;
    SHAPES.iter().filter(|&&(size, _)| size >= need).find_map(|&(size, align)| {
        let hint = if size == HEAP_BYTES { REACH.ask() } else { 0 };
        let align = align.max(os::page_size());
        let start = os::map_aligned(size, align, hint, Commit::AsTouched);
        if start.is_null() {
            REACH.note_free(hint);
            return None;
        }
        let base = start.expose_provenance();
        if size == HEAP_BYTES && base != hint {
            REACH.note_taken(base);
        }
        if !adopt(base, size, arena) {
            // SAFETY: mapped just now, unknown to anybody.
            unsafe { os::unmap(start, size) };
            REACH.note_free(base);
            return None;
        }
        os::fill_as_touched(start, size);
        let end = base + size - PAGE;
        // SAFETY: covered by `adopt`; the heap is the arena's.
        unsafe { describe_end(end) };
        MAPPED.heaps.add(1);
        MAPPED.mmap.add(size);
        Some(Heap::new(Source::Mmap, base, end))
    })
}

/// Unmaps a whole heap of `pages` usable pages. False when the kernel refuses; the heap then is
/// as it was, but its contents are undefined.
///
/// # Safety
/// The heap is the arena's, whose lock the caller holds; no block of it is in use, and no
/// descriptor of its pages but the first and the last is other than `Inside`.
pub unsafe fn release(base: usize, pages: usize, arena: u16) -> bool {
    let size = (pages + 1) * PAGE;
    // Entries and descriptors go first: another thread may map the addresses, and describe a
    // huge block there, as soon as they are free.
    // SAFETY: covered since `new_heap`.
    unsafe {
        page_map::set_owner(base, size, Owner::NONE);
        *page_map::desc(base) = PageDesc::INSIDE;
        *page_map::desc(base + size - PAGE) = PageDesc::INSIDE;
        page_map::forget(base, size);
    }
    // SAFETY: the heap's own mapping, not in use.
    if !unsafe { os::unmap(core::ptr::with_exposed_provenance_mut(base), size) } {
        adopt(base, size, arena);
        // SAFETY: covered; the heap is the arena's as before.
        unsafe { describe_end(base + size - PAGE) };
        return false;
    }
    if size == HEAP_BYTES {
        REACH.note_free(base);
    }
    MAPPED.heaps.sub(1);
    MAPPED.mmap.sub(size);
    true
}

/// Says that the page is the last one of its heap.
///
/// # Safety
/// The page is covered and the caller's.
unsafe fn describe_end(page: usize) {
    // SAFETY: the caller's contract.
    unsafe { *page_map::desc(page) = PageDesc { state: PageState::HeapEnd, ..PageDesc::INSIDE } };
}
