//! The front door: which layer serves a request, and which takes a block back.
//!
//! The two hot functions are [`malloc`] and [`free`]. Each has one way out on the fast path and
//! one cold call.

mod large;
mod realloc;

pub use realloc::{realloc, realloc_known};

use crate::arena::slab::{is_block, is_closed};
use crate::arena::{ARENAS, Guard};
use crate::check::{Misuse, misuse};
use crate::huge;
use crate::os::{self, PAGE};
use crate::page_map::{self, CHUNK_WAS_FREED, KIND_HUGE, KIND_LARGE, Owner, PageState};
use crate::purge;
use crate::purger;
use crate::size_class::{self, Class, GRANULE, MAX_LENT, MAX_SMALL, MAX_TABLE, MIN_ALIGN};
use crate::sync::block::{Block, Chain};
use crate::tcache::{State, Tcache, bin_of_size};
use crate::thread;
use crate::tls;
use crate::window::{self, WINDOW_PAGES, bin_offset};
use core::ptr;
use large::{allocate_large, free_huge, free_large, is_large};

/// A block of at least `bytes`, aligned to 16; null when there is no memory.
#[inline(always)]
pub fn malloc(bytes: usize) -> *mut u8 {
    malloc_or(bytes, malloc_slow)
}

/// As [`malloc`], with the caller's own way out of the fast path.
#[inline(always)]
pub fn malloc_or(bytes: usize, slow: impl FnOnce(usize) -> *mut u8) -> *mut u8 {
    // SAFETY: the word always points at a cache; the closure is called for sizes in the table.
    malloc_by(bytes, |tcache| unsafe { Tcache::bin_of_any_size(tcache, bytes) }, slow)
}

/// As [`malloc_or`], for callers of which many know the size when they are compiled.
#[inline(always)]
pub fn malloc_known_or(bytes: usize, slow: impl FnOnce(usize) -> *mut u8) -> *mut u8 {
    malloc_by(bytes, |_| bin_of_size(bytes), slow)
}

/// A block of the bin whose offset `bin` tells for sizes of at most [`MAX_TABLE`].
#[inline(always)]
fn malloc_by(
    bytes: usize,
    bin: impl FnOnce(*mut Tcache) -> usize,
    slow: impl FnOnce(usize) -> *mut u8,
) -> *mut u8 {
    if bytes <= MAX_TABLE {
        let tcache = tls::get();
        // SAFETY: the word always points at a cache.
        let block = unsafe { take(tcache, bin(tcache)) };
        if !block.is_null() {
            return block;
        }
    }
    slow(bytes)
}

/// A block of the bin at a byte offset; null if there is none.
///
/// # Safety
/// The cache is the thread's, or constant; the offset is one of a bin.
#[inline(always)]
unsafe fn take(tcache: *mut Tcache, bin: usize) -> *mut u8 {
    // SAFETY: the caller's contract.
    Tcache::pop(unsafe { Tcache::bin_at(tcache, bin) }).cast()
}

/// A block of `class`.
#[inline(always)]
fn malloc_class(class: Class) -> *mut u8 {
    // SAFETY: the word always points at a cache.
    let block = unsafe { take(tls::get(), bin_offset(class)) };
    if block.is_null() { refill_and_take(class) } else { block }
}

/// What [`malloc`] does when its bin is empty, and for requests above the table.
#[cold]
#[inline(never)]
pub fn malloc_slow(bytes: usize) -> *mut u8 {
    if bytes > MAX_SMALL {
        allocate_large(bytes, PAGE, false).0
    } else if bytes > MAX_TABLE {
        malloc_class(size_class::of_above_table(bytes))
    } else {
        refill_and_take(size_class::of(bytes))
    }
}

/// Fills the empty bin of `class` and takes a block of it.
#[cold]
#[inline(never)]
pub fn refill_and_take(class: Class) -> *mut u8 {
    let mut tcache = tls::get();
    // SAFETY: the word always points at a cache.
    if unsafe { (*tcache).state() } != State::Live {
        tcache = thread::start();
        if tcache.is_null() {
            return or_enomem(take_directly(class));
        }
    }
    // SAFETY: the cache is this thread's.
    let cache = unsafe { &*tcache };
    if let Some(block) = borrow_from_larger(cache, class) {
        return block;
    }
    if !cache.refill(class) {
        return or_enomem(take_directly(class));
    }
    // SAFETY: the offset is that of the class's bin.
    let block = Tcache::pop(unsafe { Tcache::bin_at(tcache, bin_offset(class)) });
    // Not before: what this may start allocates, and might take the last block.
    purger::poll_for(size_class::size(class));
    block.cast()
}

