//! A heap is given back to the kernel only when the last of its blocks is home: a block that
//! another thread frees late is counted before, or keeps the heap alive. Nobody touches memory
//! after its unmapping, a thread that holds a block finds the heap's entry in the page map, and
//! who maps the addresses anew keeps the entry it sets.
#![cfg(loom)]

use arenite::sync::block::Block;
use arenite::sync::publish::Entry;
use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use loom::thread;
use loom_tests::arena::{Arena, Home};
use loom_tests::blocks::Blocks;
use loom_tests::check_bounded;
use std::sync::Arc;

const OWNER: u16 = 3 << 7 | 126;
const OTHER: u16 = 127;
/// What unmapping leaves where the blocks were.
const GONE: usize = 0xdead;

/// The addresses of one heap: what the kernel and the page map say about them.
struct Addresses {
    blocks: Blocks,
    entry: Entry,
    /// The kernel's: whether somebody has a mapping there. The kernel orders an unmapping before
    /// the mapping that gets the addresses next.
    mapped: AtomicBool,
}

impl Addresses {
    /// Unmaps the heap: a write to all of it, as far as the order of accesses goes.
    fn unmap(&self, count: usize) {
        for place in 0..count {
            // SAFETY: the blocks are all home, so nobody uses them; loom checks that.
            unsafe {
                Block::set_next(self.blocks.at(place), core::ptr::null_mut());
                Block::set_mark(self.blocks.at(place), GONE);
            }
        }
        assert!(self.mapped.swap(false, AcqRel), "unmapped twice");
    }

    /// Maps something else there, if the addresses are free.
    fn map_other(&self) -> bool {
        let got = self.mapped.compare_exchange(false, true, AcqRel, Acquire).is_ok();
        if got {
            self.entry.set(OTHER);
        }
        got
    }
}

/// The arena's heap.
struct Heap {
    at: Arc<Addresses>,
    /// Blocks that are not home.
    out: usize,
    blocks: usize,
}

impl Home for Heap {
    unsafe fn give_blocks(&mut self, head: *mut Block) {
        // SAFETY: the caller's contract.
        let back = unsafe { self.at.blocks.places(head) }.len();
        assert!(back <= self.out, "a block came home twice");
        self.out -= back;
        if back > 0 && self.out == 0 {
            // The order of `heap::mmap::release`.
            self.at.entry.set(0);
            self.at.unmap(self.blocks);
        }
    }
}

/// An arena whose heap has `blocks` blocks, all in use by threads of other arenas.
fn arena(blocks: usize) -> (Arc<Arena<Heap>>, Arc<Addresses>) {
    let at = Arc::new(Addresses {
        blocks: Blocks::new(blocks),
        entry: Entry::new(),
        mapped: AtomicBool::new(true),
    });
    at.entry.set(OWNER);
    let arena = Arena::new(Heap { at: at.clone(), out: blocks, blocks });
    assert!(arena.join(&arena.lock(1)));
    (Arc::new(arena), at)
}

/// Frees a block that is another arena's: asks the page map whose it is, and sends it home.
fn free(arena: &Arena<Heap>, at: &Addresses, place: usize, thread: usize, long: bool) {
    assert_eq!(at.entry.get(), OWNER, "the block is in use, and nobody's");
    // SAFETY: the block is this thread's.
    unsafe { arena.send(at.blocks.chain(&[place]), thread, long) };
}

fn drain(arena: &Arena<Heap>) {
    arena.drain(&mut arena.lock(1));
}

/// Checks what is left when all blocks were freed and the owner has drained once more.
fn assert_released(arena: &Arena<Heap>, at: &Addresses, blocks: usize, mapped_again: bool) {
    assert_eq!(arena.lock(1).with(|heap| heap.out), 0, "a block is lost, and the heap with it");
    assert!(!arena.has_waiting());
    assert_eq!(at.mapped.load(Relaxed), mapped_again);
    assert_eq!(at.entry.get(), if mapped_again { OTHER } else { 0 }, "another's entry is gone");
    for place in 0..blocks {
        // SAFETY: all other threads have ended.
        let mark = unsafe { Block::mark(at.blocks.at(place)) };
        assert_eq!(mark, GONE, "written after it was unmapped");
    }
}

/// Two threads free the last two blocks while the owner drains.
#[test]
fn late_frees_keep_the_heap() {
    two_free_late(false);
}

/// One of them finds the list long and drains it itself, so that it or the owner releases.
#[test]
fn sender_and_owner_drain() {
    two_free_late(true);
}

fn two_free_late(long: bool) {
    check_bounded(4, move || {
        let (arena, at) = arena(2);
        let others = [(0, 2, false), (1, 3, long)].map(|(place, thread, long)| {
            let (arena, at) = (arena.clone(), at.clone());
            thread::spawn(move || free(&arena, &at, place, thread, long))
        });
        drain(&arena);
        for other in others {
            other.join().unwrap();
        }
        drain(&arena);
        assert_released(&arena, &at, 2, false);
    });
}

/// Another thread maps the addresses as soon as they are free.
#[test]
fn the_addresses_go_to_another() {
    check_bounded(4, || {
        let (arena, at) = arena(2);
        let other = {
            let (arena, at) = (arena.clone(), at.clone());
            thread::spawn(move || free(&arena, &at, 0, 2, true))
        };
        let mapper = {
            let at = at.clone();
            thread::spawn(move || at.map_other())
        };
        free(&arena, &at, 1, 1, false);
        drain(&arena);
        other.join().unwrap();
        drain(&arena);
        let mapped_again = mapper.join().unwrap();
        assert_released(&arena, &at, 2, mapped_again);
    });
}
