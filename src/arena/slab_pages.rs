//! The pages of a slab: carved into blocks when they are first needed, given back to the kernel
//! when all their blocks are free for long, and carved anew after that.

use super::Inner;
use super::decay::STEPS;
use super::slab::Slab;
use super::slab_lists::List;
use crate::os::{self, PAGE};
use crate::page_map;
use crate::size_class::{self, CLASSES, Class, GRANULE};
use crate::sync::block::{Block, Chain};
use crate::window;
use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;

/// Blocks of a slab at most: of the smallest class.
const MAX_BLOCKS: usize = GRANULE / size_class::MIN_ALIGN;

/// Slabs at the cold end of a class's list that turn out to be in use, after which the rest of the
/// list is left for the next time.
const YOUNG_SEEN: usize = 32;

/// The blocks of a slab that start in a page of it, as far as there are `carved`. Inlined, so that it is
/// known that no size is 0.
#[inline(always)]
fn blocks_of_page(page: usize, size: usize, carved: usize) -> Range<usize> {
    (page * PAGE).div_ceil(size).min(carved)..((page + 1) * PAGE).div_ceil(size).min(carved)
}

/// Carves fresh blocks off an otherwise used-up slab: about `bytes` of them, at most `want`
/// blocks, and always to the end of a page.
///
/// # Safety
/// The slab at `start` has no free and no dropped blocks, but some that are not carved yet; it is
/// one of `arena`, whose lock is held.
pub unsafe fn carve(
    slab: *mut Slab,
    start: usize,
    arena: u16,
    want: usize,
    bytes: usize,
    got: &mut Chain,
) {
    // SAFETY: the caller's contract; blocks from `carved` on were never given out.
    unsafe {
        let class = usize::from((*slab).class);
        let size = size_class::size(class);
        let capacity = size_class::slab_blocks(class);
        let first = usize::from((*slab).carved.load(Relaxed));
        let last = (first + (bytes / size).clamp(1, want.max(1))).min(capacity);
        // All blocks that start in a page are carved together: the window has one entry a page.
        let pages = first * size / PAGE..(last - 1) * size / PAGE + 1;
        let count = (pages.end * PAGE).div_ceil(size).min(capacity);
        make_blocks(slab, start, arena, first..count, want, got);
        (*slab).carved.store(count as u16, Relaxed);
        // The page in which the first block starts; the one before is open already.
        open_pages(start, arena, class, pages);
    }
}

/// Carves the blocks of the first dropped page anew.
///
/// # Safety
/// The slab at `start` has dropped blocks and no free ones; it is one of `arena`, whose lock is
/// held.
pub unsafe fn carve_dropped(
    slab: *mut Slab,
    start: usize,
    arena: u16,
    want: usize,
    got: &mut Chain,
) {
    // SAFETY: the caller's contract; nobody uses the blocks of a dropped page.
    unsafe {
        let class = usize::from((*slab).class);
        let dropped = (*slab).dropped.load(Relaxed);
        let page = dropped.trailing_zeros() as usize;
        let carved = usize::from((*slab).carved.load(Relaxed));
        let blocks = blocks_of_page(page, size_class::size(class), carved);
        (*slab).dropped_blocks -= blocks.len() as u16;
        (*slab).dropped.store(dropped & (dropped - 1), Relaxed);
        make_blocks(slab, start, arena, blocks, want, got);
        open_pages(start, arena, class, page..page + 1);
    }
}

/// Makes blocks: the first `want` for `got`, the rest for the slab's free list.
unsafe fn make_blocks(
    slab: *mut Slab,
    start: usize,
    arena: u16,
    blocks: Range<usize>,
    want: usize,
    got: &mut Chain,
) {
    // SAFETY: the blocks lie in the slab, and nobody uses them.
    unsafe {
        let size = size_class::size(usize::from((*slab).class));
        let mark = window::free_mark(arena);
        let given = blocks.len().min(want);
        let middle = start + (blocks.start + given) * size;
        let kept = blocks.len() - given;
        // In the order of their addresses, for the prefetcher.
        (*slab).free = link(middle, size, kept, mark, (*slab).free);
        (*slab).free_count += kept as u16;
        got.head = link(middle - given * size, size, given, mark, got.head);
        got.count += given;
    }
}

/// Marks so many blocks from `first` on as free and links them in front of `next`; the first.
///
/// # Safety
/// The memory is a slab's, and nobody uses it.
unsafe fn link(
    first: usize,
    size: usize,
    count: usize,
    mark: usize,
    mut next: *mut Block,
) -> *mut Block {
    let mut at = first + count * size;
    while at != first {
        at -= size;
        let block = core::ptr::with_exposed_provenance_mut(at);
        // SAFETY: the caller's contract.
        unsafe {
            Block::set_mark(block, mark);
            Block::set_next(block, next);
        }
        next = block;
    }
    next
}

