//! Slabs: chunks carved into blocks of one size class.
//!
//! A slab's state lives in the descriptors of its first three pages, away from the blocks.
//! Blocks are carved page by page, so that untouched pages stay untouched. Blocks that are not
//! carved yet, or whose page was dropped (`slab_pages.rs`), are in no list; every other block is
//! with the program, in a thread's cache, in a magazine of the depot or the arena, on its way home, or on the slab's free list.

use super::magazines::Magazines;
use super::slab_lists::{List, Lists};
use super::sparse::Fill;
use super::{IdleEpochs, Inner, slab_pages};
use crate::check::invariant;
use crate::os::PAGE;
use crate::page_map::{self, KIND_LARGE, Owner, PageDesc, PageState};
use crate::size_class::{self, Class, GRANULE};
use crate::sync::block::{Block, Chain};
use crate::window;
use core::ptr;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU64};

/// A slab's state. Lies over three page descriptors, of which the last two are read by nobody
/// else: a slab has at least four pages.
#[repr(C)]
pub struct Slab {
    pub(super) desc: PageDesc,
    /// Freed blocks.
    pub(super) free: *mut Block,
    /// How many of them.
    pub(super) free_count: u16,
    /// Blocks carved so far: the first so many. Read without the lock by checks of a free.
    pub(super) carved: AtomicU16,
    pub(super) class: u8,
    /// The list that the slab is on.
    pub(super) list: List,
    /// The epoch of the arena's purge clock, modulo 256, in which a block last came or went.
    pub(super) epoch: u8,
    /// Whether its blocks go home when they are freed (`sparse.rs`). Read without the lock by frees.
    pub(super) closed: AtomicBool,
    /// Bit n: no block that starts in page n is in use, and the page was given back to the kernel.
    /// Read without the lock by checks of a free.
    pub(super) dropped: AtomicU64,
    /// Carved blocks that start in such pages.
    pub(super) dropped_blocks: u16,
}

const _: () = assert!(size_of::<Slab>() == 3 * size_of::<PageDesc>());
const _: () = assert!(GRANULE / PAGE >= 4);

/// What an arena keeps for each class.
#[derive(Debug, Clone, Copy)]
pub struct ClassState {
    /// Those of its slabs that have blocks to give.
    pub(super) lists: Lists,
    /// Slabs of the class.
    pub slabs: u32,
    /// Those that are closed (`sparse.rs`).
    pub closed: u32,
    /// Slabs of which no block is out; kept up to [`EMPTY_BLOCKS_KEPT`].
    pub(super) empty: u32,
    /// Blocks given to threads and not back.
    pub out: usize,
    /// Blocks given to threads since the start.
    pub refilled: u64,
    /// Bytes of requests of this class that larger classes served.
    lent: u32,
    /// Full magazines that the depot has no slots for.
    pub magazines: Magazines,
    /// How many blocks were out lately.
    pub(super) fill: Fill,
    /// How long the class was not refilled while depot or arena held magazines of it.
    pub(super) idle: IdleEpochs,
}

/// Blocks of a class for which empty slabs are kept, at least one slab: the next class would touch other pages of
/// it.
const EMPTY_BLOCKS_KEPT: usize = 8;

/// Bytes of requests that a class gets from larger classes before it gets slabs of its own: a
/// short program touches fewer pages so, and moves the break once.
const LENT_BYTES: u32 = 4096;

impl ClassState {
    /// No slabs.
    pub const NEW: ClassState = ClassState {
        lists: Lists::EMPTY,
        slabs: 0,
        closed: 0,
        empty: 0,
        out: 0,
        refilled: 0,
        lent: 0,
        magazines: Magazines::NONE,
        fill: Fill::NEW,
        idle: IdleEpochs::NONE,
    };
}

/// The slab of `class` in which `address` lies.
#[inline(always)]
const fn slab_of(address: usize, class: Class) -> usize {
    address & !(size_class::slab_align(class) - 1)
}

/// Whether `address` is the start of a block that was carved, in a slab of `class`.
///
/// # Safety
/// The page map says that the granule is a slab's, of that class.
#[inline]
pub unsafe fn is_block(address: usize, class: Class) -> bool {
    // SAFETY: the caller's contract. While a block of the slab is in use, start and class stay,
    // and so does that its page is carved.
    unsafe {
        let start = slab_of(address, class);
        let slab = page_map::desc(start).cast::<Slab>();
        let page = (address - start) / PAGE;
        match size_class::block_index(address - start, class) {
            Some(index) => {
                index < usize::from((*slab).carved.load(Relaxed))
                    && (*slab).dropped.load(Relaxed) >> page & 1 == 0
            }
            None => false,
        }
    }
}

