//! Slabs: chunks carved into blocks of one size class.
//!
//! A slab's state lives in the descriptors of its first two pages, away from the blocks.
//! Blocks are carved page by page, so that untouched pages stay untouched. Blocks that are not
//! carved yet are in no list; every carved block is with the program, in a cache on its way,
//! or on the slab's free list.

use super::Inner;
use crate::check::invariant;
use crate::os::PAGE;
use crate::page_map::{self, KIND_LARGE, Owner, PageDesc, PageId, PageState};
use crate::size_class::{self, Class, GRANULE, MAX_ONE_GRANULE};
use crate::sync::block::{Block, Chain};
use crate::window;
use core::sync::atomic::AtomicU16;
use core::sync::atomic::Ordering::Relaxed;

/// A slab's state. Lies over two page descriptors, of which the second is read by nobody else:
/// a slab has at least four pages.
#[repr(C)]
pub struct Slab {
    desc: PageDesc,
    /// Freed blocks.
    free: *mut Block,
    /// How many of them.
    free_count: u16,
    /// Blocks carved so far: the first so many. Read without the lock by checks of a free.
    carved: AtomicU16,
    class: u8,
    /// Whether the slab is on its class's list of slabs with room.
    listed: bool,
}

const _: () = assert!(size_of::<Slab>() == 2 * size_of::<PageDesc>());
const _: () = assert!(GRANULE / PAGE >= 4);

/// What an arena keeps for each class.
#[derive(Debug, Clone, Copy)]
pub struct ClassState {
    /// Slabs that have free or uncarved blocks; the most recently freed into first.
    first: PageId,
    /// Slabs of the class.
    pub slabs: u32,
    /// Slabs of which no block is out; kept up to [`EMPTY_KEPT`].
    empty: u32,
    /// Blocks given to threads and not back.
    pub out: usize,
    /// Blocks given to threads since the start.
    pub refilled: u64,
    /// Bytes of requests of this class that larger classes served.
    lent: u32,
}

/// Empty slabs of a class that are kept for its next blocks.
const EMPTY_KEPT: u32 = 1;

/// Bytes of requests that a class gets from larger classes before it gets slabs of its own: a
/// short program touches fewer pages so, and moves the break once.
const LENT_BYTES: u32 = 4096;

impl ClassState {
    /// No slabs.
    pub const NEW: ClassState =
        ClassState { first: 0, slabs: 0, empty: 0, out: 0, refilled: 0, lent: 0 };
}

/// The slab that the granule of `address` belongs to.
///
/// # Safety
/// The page map says that the granule is a slab's.
#[inline]
unsafe fn slab_start(address: usize) -> usize {
    let granule = address & !(GRANULE - 1);
    // SAFETY: covered; the first page of each granule of a slab is described.
    unsafe {
        let desc = page_map::desc(granule);
        if (*desc).state == PageState::SlabPart {
            granule - (*desc).pages as usize * PAGE
        } else {
            granule
        }
    }
}

/// Whether `address` is the start of a block that was carved, in a slab of `class`.
///
/// # Safety
/// The page map says that the granule is a slab's, of that class.
#[inline]
pub unsafe fn is_block(address: usize, class: Class) -> bool {
    // SAFETY: the caller's contract. While a block of the slab is in use, start and class stay;
    // `carved` only grows.
    unsafe {
        let start = slab_start(address);
        let slab = page_map::desc(start).cast::<Slab>();
        match size_class::block_index(address - start, class) {
            Some(index) => index < usize::from((*slab).carved.load(Relaxed)),
            None => false,
        }
    }
}

impl Inner {
    /// Blocks of `class` for a thread, at least one unless memory is out, at most `want`: freed
    /// ones while the slabs have some, else fresh ones.
    ///
    /// # Safety
    /// The arena's lock is held.
    pub unsafe fn take_blocks(&mut self, class: Class, want: usize) -> Chain {
        let mut got = Chain::EMPTY;
        // SAFETY: the lock is held; slabs on the list are this arena's, of this class.
        unsafe {
            while got.count < want.div_ceil(2) {
                let slab = self.first_slab(class);
                if slab.is_null() || ((*slab).free.is_null() && got.count > 0) {
                    break;
                }
                if Self::is_unused(slab) {
                    self.class_mut(class).empty -= 1;
                }
                if (*slab).free.is_null() {
                    let start = page_map::page_address(self.class(class).first);
                    let bytes = (self.class(class).out * size_class::size(class) / 8).max(PAGE);
                    carve(slab, start, self.id, want, bytes, &mut got);
                } else {
                    take_free(slab, want - got.count, &mut got);
                }
                let capacity = size_class::slab_bytes(class) / size_class::size(class);
                if (*slab).free.is_null() && usize::from((*slab).carved.load(Relaxed)) == capacity {
                    self.unlist(class, slab);
                }
            }
            if got.count == 0 && self.add_slab(class) {
                return self.take_blocks(class, want);
            }
        }
        let state = self.class_mut(class);
        state.out += got.count;
        state.refilled += got.count as u64;
        got
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
        if lender == class || lender > size_class::of(size_class::MAX_TABLE) {
            return 0;
        }
        self.class_mut(class).lent += size;
        lender
    }

