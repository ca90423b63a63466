//! Full magazines beyond the depot's slots, under the arena's lock: what a program frees in a burst and
//! allocates again, without the way of each block through its slab.
//!
//! Their blocks are as good as out: a slab that has one stays. So they are the first to go home when
//! the arena would touch fresh memory for something else (`pages.rs`), and when their class is idle
//! (`purge.rs`).

use super::slab::ClassState;
use super::{ARENAS, Inner};
use crate::size_class::{self, CLASSES, Class};
use crate::sync::block::{Block, Chain};
use core::cell::Cell;

/// Bytes of such magazines that all arenas together hold: 1 MiB …
const MOST: usize = 1024 * 1024;
/// … each of them, if they are many, 128 KiB …
const LEAST: usize = 128 * 1024;
/// … or one part in so many of what it has in use, if that is more; and at most so much of one class.
const PART_IN_USE: usize = 64;

/// Magazines that go home under the lock at once.
const AT_ONCE: usize = 8;

/// The first block of a magazine, with what links magazines behind what links blocks.
#[repr(C)]
struct First {
    block: [usize; 2],
    /// The first block of the next magazine.
    next: Cell<*mut Block>,
    /// Blocks of this one.
    count: Cell<usize>,
}

/// The smallest class whose blocks can be the first.
const FIRST_CLASS: Class = size_class::of(size_of::<First>());

/// A class's magazines.
#[derive(Debug, Clone, Copy)]
pub struct Magazines {
    first: *mut Block,
    /// Blocks in all of them.
    pub blocks: usize,
}

impl Magazines {
    /// None.
    pub const NONE: Self = Self { first: core::ptr::null_mut(), blocks: 0 };

    /// The first blocks of the magazines.
    fn iter(&self) -> impl Iterator<Item = *mut Block> {
        let mut next = self.first;
        core::iter::from_fn(move || {
            let magazine = next;
            // SAFETY: links are valid while the arena's lock is held, as long as which this lives.
            next = unsafe { magazine.cast::<First>().as_ref() }?.next.get();
            Some(magazine)
        })
    }
}

impl Inner {
    /// Keeps a full magazine, if there is room; else gives it back.
    ///
    /// # Safety
    /// The magazine is a null-terminated list of exactly `count` blocks of `class`, this arena's, the
    /// caller's to give; the arena's lock is held.
    pub unsafe fn put_magazine(&mut self, class: Class, magazine: Chain) -> Result<(), Chain> {
        let bytes = magazine.count * size_class::size(class);
        let of_class = self.class(class).magazines.blocks * size_class::size(class);
        let share = (MOST / ARENAS.count().max(1)).max(LEAST);
        if class < FIRST_CLASS
            || of_class + bytes > MOST
            || self.magazine_bytes + bytes > share.max(self.bytes_in_use() / PART_IN_USE)
        {
            return Err(magazine);
        }
        let ClassState { magazines, idle, .. } = self.class_mut(class);
        // SAFETY: the block is the caller's, free, and large enough.
        let first = unsafe { &*magazine.head.cast::<First>() };
        first.next.set(magazines.first);
        first.count.set(magazine.count);
        if magazines.blocks == 0 {
            idle.epochs = 0;
        }
        magazines.first = magazine.head;
        magazines.blocks += magazine.count;
        self.magazine_bytes += bytes;
        Ok(())
    }

    /// Takes the magazine that was put last, for a thread.
    ///
    /// # Safety
    /// The arena's lock is held.
    pub unsafe fn take_magazine(&mut self, class: Class) -> Option<Chain> {
        // SAFETY: the caller's contract.
        let magazine = unsafe { self.pop_magazine(class) }?;
        self.class_mut(class).refilled += magazine.count as u64;
        Some(magazine)
    }

    unsafe fn pop_magazine(&mut self, class: Class) -> Option<Chain> {
        let magazines = &mut self.class_mut(class).magazines;
        // SAFETY: the list is this arena's, whose lock is held.
        let first = unsafe { magazines.first.cast::<First>().as_ref() }?;
        let (head, count) = (magazines.first, first.count.get());
        magazines.first = first.next.get();
        magazines.blocks -= count;
        self.magazine_bytes -= count * size_class::size(class);
        Some(Chain { head, tail: core::ptr::null_mut(), count })
    }

    /// Gives some magazines of `class` home to their slabs; false when there is none.
    ///
    /// # Safety
    /// The arena's lock is held.
    pub unsafe fn give_magazines(&mut self, class: Class) -> bool {
        let mut given = false;
        for _ in 0..AT_ONCE {
            // SAFETY: the caller's contract; a magazine is a list of so many blocks of this arena.
            unsafe {
                let Some(magazine) = self.pop_magazine(class) else { break };
                self.give_cold_blocks(class, magazine.head, magazine.count);
            }
            given = true;
        }
        given
    }

    /// Gives some magazines home of the class that has most of them; false when there is none at all.
    ///
    /// # Safety
    /// The arena's lock is held.
    #[cold]
    pub unsafe fn give_most_magazines(&mut self) -> bool {
        if self.magazine_bytes == 0 {
            return false;
        }
        let bytes = |class: &Class| self.class(*class).magazines.blocks * size_class::size(*class);
        let class = (FIRST_CLASS..CLASSES).max_by_key(bytes);
        // SAFETY: the caller's contract.
        class.is_some_and(|class| unsafe { self.give_magazines(class) })
    }

    /// Whether such a magazine of `class` holds the block.
    ///
    /// # Safety
    /// The arena's lock is held.
    pub unsafe fn magazines_hold(&self, class: Class, block: *mut Block) -> bool {
        let mut magazines = self.class(class).magazines.iter();
        // SAFETY: magazines are lists of blocks of this arena, whose lock is held.
        magazines.any(|first| unsafe { Block::list_holds(first, block) })
    }
}
