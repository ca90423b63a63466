//! The front door: which layer serves a request, and which takes a block back.
//!
//! The two hot functions are [`malloc`] and [`free`]. Each has one way out on the fast path and
//! one cold call.

use crate::arena::pages::{is_huge, is_mapped};
use crate::arena::slab::is_block;
use crate::arena::{ARENAS, Arena, Guard};
use crate::check::{Misuse, misuse};
use crate::config::MMAP_THRESHOLD_MAX;
use crate::heap::MAPPED;
use crate::huge;
use crate::os::{self, PAGE};
use crate::page_map::{self, CHUNK_WAS_FREED, KIND_HUGE, KIND_LARGE, Owner, PageState};
use crate::purge;
use crate::purger;
use crate::size_class::{self, Class, GRANULE, MAX_LENT, MAX_SMALL, MAX_TABLE, MIN_ALIGN};
use crate::sync::block::{Block, Chain};
use crate::tcache::{ROOM_UNIT, State, Tcache, bin_of_size};
use crate::thread;
use crate::tls;
use crate::window::{self, BIN_BYTES, WINDOW_PAGES, bin_offset};
use core::ptr;

/// A block of at least `bytes`, aligned to 16; null when there is no memory.
#[inline(always)]
pub fn malloc(bytes: usize) -> *mut u8 {
    malloc_or(bytes, malloc_slow)
}

/// As [`malloc`], with the caller's own way out of the fast path.
#[inline(always)]
pub fn malloc_or(bytes: usize, slow: impl FnOnce(usize) -> *mut u8) -> *mut u8 {
    if bytes <= MAX_TABLE {
        let tcache = tls::get();
        // SAFETY: the word always points at a cache; the size is in the table.
        let block = unsafe { take(tcache, Tcache::bin_of_any_size(tcache, bytes)) };
        if !block.is_null() {
            return block;
        }
    }
    slow(bytes)
}

/// As [`malloc_or`], for callers of which many know the size when they are compiled.
#[inline(always)]
pub fn malloc_known_or(bytes: usize, slow: impl FnOnce(usize) -> *mut u8) -> *mut u8 {
    if bytes <= MAX_TABLE {
        // SAFETY: the word always points at a cache.
        let block = unsafe { take(tls::get(), bin_of_size(bytes)) };
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
        allocate_large(bytes, PAGE).0
    } else if bytes > MAX_TABLE {
        malloc_class(size_class::of_above_table(bytes))
    } else {
        refill_and_take(bin_of_size(bytes) / BIN_BYTES)
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
    purger::poll();
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

/// Alignments up to here do not count in whether a request gets a mapping of its own: the mmap
/// threshold learns from the sizes of the blocks that are freed, which do not tell them.
const MAX_GAP: usize = 256 * 1024;

/// A run of pages, or a mapping of its own; and whether it is zero.
#[cold]
#[inline(never)]
fn allocate_large(bytes: usize, align: usize) -> (*mut u8, bool) {
    if bytes > isize::MAX as usize - PAGE {
        return (or_enomem(ptr::null_mut()), false);
    }
    purger::poll();
    // A large alignment costs a gap in the heap, which stays of use up to some size.
    let gap = if align > MAX_GAP { align } else { 0 };
    // What would be a mapping is served from free memory at hand as well, as glibc does: that is
    // touched already, and needs no call.
    let grows = !is_mapped(bytes.saturating_add(gap));
    if (grows || bytes <= MMAP_THRESHOLD_MAX)
        && let Some((address, zero)) = take_large(bytes, align, grows)
    {
        return (ptr::with_exposed_provenance_mut(address), zero);
    }
    let block = huge::allocate(bytes, align);
    if block.is_null() { find_free_large(bytes, align) } else { (block, true) }
}

/// A mapping of its own: its address, and that it is zero.
fn mapping(bytes: usize, align: usize) -> Option<(usize, bool)> {
    let block = huge::allocate(bytes, align);
    (!block.is_null()).then(|| (block.expose_provenance(), true))
}

/// What the kernel does not give: from free memory of any arena, or from what that gives back.
#[cold]
fn find_free_large(bytes: usize, align: usize) -> (*mut u8, bool) {
    // SAFETY: the lock is held.
    let take = |mut held: Guard<'_>| unsafe { held.take_large(bytes, align, true) };
    let find = || ARENAS.iter_open().find_map(|arena| take(arena.lock_open()?));
    let found = find().or_else(|| {
        // More than there is at all is not found by giving back and trying again.
        if bytes > MAPPED.brk.get() + MAPPED.mmap.get() {
            return None;
        }
        // What is purged has coalesced.
        purge::find_after_trim(|| find().or_else(|| mapping(bytes, align)))
    });
    match found {
        Some((address, zero)) => (ptr::with_exposed_provenance_mut(address), zero),
        None => (or_enomem(ptr::null_mut()), false),
    }
}

/// A run of pages from the thread's arena, or from any that can be locked; only from memory that
/// it has if not `grows`.
fn take_large(bytes: usize, align: usize, grows: bool) -> Option<(usize, bool)> {
    let cache = thread::start();
    let own = if cache.is_null() {
        ARENAS.main().lock_open()
    } else {
        // SAFETY: the cache is this thread's.
        unsafe { (*cache).lock_arena() }
    };
    let mut held = match own {
        Some(held) => held,
        None => ARENAS.iter_open().find_map(Arena::try_lock)?,
    };
    // SAFETY: the lock is held.
    unsafe { held.take_large(bytes, align, grows) }
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
            let bin = window::entry(window, page);
            if Tcache::has_room_for(tcache, bin, block.addr() as u32 & (GRANULE as u32 - 1))
                && Block::mark(block.cast()) != window.addr()
            {
                let bin = Tcache::bin_at(tcache, bin);
                return Tcache::push(bin, block.cast(), window.addr());
            }
        }
        slow(block);
    }
}