/// Whether a block that is freed goes home to its slab, rather than into a bin.
///
/// # Safety
/// A block of `class` starts at the address, and is in use.
#[inline]
pub unsafe fn is_closed(address: usize, class: Class) -> bool {
    // Relaxed: who frees just before a slab is closed or opened does no harm.
    // SAFETY: the caller's contract; while a block of the slab is in use, it stays.
    unsafe {
        let slab = page_map::desc(slab_of(address, class)).cast::<Slab>();
        (*slab).closed.load(Relaxed)
    }
}

impl Inner {
    /// Whether fresh memory would be touched for blocks of `class`.
    pub fn would_grow(&self, class: Class) -> bool {
        let at_hand = self.dirty_pages() * PAGE + self.magazine_bytes;
        self.class(class).lists.first().is_none() && at_hand < size_class::slab_bytes(class)
    }

    /// Blocks of `class` for a thread, at least one unless memory is out, at most `want`: freed
    /// ones while the slabs have some, else fresh ones.
    ///
    /// # Safety
    /// The arena's lock is held.
    pub unsafe fn take_blocks(&mut self, class: Class, want: usize) -> Chain {
        let mut got = Chain::EMPTY;
        // SAFETY: the lock is held; slabs on the lists are this arena's, of this class.
        unsafe {
            while got.count < want.div_ceil(2) {
                let Some((start, slab)) = self.slab_with_room(class) else { break };
                if (*slab).free.is_null() && got.count > 0 {
                    break;
                }
                self.open(class, start, slab);
                if Self::is_unused(slab) {
                    self.class_mut(class).empty -= 1;
                }
                let free = (*slab).free_count;
                if !(*slab).free.is_null() {
                    take_free(slab, want - got.count, &mut got);
                } else if (*slab).dropped_blocks > 0 {
                    slab_pages::carve_dropped(slab, start, self.id, want, &mut got);
                } else {
                    let bytes = (self.class(class).out * size_class::size(class) / 8).max(PAGE);
                    slab_pages::carve(slab, start, self.id, want, bytes, &mut got);
                }
                self.note_free_blocks(slab, free);
                (*slab).epoch = self.bins.epoch as u8;
                if (*slab).free.is_null()
                    && (*slab).dropped_blocks == 0
                    && usize::from((*slab).carved.load(Relaxed)) == size_class::slab_blocks(class)
                {
                    self.unlist(class, slab);
                } else {
                    self.file(class, start, slab, used(slab));
                }
            }
            if got.count == 0 && self.add_slab(class) {
                return self.take_blocks(class, want);
            }
        }
        let state = self.class_mut(class);
        state.out += got.count;
        state.fill.note(state.out);
        state.refilled += got.count as u64;
        got
    }

    /// Keeps count of the bytes of free blocks in warm slabs: `slab` had `before` such blocks.
    ///
    /// # Safety
    /// The slab is a warm one of this arena, whose lock is held.
    pub(super) unsafe fn note_free_blocks(&mut self, slab: *mut Slab, before: u16) {
        // SAFETY: the caller's contract.
        let (now, class) = unsafe { ((*slab).free_count, usize::from((*slab).class)) };
        let size = size_class::size(class);
        self.warm_free_bytes += usize::from(now) * size;
        self.warm_free_bytes -= usize::from(before) * size;
    }

    /// Takes a slab's free blocks out of that count.
    ///
    /// # Safety
    /// As for [`Inner::note_free_blocks`].
    pub(super) unsafe fn forget_free_blocks(&mut self, slab: *mut Slab) {
        // SAFETY: the caller's contract.
        let (blocks, class) = unsafe { ((*slab).free_count, usize::from((*slab).class)) };
        self.warm_free_bytes -= usize::from(blocks) * size_class::size(class);
    }

    /// Whether a request of `class` should be served by a larger class's slab or by pages, as
    /// long as the class has no slab: the larger class, or 0 for its own.
    ///
    /// Only the main arena lends, and only at the start of a program.
    pub fn lender(&mut self, class: Class) -> Class {
        let size = size_class::size(class) as u32;
        let state = *self.class(class);
        if self.id != 0 || state.slabs > 0 || state.lent >= LENT_BYTES {
            return 0;
        }
        let lender = size_class::of((size as usize).next_power_of_two());
        if lender == class || lender > size_class::of(size_class::MAX_LENT) {
            return 0;
        }
        self.class_mut(class).lent += size;
        lender
    }

    /// Whether a request of `class`, above [`size_class::MAX_LENT`], should get pages of its own
    /// as long as the class has no slab.
    pub fn lends_pages(&mut self, class: Class) -> bool {
        let size = size_class::size(class) as u32;
        let state = self.class_mut(class);
        if state.slabs > 0 || state.lent >= 4 * LENT_BYTES {
            return false;
        }
        state.lent += size;
        true
    }

