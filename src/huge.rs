//! Huge blocks: mappings of their own. The page map has their sizes; their entry there is what says
//! that they are in use, and is claimed by whoever frees them.

pub mod kept;
pub mod unmapped;

use crate::config;
use crate::heap::{Gauge, MAPPED};
use crate::limit;
use crate::os::{self, Commit};
use crate::page_map::{self, SpareRegion};
use crate::size_class::GRANULE;
use core::ptr;

/// Huge blocks in use.
pub static BLOCKS: Gauge = Gauge::new();
/// Their bytes.
pub static BYTES: Gauge = Gauge::new();

/// Maps a block of at least `bytes` at a multiple of `align`, a power of two; null when the
/// kernel has no memory. The block is zero.
#[cold]
pub fn allocate(bytes: usize, align: usize) -> *mut u8 {
    let Some(shape) = Shape::of(bytes, align).filter(|shape| limit::admits(shape.size)) else {
        return ptr::null_mut();
    };
    let block = os::map_aligned(shape.size, shape.align, 0, Commit::All);
    if block.is_null() {
        return block;
    }
    unmapped::claim(shape.size);
    give(block, shape)
}

/// Makes a block as [`allocate`] does, of one that was kept, whose contents are left in it as far as it goes; null
/// when it can not be. The kept one is gone then.
///
/// # Safety
/// The kept block is the caller's.
#[cold]
pub unsafe fn reuse((block, has): (*mut u8, usize), bytes: usize, align: usize) -> *mut u8 {
    // SAFETY: the caller's contract; nobody uses the block's address.
    unsafe {
        let Some(shape) = Shape::of(bytes, align).filter(|shape| {
            block.addr().is_multiple_of(shape.align)
                && (shape.size <= has || limit::admits(shape.size - has))
        }) else {
            unmap(block, has);
            return ptr::null_mut();
        };
        let may_move = shape.align <= os::page_size();
        let resized =
            if has == shape.size { block } else { os::remap(block, has, shape.size, may_move) };
        if resized.is_null() {
            unmap(block, has);
            return resized;
        }
        MAPPED.mmap.sub(has);
        limit::note(has, 0);
        give(resized, shape)
    }
}

/// Drops what is in a huge block; whether it is zero now. The kernel does not take what is locked.
///
/// # Safety
/// The block is the caller's, who needs nothing that is in it.
pub unsafe fn clear(block: *mut u8) -> bool {
    // SAFETY: the caller's contract.
    unsafe {
        let bytes = size(block.addr());
        os::discard(block, bytes) == bytes
    }
}

/// Bytes that are added to a block at most so that it ends at a multiple of its alignment.
const MOST_ADDED: usize = 1024 * 1024;

/// What a request makes of a mapping.
struct Shape {
    /// Its bytes.
    size: usize,
    /// Its start is a multiple of it.
    align: usize,
    /// Whether the kernel is asked for huge pages.
    huge_pages: bool,
}

impl Shape {
    /// For `bytes` at a multiple of `align`; `None` if there can be no such block.
    fn of(bytes: usize, align: usize) -> Option<Self> {
        // Who aligns to a huge page and nearly fills one will ask the kernel for it (madvise(2)), which gives
        // only what is mapped whole.
        let is_for_huge_page = align >= os::HUGE_PAGE && bytes >= os::HUGE_PAGE / 2;
        let unit = if is_for_huge_page { os::HUGE_PAGE } else { os::page_size() };
        // At least a granule, so that no two huge blocks start in one: a small request with a large
        // alignment comes here too.
        let needed = os::round_up(bytes.max(GRANULE), unit)?;
        // One that ends where the next one may begin leaves no hole, which would make each a mapping of its own to the
        // kernel, of which a process may have 65,530 (sysctl vm.max_map_count). What is added is not touched.
        let most = (needed / 2).min(MOST_ADDED);
        let size = os::round_up(needed, align).filter(|whole| whole - needed <= most);
        let size = size.unwrap_or(needed);
        if size > isize::MAX as usize {
            return None;
        }
        let huge_pages = wants_huge_pages(size, BYTES.get() + size);
        let least = if huge_pages { os::HUGE_PAGE } else { os::page_size() };
        Some(Self { size, align: align.max(least), huge_pages })
    }
}

/// Gives a mapping to the program; null when there is no memory for its entry in the page map.
fn give(block: *mut u8, Shape { size, huge_pages, .. }: Shape) -> *mut u8 {
    if !publish(block, size) {
        return ptr::null_mut();
    }
    if huge_pages {
        // For all of it, so that it stays one mapping.
        // SAFETY: the block's own memory.
        unsafe { os::prefer_huge_pages(block.addr(), size) };
    }
    BLOCKS.add(1);
    BYTES.add(size);
    MAPPED.mmap.add(size);
    limit::note(0, size);
    block
}

/// Fewer bytes are no reason for huge pages under the policy "dense": much of such a block's last
/// one would not be the block's.
const DENSE_BLOCK: usize = 4 * 1024 * 1024;