/// Serves a class that has no slab yet from a larger one, at the start of a program.
fn borrow_from_larger(cache: &Tcache, class: Class) -> Option<*mut u8> {
    if cache.arena_id() != 0 || cache.serves_itself(class) {
        return None;
    }
    if size_class::size(class) > MAX_LENT {
        // Classes whose first slab would move the break: pages of their own.
        let mut held = ARENAS.main().lock_open()?;
        if !held.lends_pages(class) {
            cache.set_serves_itself(class);
            return None;
        }
        // SAFETY: the lock is held.
        let (address, _) = unsafe { held.take_large(size_class::size(class), PAGE, true) }?;
        return Some(ptr::with_exposed_provenance_mut(address));
    }
    let lender = ARENAS.main().lock_open()?.lender(class);
    if lender == 0 {
        cache.set_serves_itself(class);
        return None;
    }
    Some(malloc_class(lender))
}

/// A block without a thread cache: after the thread's end, or where the thread's arena can not
/// be entered. Any arena serves that is free at this instant, then any that can be waited for;
/// last a mapping.
#[cold]
fn take_directly(class: Class) -> *mut u8 {
    let arenas = || ARENAS.iter_open();
    let patiently = || arenas().find_map(|arena| take_one(arena.lock_open()?, class));
    arenas()
        .find_map(|arena| take_one(arena.try_lock()?, class))
        .or_else(patiently)
        .or_else(|| take_one(ARENAS.choose(0).lock_open()?, class))
        // Memory is out, or others hold every lock; they look for memory as well, perhaps.
        .or_else(|| purge::find_after_trim(patiently))
        .unwrap_or_else(|| huge::allocate(size_class::size(class), PAGE))
}

/// A block of the arena whose lock is held.
fn take_one(mut held: Guard<'_>, class: Class) -> Option<*mut u8> {
    // SAFETY: the lock is held; the blocks are free and this thread's; what comes with the first
    // one goes back.
    unsafe {
        let got = held.take_blocks(class, 1);
        if got.head.is_null() {
            return None;
        }
        held.give_blocks(Block::next(got.head), got.count - 1);
        Block::set_mark(got.head, 0);
        Some(got.head.cast())
    }
}

/// Takes a block back. Null is ignored.
///
/// # Safety
/// The caller does not use the block any more. (Addresses that are not blocks in use end the
/// process.)
#[inline(always)]
pub unsafe fn free(block: *mut u8) {
    // SAFETY: the caller's contract.
    unsafe { free_or(block, |block| free_slow(block)) }
}

/// As [`free`], with the caller's own way out of the fast path.
///
/// # Safety
/// As for [`free`].
#[inline(always)]
pub unsafe fn free_or(block: *mut u8, slow: impl FnOnce(*mut u8)) {
    // SAFETY: the word always points at a cache; window entries are offsets of bins; a block
    // that passes the checks is one in use, of a small class of the thread's arena, whose window
    // it is; its bin has room.
    unsafe {
        let tcache = tls::get();
        let page = window::index_of(block.addr(), (*tcache).window_base.get());
        if page < WINDOW_PAGES {
            let window = (*tcache).window.get();
            let bin = Tcache::bin_at(tcache, window::entry(window, page));
            if bin.has_room_for(block.addr()) && Block::mark(block.cast()) != window.addr() {
                return Tcache::push(bin, block.cast(), window.addr());
            }
        }
        slow(block);
    }
}

/// The class of a block in use of the thread's arena, if its window shows that it is one.
///
/// # Safety
/// The cache is the thread's, or constant.
#[inline(always)]
unsafe fn class_in_window(tcache: *mut Tcache, block: *mut u8) -> Option<Class> {
    // SAFETY: the caller's contract; a window has so many entries. A block whose page it shows is carved,
    // and so readable.
    unsafe {
        let page = window::index_of(block.addr(), (*tcache).window_base.get());
        if page >= WINDOW_PAGES {
            return None;
        }
        let window = (*tcache).window.get();
        let entry = window::entry(window, page);
        (entry != 0
            && Tcache::bin_at(tcache, entry).may_start_at(block.addr())
            && Block::mark(block.cast()) != window.addr())
        .then(|| window::class_of(entry))
    }
}

/// What [`free`] does when the bin is full or not the thread's arena's, and with blocks above the classes.
///
/// # Safety
/// As for [`free`].
#[inline(never)]
pub unsafe fn free_slow(block: *mut u8) {
    // SAFETY: the caller's contract.
    unsafe { free_beyond_fast_path(block) }
}