    /// Takes blocks back, of any classes, all of this arena's slabs or its large blocks.
    ///
    /// # Safety
    /// `head` is a null-terminated list of at most `limit` blocks of this arena that are in use
    /// by nobody; the arena's lock is held.
    pub unsafe fn give_blocks(&mut self, head: *mut Block, limit: usize) {
        // SAFETY: the caller's contract.
        unsafe { self.give_blocks_unless(head, limit, |_, _| false) }
    }

    /// As [`Inner::give_blocks`], but for the blocks of slabs that `keep` takes, given their class.
    ///
    /// # Safety
    /// As for [`Inner::give_blocks`].
    #[inline(always)]
    pub(super) unsafe fn give_blocks_unless(
        &mut self,
        mut head: *mut Block,
        limit: usize,
        mut keep: impl FnMut(*mut Block, Class) -> bool,
    ) {
        // Blocks in a row are often of one slab, and mostly of one class.
        let (mut class, mut count) = (0, 0);
        let mut left = limit;
        while left > 0 && !head.is_null() {
            let other = page_map::class_of(page_map::owner(head.addr()));
            if other != class {
                self.count_back(class, core::mem::take(&mut count));
                class = other;
            }
            // SAFETY: the list's blocks are the caller's to give.
            unsafe {
                if class == 0 {
                    let next = Block::next(head);
                    self.give_large(head.addr());
                    head = next;
                    left -= 1;
                } else {
                    self.give_row(&mut head, &mut left, class, &mut count, &mut keep);
                }
            }
        }
        self.count_back(class, count);
    }

    /// As [`Inner::give_blocks`], where all blocks are of one class.
    ///
    /// # Safety
    /// As for [`Inner::give_blocks`]; the blocks lie in slabs of `class`.
    pub unsafe fn give_blocks_of(&mut self, class: Class, mut head: *mut Block, limit: usize) {
        let (mut left, mut count) = (limit, 0);
        while left > 0 && !head.is_null() {
            // SAFETY: the caller's contract.
            unsafe { self.give_row(&mut head, &mut left, class, &mut count, &mut |_, _| false) };
        }
        self.count_back(class, count);
    }

    /// Puts the blocks at the head of a list of at most `left` that lie in one granule on the free list
    /// of their slab, and counts them in `count`, for the caller to count back.
    ///
    /// # Safety
    /// As for [`Inner::give_blocks`]; the first block's slab is of `class`.
    #[inline(always)]
    unsafe fn give_row(
        &mut self,
        head: &mut *mut Block,
        left: &mut usize,
        class: Class,
        count: &mut usize,
        keep: &mut impl FnMut(*mut Block, Class) -> bool,
    ) {
        // SAFETY: the caller's contract.
        unsafe {
            let start = slab_of(head.addr(), class);
            let slab = page_map::desc(start).cast::<Slab>();
            let granule = head.addr() & !(GRANULE - 1);
            let (mut first, mut last, mut given) = (ptr::null_mut(), ptr::null_mut(), 0);
            let closed = (*slab).closed.load(Relaxed);
            // The blocks stay linked as they are, but around those that are kept.
            let mut is_linked = true;
            loop {
                let block = *head;
                *head = Block::next(block);
                *left -= 1;
                if !closed && keep(block, class) {
                    is_linked = false;
                } else {
                    if given == 0 {
                        first = block;
                    } else if !is_linked {
                        Block::set_next(last, block);
                    }
                    is_linked = true;
                    last = block;
                    given += 1;
                }
                if *left == 0 || head.addr() & !(GRANULE - 1) != granule {
                    break;
                }
            }
            if given == 0 {
                return;
            }
            let left = used(slab).wrapping_sub(given.into());
            self.file(class, start, slab, left);
            Block::set_next(last, (*slab).free);
            (*slab).free = first;
            (*slab).free_count += given;
            (*slab).epoch = self.stamp;
            invariant(
                (*slab).free_count <= (*slab).carved.load(Relaxed),
                "a slab got more blocks back than it gave out",
            );
            *count += usize::from(given);
            if left == 0 {
                self.count_back(class, core::mem::take(count));
                self.slab_is_unused(class, start, slab);
            }
        }
    }

    /// Counts blocks of `class` that are on their slabs' free lists again.
    #[inline]
    fn count_back(&mut self, class: Class, blocks: usize) {
        self.warm_free_bytes += blocks * size_class::size(class);
        let out = &mut self.class_mut(class).out;
        invariant(*out >= blocks, "a class got more blocks back than it gave out");
        *out -= blocks;
    }

