//! The large block that a thread freed last, kept for its next one.
//!
//! Programs that read files or requests allocate a buffer, free it, and allocate one as large again. From the second
//! time on the thread does not go to its arena for that. As soon as it needs a large block of another size the one
//! that is kept goes home, so that its pages are there for that.

use super::{State, Tcache};
use crate::arena::ARENAS;
use crate::os::PAGE;
use crate::page_map::{self, PageState};
use crate::sync::block::{Block, Chain};
use crate::sync::depot::DepotSlot;
use core::cell::Cell;
use core::ptr;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;

/// Pages of the largest block that is kept: 128 KiB, what a heap's top keeps in any case.
const MOST: usize = 32;

/// A thread's large block.
pub struct Large {
    /// The block, claimed by its free, with its pages for a count. A slot as the depot's, so that the block of a
    /// thread that sleeps can be taken.
    slot: DepotSlot,
    /// Pages of the large block that was freed last.
    freed: Cell<usize>,
    /// Pages of the one that was allocated after it, if those were as many: such blocks are kept.
    again: Cell<usize>,
    /// Whether one was, since [`Tcache::cool_large`] asked last.
    is_used: AtomicBool,
}

impl Large {
    pub const fn new() -> Self {
        Self {
            slot: DepotSlot::new(),
            freed: Cell::new(0),
            again: Cell::new(0),
            is_used: AtomicBool::new(false),
        }
    }
}

impl Tcache {
    /// The kept block, if it has so many pages, for the program. If it has not, it goes home.
    #[inline]
    pub fn take_large(&self, pages: usize) -> Option<*mut u8> {
        if self.state() != State::Live {
            return None;
        }
        let Large { slot, freed, again, .. } = &self.large;
        if again.get() != pages {
            again.set(if freed.get() == pages { pages } else { 0 });
        }
        let kept = slot.take()?;
        // What is kept tells its size itself: a signal handler may have allocated another one since.
        if kept.count != pages {
            give_home(kept);
            return None;
        }
        let head = kept.head;
        // SAFETY: what is taken out of the slot is a large block that was claimed, this thread's now.
        unsafe { page_map::set_state(head.addr(), PageState::Large) };
        Some(head.cast())
    }

    /// Keeps a block of `pages` pages of the thread's arena, if there is none yet and the thread may want it again.
    ///
    /// # Safety
    /// The block is a large one that the caller claimed, and its own to give; the cache is the thread's.
    #[inline]
    pub unsafe fn keep_large(&self, block: *mut Block, pages: usize) -> bool {
        let Large { slot, freed, again, is_used } = &self.large;
        freed.set(pages);
        if again.get() != pages || pages > MOST {
            return false;
        }
        // Relaxed: whoever sees it late gives the block home.
        is_used.store(true, Relaxed);
        // SAFETY: the caller's contract. Who takes it out again knows that it is no list.
        unsafe { slot.put(Chain { head: block, tail: ptr::null_mut(), count: pages }) }.is_ok()
    }

    /// Gives the kept block home; its bytes. Any thread may do that.
    pub(super) fn give_large_home(&self) -> usize {
        self.large.slot.take().map_or(0, give_home)
    }

    /// Gives the kept block home if the thread did not use it since this was called last; its bytes. Any thread may
    /// do that.
    pub(super) fn cool_large(&self) -> usize {
        if self.large.is_used.swap(false, Relaxed) { 0 } else { self.give_large_home() }
    }

    /// Bytes of the kept block at this instant.
    pub fn large_bytes(&self) -> usize {
        self.large.slot.count() * PAGE
    }
}

/// Gives a block home that was taken out of a slot; its bytes.
fn give_home(Chain { head, count, .. }: Chain) -> usize {
    let Some(arena) = ARENAS.get(page_map::owner(head.addr()).arena()) else { return 0 };
    // SAFETY: it is a large block of that arena that was claimed, and whoever took it out of the slot owns it.
    unsafe {
        match arena.lock_open() {
            Some(mut held) => held.give_large(head.addr()),
            None => {
                Block::set_next(head, ptr::null_mut());
                arena.give_remotely(head);
            }
        }
    }
    count * PAGE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os;
    use crate::page_map::{KIND_LARGE, Owner};

    /// A signal handler may allocate a block of another size while the thread is about to keep one.
    #[test]
    fn a_block_of_another_size_is_never_taken() {
        let cache = Tcache::constant(State::Live);
        let block = os::map(8 * PAGE);
        let address = block.expose_provenance();
        assert!(!block.is_null() && page_map::cover(address, PAGE));
        // SAFETY: covered, and this test's; no arena has this number.
        unsafe {
            page_map::set_owner(address, PAGE, Owner::new(100, KIND_LARGE));
            cache.large.again.set(3);
            assert!(cache.keep_large(block.cast(), 3));
        }
        cache.large.again.set(5);
        assert_eq!(cache.take_large(5), None);
        assert_eq!(cache.large_bytes(), 0);
    }
}
