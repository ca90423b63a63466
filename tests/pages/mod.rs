//! What depends on the size of the kernel's pages.

use super::global_alloc::TRIMS;
use arenite::Arenite;
use std::alloc::{GlobalAlloc, Layout};
use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;

static ARENITE: Arenite = Arenite::new();

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("a valid layout")
}

fn allocate(layout: Layout) -> *mut u8 {
    // SAFETY: the layout is not empty.
    let block = unsafe { ARENITE.alloc(layout) };
    assert!(!block.is_null());
    assert!(block.addr().is_multiple_of(layout.align()), "{layout:?} at {block:?}");
    block
}

/// Writes a pattern over the block.
///
/// # Safety
/// The block is the caller's, of so many bytes.
unsafe fn fill(block: *mut u8, bytes: usize, seed: usize) {
    for i in 0..bytes {
        // SAFETY: in the block.
        unsafe { block.add(i).write((seed + i % 251) as u8) };
    }
}

/// Whether the block holds the pattern.
///
/// # Safety
/// As for [`fill`].
unsafe fn holds(block: *mut u8, bytes: usize, seed: usize) -> bool {
    // SAFETY: in the block.
    (0..bytes).all(|i| unsafe { block.add(i).read() } == (seed + i % 251) as u8)
}

#[test]
fn the_page_size_is_the_simulated_one() {
    assert_eq!(arenite::SIMULATED_PAGE.load(Relaxed), super::PAGE);
}

#[test]
fn huge_blocks_fill_whole_pages() {
    // The page allocations of C are those of the kernel's page.
    let block = arenite::c_api::valloc(1);
    assert!(block.addr().is_multiple_of(super::PAGE));
    // SAFETY: the block was made just now.
    unsafe { arenite::c_api::free(block) };
    for bytes in [40 << 20, (40 << 20) + 1, (48 << 20) - 4096] {
        let layout = layout(bytes, 8);
        let block = allocate(layout);
        assert!(block.addr().is_multiple_of(super::PAGE));
        // SAFETY: the block is in use until the last line, and as long as said.
        unsafe {
            let usable = arenite::c_api::malloc_usable_size(block.cast());
            assert!(usable >= bytes && usable.is_multiple_of(super::PAGE), "{usable}");
            block.write(1);
            block.add(usable - 1).write(2);
            ARENITE.dealloc(block, layout);
        }
    }
}

#[test]
fn huge_blocks_grow_shrink_and_move() {
    const MIB: usize = 1 << 20;
    let mut neighbours = Vec::new();
    let mut size = 36 * MIB + 5;
    let mut block = allocate(layout(size, 8));
    // SAFETY: the block is in use, and as long as said, all the time.
    unsafe {
        fill(block, MIB, 3);
        for step in 0..60 {
            // Others around it, so that it can not always stay.
            neighbours.push(allocate(layout(33 * MIB, 8)));
            let new = [36 * MIB + 5, 44 * MIB + 4097, 64 * MIB, 50 * MIB + 1, 37 * MIB][step % 5];
            block = ARENITE.realloc(block, layout(size, 8), new);
            assert!(!block.is_null() && block.addr().is_multiple_of(super::PAGE));
            assert!(holds(block, MIB, 3), "step {step}");
            block.add(new - 1).write(9);
            size = new;
        }
        // Out of the mappings, and back into one.
        for new in [20_000, 38 * MIB] {
            block = ARENITE.realloc(block, layout(size, 8), new);
            assert!(holds(block, 20_000, 3));
            size = new;
        }
        ARENITE.dealloc(block, layout(size, 8));
        for block in neighbours {
            ARENITE.dealloc(block, layout(33 * MIB, 8));
        }
    }
}

#[test]
fn alignments_around_the_page_size_are_kept() {
    let mut blocks = Vec::new();
    for shift in 12..23 {
        for size in [1, 5000, 40_000, 70_000, 300_000, 35_000_000] {
            let layout = layout(size, 1 << shift);
            let block = allocate(layout);
            // SAFETY: the block is in use, and as long as said.
            unsafe { fill(block, size.min(5000), shift) };
            blocks.push((block, layout, shift));
        }
    }
    for (block, layout, shift) in blocks {
        // SAFETY: as above; freed once.
        unsafe {
            assert!(holds(block, layout.size().min(5000), shift), "{layout:?}");
            ARENITE.dealloc(block, layout);
        }
    }
}

#[test]
fn memory_is_zero_after_trims_of_dirty_memory() {
    let _alone = TRIMS.lock();
    // Ends of the dirty part at every place in a page.
    for round in 0..200 {
        let sizes = [36_000, 50_000, 61_441, 70_000, 100_000].map(|size| size + round % 16 * 4096);
        let blocks = sizes.map(|size| (allocate(layout(size, 8)), layout(size, 8)));
        // SAFETY: blocks are in use until they are freed, and as long as said.
        unsafe {
            for (block, layout) in blocks {
                block.write_bytes(0xff, layout.size());
            }
            for (block, layout) in blocks {
                ARENITE.dealloc(block, layout);
            }
            ARENITE.trim();
            let zeroed = sizes.map(|size| (ARENITE.alloc_zeroed(layout(size, 8)), size));
            for (block, size) in zeroed {
                let bytes = std::slice::from_raw_parts(block, size);
                assert!(bytes.iter().all(|&byte| byte == 0), "{size} in round {round}");
                ARENITE.dealloc(block, layout(size, 8));
            }
        }
    }
}

/// Set in the process that has a test for itself.
const ALONE: &str = "ARENITE_TEST_ALONE";

/// Runs a test of this file in a process of its own, where no other test's blocks keep a heap. Whether this
/// is that process, in which the test is to be done.
fn is_alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let name =
        module_path!().split_once("::").map_or(test.into(), |(_, path)| format!("{path}::{test}"));
    let tests = std::env::current_exe().expect("the path of the tests");
    let output = Command::new(tests).args(["--exact", &name]).env(ALONE, "1").output();
    let output = output.expect("the tests start");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

#[test]
fn heaps_go_back_to_the_kernel() {
    if !is_alone("heaps_go_back_to_the_kernel") {
        return;
    }
    // More than a few heaps, in pieces that are no mappings of their own at first.
    let layout = layout(100_000, 8);
    let blocks: Vec<_> = (0..4000).map(|_| allocate(layout)).collect();
    let before = arenite::stats::collect();
    for block in blocks {
        // SAFETY: in use until now.
        unsafe { ARENITE.dealloc(block, layout) };
    }
    ARENITE.trim();
    let after = arenite::stats::collect();
    let heaps = [before.heaps, after.heaps];
    assert!(heaps[1] <= 2 && heaps[0] > 5, "{} heaps, then {}", heaps[0], heaps[1]);
    assert!(after.in_use_blocks < before.in_use_blocks);
}