/// Where what is left behind the last block of a slab looks like the start of one more, in a page in
/// which blocks start, if it does. It has the mark of a free block once that page is carved.
fn false_start(class: Class) -> Option<usize> {
    let (size, bytes) = (size_class::size(class), size_class::slab_bytes(class));
    let rest = size_class::slab_blocks(class) * size;
    (rest < bytes && rest / PAGE == (rest - size) / PAGE).then_some(rest)
}

/// Takes the marks of free blocks out of a slab that becomes ordinary memory: a program may copy
/// what it finds in a fresh block to the start of another one, which must not look free then.
///
/// # Safety
/// No block of the slab at `start` is in use; its arena's lock is held.
pub unsafe fn clear_marks(slab: *mut Slab, start: usize) {
    // SAFETY: no block of the slab is in use; carved blocks, and the one that the rest behind
    // the last looks like, lie in the slab.
    unsafe {
        let class = usize::from((*slab).class);
        let size = size_class::size(class);
        let carved = usize::from((*slab).carved.load(Relaxed));
        let rest = false_start(class) == Some(carved * size);
        let dropped = (*slab).dropped.load(Relaxed);
        let end = (carved + usize::from(rest)) * size;
        for offset in (0..end).step_by(size) {
            // Dropped pages hold no marks, unless the kernel refused to take them, and are not to be touched: those marks
            // stay. Mostly there are none: to ask for that first is a quarter of the instructions less.
            if dropped == 0 || dropped >> (offset / PAGE) & 1 == 0 {
                Block::set_mark(core::ptr::with_exposed_provenance_mut(start + offset), 0);
            }
        }
    }
}

/// Lets the window show the pages, whose blocks are carved.
unsafe fn open_pages(start: usize, arena: u16, class: Class, pages: Range<usize>) {
    if let Some(rest) = false_start(class)
        && pages.contains(&(rest / PAGE))
    {
        // SAFETY: the rest lies in the slab, and is at least 16 bytes long.
        unsafe {
            let rest = core::ptr::with_exposed_provenance_mut(start + rest);
            Block::set_mark(rest, window::free_mark(arena));
        }
    }
    for offset in pages.map(|page| page * PAGE) {
        window::of(arena).set(start + offset, PAGE, window::bin_offset(class));
    }
}

/// Lets the window show all pages whose blocks are carved.
///
/// # Safety
/// The slab at `start` is one of `arena`, whose lock is held.
pub unsafe fn open(slab: *mut Slab, start: usize, arena: u16) {
    // SAFETY: the caller's contract.
    unsafe {
        let class = usize::from((*slab).class);
        let carved = usize::from((*slab).carved.load(Relaxed));
        let dropped = (*slab).dropped.load(Relaxed);
        for page in carved_pages(class, carved).filter(|page| dropped >> page & 1 == 0) {
            open_pages(start, arena, class, page..page + 1);
        }
    }
}

/// The pages of a slab of `class` in which one of the first `carved` blocks starts. All others that start there are
/// carved, too.
fn carved_pages(class: Class, carved: usize) -> impl Iterator<Item = usize> {
    let size = size_class::size(class);
    let pages = 0..size_class::slab_bytes(class) / PAGE;
    pages.filter(move |&page| !blocks_of_page(page, size, carved).is_empty())
}

/// The pages of the slab in which every block is free, dropped ones included; of those that were
/// carved so far, `pages` of them.
///
/// # Safety
/// The slab at `start` has carved blocks, and is one of an arena whose lock is held.
unsafe fn idle_pages(slab: *mut Slab, start: usize, pages: usize) -> u64 {
    // SAFETY: the caller's contract.
    unsafe {
        let size = size_class::size(usize::from((*slab).class));
        let carved = usize::from((*slab).carved.load(Relaxed));
        let dropped = (*slab).dropped.load(Relaxed);
        let mut free = [0u64; MAX_BLOCKS / 64];
        let mut note = |index: usize| {
            if let Some(word) = free.get_mut(index / 64) {
                *word |= 1 << (index % 64);
            }
        };
        let mut block = (*slab).free;
        while !block.is_null() {
            note((block.addr() - start) / size);
            block = Block::next(block);
        }
        for page in (0..pages).filter(|page| dropped >> page & 1 != 0) {
            blocks_of_page(page, size, carved).for_each(&mut note);
        }
        let mut idle = u64::MAX >> (64 - pages.min(64));
        for index in 0..carved {
            if free.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 0) {
                for page in index * size / PAGE..=(index * size + size - 1) / PAGE {
                    idle &= !(1u64 << (page % 64));
                }
            }
        }
        idle
    }
}

