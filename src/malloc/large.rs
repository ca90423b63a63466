//! Blocks above the largest class: runs of pages, and mappings of their own.

use super::{invalid, or_enomem};
use crate::arena::pages::is_mapped;
use crate::arena::{ARENAS, Arena, Guard};
use crate::check::Misuse;
use crate::config::MMAP_THRESHOLD_MAX;
use crate::heap::MAPPED;
use crate::huge;
use crate::limit;
use crate::os::PAGE;
use crate::page_map::{self, Owner, PageState};
use crate::purge;
use crate::purger;
use crate::size_class::MAX_SMALL;
use crate::sync::block::{Block, Chain};
use crate::tcache::State;
use crate::thread;
use crate::tls;
use core::ptr;

/// Alignments up to here do not count in whether a request gets a mapping of its own: the mmap
/// threshold learns from the sizes of the blocks that are freed, which do not tell them.
const MAX_GAP: usize = 256 * 1024;

/// Bytes of huge blocks that may be kept when nobody would unmap them in a program that does nothing, if not as many
/// are in use.
const MAX_UNWATCHED: usize = 64 * 1024 * 1024;

/// Addresses of a process at most.
const ADDRESSES: usize = 1 << 47;

/// A run of pages, or a mapping of its own, which had better be zero if it is to be `zeroed`; and whether it is.
#[cold]
#[inline(never)]
pub(super) fn allocate_large(bytes: usize, align: usize, zeroed: bool) -> (*mut u8, bool) {
    if bytes > isize::MAX as usize - PAGE {
        return (or_enomem(ptr::null_mut()), false);
    }
    // SAFETY: the word always points at a cache; a live one is this thread's.
    let cache = unsafe { &*tls::get() };
    if align <= PAGE
        && let Some(kept) = cache.take_large(bytes.div_ceil(PAGE))
    {
        return (kept, false);
    }
    purger::poll_for(bytes);
    let found = find_large(bytes, align, zeroed);
    if bytes > MMAP_THRESHOLD_MAX {
        purger::poll_for_huge();
    }
    purger::look_at_soft_limit();
    found
}

/// What [`allocate_large`] returns.
fn find_large(bytes: usize, align: usize, zeroed: bool) -> (*mut u8, bool) {
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
    mapping(bytes, align, zeroed).unwrap_or_else(|| find_free_large(bytes, align, zeroed))
}

/// A mapping of its own, and whether it is zero.
fn mapping(bytes: usize, align: usize, zeroed: bool) -> Option<(*mut u8, bool)> {
    let may_be_kept = bytes > MMAP_THRESHOLD_MAX;
    let kept = if may_be_kept { huge::kept::take(bytes, zeroed) } else { None };
    // SAFETY: the kept block is this thread's.
    let reused = kept.map(|kept| unsafe { huge::reuse(kept, bytes, align) });
    let reused = reused.filter(|block| !block.is_null());
    let block = reused.unwrap_or_else(|| huge::allocate(bytes, align));
    if block.is_null() {
        return None;
    }
    if may_be_kept {
        purge::peak::make_room();
    }
    // SAFETY: the block is this thread's.
    let is_zero = reused.is_none() || (zeroed && unsafe { huge::clear(block) });
    Some((block, is_zero))
}

/// What the kernel does not give: from free memory of any arena, or from what that gives back.
#[cold]
fn find_free_large(bytes: usize, align: usize, zeroed: bool) -> (*mut u8, bool) {
    // SAFETY: the lock is held.
    let take = |mut held: Guard<'_>| unsafe {
        let (address, zero) = held.take_large(bytes, align, true)?;
        Some((ptr::with_exposed_provenance_mut(address), zero))
    };
    let find = || ARENAS.iter_open().find_map(|arena| take(arena.lock_open()?));
    let found = find().or_else(|| {
        // More than there is at all, or what no address space has, is not found by giving back and trying again.
        if (bytes > MAPPED.bytes() && !limit::may_admit(bytes)) || align >= ADDRESSES {
            return None;
        }
        // What is purged has coalesced.
        purge::find_after_trim(|| find().or_else(|| mapping(bytes, align, zeroed)))
    });
    found.unwrap_or_else(|| (or_enomem(ptr::null_mut()), false))
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

/// # Safety
/// The page map says that the granule is one of runs; the block is the caller's to give.
pub(super) unsafe fn free_large(block: *mut Block, owner: Owner) {
    let address = block.addr();
    let Some(arena) = ARENAS.get(owner.arena()) else { return };
    // SAFETY: covered, as the page map says; the lock is held where it must be.
    unsafe {
        if !address.is_multiple_of(PAGE) || !page_map::claim_large(address) {
            invalid(address, Misuse::InvalidFree);
        }
        // A thread waits for its own arena only.
        let cache = tls::get();
        let is_live = (*cache).state() == State::Live;
        let is_own = !is_live || (*cache).arena_id() == owner.arena();
        let pages = (*page_map::desc(address)).pages as usize;
        if is_live && is_own && (*cache).keep_large(block, pages) {
            return;
        }
        match if is_own { arena.lock_open() } else { arena.try_lock() } {
            Some(mut held) => {
                held.give_large(address);
                drop(held);
                purger::poll();
            }
            None => {
                let mut chain = Chain::EMPTY;
                chain.push(block);
                arena.send(chain, pages * PAGE, (*cache).arena_id());
            }
        }
    }
}

/// Takes a huge block back; false when none starts at the address.
///
/// # Safety
/// The page map says that a huge block starts in the granule, which is the caller's to give.
pub(super) unsafe fn free_huge(address: usize) -> bool {
    let may_keep = |bytes| {
        // A helper that sleeps is to be woken, however few they are.
        let may_keep = purger::watches() || bytes <= huge::BYTES.get().max(MAX_UNWATCHED);
        if may_keep {
            huge::kept::note_beside(purge::bytes_in_arenas());
        }
        may_keep
    };
    // SAFETY: the caller's contract.
    let was_one = unsafe { huge::free(address, may_keep) };
    // Fewer are in use now, or the helper ended meanwhile.
    let kept = huge::kept::bytes();
    if kept > 0 && !may_keep(kept) {
        huge::kept::release(0);
    }
    was_one
}

/// # Safety
/// The page map says that the granule is one of runs.
pub(super) unsafe fn is_large(address: usize) -> bool {
    // SAFETY: covered.
    address.is_multiple_of(PAGE) && unsafe { page_map::state(address) } == PageState::Large
}

/// # Safety
/// A large block starts at the address.
pub(super) unsafe fn resize_large(address: usize, owner: Owner, bytes: usize, old: usize) -> bool {
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
