//! Windows: the accelerator of the fast `free`. One entry per page over the 32 GiB of addresses in
//! which heaps lie ([`crate::heap::reach`]), reached in one load.
//!
//! A non-zero entry of an arena's window says "blocks that start in this page are carved, belong
//! to this arena, and this is the offset of their class's bin in a [`crate::tcache::Tcache`]". It is only ever a
//! copy of what the page map says; memory outside the window is freed by the page map.
//!
//! Each arena has a window of its own, so that a thread which looks into that of its own arena
//! learns the owner by it. The main arena's lies in .bss; the others' are mapped when the arena
//! is opened.

use crate::heap::MAPPED;
use crate::heap::reach::REACH_BYTES;
use crate::os::{self, PAGE};
use crate::page_map::MAX_ARENAS;
use crate::size_class::Class;
use crate::sync::block::Block;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicPtr, AtomicU16, AtomicUsize};

/// Bytes of a bin of a thread cache, which begins with one bin per class.
pub const BIN_BYTES: usize = 24;

/// Bytes from the start of a thread cache to the bin of `class`: what the entries say.
pub const fn bin_offset(class: Class) -> usize {
    class * BIN_BYTES
}

/// The class of a page with this entry; 0 if the entry says nothing.
#[inline]
pub const fn class_of(entry: usize) -> Class {
    entry / BIN_BYTES
}

/// Pages of a window.
pub const WINDOW_PAGES: usize = REACH_BYTES / PAGE;

/// A base that no address is in reach of, for caches that must miss the window.
pub const NO_WINDOW: usize = 1 << 63;

/// An arena's window.
pub struct Window {
    /// Address of the first page; 0 until the window is placed. Set once, before the first entry.
    base: AtomicUsize,
    /// The entries; null for the main arena, which has [`MAIN`], and for one that does without. Set
    /// once, before the arena is used.
    entries: AtomicPtr<AtomicU16>,
}

static MAIN: [AtomicU16; WINDOW_PAGES] = [const { AtomicU16::new(0) }; WINDOW_PAGES];

/// The main arena's. Apart from the others', so that a small program touches no page of those.
static MAIN_WINDOW: Window = Window::NONE;
static WINDOWS: [Window; MAX_ARENAS] = [Window::NONE; MAX_ARENAS];

/// The window of an arena.
#[inline]
pub fn of(arena: u16) -> &'static Window {
    if arena == 0 { &MAIN_WINDOW } else { &WINDOWS[arena as usize % MAX_ARENAS] }
}

/// What marks a free block of `arena`, in its second word.
#[inline]
pub fn free_mark(arena: u16) -> usize {
    of(arena).entries().addr()
}

/// Whether the second word of a block of `arena` says that it is free.
///
/// # Safety
/// `block` points to 16 readable bytes of a slab of that arena.
#[inline]
pub unsafe fn is_marked_free(block: *mut Block, arena: u16) -> bool {
    // SAFETY: the caller's contract.
    unsafe { Block::mark(block) == free_mark(arena) }
}

/// To be called before the first entry of the main arena's window.
pub fn refuse_huge_pages() {
    os::refuse_huge_pages((&raw const MAIN).expose_provenance(), size_of_val(&MAIN));
}

impl Window {
    /// Not placed. All zeros, so that it lies in .bss.
    #[expect(clippy::declare_interior_mutable_const, reason = "what statics begin as")]
    const NONE: Self =
        Self { base: AtomicUsize::new(0), entries: AtomicPtr::new(core::ptr::null_mut()) };

    /// Maps the entries, for an arena that is not in use yet. Without memory for them the arena
    /// does without.
    pub fn open(&self) {
        const BYTES: usize = WINDOW_PAGES * size_of::<AtomicU16>();
        let entries = os::map(BYTES);
        if !entries.is_null() {
            MAPPED.mmap.add(BYTES);
            os::fill_as_touched(entries, BYTES);
            os::refuse_huge_pages(entries.expose_provenance(), BYTES);
            // Release pairs with `entries`' acquire.
            self.entries.store(entries.cast(), Release);
        }
    }

    /// Says where the window begins. Called under the arena's lock, and no more once that is said.
    pub fn place(&self, base: usize) {
        if self.is_main() || !self.entries.load(Acquire).is_null() {
            self.base.store(base, Relaxed);
        }
    }

    /// Where the window begins, or [`NO_WINDOW`].
    pub fn base(&self) -> usize {
        match self.base.load(Relaxed) {
            0 => NO_WINDOW,
            base => base,
        }
    }

    fn is_main(&self) -> bool {
        core::ptr::eq(self, &MAIN_WINDOW)
    }

    /// The entries. Their address is also the mark of the arena's free blocks: a value that the
    /// kernel or the loader places at random, and which no program has a use for.
    #[inline]
    pub fn entries(&self) -> *const AtomicU16 {
        if self.is_main() {
            return (&raw const MAIN).cast();
        }
        // Acquire pairs with the release of `open`.
        let entries = self.entries.load(Acquire);
        // An arena without a window needs a mark all the same.
        if entries.is_null() { core::ptr::from_ref(self).cast() } else { entries }
    }

    /// Sets the entries for a range of pages, as far as the window reaches.
    pub fn set(&self, start: usize, bytes: usize, entry: usize) {
        let first = start.wrapping_sub(self.base()) / PAGE;
        for index in first..first + bytes.div_ceil(PAGE) {
            if index >= WINDOW_PAGES {
                return;
            }
            // SAFETY: a window that is placed has so many entries; the base of one that is not
            // is out of every address's reach.
            unsafe { (*self.entries().add(index)).store(entry as u16, Relaxed) };
        }
    }
}

/// Pages from `base` to `address`; huge when the address is below.
#[inline(always)]
pub fn index_of(address: usize, base: usize) -> usize {
    let distance = address.wrapping_sub(base);
    #[cfg(target_arch = "x86_64")]
    {
        let index;
        // Opaque to the compiler, which else tests the bits above the window's by a shift of
        // their own: one instruction more in the fast free.
        // SAFETY: shifts a register.
        unsafe {
            core::arch::asm!(
                "shr {0}, {shift}",
                inlateout(reg) distance => index,
                shift = const PAGE.trailing_zeros(),
                options(pure, nomem, nostack)
            );
        }
        index
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        distance / PAGE
    }
}

/// What the window holds for the page with this index.
///
/// # Safety
/// `entries` are those of a window, and `index < WINDOW_PAGES`.
#[inline(always)]
pub unsafe fn entry(entries: *const AtomicU16, index: usize) -> usize {
    // Relaxed: a block's address reaches another thread by the program's own synchronisation,
    // which orders the entry with it; for any other address every value is harmless.
    #[cfg(target_arch = "x86_64")]
    {
        let offset: usize;
        // The plain load that a relaxed one is, without the second zero extension that the
        // compiler adds.
        // SAFETY: the index is in range by the caller's contract.
        unsafe {
            core::arch::asm!(
                "movzx {0:e}, word ptr [{1} + 2 * {2}]",
                lateout(reg) offset,
                in(reg) entries,
                in(reg) index,
                options(readonly, nostack, preserves_flags)
            );
        }
        offset
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        // SAFETY: the caller's contract.
        unsafe { (*entries.add(index)).load(Relaxed) as usize }
    }
}
