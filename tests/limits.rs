//! The soft and the hard limit. One test: the limits are the process's.

use arenite::Arenite;
use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

const MIB: usize = 1 << 20;

static ARENITE: Arenite = Arenite::new();
static CROSSED: AtomicUsize = AtomicUsize::new(0);

/// Called at the soft limit. It may allocate.
fn on_crossing() {
    CROSSED.fetch_add(1, Relaxed);
    let layout = layout(1000);
    // SAFETY: the layout is not empty, and the block is freed with it.
    unsafe {
        let block = ARENITE.alloc(layout);
        assert!(!block.is_null());
        ARENITE.dealloc(block, layout);
    }
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 16).expect("a valid layout")
}

/// Allocates blocks until there are no more, or `most` bytes.
fn fill(bytes: usize, most: usize) -> Vec<*mut u8> {
    let mut blocks = Vec::new();
    while blocks.len() * bytes < most {
        // SAFETY: the layout is not empty.
        let block = unsafe { ARENITE.alloc(layout(bytes)) };
        if block.is_null() {
            break;
        }
        // SAFETY: the block holds so many bytes.
        unsafe { block.write_bytes(blocks.len() as u8, bytes) };
        blocks.push(block);
    }
    blocks
}

fn free(blocks: Vec<*mut u8>, bytes: usize) {
    for (index, block) in blocks.into_iter().enumerate() {
        // SAFETY: blocks of `fill`, freed once, with their layout.
        unsafe {
            assert_eq!(*block, index as u8);
            assert_eq!(*block.add(bytes - 1), index as u8);
            ARENITE.dealloc(block, layout(bytes));
        }
    }
}

#[test]
fn limits_are_kept_and_the_allocator_goes_on() {
    // Something is in use before there is a limit, and counts.
    let early = fill(10_000, 4 * MIB);
    assert!(ARENITE.set_limits(0, 64 * MIB, None));
    for bytes in [64, 3000, 20_000, 100_000, 3 * MIB] {
        let blocks = fill(bytes, 1 << 30);
        let got = blocks.len() * bytes;
        assert!(got <= 60 * MIB, "{got} bytes in blocks of {bytes} beyond the limit");
        assert!(got >= 48 * MIB, "only {got} bytes in blocks of {bytes}");
        // Half of it comes back, and can be had again in another size.
        let mut blocks = blocks;
        let rest = blocks.split_off(blocks.len() / 2);
        blocks.into_iter().for_each(|block| {
            // SAFETY: a block of `fill`, freed once.
            unsafe { ARENITE.dealloc(block, layout(bytes)) }
        });
        let others = fill(bytes / 2, 20 * MIB);
        assert!(others.len() * (bytes / 2) >= 16 * MIB, "freed blocks of {bytes} are lost");
        free(others, bytes / 2);
        for block in rest {
            // SAFETY: as above.
            unsafe { ARENITE.dealloc(block, layout(bytes)) }
        }
    }

    // A block that grows is no way around the limit, by steps in place or by one that moves it.
    for step in [MIB, 24 * MIB] {
        let mut bytes = 100_000;
        let mut blocks = fill(bytes, bytes);
        let mut block = blocks.pop().expect("one block");
        loop {
            // SAFETY: the block is in use, with this layout; its last byte is written.
            let grown = unsafe { ARENITE.realloc(block, layout(bytes), bytes + step) };
            if grown.is_null() {
                break;
            }
            (block, bytes) = (grown, bytes + step);
            // SAFETY: as above.
            unsafe { block.add(bytes - 1).write(0) };
            assert!(bytes <= 60 * MIB, "a block grew to {bytes} bytes beyond the limit");
        }
        assert!(bytes >= 16 * MIB, "a block grew to {bytes} bytes only");
        blocks.push(block);
        free(blocks, bytes);
    }
    ARENITE.trim();
    assert!(ARENITE.set_limits(32 * MIB, 0, Some(on_crossing)));
    let small = fill(500, 16 * MIB);
    assert_eq!(CROSSED.load(Relaxed), 0);
    let more = fill(500, 40 * MIB);
    assert_eq!(CROSSED.load(Relaxed), 1, "once per crossing");
    free(more, 500);
    ARENITE.trim();
    let again = fill(2 * MIB, 40 * MIB);
    assert_eq!(CROSSED.load(Relaxed), 2);
    free(again, 2 * MIB);
    free(small, 500);
    crosses_again_and_again();
    free(early, 10_000);
    assert!(!ARENITE.set_limits(usize::MAX, 0, None));
    assert!(ARENITE.set_limits(0, 0, None));
    free(fill(2 * MIB, 100 * MIB), 2 * MIB);
}

/// What is freed above the soft limit goes back although nothing goes back with time, so that each burst
/// crosses it anew.
fn crosses_again_and_again() {
    ARENITE.set_decay_ms(arenite::config::NEVER);
    for bytes in [500, 10_000, 100_000, 500, 48 * MIB] {
        ARENITE.trim();
        let before = CROSSED.load(Relaxed);
        let blocks = fill(bytes, 48 * MIB);
        assert_eq!(CROSSED.load(Relaxed), before + 1, "a burst of blocks of {bytes}");
        free(blocks, bytes);
        // Some slow paths later; not all the time is looked for what is free.
        for size in [600, 700, 800] {
            std::thread::sleep(std::time::Duration::from_millis(100));
            free(fill(size, MIB), size);
        }
        let held = arenite::stats::collect();
        let dirty = held.free_chunk_bytes + held.top_bytes;
        let before = CROSSED.load(Relaxed);
        free(fill(bytes, 48 * MIB), bytes);
        assert_eq!(
            CROSSED.load(Relaxed),
            before + 1,
            "the next one of {bytes}; {dirty} bytes free"
        );
    }
    ARENITE.set_decay_ms(1000);
}
