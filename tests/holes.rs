//! The hole that a large block left is there for the next one, though small blocks are allocated in between.

use arenite::{Arenite, config};
use std::alloc::{GlobalAlloc, Layout};
use std::ptr;

static ARENITE: Arenite =
    Arenite::new().arenas(1).decay_ms(config::NEVER).mmap_threshold(LARGE + 1);

/// Bytes of a large block.
const LARGE: usize = 4 << 20;

/// A block of so many bytes.
fn allocate(bytes: usize) -> *mut u8 {
    let layout = Layout::from_size_align(bytes, 16).expect("a valid layout");
    // SAFETY: the layout is not empty.
    let block = unsafe { ARENITE.alloc(layout) };
    assert!(!block.is_null());
    block
}

/// Frees a large block.
fn free_large(block: *mut u8) {
    let layout = Layout::from_size_align(LARGE, 16).expect("a valid layout");
    // SAFETY: allocated with this layout, and used by nobody.
    unsafe { ARENITE.dealloc(block, layout) };
}

/// Frees and allocates a large block 20 times, with `bytes` of small blocks that stay in between. How often
/// it was another one.
fn moves(bytes: usize) -> usize {
    let mut block = allocate(LARGE);
    // Keeps the hole from the top.
    allocate(100 << 10);
    let mut moves = 0;
    for _ in 0..20 {
        free_large(block);
        (0..bytes / 256).for_each(|_| _ = allocate(256));
        let next = allocate(LARGE);
        moves += usize::from(!ptr::eq(next, block));
        block = next;
    }
    moves
}

#[test]
fn the_hole_of_a_large_block_stays_whole_for_a_while() {
    assert_eq!(moves(64 << 10), 0);
    // Not for ever: what is free is used before that costs much.
    assert!(moves(LARGE / 2) > 0);
}
