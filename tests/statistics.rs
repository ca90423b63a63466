//! The figures that the allocator gives of itself, against what the test knows it holds.

use arenite::{Arenite, stats};
use std::alloc::{GlobalAlloc, Layout};
use std::sync::{Mutex, PoisonError};

static ARENITE: Arenite = Arenite::new();

/// The figures are the process's, and each test's own.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn figures_follow_what_is_allocated() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // Arenite is not this test's global allocator, so that nothing else counts.
    let layout = Layout::from_size_align(100, 8).expect("a valid layout");
    let huge = Layout::from_size_align(50 << 20, 8).expect("a valid layout");
    // SAFETY: the layouts are not empty; blocks are freed with their layouts.
    unsafe {
        let before = stats::collect();
        let blocks: Vec<_> = (0..1000).map(|_| ARENITE.alloc(layout)).collect();
        let large = ARENITE.alloc(huge);
        let during = stats::collect();
        assert_eq!(during.in_use_blocks, before.in_use_blocks + 1001);
        assert!(during.in_use_bytes >= before.in_use_bytes + 100_000 + (50 << 20));
        assert_eq!(during.huge_blocks, before.huge_blocks + 1);
        assert!(during.classes.iter().any(|class| class.size == 112 && class.in_use > 900));

        blocks.into_iter().for_each(|block| ARENITE.dealloc(block, layout));
        ARENITE.dealloc(large, huge);
        let after = stats::collect();
        assert_eq!(after.in_use_blocks, before.in_use_blocks);
        assert_eq!(after.in_use_bytes, before.in_use_bytes);
        assert!(after.cached_blocks > 0, "freed blocks stay with the thread for a while");
        assert_eq!(after.huge_bytes, before.huge_bytes);
        assert!(after.peak_mmap_bytes >= 50 << 20);
    }
}

#[test]
fn a_thread_that_only_frees_keeps_a_few_blocks() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let layout = Layout::from_size_align(64, 8).expect("a valid layout");
    let cached = || {
        let classes = stats::collect().classes;
        classes.iter().find(|class| class.size == 64).map_or(0, |class| class.cached)
    };
    // SAFETY: the layout is not empty; blocks are freed with it.
    unsafe {
        let blocks: Vec<_> = (0..20_000).map(|_| ARENITE.alloc(layout)).collect();
        blocks.into_iter().for_each(|block| ARENITE.dealloc(block, layout));
    }
    // Each of them may keep a page of its own: those of a small bin, a small spare magazine, and one that
    // others may take.
    assert!(cached() <= 16 + 64 + 2, "{} blocks", cached());
}