    /// Keeps a slab of which no block is out for the next blocks of its class, or makes it a free chunk.
    ///
    /// # Safety
    /// The slab is a warm one of this arena, of `class`, whose blocks are counted; the arena's lock is
    /// held.
    unsafe fn slab_is_unused(&mut self, class: Class, start: usize, slab: *mut Slab) {
        let kept = (EMPTY_BLOCKS_KEPT * size_class::size(class)).div_ceil(size_class::MAX_SLAB);
        let state = self.class_mut(class);
        if (state.empty as usize) < kept {
            state.empty += 1;
            return;
        }
        // SAFETY: the caller's contract.
        unsafe {
            self.unlist(class, slab);
            self.drop_slab(class, start, slab);
        }
    }

    /// Whether the free list of its slab holds the block.
    ///
    /// # Safety
    /// The block lies in a slab of this arena, of `class`; the arena's lock is held.
    pub unsafe fn slab_holds(&self, class: Class, block: *mut Block) -> bool {
        // SAFETY: the caller's contract.
        unsafe {
            let slab = page_map::desc(slab_of(block.addr(), class)).cast::<Slab>();
            Block::list_holds((*slab).free, block)
        }
    }

    /// Whether every carved block of the slab is on its free list, or in a dropped page.
    pub(super) unsafe fn is_unused(slab: *mut Slab) -> bool {
        // SAFETY: a slab of this arena, whose lock is held.
        unsafe { used(slab) == 0 }
    }

    #[cold]
    unsafe fn add_slab(&mut self, class: Class) -> bool {
        let bytes = size_class::slab_bytes(class);
        // SAFETY: the lock is held; the run is new and becomes the slab's.
        unsafe {
            let align = size_class::slab_align(class);
            let Some(run) = self.take_slab_run(bytes / PAGE, align) else {
                return false;
            };
            run.describe(PageState::Slab);
            let slab = page_map::desc(run.start).cast::<Slab>();
            (*slab).free = core::ptr::null_mut();
            (*slab).free_count = 0;
            (*slab).carved = AtomicU16::new(0);
            (*slab).class = class as u8;
            (*slab).list = List::NONE;
            (*slab).epoch = self.bins.epoch as u8;
            (*slab).closed = AtomicBool::new(false);
            (*slab).dropped = AtomicU64::new(0);
            (*slab).dropped_blocks = 0;
            page_map::set_owner(run.start, bytes, Owner::new(self.id, class as u16));
            self.file(class, run.start, slab, 0);
            let state = self.class_mut(class);
            state.slabs += 1;
            state.empty += 1;
        }
        true
    }

    /// Makes a slab a free chunk.
    ///
    /// # Safety
    /// The slab is one of this arena, of `class`, on no list, and no block of it is out; the
    /// arena's lock is held.
    #[cold]
    pub(super) unsafe fn drop_slab(&mut self, class: Class, start: usize, slab: *mut Slab) {
        let bytes = size_class::slab_bytes(class);
        // SAFETY: no block of the slab is out, and it is on no list.
        unsafe {
            let home = (*slab).desc.home_or_epoch;
            let is_closed = (*slab).closed.load(Relaxed);
            window::of(self.id).set(start, bytes, 0);
            slab_pages::clear_marks(slab, start);
            page_map::set_owner(start, bytes, Owner::new(self.id, KIND_LARGE));
            *page_map::desc(start + PAGE) = PageDesc::INSIDE;
            *page_map::desc(start + 2 * PAGE) = PageDesc::INSIDE;
            let state = self.class_mut(class);
            state.slabs -= 1;
            state.closed -= u32::from(is_closed);
            self.give_run_home(start, bytes / PAGE, home);
        }
    }
}

/// Blocks of the slab that are out.
///
/// # Safety
/// The slab is one of an arena whose lock is held.
#[inline]
pub(super) unsafe fn used(slab: *mut Slab) -> usize {
    // SAFETY: the caller's contract.
    unsafe {
        let free = (*slab).free_count + (*slab).dropped_blocks;
        usize::from((*slab).carved.load(Relaxed).wrapping_sub(free))
    }
}

/// Moves up to `want` blocks of the slab's free list to `got`: the whole list at once if it fits.
unsafe fn take_free(slab: *mut Slab, want: usize, got: &mut Chain) {
    // SAFETY: the slab's arena is locked; its free list holds `free_count` blocks.
    unsafe {
        let count = usize::from((*slab).free_count);
        if count <= want && got.count == 0 {
            *got = Chain { head: (*slab).free, tail: core::ptr::null_mut(), count };
            (*slab).free = core::ptr::null_mut();
            (*slab).free_count = 0;
            return;
        }
        for _ in 0..count.min(want) {
            let block = (*slab).free;
            (*slab).free = Block::next(block);
            (*slab).free_count -= 1;
            got.push(block);
        }
    }
}