/// [`free_slow`], for callers that have a way of their own before it.
///
/// # Safety
/// As for [`free`].
#[inline(always)]
pub unsafe fn free_beyond_fast_path(block: *mut u8) {
    // SAFETY: the caller's contract; what the window says is so of the thread's arena.
    unsafe {
        let tcache = tls::get();
        match class_in_window(tcache, block) {
            Some(class) => keep(tcache, block.cast(), class, (*tcache).window.get().addr()),
            None if block.is_null() => {}
            None => free_by_page_map(block),
        }
    }
}

/// Takes a block back by what the page map says.
///
/// # Safety
/// As for [`free`]; the block is not null.
#[inline(never)]
unsafe fn free_by_page_map(block: *mut u8) {
    let address = block.addr();
    let owner = page_map::owner(address);
    let class = page_map::class_of(owner);
    // SAFETY: the page map says what lies at the address; the block is the caller's to give.
    unsafe {
        if class != 0 {
            check_small(address, owner, class, Misuse::InvalidFree);
            free_small(block.cast(), owner, class);
        } else if owner.kind() == KIND_LARGE {
            free_large(block.cast(), owner);
        } else if owner.kind() != KIND_HUGE || !free_huge(address) {
            invalid(address, Misuse::InvalidFree);
        }
    }
}

/// Ends the process unless a block of `class` in use starts at `address`.
///
/// # Safety
/// The page map says that the granule is a slab's of that class and owner.
#[inline(always)]
unsafe fn check_small(address: usize, owner: Owner, class: Class, kind: Misuse) {
    // SAFETY: the caller's contract; the granule is readable.
    unsafe {
        if !is_block(address, class) {
            misuse(kind, address, size_class::size(class));
        }
        let block = ptr::with_exposed_provenance_mut(address);
        if window::is_marked_free(block, owner.arena())
            && Tcache::is_free(block, owner.arena(), class)
        {
            let kind = if kind == Misuse::InvalidFree { Misuse::DoubleFree } else { kind };
            misuse(kind, address, size_class::size(class));
        }
    }
}

/// # Safety
/// A block in use of `class` starts at the address, and is the caller's to give.
#[inline(always)]
unsafe fn free_small(block: *mut Block, owner: Owner, class: Class) {
    let mut tcache = tls::get();
    // SAFETY: the word always points at a cache.
    if unsafe { (*tcache).state() } != State::Live {
        tcache = thread::start_to_free();
    }
    // SAFETY: the cache, if any, is this thread's.
    unsafe {
        if tcache.is_null() {
            free_directly(block, owner.arena());
        } else if (*tcache).arena_id() == owner.arena() && !is_closed(block.addr(), class) {
            keep(tcache, block, class, window::free_mark(owner.arena()));
        } else if (*tcache).free_remote(block, owner.arena(), size_class::size(class)) {
            purger::poll();
        }
    }
}

/// Puts a block of the thread's arena into its bin, which gets room first if it has none.
///
/// # Safety
/// The cache is the thread's; a block in use of `class` of its arena starts at the address, and is
/// the caller's to give; `mark` is that of the arena's free blocks.
#[inline(always)]
unsafe fn keep(tcache: *mut Tcache, block: *mut Block, class: Class, mark: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        let bin = Tcache::bin_at(tcache, bin_offset(class));
        if bin.has_room() {
            Tcache::push(bin, block, mark);
        } else {
            keep_in_full_bin(tcache, block, class, mark);
        }
    }
}

/// # Safety
/// As for [`keep`]; the bin has no room.
#[cold]
#[inline(never)]
unsafe fn keep_in_full_bin(tcache: *mut Tcache, block: *mut Block, class: Class, mark: usize) {
    // SAFETY: the caller's contract; the bin has room when the block goes in.
    unsafe {
        (*tcache).make_room(class);
        Tcache::push(Tcache::bin_at(tcache, bin_offset(class)), block, mark);
    }
    purger::poll();
}

/// Gives a block to its arena without a thread cache.
///
/// # Safety
/// The block is `owner`'s and the caller's to give.
unsafe fn free_directly(block: *mut Block, owner: u16) {
    let mut chain = Chain::EMPTY;
    // SAFETY: the caller's contract.
    unsafe {
        Block::set_mark(block, window::free_mark(owner));
        chain.push(block);
        if let Some(owner) = ARENAS.get(owner) {
            owner.give(chain.head);
        }
    }
}

