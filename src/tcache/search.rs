//! Whether a block that looks free is free.
//!
//! The mark of a free block can get into a live one by honest means: the allocator's own stack
//! frames hold it, and a program may copy bytes of its stack that it never wrote, such as the
//! padding of a struct. So a mark is a suspicion only, and a block is free if it is on some list.

use super::Tcache;
use crate::arena::ARENAS;
use crate::page_map::{self, Owner};
use crate::size_class::Class;
use crate::sync::block::Block;

impl Tcache {
    /// Whether the block is on a list of free blocks: its slab's, the depot's, or a cache's.
    ///
    /// Other threads' lists change meanwhile. A block that another thread moves from one to
    /// another just now may be missed. One that is on no list may be found where another thread takes a
    /// block just then, and stores the address of this one in it; so what is found is looked for once
    /// more. What an arena holds that can not be locked (see fork.rs) is taken to be live.
    ///
    /// # Safety
    /// The page map says that the block's granule is a slab's, of this class and arena.
    #[cold]
    #[inline(never)]
    pub unsafe fn is_free(block: *mut Block, arena: u16, class: Class) -> bool {
        // SAFETY: the caller's contract.
        let look = || unsafe { Self::is_on_a_list(block, arena, class) };
        look() && look()
    }

    /// # Safety
    /// As for [`Tcache::is_free`].
    unsafe fn is_on_a_list(block: *mut Block, arena: u16, class: Class) -> bool {
        let Some(owner) = ARENAS.get(arena) else { return false };
        let Some(mut held) = owner.lock_open() else { return false };
        // What is on its way home comes to its slab.
        owner.drain(&mut held);
        let is_of_class = Owner::new(arena, class as u16);
        // The slab may be a chunk by now: none of its blocks was in use then.
        if page_map::owner(block.addr()) != is_of_class {
            return true;
        }
        // SAFETY: a slab lies there, of the arena whose lock is held.
        if unsafe { held.slab_holds(class, block) || held.magazines_hold(class, block) }
            || owner.depot_holds(&mut held, class, block)
        {
            return true;
        }
        Self::all().any(|cache| {
            let pending = cache.pending.iter().filter(|slot| slot.arena.get() == arena);
            (cache.arena_id() == arena
                && (list_holds(
                    cache.bin(class).head.get(),
                    cache.drain.first_taken(class),
                    block,
                    is_of_class,
                ) || list_holds(cache.spare(class).peek(), END, block, is_of_class)))
                || pending.map(|slot| slot.head.get()).any(|head| chain_holds(head, block, arena))
        })
    }
}

/// No list of a cache is longer.
const LONGEST: usize = 1 << 16;

/// Where a list ends.
const END: *mut Block = core::ptr::null_mut();

/// Whether a list of blocks of one class, which ends before `end`, holds the block. The list may be another
/// thread's, which changes it: the walk ends at what is no block of the class. The arena's lock is held, so
/// that slabs stay.
fn list_holds(head: *mut Block, end: *mut Block, block: *mut Block, owner: Owner) -> bool {
    walk(head, end, block, |at| page_map::owner(at) == owner)
}

/// As [`list_holds`], for a chain of blocks of any classes of an arena.
fn chain_holds(head: *mut Block, block: *mut Block, arena: u16) -> bool {
    walk(head, END, block, |at| {
        let owner = page_map::owner(at);
        owner.arena() == arena && page_map::class_of(owner) != 0
    })
}

fn walk(
    head: *mut Block,
    end: *mut Block,
    block: *mut Block,
    is_block: impl Fn(usize) -> bool,
) -> bool {
    let mut at = head;
    for _ in 0..LONGEST {
        if at == end || at.is_null() {
            return false;
        }
        if at == block {
            return true;
        }
        if !at.addr().is_multiple_of(16) || !is_block(at.addr()) {
            return false;
        }
        // SAFETY: a slab of an arena whose lock is held lies there, so that the word is readable;
        // whatever it holds is looked at before it is followed. Volatile, since its owner may
        // write it now.
        at = unsafe { at.cast::<*mut Block>().read_volatile() };
    }
    false
}
