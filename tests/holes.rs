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

/// Allocates blocks of 256 bytes, so many bytes of them; the last one.
fn allocate_small(bytes: usize) -> *mut u8 {
    (0..bytes / 256).fold(ptr::null_mut(), |_, _| allocate(256))
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
        allocate_small(bytes);
        let next = allocate(LARGE);
        moves += usize::from(!ptr::eq(next, block));
        block = next;
    }
    moves
}

#[test]
fn the_hole_of_a_large_block_stays_whole_for_a_while() {
    assert_eq!(moves(64 << 10), 0);
    // One of several is enough.
    let holes = [(); 2].map(|()| {
        let block = allocate(LARGE);
        allocate(100 << 10);
        block
    });
    holes.into_iter().for_each(free_large);
    let small = allocate_small(64 << 10).addr();
    assert!(holes.iter().any(|hole| (hole.addr()..hole.addr() + LARGE).contains(&small)));
    // Not for ever: what is free is used before that costs much.
    assert!(moves(LARGE / 2) > 0);
}