/// Ends the process: no block in use starts at `address`.
fn invalid(address: usize, kind: Misuse) -> ! {
    let desc = page_map::try_desc(address);
    // SAFETY: covered where not null.
    let freed = !desc.is_null()
        && address.is_multiple_of(PAGE)
        && unsafe {
            (*desc).flags & CHUNK_WAS_FREED != 0
                || matches!(page_map::state(address), PageState::Free | PageState::Returning)
                || (page_map::owner(address) == Owner::NONE && page_map::was_huge(address))
        };
    let kind = if freed && kind == Misuse::InvalidFree { Misuse::DoubleFree } else { kind };
    misuse(kind, address, 0)
}

/// Bytes that the block at `address` holds. Ends the process when it is none.
///
/// # Safety
/// The block is in use by the caller.
pub unsafe fn usable_size(block: *mut u8, kind: Misuse) -> usize {
    // SAFETY: the caller's contract.
    match unsafe { class_in_window(tls::get(), block) } {
        Some(class) => size_class::size(class),
        // SAFETY: the caller's contract.
        None => unsafe { usable_size_by_page_map(block, kind) },
    }
}

/// # Safety
/// As for [`usable_size`].
#[inline(never)]
unsafe fn usable_size_by_page_map(block: *mut u8, kind: Misuse) -> usize {
    let address = block.addr();
    let owner = page_map::owner(address);
    let class = page_map::class_of(owner);
    // SAFETY: the page map says what lies at the address.
    unsafe {
        if class != 0 {
            check_small(address, owner, class, kind);
            return size_class::size(class);
        }
        if owner.kind() == KIND_LARGE && is_large(address) {
            return (*page_map::desc(address)).pages as usize * PAGE;
        }
        let bytes = if owner.kind() == KIND_HUGE { huge::size(address) } else { 0 };
        if bytes == 0 {
            invalid(address, kind);
        }
        bytes
    }
}

/// A block of at least `bytes` at a multiple of `align`, a power of two; null when there is no
/// memory.
#[inline(always)]
pub fn malloc_aligned(bytes: usize, align: usize) -> *mut u8 {
    if align <= MIN_ALIGN { malloc(bytes) } else { malloc_over_aligned(bytes, align) }
}

/// [`malloc_aligned`] for an alignment that not every block has.
#[inline(never)]
fn malloc_over_aligned(bytes: usize, align: usize) -> *mut u8 {
    if bytes <= MAX_SMALL && align <= GRANULE {
        let bytes = size_class::aligned(bytes.max(1), align);
        if bytes <= MAX_SMALL {
            let block = malloc(bytes);
            if block.addr() & (align - 1) == 0 {
                return block;
            }
            // At the start of a program pages may have served it, for an alignment beyond theirs.
            // SAFETY: the block was made just now.
            unsafe { free(block) };
        }
    }
    if !can_be(bytes, align) {
        return or_enomem(ptr::null_mut());
    }
    allocate_large(bytes.max(1), align.max(PAGE), false).0
}

/// Whether there may be a block of so many bytes at a multiple of `align` at all.
fn can_be(bytes: usize, align: usize) -> bool {
    bytes.max(1).checked_add(align).is_some_and(|end| end <= isize::MAX as usize)
}

/// A zeroed block of at least `bytes`; null when there is no memory. Memory that is known to be
/// zero is not cleared.
pub fn calloc(bytes: usize) -> *mut u8 {
    if bytes > MAX_SMALL {
        let (block, zero) = allocate_large(bytes, PAGE, true);
        return clear_unless(zero, block, bytes);
    }
    let block = malloc(bytes);
    clear_unless(false, block, bytes)
}

/// As [`malloc_aligned`], and zeroed.
pub fn calloc_aligned(bytes: usize, align: usize) -> *mut u8 {
    if align <= MIN_ALIGN {
        return calloc(bytes);
    }
    if bytes > MAX_SMALL && can_be(bytes, align) {
        let (block, zero) = allocate_large(bytes, align.max(PAGE), true);
        return clear_unless(zero, block, bytes);
    }
    clear_unless(false, malloc_aligned(bytes, align), bytes)
}

#[inline(always)]
fn clear_unless(zero: bool, block: *mut u8, bytes: usize) -> *mut u8 {
    if !zero && !block.is_null() {
        // SAFETY: the block holds so many bytes.
        unsafe { block.write_bytes(0, bytes) };
    }
    block
}

/// Sets `errno` to ENOMEM for a null block.
#[cold]
pub fn or_enomem(block: *mut u8) -> *mut u8 {
    if block.is_null() {
        os::set_errno(libc::ENOMEM);
    }
    block
}