/// What the window of the thread's arena says of the page at an address; 0 if it does not reach it.
///
/// # Safety
/// The cache is the thread's.
#[inline]
unsafe fn window_entry(tcache: *mut Tcache, address: usize) -> usize {
    // SAFETY: the caller's contract; a window has so many entries.
    unsafe {
        let page = window::index_of(address, (*tcache).window_base.get());
        if page < WINDOW_PAGES { window::entry((*tcache).window.get(), page) } else { 0 }
    }
}

/// What [`free`] does when the bin is full or not the thread's arena's, and with large blocks.
///
/// # Safety
/// As for [`free`].
#[inline(never)]
pub unsafe fn free_slow(block: *mut u8) {
    // SAFETY: as in `free`: the entry is that of a granule of a slab of the thread's arena, whose
    // blocks in this page are carved.
    unsafe {
        let tcache = tls::get();
        let mark = (*tcache).window.get().addr();
        if let Some((class, granule)) = window::granule_of(window_entry(tcache, block.addr()))
            && size_class::block_index(granule + block.addr() % GRANULE, class).is_some()
            && Block::mark(block.cast()) != mark
        {
            return keep(tcache, block.cast(), class, mark);
        }
        free_by_page_map(block);
    }
}

/// Takes a block back by what the page map says.
///
/// # Safety
/// As for [`free`].
#[inline(never)]
unsafe fn free_by_page_map(block: *mut u8) {
    if block.is_null() {
        return;
    }
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
        } else if owner.kind() != KIND_HUGE || !huge::free(address) {
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
        tcache = thread::start();
    }
    // SAFETY: the cache, if any, is this thread's.
    unsafe {
        if tcache.is_null() {
            free_directly(block, owner.arena());
        } else if (*tcache).arena_id() == owner.arena() {
            keep(tcache, block, class, window::free_mark(owner.arena()));
        } else {
            (*tcache).free_remote(block, owner.arena(), size_class::size(class));
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
    // SAFETY: the caller's contract; the bin has room when the block goes in.
    unsafe {
        let bin = Tcache::bin_at(tcache, bin_offset(class));
        let full = bin.room.get() < ROOM_UNIT;
        if full {
            (*tcache).make_room(class);
        }
        Tcache::push(bin, block, mark);
        if full {
            purger::poll();
        }
    }
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

/// # Safety
/// The page map says that the granule is one of runs; the block is the caller's to give.
unsafe fn free_large(block: *mut Block, owner: Owner) {
    let address = block.addr();
    let Some(arena) = ARENAS.get(owner.arena()) else { return };
    // SAFETY: covered, as the page map says; the lock is held where it must be.
    unsafe {
        if !address.is_multiple_of(PAGE) || !page_map::claim_large(address) {
            invalid(address, Misuse::InvalidFree);
        }
        // A thread waits for its own arena only.
        let cache = tls::get();
        let is_own = (*cache).state() != State::Live || (*cache).arena_id() == owner.arena();
        match if is_own { arena.lock_open() } else { arena.try_lock() } {
            Some(mut held) => {
                held.give_large(address);
                drop(held);
                purger::poll();
            }
            None => {
                let bytes = (*page_map::desc(address)).pages as usize * PAGE;
                let mut chain = Chain::EMPTY;
                chain.push(block);
                arena.send(chain, bytes, (*cache).arena_id());
            }
        }
    }
}

/// # Safety
/// The page map says that the granule is one of runs.
unsafe fn is_large(address: usize) -> bool {
    // SAFETY: covered.
    address.is_multiple_of(PAGE) && unsafe { page_map::state(address) } == PageState::Large
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
        };
    let kind = if freed && kind == Misuse::InvalidFree { Misuse::DoubleFree } else { kind };
    misuse(kind, address, 0)
}

/// Bytes that the block at `address` holds. Ends the process when it is none.
///
/// # Safety
/// The block is in use by the caller.
pub unsafe fn usable_size(block: *mut u8, kind: Misuse) -> usize {
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
pub fn malloc_aligned(bytes: usize, align: usize) -> *mut u8 {
    if align <= MIN_ALIGN {
        return malloc(bytes);
    }
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
    if bytes > isize::MAX as usize - align {
        return or_enomem(ptr::null_mut());
    }
    allocate_large(bytes.max(1), align.max(PAGE)).0
}

/// A zeroed block of at least `bytes`; null when there is no memory. Memory that is known to be
/// zero is not cleared.
pub fn calloc(bytes: usize) -> *mut u8 {
    if bytes > MAX_SMALL {
        let (block, zero) = allocate_large(bytes, PAGE);
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
    if bytes > MAX_SMALL && bytes <= isize::MAX as usize - align {
        let (block, zero) = allocate_large(bytes, align.max(PAGE));
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

/// Makes the block hold `bytes`: in place where it fits, by the kernel's page tables for huge
/// blocks, else by a copy. Null when there is no memory; the block is then as it was.
///
/// # Safety
/// The block is in use by the caller, who uses only the returned one afterwards. Its alignment
/// is kept when it moves only up to `align`.
pub unsafe fn realloc(block: *mut u8, bytes: usize, align: usize) -> *mut u8 {
    // SAFETY: the caller's contract.
    unsafe {
        let old = usable_size(block, Misuse::InvalidRealloc);
        let owner = page_map::owner(block.addr());
        if page_map::class_of(owner) != 0 {
            if stays_in_place(bytes, old) {
                return block;
            }
        } else if owner.kind() == KIND_LARGE {
            // Pages that serve a small request at the start of a program stay, as a block of a
            // class does.
            let stays = bytes <= MAX_SMALL && bytes <= old && old - bytes < PAGE.max(old / 2);
            if stays || resize_large(block.addr(), owner, bytes, old) {
                return block;
            }
        } else if is_huge(bytes) {
            let moved = huge::resize(block.addr(), bytes, align <= PAGE);
            if !moved.is_null() {
                return moved;
            }
        }
        let new = malloc_aligned(bytes, align);
        if new.is_null() {
            // A block that shrinks can stay.
            return if bytes <= old { block } else { new };
        }
        ptr::copy_nonoverlapping(block, new, old.min(bytes));
        free(block);
        new
    }
}

/// As [`realloc`], where both sizes are at most [`MAX_TABLE`] and the old one is the caller's to know: for
/// alignments up to [`MIN_ALIGN`].
///
/// # Safety
/// As for [`realloc`], and the block was asked for with `old` bytes.
#[inline(never)]
pub unsafe fn realloc_known(block: *mut u8, old: usize, bytes: usize) -> *mut u8 {
    if bin_of_size(old) == bin_of_size(bytes) || stays_in_place(bytes, old) {
        return block;
    }
    let new = malloc(bytes);
    if new.is_null() {
        return if bytes <= old { block } else { new };
    }
    // SAFETY: the caller's contract; both blocks hold what is copied.
    unsafe {
        ptr::copy_nonoverlapping(block, new, old.min(bytes));
        free(block);
    }
    new
}

/// Whether a block of a class with `old` bytes serves `bytes` as well: unless they need more, or would
/// leave most of it unused.
#[inline]
fn stays_in_place(bytes: usize, old: usize) -> bool {
    bytes <= old && (bytes > old / 2 || old <= 64)
}

/// # Safety
/// A large block starts at the address.
unsafe fn resize_large(address: usize, owner: Owner, bytes: usize, old: usize) -> bool {
    if bytes <= MAX_SMALL || bytes > isize::MAX as usize - PAGE {
        return false;
    }
    let pages = bytes.div_ceil(PAGE);
    if pages * PAGE == old {
        return true;
    }
    let Some(arena) = ARENAS.get(owner.arena()) else { return false };
    // SAFETY: the caller's contract; the lock is held.
    arena.lock_open().is_some_and(|mut held| unsafe { held.resize_run(address, pages) })
}

/// Sets `errno` to ENOMEM for a null block.
#[cold]
pub fn or_enomem(block: *mut u8) -> *mut u8 {
    if block.is_null() {
        os::set_errno(libc::ENOMEM);
    }
    block
}