    /// Whether a request of `class`, above the table of small sizes, should get pages of its own
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
    pub unsafe fn give_blocks(&mut self, mut head: *mut Block, limit: usize) {
        for _ in 0..limit {
            if head.is_null() {
                return;
            }
            // SAFETY: the list's blocks are the caller's to give.
            unsafe {
                let next = Block::next(head);
                let address = head.addr();
                let owner = page_map::owner(address);
                if owner.kind() == KIND_LARGE {
                    self.give_large(address);
                } else {
                    self.give_block(head, page_map::class_of(owner));
                }
                head = next;
            }
        }
    }

    /// # Safety
    /// As for [`Inner::give_blocks`], for one block of `class`.
    unsafe fn give_block(&mut self, block: *mut Block, class: Class) {
        // SAFETY: the caller's contract.
        unsafe {
            let start = slab_start(block.addr());
            let slab = page_map::desc(start).cast::<Slab>();
            Block::set_next(block, (*slab).free);
            (*slab).free = block;
            (*slab).free_count += 1;
            invariant(
                (*slab).free_count <= (*slab).carved.load(Relaxed) && self.class(class).out > 0,
                "a slab got more blocks back than it gave out",
            );
            self.class_mut(class).out -= 1;
            if !(*slab).listed {
                self.list(class, start, slab);
            }
            if Self::is_unused(slab) {
                if self.class(class).empty < EMPTY_KEPT {
                    self.class_mut(class).empty += 1;
                } else {
                    self.unlist(class, slab);
                    self.drop_slab(class, start, slab);
                }
            }
        }
    }

    /// Whether the free list of its slab holds the block.
    ///
    /// # Safety
    /// The block lies in a slab of this arena; the arena's lock is held.
    pub unsafe fn slab_holds(&self, block: *mut Block) -> bool {
        // SAFETY: the caller's contract.
        unsafe {
            let slab = page_map::desc(slab_start(block.addr())).cast::<Slab>();
            Block::list_holds((*slab).free, block)
        }
    }

    /// Whether every carved block of the slab is on its free list.
    unsafe fn is_unused(slab: *mut Slab) -> bool {
        // SAFETY: a slab of this arena, whose lock is held.
        unsafe { (*slab).free_count == (*slab).carved.load(Relaxed) }
    }

    unsafe fn first_slab(&self, class: Class) -> *mut Slab {
        match self.class(class).first {
            0 => core::ptr::null_mut(),
            // SAFETY: ids on the list are those of slabs.
            id => unsafe { page_map::desc(page_map::page_address(id)).cast() },
        }
    }

    /// Puts a slab in front of its class's list.
    unsafe fn list(&mut self, class: Class, start: usize, slab: *mut Slab) {
        // SAFETY: the slab is on no list; ids on the list are those of slabs.
        unsafe {
            let next = self.class(class).first;
            let id = page_map::page_id(start);
            (*slab).desc.next = next;
            (*slab).desc.prev = 0;
            (*slab).listed = true;
            if next != 0 {
                (*page_map::desc(page_map::page_address(next))).prev = id;
            }
            self.class_mut(class).first = id;
        }
    }

    unsafe fn unlist(&mut self, class: Class, slab: *mut Slab) {
        // SAFETY: the slab is on the list; ids on it are those of slabs.
        unsafe {
            let PageDesc { next, prev, .. } = (*slab).desc;
            if prev == 0 {
                self.class_mut(class).first = next;
            } else {
                (*page_map::desc(page_map::page_address(prev))).next = next;
            }
            if next != 0 {
                (*page_map::desc(page_map::page_address(next))).prev = prev;
            }
            (*slab).listed = false;
        }
    }

    #[cold]
    unsafe fn add_slab(&mut self, class: Class) -> bool {
        let bytes = size_class::slab_bytes(class);
        // SAFETY: the lock is held; the run is new and becomes the slab's.
        unsafe {
            let Some(run) = self.take_run(bytes / PAGE, GRANULE) else {
                return false;
            };
            run.describe(PageState::Slab);
            let slab = page_map::desc(run.start).cast::<Slab>();
            (*slab).free = core::ptr::null_mut();
            (*slab).free_count = 0;
            (*slab).carved = AtomicU16::new(0);
            (*slab).class = class as u8;
            (*slab).listed = false;
            let mut offset = GRANULE;
            while offset < bytes {
                *page_map::desc(run.start + offset) = PageDesc {
                    state: PageState::SlabPart,
                    pages: (offset / PAGE) as u32,
                    ..PageDesc::INSIDE
                };
                offset += GRANULE;
            }
            page_map::set_owner(run.start, bytes, Owner::new(self.id, class as u16));
            self.list(class, run.start, slab);
            let state = self.class_mut(class);
            state.slabs += 1;
            state.empty += 1;
        }
        true
    }