/// Whether the policy wants huge pages in a block of `size` bytes when all huge blocks have
/// `total`.
fn wants_huge_pages(size: usize, total: usize) -> bool {
    let counted = if size >= DENSE_BLOCK { total } else { 0 };
    size >= os::HUGE_PAGE && config::wants_huge_pages(counted)
}

/// Enters a mapping in the page map, or unmaps it when there is no memory for that.
fn publish(block: *mut u8, size: usize) -> bool {
    let address = block.expose_provenance();
    if !page_map::cover(address, 1) {
        // SAFETY: the mapping is the caller's, unknown to anybody.
        unsafe { os::unmap(block, size) };
        return false;
    }
    // SAFETY: covered just now; the mapping is the caller's alone.
    unsafe { page_map::enter_huge(address, size) };
    true
}

/// Bytes of the huge block at `address`, or 0 when that is none's start.
///
/// # Safety
/// The page map says that a huge block starts in the granule.
pub unsafe fn size(address: usize) -> usize {
    // SAFETY: covered.
    unsafe { page_map::huge_bytes(address) }
}

/// Takes the block out of the page map; its bytes, or 0 when it is not one.
///
/// # Safety
/// As for [`size`].
unsafe fn withdraw(address: usize) -> usize {
    // SAFETY: the caller's contract. Of two threads that free the block at once, one claims it.
    unsafe {
        let bytes = size(address);
        if bytes == 0 || !page_map::claim_huge(address) { 0 } else { bytes }
    }
}

/// Gives a huge block back to the kernel, or keeps it for the next request, if `may_keep` lets so many bytes be kept.
/// Lets the mmap threshold learn from it, so that a program that frees such blocks often gets
/// them from a heap. False when `address` is not the start of a huge block.
///
/// # Safety
/// As for [`size`]; the program does not use the block any more.
#[cold]
pub unsafe fn free(address: usize, may_keep: impl FnOnce(usize) -> bool) -> bool {
    // SAFETY: the caller's contract.
    unsafe {
        let bytes = withdraw(address);
        if bytes == 0 {
            return false;
        }
        config::note_mapped_free(bytes);
        BLOCKS.sub(1);
        BYTES.sub(bytes);
        let block = ptr::with_exposed_provenance_mut(address);
        if !kept::keep(block, bytes, may_keep) {
            unmap(block, bytes);
            if bytes <= config::MMAP_THRESHOLD_MAX {
                unmapped::note(bytes);
            }
        }
        true
    }
}

/// Gives the memory of a block back that is not in the page map any more.
///
/// # Safety
/// The block is the caller's.
unsafe fn unmap(block: *mut u8, bytes: usize) {
    limit::note(bytes, 0);
    // SAFETY: the caller's contract.
    unsafe {
        if os::unmap(block, bytes) {
            MAPPED.mmap.sub(bytes);
        } else {
            // The kernel has no room for one more hole among the mappings: at least the pages
            // go back.
            os::discard(block, bytes);
        }
    }
}

/// Makes a huge block at least `bytes` long: in place, or moved by the kernel without copying
/// if `may_move`. Null when that fails; the block is then as it was.
///
/// # Safety
/// As for [`size`]; the block is the caller's.
#[cold]
pub unsafe fn resize(address: usize, bytes: usize, may_move: bool) -> *mut u8 {
    let Some(new) = os::round_up(bytes.max(GRANULE), os::page_size()) else {
        return ptr::null_mut();
    };
    let block: *mut u8 = ptr::with_exposed_provenance_mut(address);
    // SAFETY: the caller's contract.
    unsafe {
        let now = size(address);
        if now == new {
            return block;
        }
        if new > now && !limit::admits(new - now) {
            return ptr::null_mut();
        }
        // The block may move to where the page map has no region yet, and could not always go back.
        let spare = if may_move && new > now {
            let Some(spare) = SpareRegion::take() else { return ptr::null_mut() };
            Some(spare)
        } else {
            None
        };
        // The entry goes before the kernel may give the old addresses to another thread.
        let old = withdraw(address);
        if old == 0 {
            return ptr::null_mut();
        }
        let moved = os::remap(block, old, new, may_move);
        if moved.is_null() {
            publish(block, old);
            return moved;
        }
        if spare.is_some_and(|spare| !page_map::cover_with(moved.addr(), spare)) {
            // 4 TiB of heaps and huge blocks: the page map has no number for one more region.
            let back = os::remap(moved, new, old, false);
            if !back.is_null() && os::move_back(back, old, block) {
                publish(block, old);
            }
            return ptr::null_mut();
        }
        publish(moved, new);
        limit::note(old, new);
        if new > old {
            BYTES.add(new - old);
            MAPPED.mmap.add(new - old);
            // What the mapping has been told already holds for its new part, too. The kernel
            // splits the huge pages of a mapping that it moves by other than whole ones.
            if wants_huge_pages(new, BYTES.get()) {
                os::prefer_huge_pages(moved.addr(), new);
            }
        } else {
            BYTES.sub(old - new);
            MAPPED.mmap.sub(old - new);
        }
        moved
    }
}