/// Gives the pages of the slab back in which every block is free; the bytes. Its free list loses
/// their blocks.
///
/// # Safety
/// The slab at `start` has carved blocks, and is one of `arena`, whose lock is held.
unsafe fn drop_pages(slab: *mut Slab, start: usize, arena: u16) -> usize {
    // SAFETY: the caller's contract.
    unsafe {
        let size = size_class::size(usize::from((*slab).class));
        let carved = usize::from((*slab).carved.load(Relaxed));
        let pages = (carved - 1) * size / PAGE + 1;
        let dropped = (*slab).dropped.load(Relaxed);
        let new = idle_pages(slab, start, pages) & !dropped;
        if new == 0 {
            return 0;
        }
        let mut block = core::mem::replace(&mut (*slab).free, core::ptr::null_mut());
        while !block.is_null() {
            let next = Block::next(block);
            if new >> ((block.addr() - start) / PAGE) & 1 == 0 {
                Block::set_next(block, (*slab).free);
                (*slab).free = block;
            } else {
                (*slab).free_count -= 1;
                (*slab).dropped_blocks += 1;
            }
            block = next;
        }
        let has_blocks = |page: &usize| !blocks_of_page(*page, size, carved).is_empty();
        let with_blocks = (0..pages).filter(has_blocks).fold(0, |bits, page| bits | 1 << page);
        (*slab).dropped.store(dropped | new & with_blocks, Relaxed);
        discard_pages(start, new, arena)
    }
}

/// Gives the pages of a slab back whose bits are set, neighbours with one call; the bytes.
unsafe fn discard_pages(start: usize, mut pages: u64, arena: u16) -> usize {
    let mut bytes = 0;
    while pages != 0 {
        let first = pages.trailing_zeros() as usize;
        let count = (pages >> first).trailing_ones() as usize;
        let from = start + first * PAGE;
        window::of(arena).set(from, count * PAGE, 0);
        // SAFETY: the caller's contract: no block in these pages is in use or on a list.
        bytes += unsafe { os::discard(core::ptr::with_exposed_provenance_mut(from), count * PAGE) };
        pages &= !((u64::MAX >> (64 - count)) << first);
    }
    bytes
}

impl Inner {
    /// Looks through slabs that were not touched for `age` epochs, from `class` upwards, and gives
    /// their free pages back; whole ones become free chunks. Stops after `slabs` of them. The
    /// class to go on with, or `None` when all are done, and the bytes given back.
    ///
    /// # Safety
    /// The arena's lock is held.
    pub unsafe fn cool_slabs(
        &mut self,
        first: Class,
        age: u8,
        slabs: usize,
    ) -> (Option<Class>, usize) {
        let (mut left, mut bytes) = (slabs, 0);
        let lists = |class| List::WARM.map(|list| (class, list));
        for (class, list) in (first..CLASSES).flat_map(lists) {
            let mut young = 0;
            while let Some(last) = self.class(class).lists.last(list).filter(|_| young < YOUNG_SEEN)
            {
                if left == 0 {
                    return (Some(class), bytes);
                }
                // SAFETY: ids on the lists are those of slabs of this arena, whose lock is held.
                unsafe {
                    let start = page_map::page_address(last);
                    let slab = page_map::desc(start).cast::<Slab>();
                    if (self.bins.epoch as u8).wrapping_sub((*slab).epoch) < age {
                        young += 1;
                        if self.class(class).lists.has_one(list) {
                            break;
                        }
                        self.relist(class, start, slab, list);
                        continue;
                    }
                    left -= 1;
                    bytes += self.cool(class, start, slab);
                }
            }
        }
        (None, bytes)
    }

    /// Gives the free pages of a warm slab back, or makes it a free chunk if it is unused; the
    /// bytes given back at once.
    unsafe fn cool(&mut self, class: Class, start: usize, slab: *mut Slab) -> usize {
        // SAFETY: the slab is a warm one of this arena, whose lock is held.
        unsafe {
            self.unlist(class, slab);
            if Self::is_unused(slab) {
                self.class_mut(class).empty -= 1;
                self.as_free_before(|this| this.drop_slab(class, start, slab));
                return 0;
            }
            let bytes = match os::page_size() {
                PAGE => drop_pages(slab, start, self.id),
                _ => 0,
            };
            self.file_bare(class, start, slab);
            bytes
        }
    }
}

const _: () = assert!(STEPS < 128, "ages of slabs are counted in a byte");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_block_starts_in_an_opened_page_that_is_not_carved() {
        for class in 1..CLASSES {
            let size = size_class::size(class);
            let blocks = size_class::slab_blocks(class);
            for page in 0..size_class::slab_bytes(class) / PAGE {
                // As `carve` leaves it: to the end of a page.
                let carved = ((page + 1) * PAGE).div_ceil(size).min(blocks);
                let starts =
                    |page: usize| (page * PAGE).div_ceil(size)..((page + 1) * PAGE).div_ceil(size);
                assert!(
                    carved_pages(class, carved).all(|page| starts(page).end.min(blocks) <= carved)
                );
                let opened = (0..carved).all(|block| {
                    carved_pages(class, carved).any(|page| starts(page).contains(&block))
                });
                assert!(opened, "class {class}, {carved} blocks");
            }
        }
    }
}