    #[cold]
    unsafe fn drop_slab(&mut self, class: Class, start: usize, slab: *mut Slab) {
        let bytes = size_class::slab_bytes(class);
        // SAFETY: no block of the slab is out, and it is on no list.
        unsafe {
            let home = (*slab).desc.home;
            window::of(self.id).set(start, bytes, 0);
            clear_marks(slab, start);
            page_map::set_owner(start, bytes, Owner::new(self.id, KIND_LARGE));
            *page_map::desc(start + PAGE) = PageDesc::INSIDE;
            let mut offset = GRANULE;
            while offset < bytes {
                *page_map::desc(start + offset) = PageDesc::INSIDE;
                offset += GRANULE;
            }
            self.class_mut(class).slabs -= 1;
            self.give_run_home(start, bytes / PAGE, home);
        }
    }

    /// Gives every empty slab back to the free chunks.
    ///
    /// # Safety
    /// The arena's lock is held.
    pub unsafe fn drop_empty_slabs(&mut self) {
        for class in 1..size_class::CLASSES {
            let mut id = self.class(class).first;
            while id != 0 && self.class(class).empty > 0 {
                // SAFETY: ids on the list are those of slabs; the next one is read first.
                unsafe {
                    let start = page_map::page_address(id);
                    let slab = page_map::desc(start).cast::<Slab>();
                    id = (*slab).desc.next;
                    if Self::is_unused(slab) {
                        self.class_mut(class).empty -= 1;
                        self.unlist(class, slab);
                        self.drop_slab(class, start, slab);
                    }
                }
            }
        }
    }
}

/// Takes the marks of free blocks out of a slab that becomes ordinary memory: a program may copy
/// what it finds in a fresh block to the start of another one, which must not look free then.
unsafe fn clear_marks(slab: *mut Slab, start: usize) {
    // SAFETY: no block of the slab is in use; carved blocks, and the one that the rest behind
    // the last looks like, lie in the slab.
    unsafe {
        let class = usize::from((*slab).class);
        let size = size_class::size(class);
        let carved = usize::from((*slab).carved.load(Relaxed));
        let bytes = size_class::slab_bytes(class);
        let rest = carved * size < bytes && (carved + 1) * size > bytes;
        for index in 0..carved + usize::from(rest) {
            Block::set_mark(core::ptr::with_exposed_provenance_mut(start + index * size), 0);
        }
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

/// Carves fresh blocks off an otherwise used-up slab: about `bytes` of them, at most `want`
/// blocks, and always to the end of a page.
unsafe fn carve(
    slab: *mut Slab,
    start: usize,
    arena: u16,
    want: usize,
    bytes: usize,
    got: &mut Chain,
) {
    // SAFETY: blocks from `carved` on were never given out and lie in the slab.
    unsafe {
        let class = usize::from((*slab).class);
        let size = size_class::size(class);
        let capacity = size_class::slab_bytes(class) / size;
        let first = usize::from((*slab).carved.load(Relaxed));
        let last = (first + (bytes / size).clamp(1, want.max(1))).min(capacity);
        // All blocks that start in a page are carved together: the window has one entry a page.
        let page_end = (start + (last - 1) * size) / PAGE * PAGE + PAGE;
        let count = ((page_end - start).div_ceil(size)).min(capacity);
        // In the order of their addresses, for the prefetcher.
        for index in (first..count).rev() {
            let block: *mut Block = core::ptr::with_exposed_provenance_mut(start + index * size);
            Block::set_mark(block, window::free_mark(arena));
            if index - first < want {
                got.push(block);
            } else {
                Block::set_next(block, (*slab).free);
                (*slab).free = block;
                (*slab).free_count += 1;
            }
        }
        (*slab).carved.store(count as u16, Relaxed);
        if size <= MAX_ONE_GRANULE {
            // The page in which the first block starts: the one before is open already.
            let from = (start + first * size) / PAGE * PAGE;
            if count == capacity && capacity * size < GRANULE {
                // What is left behind the last block looks like the start of one more.
                let rest = core::ptr::with_exposed_provenance_mut(start + capacity * size);
                Block::set_mark(rest, window::free_mark(arena));
            }
            let stop = if count == capacity { start + GRANULE } else { page_end };
            window::of(arena).set(from, stop - from, window::bin_offset(class));
        }
    }
}
